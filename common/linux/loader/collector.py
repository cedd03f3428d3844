"""What would glibc's collector keep?

The collector is the part of dlclose that unloads what no open library needs: it marks what is kept, then finalises and
unmaps the rest.  Source: glibc's elf/dl-close.c (``_dl_close_worker``), releases 2.17 to 2.43.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Optional

from .maps import Graph, LinkMap, Namespace
from .roots import LT_EXECUTABLE, LT_LOADED, RootKind


class CollectorRules(NamedTuple):
    """The rules of the collector that differ between releases."""

    #: Since glibc 2.22 (90b37cac8b5a, bug 18657) a pending TLS destructor makes its library a root.  2.18 to 2.21 set
    #: DF_1_NODELETE in l_flags_1 while the count is above 0 and clear it at 0.
    tls_count_is_root: bool
    #: Since glibc 2.23 (f586e1328681, bug 19018) the destructor's address is mangled with the pointer guard.
    destructors_are_mangled: bool

    @classmethod
    def of(cls, version: Optional[tuple[int, int]]) -> CollectorRules:
        """Return the rules of a glibc version, of the newest one if ``version`` is None."""
        return cls(version is None or version >= (2, 22), version is None or version >= (2, 23))


def root_kinds(link_map: LinkMap, rules: CollectorRules, count: Optional[int] = None) -> tuple[RootKind, ...]:
    """Return why the collector keeps a link map regardless of others; ``count``: its open count (None: as read)."""
    kinds = []
    if link_map.l_type == LT_EXECUTABLE:
        kinds.append(RootKind.EXECUTABLE)
    elif link_map.l_type != LT_LOADED:
        kinds.append(RootKind.LIBRARY)
    has_destructors = bool(link_map.l_tls_dtor_count)
    if link_map.nodelete and (rules.tls_count_is_root or not has_destructors):
        kinds.append(RootKind.NODELETE)
    if (link_map.l_direct_opencount if count is None else count) > 0:
        kinds.append(RootKind.OPEN_COUNT)
    if has_destructors:
        kinds.append(RootKind.TLS_DESTRUCTORS)
    return tuple(kinds)


class Edge(Enum):
    """Why one library needs another."""

    DEPENDENCY = "dependency"
    RELOCATION = "relocation"


def mark(
    namespace: Namespace, graph: Graph, rules: CollectorRules, counts: Optional[Mapping[int, int]] = None
) -> Mapping[int, tuple[RootKind, ...]]:
    """Run the mark phase: return the link maps that it keeps, each with its own root kinds (empty: kept by others).

    :param counts: open counts by address of the link map, to replace those in memory.
    """
    kept: dict[int, tuple[RootKind, ...]] = {}
    work = []
    counts = counts or {}
    for link_map in namespace.maps:
        kinds = link_map.kinds
        if link_map.address in counts:
            kinds = root_kinds(link_map, rules, counts[link_map.address])
        elif kinds is None:
            kinds = link_map.kinds = root_kinds(link_map, rules)
        if kinds:
            kept[link_map.address] = kinds
            work.append(link_map)
    by_address = graph.by_address
    is_kept = set(kept)
    while work and len(kept) < len(by_address):
        link_map = work.pop()
        if is_kept.issuperset(link_map.needed) and is_kept.issuperset(link_map.relocated_to):
            continue
        for address in (*link_map.needed, *link_map.relocated_to) if link_map.relocated_to else link_map.needed:
            if address not in kept and address in by_address:
                kept[address] = ()
                is_kept.add(address)
                work.append(by_address[address])
    return kept
