"""What has changed in the loader's lists since they were last read?

Between two events hardly anything changes.  The memory of the lists is compared chunk by chunk, and only link maps in
changed chunks are read again; on any inconsistency everything is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Optional

from ...errors import CorruptError, FaultError
from ...memory import CHUNK_SIZE, PAGE_SIZE, Memory
from ..layouts.resolve import LayoutSet
from .maps import Graph, GraphReader, LinkMap, Namespace, find_link_error
from .rendezvous import MAX_LIBRARIES, read_name

#: Link maps share chunks with heap memory that changes often, so changes are located by cells of this size, in bytes.
_CELL_SIZE = 1024

_address = attrgetter("address")


class _InconsistentListsError(Exception):
    """The lists are damaged, or a thread is stopped in the middle of changing them."""


class IncrementalGraphReader:
    """Reads the link maps of all namespaces repeatedly, while the process runs.

    An unchanged link map is the same object in the next graph; if nothing changed, so is the graph.
    """

    def __init__(self, memory: Memory, layouts: LayoutSet, rtld_global: int) -> None:
        self._reader = GraphReader(memory, layouts, rtld_global)
        # Where symbols are looked up (l_scope) changes with each open and does not matter here; in include/link.h
        # l_scope_mem[4] and l_scope_max precede it.
        scope = layouts.require("link_map").fields.get("l_scope")
        self._scope_start = scope.offset - 5 * scope.size if scope else 0
        self._scope_end = scope.offset + scope.size if scope else 0
        self._last: Optional[Graph] = None
        #: The last known bytes of each chunk that holds link maps, None if unreadable, by the chunk's address and size.
        #: Where a whole chunk cannot be read, its pages are compared instead.
        self._known: dict[tuple[int, int], Optional[bytes]] = {}
        #: The link maps that have bytes in a cell, by the cell's address.
        self._users: dict[int, set[LinkMap]] = {}

    def read(self, memory: Memory) -> Graph:
        """Read what changed since the last read; read everything if that fails.

        After an incomplete or failed read the next one reads everything.

        :raises FaultError: if _rtld_global itself cannot be read.
        :raises CorruptError: if the number of namespaces is implausible.
        """
        last, self._last = self._last, None
        graph: Optional[Graph] = None
        if last is not None:
            try:
                graph = self._update(memory, last)
            except (_InconsistentListsError, FaultError, CorruptError):
                graph = None  # read as a whole below, which reports what is wrong
        if graph is None:
            graph = self._reader.read(memory)
            if not graph.complete or graph.doubts:
                return graph
            self._users.clear()
            self._known.clear()
            self._note(memory, graph.by_address.values())
        self._last = graph
        return graph

    def _note(self, memory: Memory, maps: Iterable[LinkMap]) -> None:
        for link_map in maps:
            for cell in _cells(link_map):
                self._users.setdefault(cell, set()).add(link_map)
                size = CHUNK_SIZE if memory.chunk(cell) is not None else PAGE_SIZE
                key = (cell - cell % size, size)
                if key not in self._known:
                    self._known[key] = memory.try_read(*key)

    def _forget(self, maps: Iterable[LinkMap]) -> None:
        for link_map in maps:
            for cell in _cells(link_map):
                if cell in self._users:
                    self._users[cell].discard(link_map)
                    if not self._users[cell]:
                        del self._users[cell]

    def _find_suspects(self, memory: Memory) -> set[LinkMap]:
        """Return the link maps near changed memory, and record the current bytes of the chunks."""
        suspects: set[LinkMap] = set()
        idle = []
        for key, known in self._known.items():
            start, size = key
            now = memory.try_read(start, size)
            if now is not None and now == known:
                continue
            self._known[key] = now
            cells = [at for at in range(0, size, _CELL_SIZE) if start + at in self._users]
            if not cells:
                idle.append(key)
            for at in cells:
                end = at + _CELL_SIZE
                if now is None or known is None or now[at:end] != known[at:end]:
                    suspects |= self._users[start + at]
        for key in idle:
            del self._known[key]
        return suspects

    def _update(self, memory: Memory, last: Graph) -> Graph:
        reader = self._reader
        reader.maps.memory = memory
        suspects = self._find_suspects(memory)
        fresh: list[LinkMap] = []
        before = {namespace.number: namespace.maps for namespace in last.namespaces}
        heads = reader.read_heads()
        graph = Graph(heads.pieces)
        for number, address, first, loaded in heads.lists:
            if bool(first) != bool(loaded):
                raise _InconsistentListsError
            if first:
                maps = tuple(self._walk(first, before.get(number, ()), suspects, fresh))
                if len(maps) != loaded:
                    raise _InconsistentListsError
                graph.namespaces.append(Namespace(number, address, maps))
        if graph.namespaces == last.namespaces and graph.heads == last.heads:
            return last
        for namespace in graph.namespaces:
            graph.by_address.update(zip(map(_address, namespace.maps), namespace.maps))
        if len(graph.by_address) != sum(len(namespace.maps) for namespace in graph.namespaces):
            raise _InconsistentListsError
        self._take(memory, graph, last, fresh)
        return graph

    def _walk(
        self, head: int, before: Sequence[LinkMap], suspects: set[LinkMap], fresh: list[LinkMap]
    ) -> Sequence[LinkMap]:
        """Follow a list, copying the unchanged runs between suspects; append re-read link maps to ``fresh``."""
        indexes = dict(zip(map(_address, before), range(len(before))))
        stops = sorted(indexes[m.address] for m in suspects if m.address in indexes)
        found: list[LinkMap] = []
        address, previous = head, 0
        while address:
            index = indexes.get(address)
            link_map = before[index] if index is not None else None
            run: Sequence[LinkMap]
            if index is not None and link_map is not None and link_map not in suspects:
                following = bisect_right(stops, index)
                run = before[index : stops[following] if following < len(stops) else len(before)]
            else:
                run = [self._read(address, link_map)]
                if run[0] is not link_map:
                    fresh.append(run[0])
            objection = find_link_error(run[0], previous)
            found += run
            if objection or len(found) > MAX_LIBRARIES:
                raise _InconsistentListsError
            previous, address = run[-1].address, run[-1].l_next
        return found

    def _read(self, address: int, known: Optional[LinkMap]) -> LinkMap:
        memory = self._reader.maps.memory
        if (
            known is not None
            and self._is_like(known.raw, memory.try_read(address, len(known.raw)))
            and all(memory.try_read(start, len(raw)) == raw for start, raw in known.edges)
        ):
            return known
        link_map = self._reader.maps.read(address)
        self._reader.maps.read_edges(link_map)
        link_map.name = read_name(memory, link_map.l_name)
        return link_map

    def _is_like(self, known: bytes, now: Optional[bytes]) -> bool:
        """Return True if the bytes of a link map are the known ones, apart from its scope; False if unreadable."""
        if now == known or now is None:
            return now is not None
        start, end = self._scope_start, self._scope_end
        return now[:start] == known[:start] and now[end:] == known[end:]

    def _take(self, memory: Memory, graph: Graph, last: Graph, fresh: Sequence[LinkMap]) -> None:
        """Make ``graph`` the new baseline.

        :param fresh: link maps of ``graph`` that were read again.
        """
        there = graph.by_address.keys()
        lost = last.by_address.keys() - there
        for link_map in fresh:
            if not there >= {*link_map.needed, *link_map.relocated_to}:
                raise _InconsistentListsError
        for link_map in graph.by_address.values() if lost else ():
            if not (lost.isdisjoint(link_map.needed) and lost.isdisjoint(link_map.relocated_to)):
                raise _InconsistentListsError
        self._forget(last.by_address[m.address] for m in fresh if m.address in last.by_address)
        self._forget(last.by_address[address] for address in lost)
        self._note(memory, fresh)


def _cells(link_map: LinkMap) -> Iterator[int]:
    """Yield the addresses of the cells that hold a link map and its lists."""
    for address, raw in ((link_map.address, link_map.raw), *link_map.edges):
        yield from range(address - address % _CELL_SIZE, address + len(raw), _CELL_SIZE)
