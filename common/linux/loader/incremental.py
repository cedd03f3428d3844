"""What has changed in the loader's lists since they were last read?

Between two events hardly anything changes.  The memory of the lists is compared chunk by chunk, and only link maps in
changed chunks are read again; on any inconsistency everything is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Optional

from ...errors import CorruptError, FaultError
from ...memory import CHUNK_SIZE, PAGE_SIZE, Memory
from ..layouts.resolve import LayoutSet
from .maps import Graph, GraphReader, LinkMap, Namespace, find_link_error
from .rendezvous import MAX_LIBRARIES, read_name

#: Link maps share chunks with heap memory that changes often, so changes are located by cells of this size, in bytes.
_CELL_SIZE = 1024

#: Chunks side by side are read by one request, of at most this size: each request costs as much as 8 KiB.
_MAX_RUN = 16 * CHUNK_SIZE

#: For more link maps than these to be read again the lists are followed, which takes longer than to put in a few.
_MAX_REPLACED = 16

_address = attrgetter("address")
_links = attrgetter("l_next", "l_prev", "l_real", "l_ns")


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
        #: How many libraries had been loaded when the lists were last read, _dl_load_adds; None if unknown.
        self.load_count = self._reader.read_load_count()
        #: The last known bytes of each chunk that holds link maps, None if unreadable, by the chunk's address and size.
        #: Where a whole chunk cannot be read, its pages are compared instead.
        self._known: dict[tuple[int, int], Optional[bytes]] = {}
        #: The same, joined; None while that is to be done.
        self._runs: Optional[list[_Run]] = None
        #: The link maps that have bytes in a cell, by the cell's address.
        self._users: dict[int, set[LinkMap]] = {}
        #: How many link maps keep each other one directly, by its address.
        self._uses: Counter[int] = Counter()

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
            self._uses.clear()
            self._known.clear()
            self._runs = None
            self._note(memory, graph.by_address.values())
        self._last = graph
        self.load_count = self._reader.read_load_count()
        return graph

    def glance(self, memory: Memory) -> Graph:
        """Return the graph as last read if no library was loaded since; else read what has changed.

        None was if _dl_load_adds is the same, which counts each link map that is put into a list (elf/dl-object.c).
        Libraries can have gone, so this is enough only to find the library of an address that is executed.

        :raises FaultError: as `read` does.
        :raises CorruptError: likewise.
        """
        self._reader.maps.memory = memory
        last, count = self._last, self.load_count
        if last is not None and count is not None and self._reader.read_load_count() == count:
            return last
        return self.read(memory)

    def _note(self, memory: Memory, maps: Iterable[LinkMap]) -> None:
        for link_map in maps:
            self._uses.update((*link_map.needed, *link_map.relocated_to))
            for cell in _cells(link_map):
                self._users.setdefault(cell, set()).add(link_map)
                size = CHUNK_SIZE if memory.chunk(cell) is not None else PAGE_SIZE
                key = (cell - cell % size, size)
                if key not in self._known:
                    self._known[key] = memory.try_read(*key)
                    self._runs = None

    def _forget(self, maps: Iterable[LinkMap]) -> None:
        for link_map in maps:
            self._uses.subtract((*link_map.needed, *link_map.relocated_to))
            for cell in _cells(link_map):
                if cell in self._users:
                    self._users[cell].discard(link_map)
                    if not self._users[cell]:
                        del self._users[cell]

    def _find_suspects(self, memory: Memory) -> set[LinkMap]:
        """Return the link maps near changed memory, and record the current bytes of the chunks."""
        suspects: set[LinkMap] = set()
        runs = self._runs = _join(self._known) if self._runs is None else self._runs
        for run, now in zip(runs, memory.read_apart([(run.start, run.size) for run in runs])):
            if now is None or now != run.data:
                for key in run.keys:
                    at = key[0] - run.start
                    piece = memory.try_read(*key) if now is None else now[at : at + key[1]]
                    suspects.update(self._users_of_changes(key, piece))
                run.data = now
        return suspects

    def _users_of_changes(self, key: tuple[int, int], now: Optional[bytes]) -> Iterator[LinkMap]:
        """Yield the link maps near changed memory of a chunk, and record its bytes."""
        known = self._known[key]
        if now is not None and now == known:
            return
        start, size = key
        self._known[key] = now
        cells = [at for at in range(0, size, _CELL_SIZE) if start + at in self._users]
        if not cells:
            del self._known[key]
            self._runs = None
        for at in cells:
            end = at + _CELL_SIZE
            if now is None or known is None or now[at:end] != known[at:end]:
                yield from self._users[start + at]

    def _update(self, memory: Memory, last: Graph) -> Graph:
        reader = self._reader
        reader.maps.memory = memory
        suspects = self._find_suspects(memory)
        heads = reader.read_heads()
        if heads.pieces == last.heads:
            replaced = self._replace(memory, last, suspects)
            if replaced is not None:
                return replaced
        fresh: list[LinkMap] = []
        before = {namespace.number: namespace.maps for namespace in last.namespaces}
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

    def _replace(self, memory: Memory, last: Graph, suspects: set[LinkMap]) -> Optional[Graph]:
        """Read link maps again that are where they were; return None if one is not, or too many are read again.

        The heads are the same and each link map leads to the same ones as before, so the lists are the same, too.
        """
        fresh = []
        for before in suspects:
            now = self._read(before.address, before)
            if now is not before:
                fresh.append(now)
            if _links(now) != _links(before) or find_link_error(now, now.l_prev) or len(fresh) > _MAX_REPLACED:
                return None
        if not fresh:
            return last
        graph = last.replaced(fresh)
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
        gone = [last.by_address[m.address] for m in fresh if m.address in last.by_address]
        gone += [last.by_address[address] for address in lost]
        self._forget(gone)
        if any(self._uses.pop(address, 0) for address in lost):
            raise _InconsistentListsError
        self._note(memory, fresh)
        graph.take_places(last, gone, fresh)


class _Run:
    """Chunks side by side: where they are, and the bytes of all; None if some cannot be read."""

    def __init__(self, keys: Sequence[tuple[int, int]], data: Optional[bytes]) -> None:
        self.keys = keys
        self.start = keys[0][0]
        self.size = sum(size for _, size in keys)
        self.data = data


def _join(known: Mapping[tuple[int, int], Optional[bytes]]) -> list[_Run]:
    """Join the chunks that are side by side; those that cannot be read stay alone."""
    runs: list[list[tuple[int, int]]] = []
    end = 0
    for key in sorted(known):
        start, size = key
        if start == end and known[key] is not None and end - runs[-1][0][0] < _MAX_RUN:
            runs[-1].append(key)
        else:
            runs.append([key])
        end = start + size if known[key] is not None else 0
    return [_Run(keys, b"".join([known[key] or b"" for key in keys]) if known[keys[0]] else None) for keys in runs]


def _cells(link_map: LinkMap) -> Iterator[int]:
    """Yield the addresses of the cells that hold a link map and its lists."""
    for address, raw in ((link_map.address, link_map.raw), *link_map.edges):
        yield from range(address - address % _CELL_SIZE, address + len(raw), _CELL_SIZE)
