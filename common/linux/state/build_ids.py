"""Which file was a library loaded from, even after it has gone?

A build-id can be read only while its library is mapped, and is asked for when the library has gone: so it is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from ..elf.image import ElfImages
from ..loader.maps import Graph, LinkMap
from ..loader.rendezvous import MAX_LIBRARIES

#: What two readings of one library have in common, as `is_same_library` of loader/maps.py has it.
_Identity = tuple[int, int, int, int, int]


class BuildIds:
    """The build-ids of the libraries that are loaded, or have just gone, each read once."""

    def __init__(self) -> None:
        self._known: dict[_Identity, Optional[str]] = {}

    def of(self, link_map: LinkMap, graph: Graph, images: ElfImages) -> Optional[str]:
        """Return a library's build-id in hex; None if it has none, or if it was not read while it was loaded.

        ``graph`` and ``images`` are of the latest reading.  What is in no graph any more is not read: another library
        can lie there.
        """
        identity = _identity_of(link_map)
        if identity not in self._known:
            if link_map.is_proxy or graph.by_address.get(link_map.address) is not link_map:
                return None
            image = images.at(link_map.l_map_start)
            self._known[identity] = image.read_build_id() if image is not None else None
        return self._known[identity]

    def forget(self, gone: Iterable[LinkMap], graph: Graph) -> None:
        """Forget libraries that are in the graph no more, for the next one at the same place can be of another file."""
        for link_map in gone:
            self._known.pop(_identity_of(link_map), None)
        # Where the lists were damaged for a while, some are in no graph that was compared.
        if len(self._known) > 2 * MAX_LIBRARIES:
            kept = set(map(_identity_of, graph.by_address.values()))
            self._known = {identity: value for identity, value in self._known.items() if identity in kept}


def _identity_of(link_map: LinkMap) -> _Identity:
    return link_map.address, link_map.l_addr, link_map.l_ld, link_map.l_name, link_map.l_ns
