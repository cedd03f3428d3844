"""Which file was a library loaded from, even after it was unloaded?

A build-id can be read only while its library is mapped but is needed after the unload, so it is cached.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from ..elf.image import ElfImages
from ..loader.maps import Graph, LinkMap
from ..loader.rendezvous import MAX_LIBRARIES

#: What identifies a library across snapshots, as in `is_same_library` of loader/maps.py.
_Identity = tuple[int, int, int, str, int, Optional[int]]


class BuildIds:
    """The build-ids of loaded and just unloaded libraries, each read once."""

    def __init__(self) -> None:
        self._known: dict[_Identity, Optional[str]] = {}

    def of(self, link_map: LinkMap, graph: Graph, images: ElfImages) -> Optional[str]:
        """Return a library's build-id in hex; None if it has none, or if it was not read while it was loaded.

        An unloaded library is not read: another one can be mapped at its addresses.

        :param graph: the link maps of the latest snapshot.
        :param images: the images of the same snapshot.
        """
        identity = _identity_of(link_map)
        if identity not in self._known:
            if link_map.is_proxy or graph.by_address.get(link_map.address) is not link_map:
                return None
            image = images.at(link_map.l_map_start)
            self._known[identity] = image.read_build_id() if image is not None else None
        return self._known[identity]

    def forget(self, gone: Iterable[LinkMap], graph: Graph) -> None:
        """Forget unloaded libraries: the next one at the same address can be from another file."""
        for link_map in gone:
            self._known.pop(_identity_of(link_map), None)
        # While the lists are damaged no graphs are compared, so some unloads are missed.
        if len(self._known) > 2 * MAX_LIBRARIES:
            kept = set(map(_identity_of, graph.by_address.values()))
            self._known = {identity: value for identity, value in self._known.items() if identity in kept}


def _identity_of(link_map: LinkMap) -> _Identity:
    serial = link_map.field("l_serial")
    return link_map.address, link_map.l_addr, link_map.l_ld, link_map.name, link_map.l_ns, serial
