"""Which members of the loader's structures does a verdict rest on, and what are their values?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from ...model import Evidence
from ..layouts.resolve import LayoutSet
from ..loader.maps import LinkMap

#: glibc's own names of the members that a verdict rests on.
REPORTED_FIELDS = (
    "l_type",
    "l_direct_opencount",
    "l_nodelete_active",
    "l_nodelete_pending",
    "l_flags_1",
    "l_tls_dtor_count",
    "l_map_used",
    "l_idx",
    "l_relocated",
    "l_init_called",
    "l_global",
    "l_removed",
)


def read_evidence(layouts: LayoutSet, link_map: LinkMap, *members: str) -> tuple[Evidence, ...]:
    """Return members of a link map as they were read, without those that this version lacks."""
    result: list[Evidence] = []
    for name in members:
        member = layouts.require("link_map").fields.get(name)
        value = link_map.field(name)
        if member is not None and value is not None:
            expression = f"((struct link_map *) {link_map.address:#x})->{name}"
            address = link_map.address + member.offset
            result.append(Evidence(address, expression, value, member.offset, layouts.source, name))
    return tuple(result)


def reported_fields(link_map: LinkMap) -> Mapping[str, Optional[int]]:
    """Return the members that a verdict rests on, each None if this version lacks it."""
    return link_map.field_values(REPORTED_FIELDS)
