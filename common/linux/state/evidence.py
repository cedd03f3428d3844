"""Which members of the loader's structures does a verdict rest on, and what do they hold?"""

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

_SIGNED = "l_idx"


def read_evidence(layouts: LayoutSet, link_map: LinkMap, *members: str) -> tuple[Evidence, ...]:
    """Return members of a map as they were read; one that this version lacks is left out."""
    result: list[Evidence] = []
    for name in members:
        member = layouts.require("link_map").fields.get(name)
        value = signed_field(link_map, name)
        if member is not None and value is not None:
            expression = f"((struct link_map *) {link_map.address:#x})->{name}"
            address = link_map.address + member.offset
            result.append(Evidence(address, expression, value, member.offset, layouts.source, name))
    return tuple(result)


def reported_fields(link_map: LinkMap) -> Mapping[str, Optional[int]]:
    """Return the members that a verdict rests on, None for those that this version lacks."""
    fields = link_map.field_values(REPORTED_FIELDS)
    fields[_SIGNED] = _as_int(fields[_SIGNED])
    return fields


def signed_field(link_map: LinkMap, name: str) -> Optional[int]:
    """Return a member as the loader's C code takes it, None where this version lacks it."""
    value = link_map.field(name)
    return _as_int(value) if name == _SIGNED else value


def _as_int(value: Optional[int]) -> Optional[int]:
    """Return l_idx with its sign: it is an ``int``, and -1 says that the collector kept the map."""
    return value - (1 << 32) if value is not None and value >> 31 else value
