"""Which TLS destructors are pending now, if hardly any thread's list has changed since all were read?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Optional

from ...memory import CHUNK_SIZE, Memory
from ..elf.image import ElfImage
from ..layouts.resolve import LayoutSet
from .collector import CollectorRules
from .maps import Graph
from .threads import find_tid
from .tls import Destructors, ListReader, ThreadList, by_library, find_owed

#: The largest distance between the head of a thread's list and its id: both are near the thread pointer.
_MAX_WINDOW = 1 << 12
#: The words of a ``struct dtor_list``.
_NODE_WORDS = 4


class _Window(NamedTuple):
    """Memory that holds the head of a list and the id of its thread, and where they are in it."""

    address: int
    size: int
    head: slice
    tid: slice


class _KnownList(NamedTuple):
    """A thread's list with its window, and the bytes of the window and of each node."""

    list: ThreadList
    window: _Window
    data: bytes
    nodes: tuple[tuple[int, bytes], ...]


class _Known:
    """The lists of all threads as they were at an event, and how many destructors each library was owed."""

    def __init__(self, lists: Sequence[_KnownList], owed: Mapping[int, Optional[int]]) -> None:
        self.lists = lists
        self.owed = owed
        self.places = [each.window[:2] for each in lists]
        self._data = [each.data for each in lists]
        self._chunks: dict[int, list[tuple[int, bytes]]] = {}
        for address, raw in (node for each in lists for node in each.nodes):
            self._chunks.setdefault(address - address % CHUNK_SIZE, []).append((address, raw))

    def is_unchanged(self, memory: Memory, data: Sequence[Optional[bytes]]) -> bool:
        """Return True if all memory has the bytes that it had; ``data`` are those of the windows now."""
        return data == self._data and all(self._has(memory, start, nodes) for start, nodes in self._chunks.items())

    @staticmethod
    def _has(memory: Memory, start: int, nodes: Sequence[tuple[int, bytes]]) -> bool:
        """Return True if a chunk has some nodes; a chunk is read whole, because the heap has many nodes in one."""
        chunk = memory.chunk(start)
        if chunk is not None and all(chunk.startswith(raw, address - start) for address, raw in nodes):
            return True
        return all(memory.try_read(address, len(raw)) == raw for address, raw in nodes)


class IncrementalDestructorReader:
    """Reads the destructor lists of all threads repeatedly, while the process runs.

    A list is what it was if its head and all its nodes have the bytes that they had: the head leads to the first node,
    each node to the next.  The head alone is not enough: its thread, the only one that changes the list, can have run
    one destructor and registered another, whose node got the freed node's address.  The thread is the same as long as
    ``struct pthread`` has its id, which the kernel clears when the thread ends (CLONE_CHILD_CLEARTID).

    Other threads are not read if these lists have as many destructors of each library as its l_tls_dtor_count, which
    counts those of all threads (stdlib/cxa_thread_atexit_impl.c): then no other thread owes any.  Only while a thread
    is between linking a node and counting it can another thread's be missed, until the next event.
    """

    def __init__(self, layouts: LayoutSet, rules: CollectorRules, rtld: ElfImage) -> None:
        self._layouts = layouts
        self._rules = rules
        self._rtld = rtld
        self._known: Optional[_Known] = None
        self._last = Destructors({}, ())

    def read(self, memory: Memory, graph: Graph, read_all: Callable[[], Destructors]) -> Destructors:
        """Read the lists that have changed since the last time; the result is the same object if none has.

        A thread has the name that it had when the lists of all threads were read.

        :param read_all: reads the lists of all threads.
        """
        known, self._known = self._known, None
        owed = find_owed(graph)
        now = self._update(memory, graph, owed, known) if known is not None and owed else None
        if now is None:
            self._last = read_all()
            # What threads owe that are gone is in none of these lists.
            if owed and not self._last.problems and _counts(self._last.lists) == owed:
                now = self._note(memory, owed)
        elif now is not known:
            lists = [each.list for each in now.lists]
            by_map = {address: tuple(each) for address, each in by_library(lists).items()}
            self._last = self._last._replace(by_map=by_map, lists=lists)
        self._known = now
        return self._last

    def _note(self, memory: Memory, owed: Mapping[int, Optional[int]]) -> Optional[_Known]:
        """Record the lists of all threads, wherever some thread has one; None if some cannot be read again."""
        place = find_tid(memory, self._layouts)
        if place is None:
            return None
        lists = {each.head: each for each in self._last.lists}
        known = []
        for distance in dict.fromkeys(each.head - each.pointer for each in self._last.lists):
            for thread, pointer in self._last.threads:
                each = lists.get(pointer + distance) or ThreadList(thread, pointer, pointer + distance, (), ())
                window = _window(each, memory.pointer_size, *place)
                data = memory.try_read(window.address, window.size) if window.size <= _MAX_WINDOW else None
                noted = None if data is None else _known_list(memory, each, window, data)
                if noted is None or not any(noted.data[window.tid]):
                    return None
                known.append(noted)
        return _Known(known, owed)

    def _update(
        self, memory: Memory, graph: Graph, owed: Mapping[int, Optional[int]], known: _Known
    ) -> Optional[_Known]:
        """Return the lists as they are now, ``known`` itself if none has changed; None if there can be others."""
        windows = list(memory.read_apart(known.places))
        if owed == known.owed and known.is_unchanged(memory, windows):
            return known
        finder = ListReader(memory, graph, owed)
        lists = []
        for each, data in zip(known.lists, windows):
            tid, head = each.window.tid, each.window.head
            if data is None or data[tid] != each.data[tid]:
                continue  # the thread has ended; if it still owed something, the counts differ
            if data[head] == each.data[head] and all(memory.try_read(at, len(raw)) == raw for at, raw in each.nodes):
                lists.append(each._replace(data=data))
                continue
            changed = finder.read_at(self._rules, self._rtld, each.list.thread, each.list.pointer, each.list.head)
            noted = _known_list(memory, changed, each.window, data)
            if noted is not None:
                lists.append(noted)
        return _Known(lists, owed) if _counts(each.list for each in lists) == owed else None


def _window(each: ThreadList, word: int, distance: int, size: int) -> _Window:
    """Return the memory around the head of a list and the thread's id, which is so far from the thread pointer."""
    tid = each.pointer + distance
    start = min(tid, each.head)
    end = max(tid + size, each.head + word)
    return _Window(
        start, end - start, slice(each.head - start, each.head - start + word), slice(tid - start, tid - start + size)
    )


def _known_list(memory: Memory, each: ThreadList, window: _Window, data: bytes) -> Optional[_KnownList]:
    """Read the bytes of a list that was read just now, None if that fails; ``data`` are those of its window."""
    nodes = []
    for address in each.nodes:
        raw = memory.try_read(address, _NODE_WORDS * memory.pointer_size)
        if raw is None:
            return None
        nodes.append((address, raw))
    return _KnownList(each, window, data, tuple(nodes))


def _counts(lists: Iterable[ThreadList]) -> Mapping[int, int]:
    """Count the destructors of each library."""
    return Counter(pending.link_map for each in lists for pending in each.pending)
