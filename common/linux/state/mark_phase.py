"""Which libraries does the collector keep under given open counts, and through which holders?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Optional

from ...graph import Search
from ..loader.collector import Edge, mark
from ..loader.maps import LinkMap
from ..loader.roots import RootKind
from ..model import PERMANENT, HoldKind
from .process import GlibcProcess
from .root_counts import count_roots
from .tls import PendingDestructors

ROOT_HOLDS = {
    RootKind.EXECUTABLE: HoldKind.MAIN_PROGRAM,
    RootKind.LIBRARY: HoldKind.STARTUP,
    RootKind.NODELETE: HoldKind.NODELETE,
    RootKind.OPEN_COUNT: HoldKind.OPEN_COUNT,
    RootKind.TLS_DESTRUCTORS: HoldKind.TLS_DESTRUCTORS,
}


class MarkPhase:
    """The result of the collector's mark phase under given open counts.

    For other open counts there is another instance, so everything cached here belongs to these counts.
    """

    def __init__(self, process: GlibcProcess, counts: Mapping[int, int], destructors: PendingDestructors) -> None:
        """Create the mark phase of a process.

        :param counts: the open counts that differ from memory, by link map address.
        """
        self.counts = counts
        self._destructors = destructors
        self._process = process

    @cached_property
    def marks(self) -> Mapping[int, tuple[RootKind, ...]]:
        """Mark as the collector would: the link maps that it keeps, each with its root kinds (empty: no root)."""
        kept: dict[int, tuple[RootKind, ...]] = {}
        for namespace in self._process.graph.namespaces:
            kept.update(mark(namespace, self._process.graph, self._process.rules, self.counts))
        return kept

    def open_count(self, link_map: LinkMap) -> int:
        """Return the open count of a link map."""
        return self.counts.get(link_map.address, link_map.l_direct_opencount)

    def is_closing(self, link_map: LinkMap) -> bool:
        """Return True if the collector has condemned a link map: its destructors run, then it is unloaded.

        The collector numbers the link maps in l_idx and sets it to -1 in each that it keeps.  Garbage that an earlier
        collection left behind was kept then, so it has -1.
        """
        if link_map.address in self.marks or not self._process.lock.is_held:
            return False
        return bool(link_map.field("l_removed")) or (
            not link_map.field("l_map_used") and (link_map.field("l_idx") or 0) >= 0
        )

    def is_permanent(self, root: int) -> bool:
        """Return True if a root, by its link map's address, stays for good."""
        kinds = (ROOT_HOLDS[kind] for kind in self.marks[root])
        if not PERMANENT.isdisjoint(kinds) or self._process.graph.by_address[root].l_auditing:
            return True
        return self.destructors_never_end(root)

    def destructors_never_end(self, root: int) -> bool:
        """Return True if a thread that does not exist owes a root a TLS destructor."""
        is_owed = RootKind.TLS_DESTRUCTORS in self.marks[root]
        return is_owed and self._destructors.never_end(self._process.graph.by_address[root])

    @cached_property
    def holders(self) -> Mapping[int, list[int]]:
        """Collect for each link map the kept ones that keep it directly; dependencies come before relocations."""
        holders: dict[int, list[int]] = {}
        by_relocation: dict[int, list[int]] = {}
        for address in self.marks:
            link_map = self._process.graph.by_address[address]
            for needed in link_map.needed:
                holders.setdefault(needed, []).append(address)
            for needed in link_map.relocated_to:
                by_relocation.setdefault(needed, []).append(address)
        for needed, entries in by_relocation.items():
            holders.setdefault(needed, []).extend(entries)
        return holders

    @cached_property
    def root_counts(self) -> Optional[Mapping[int, int]]:
        """Count the roots that keep each kept link map through others; None if there is no time to."""
        memory = self._process.memory
        edges = {address: self._edges(address) for address in self.marks}
        roots = [address for address, kinds in self.marks.items() if kinds]
        return count_roots(edges, roots, lambda units: memory.spend(units, "reasons why libraries stay"))

    def _edges(self, address: int) -> Sequence[int]:
        """Return the link maps that one keeps, as `few_edges` does."""
        edges, marks = self.few_edges(address), self.marks
        return edges if all(map(marks.__contains__, edges)) else [each for each in edges if each in marks]

    def few_edges(self, address: int) -> Sequence[int]:
        """Return the link maps that one keeps; without those that its first dependency lists, if it keeps no others.

        The list of a library that was opened has its indirect dependencies, too, in a long chain of libraries those of
        all that follow.  In a damaged process there can be addresses of no link map.
        """
        by_address = self._process.graph.by_address
        link_map = by_address[address]
        needed = link_map.needed
        first = by_address.get(needed[0]) if needed else None
        if first is not None and first.listed == needed:
            needed = needed[:1]
        return (*needed, *link_map.relocated_to) if link_map.relocated_to else needed

    def edge(self, holder: int, held: int) -> Edge:
        """Return why one link map needs another that it keeps directly, given their addresses."""
        return Edge.DEPENDENCY if held in self._process.graph.by_address[holder].needed else Edge.RELOCATION

    @cached_property
    def from_permanent(self) -> Search[int]:
        """Search from the roots that stay for good; ``before`` has the next link map on the shortest path to one."""
        by_address = self._process.graph.by_address

        def kept_by(address: int) -> Sequence[int]:
            link_map = by_address[address]
            return [each for each in (*link_map.needed, *link_map.relocated_to) if each in by_address]

        return Search(filter(self.is_permanent, self.marks), kept_by).run()
