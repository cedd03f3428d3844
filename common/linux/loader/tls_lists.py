"""Which words of the threads' blocks begin lists of TLS destructors?

Each thread has ``tls_dtor_list`` in libc's static TLS block: a chain of
``struct dtor_list { dtor_func func; void *obj; struct link_map *map; struct dtor_list *next; }``
(stdlib/cxa_thread_atexit_impl.c, since glibc 2.18, ba384f6ed927).  No symbol table has the list's offset in the block,
so the block, some 150 bytes, is searched for the one word that begins such a chain in every thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from ...errors import CorruptError
from ...lists import Walk
from ...memory import Memory
from ...model import Thread
from .maps import Graph, LinkMap
from .tls_blocks import find_static_block

#: The most destructors that are read and reported, of all libraries in all threads.
MAX_DESTRUCTORS = 1 << 16
MAX_TLS_BLOCK = 1 << 12
_SPARE_NODES = 1 << 10
# Costs in Memory's units: of examining one word, and of reporting a destructor.
_WORD_UNITS = 16
_NODE_UNITS = 3000

#: Its address, function, object and link map.
Node = tuple[int, int, int, int]
#: A thread, its pointer, the address of the list's head, and the list's nodes.
FoundList = tuple[Optional[Thread], int, int, Sequence[Node]]


def count_destructors(
    memory: Memory, graph: Graph, libcs: Sequence[LinkMap], pointers: Sequence[int]
) -> Mapping[int, int]:
    """Count the pending destructors of each library in the lists of threads, given by their thread pointers."""
    wanted = {m.address: m.l_tls_dtor_count or 0 for m in graph.by_address.values()}
    threads = [(None, pointer) for pointer in pointers]
    finder = DestructorLists(memory, graph, wanted)
    counts: dict[int, int] = {}
    for libc in libcs:
        for *_, nodes in finder.find(libc, threads):
            for *_, link_map in nodes:
                counts[link_map] = counts.get(link_map, 0) + 1
    return counts


class DestructorLists:
    """Finds the destructor lists of the wanted link maps, by their l_tls_dtor_count."""

    def __init__(self, memory: Memory, graph: Graph, wanted: Mapping[int, Optional[int]]) -> None:
        self._memory = memory
        self._graph = graph
        self._wanted = wanted
        self._total = sum(count or 0 for count in wanted.values())
        # There are hardly more nodes than the counts add up to (a thread may be registering one); in a hostile target
        # every word may begin a list.
        self._budget = min(4 * (self._total + _SPARE_NODES), MAX_DESTRUCTORS)
        #: Why the longest incomplete chain is incomplete; None if there is none.
        self.cut: Optional[str] = None
        self._longest = 0

    def find(self, libc: LinkMap, threads: Sequence[tuple[Optional[Thread], int]]) -> list[FoundList]:
        """Find the offset whose word begins a destructor chain, and return every thread's chain there."""
        memory = self._memory
        size = min(libc.field("l_tls_blocksize") or 0, MAX_TLS_BLOCK)
        word = memory.pointer_size
        candidates: dict[int, list[FoundList]] = {}
        for thread, pointer in threads:
            start = find_static_block(memory.platform, pointer, libc)
            memory.spend(_WORD_UNITS * size // word, "thread-local blocks")
            for offset, head in enumerate(memory.try_words(start, size // word) or ()):
                nodes = self._follow(head)
                if nodes:
                    candidates.setdefault(offset, []).append((thread, pointer, start + offset * word, nodes))
        best = min(candidates, key=lambda offset: self._mismatch(candidates[offset]), default=None)
        return candidates[best] if best is not None else []

    def _mismatch(self, lists: Sequence[FoundList]) -> int:
        """Count by how many destructors the lists differ from the libraries' counts."""
        seen: dict[int, int] = {}
        for *_, nodes in lists:
            for *_, link_map in nodes:
                seen[link_map] = seen.get(link_map, 0) + 1
        wanted = self._wanted
        counts = [(wanted[address] or 0, number) for address, number in seen.items() if address in wanted]
        return self._total + sum(abs(count - number) - count for count, number in counts)

    def _follow(self, head: int) -> Sequence[Node]:
        """Follow a chain; return no nodes if any of it is not a ``struct dtor_list``."""
        if not head:
            return ()
        walk = Walk(head, self._read_node, limit=self._budget, subject="a list", noun="destructor")
        nodes = walk.all()
        if not walk.is_complete:
            if len(nodes) > self._longest:
                self._longest, self.cut = len(nodes), walk.reason
            return ()
        if not self._memory.spend(_NODE_UNITS * len(nodes), "pending TLS destructors"):
            return ()
        self._budget -= len(nodes)
        return nodes

    def _read_node(self, address: int, _: int) -> tuple[Node, int]:
        if address % self._memory.pointer_size == 0:
            function, obj, link_map, following = self._memory.words(address, 4)
            if function and link_map in self._graph.by_address:
                return (address, function, obj, link_map), following
        raise CorruptError(f"a list leads to {address:#x}, which is no destructor")
