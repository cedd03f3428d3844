"""Which threads still have TLS destructors to run, and which libraries do these keep?

Each thread has ``tls_dtor_list`` in libc's static TLS block: a chain of
``struct dtor_list { dtor_func func; void *obj; struct link_map *map; struct dtor_list *next; }``
(stdlib/cxa_thread_atexit_impl.c, since glibc 2.18, ba384f6ed927).  No symbol table has the list's offset in the block,
so the block, some 150 bytes, is searched for the one word that begins such a chain in every thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from ...counts import quantity
from ...errors import CorruptError, DlwhyError
from ...lists import Walk
from ...memory import Memory
from ...model import Platform, Problem, Thread
from ...target import THREAD_POINTER
from ..elf.image import ElfImage
from .collector import CollectorRules
from .maps import Graph, LinkMap

#: The most destructors that are read and reported, of all libraries in all threads.
MAX_DESTRUCTORS = 1 << 16
MAX_TLS_BLOCK = 1 << 12
_SPARE_NODES = 1 << 10
# Costs in Memory's units: of examining one word, and of reporting a destructor.
_WORD_UNITS = 16
_NODE_UNITS = 3000

# TLS variant II: l_tls_offset counts downwards from the thread pointer to the block; elsewhere it counts upwards from
# the control block, which on ppc64 is below the thread pointer (its ABI).
_VARIANT_II = frozenset({"x86_64", "i386", "s390x"})
_THREAD_POINTER_BIAS = {"ppc64le": 0x7000, "ppc64": 0x7000}

# PTR_MANGLE of sysdeps/*/pointer_guard.h: xor with a guard, then on x86 a rotation to the left by this many bits.
_MANGLE_ROTATION = {"x86_64": 17, "i386": 9}
# The guard's offset from the thread pointer: tcbhead_t of sysdeps/*/nptl/tls.h, fixed by the compilers' ABIs.
# s390x uses the stack guard; on ppc64 tcbhead_t ends below the biased pointer.
_GUARD_OFFSET = {"x86_64": 0x30, "i386": 0x18, "s390x": 0x28, "ppc64le": -0x7018, "ppc64": -0x7018}
# These have one guard for all threads, in ld.so.
_GUARD_SYMBOL = "__pointer_chk_guard"
_GUARD_IN_RTLD = frozenset({"aarch64", "arm", "loongarch64"})
_NOT_MANGLED = frozenset({"riscv64"})
# tcbhead_t.self.
_SELF_OFFSET = {"x86_64": 0x10, "i386": 0x8, "s390x": 0x10}


_WHY_LACKING = (
    "a thread is registering or running one just now, was not seen, or is one of the process that forked this one"
)


class PendingDestructor(NamedTuple):
    """A pending destructor: thread and its pointer, function (None: cannot be demangled), object, library.

    ``thread`` is None if the thread does not exist any more: the destructor is never called.
    """

    thread: Optional[Thread]
    thread_pointer: int
    function: Optional[int]
    object: int
    link_map: int


class ThreadList(NamedTuple):
    """A thread's list of pending destructors: the address of its head, those of its nodes, and what they say.

    ``thread`` and ``pointer`` are as of a `PendingDestructor`.
    """

    thread: Optional[Thread]
    pointer: int
    head: int
    nodes: tuple[int, ...]
    pending: tuple[PendingDestructor, ...]


class Destructors(NamedTuple):
    """All pending destructors, by the library that they keep.

    ``threads`` are those with a known thread pointer, with it; ``lists`` are the lists that are not empty, of threads
    that exist.
    """

    by_map: Mapping[int, tuple[PendingDestructor, ...]]
    problems: tuple[Problem, ...]
    threads: Sequence[tuple[Thread, int]] = ()
    lists: Sequence[ThreadList] = ()


def read_destructors(
    memory: Memory,
    graph: Graph,
    libcs: Sequence[LinkMap],
    rules: CollectorRules,
    rtld: ElfImage,
    listed: Callable[[], Mapping[int, int]],
    lost: Callable[[], Sequence[PendingDestructor]] = tuple,
) -> Destructors:
    """Read the destructor lists of all threads; if these have too few, add those of threads that are gone.

    The number found for a library must equal its ``l_tls_dtor_count``; otherwise there is a problem.

    :param libcs: the C libraries of all namespaces.
    :param rtld: ld.so.
    :param listed: returns the thread pointers in glibc's own lists, by LWP, for targets without registers.
    :param lost: returns the destructors of threads that do not exist any more.
    """
    wanted = find_owed(graph)
    if not wanted:
        return Destructors({}, ())
    problems: list[Problem] = []
    threads = list(_thread_pointers(memory, listed, problems))
    finder = ListFinder(memory, graph, wanted)
    lists = list(finder.read(libcs, rules, rtld, threads))
    found = by_library(lists)
    if any(len(found.get(address, ())) < (count or 0) for address, count in wanted.items()):
        for pending in lost():
            found.setdefault(pending.link_map, []).append(pending)
    for address, count in wanted.items():
        seen = len(found.get(address, ()))
        if seen != count:
            name = graph.by_address[address].name or "the main program"
            pending_words = quantity(seen, "pending destructor was", "pending destructors were")
            message = (
                f"l_tls_dtor_count is {count}, but {pending_words} found in "
                f"{quantity(len(threads), 'thread')}: {finder.cut or _WHY_LACKING}"
            )
            problems.append(Problem(name, message))
    by_map = {address: tuple(pending) for address, pending in found.items()}
    return Destructors(by_map, tuple(problems), threads, lists)


def by_library(lists: Iterable[ThreadList]) -> dict[int, list[PendingDestructor]]:
    """Group the destructors of several lists by the link map that they keep."""
    found: dict[int, list[PendingDestructor]] = {}
    for each in lists:
        for pending in each.pending:
            found.setdefault(pending.link_map, []).append(pending)
    return found


def read_lost_destructors(
    memory: Memory,
    graph: Graph,
    libcs: Sequence[LinkMap],
    rules: CollectorRules,
    rtld: ElfImage,
    pointers: Callable[[], Sequence[int]],
) -> tuple[PendingDestructor, ...]:
    """Read the destructor lists of threads that do not exist any more: a thread that ends by itself leaves none.

    :param pointers: returns the thread pointers of such threads.
    """
    wanted = find_owed(graph)
    threads = [(None, pointer) for pointer in pointers()] if wanted else []
    lists = ListFinder(memory, graph, wanted).read(libcs, rules, rtld, threads) if threads else ()
    return tuple(pending for each in lists for pending in each.pending)


def find_owed(graph: Graph) -> Mapping[int, Optional[int]]:
    """Return the numbers of pending destructors of the libraries that have any, by link map address."""
    return {m.address: m.l_tls_dtor_count for m in graph.by_address.values() if m.l_tls_dtor_count}


def count_destructors(
    memory: Memory, graph: Graph, libcs: Sequence[LinkMap], pointers: Sequence[int]
) -> Mapping[int, int]:
    """Count the pending destructors of each library in the lists of threads, given by their thread pointers."""
    wanted = {m.address: m.l_tls_dtor_count or 0 for m in graph.by_address.values()}
    threads = [(None, pointer) for pointer in pointers]
    finder = ListFinder(memory, graph, wanted)
    counts: dict[int, int] = {}
    for libc in libcs:
        for *_, nodes in finder.find(libc, threads):
            for *_, link_map in nodes:
                counts[link_map] = counts.get(link_map, 0) + 1
    return counts


def _thread_pointers(
    memory: Memory, listed: Callable[[], Mapping[int, int]], problems: list[Problem]
) -> Iterator[tuple[Thread, int]]:
    target = memory.target
    by_lwp: Optional[Mapping[int, int]] = None
    # Debuggers and cores number threads differently: gdb 16 counts backwards in a process that it attaches to.
    for thread in sorted(target.threads(), key=lambda each: (each.lwp != target.pid, each.lwp)):
        pointer = target.registers(thread).get(THREAD_POINTER)
        if not pointer or not _is_thread_block(memory, pointer):
            by_lwp = listed() if by_lwp is None else by_lwp
            pointer = by_lwp.get(thread.lwp if thread.tid is None else thread.tid)
        if pointer and _is_thread_block(memory, pointer):
            yield thread, pointer
        else:
            problems.append(Problem(f"thread {thread.number} (LWP {thread.lwp})", "its thread pointer is not known"))


def _is_thread_block(memory: Memory, pointer: int) -> bool:
    offset = _SELF_OFFSET.get(memory.platform.arch)
    if offset is None:
        return True
    return memory.try_unsigned(pointer + offset, memory.pointer_size) == pointer


def counts_downwards(platform: Platform) -> bool:
    """Return True if l_tls_offset counts downwards from the thread pointer."""
    return platform.arch in _VARIANT_II


def find_static_block(platform: Platform, pointer: int, link_map: LinkMap) -> int:
    """Return the address of a start-up library's thread-local block, given the thread pointer."""
    shift = link_map.field("l_tls_offset") or 0
    block = pointer - _THREAD_POINTER_BIAS.get(platform.arch, 0)
    return block - shift if platform.arch in _VARIANT_II else block + shift


#: Its address, function, object and link map.
_Node = tuple[int, int, int, int]
#: A thread, its pointer, the address of the list's head, and the list's nodes.
_Found = tuple[Optional[Thread], int, int, Sequence[_Node]]


class ListFinder:
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

    def read(
        self,
        libcs: Sequence[LinkMap],
        rules: CollectorRules,
        rtld: ElfImage,
        threads: Sequence[tuple[Optional[Thread], int]],
    ) -> Iterator[ThreadList]:
        """Yield the lists of some threads, given with their thread pointers, that are not empty."""
        for libc in libcs:
            for found in self.find(libc, threads):
                yield self._list(rules, rtld, found)

    def read_at(
        self, rules: CollectorRules, rtld: ElfImage, thread: Optional[Thread], pointer: int, head: int
    ) -> ThreadList:
        """Read the list whose head is at an address; without nodes if it is empty, or is no list."""
        nodes = self._follow(self._memory.try_unsigned(head, self._memory.pointer_size) or 0)
        return self._list(rules, rtld, (thread, pointer, head, nodes))

    def _list(self, rules: CollectorRules, rtld: ElfImage, found: _Found) -> ThreadList:
        thread, pointer, head, nodes = found
        memory = self._memory
        mangled = rules.destructors_are_mangled
        guard = _read_guard(memory, rtld, pointer) if mangled and nodes else 0
        pending = tuple(
            PendingDestructor(
                thread, pointer, _demangle(memory.platform, function, guard) if mangled else function, obj, link_map
            )
            for _, function, obj, link_map in nodes
        )
        return ThreadList(thread, pointer, head, tuple(node[0] for node in nodes), pending)

    def find(self, libc: LinkMap, threads: Sequence[tuple[Optional[Thread], int]]) -> list[_Found]:
        """Find the offset whose word begins a destructor chain, and return every thread's chain there."""
        memory = self._memory
        size = min(libc.field("l_tls_blocksize") or 0, MAX_TLS_BLOCK)
        word = memory.pointer_size
        candidates: dict[int, list[_Found]] = {}
        for thread, pointer in threads:
            start = find_static_block(memory.platform, pointer, libc)
            memory.spend(_WORD_UNITS * size // word, "thread-local blocks")
            for offset, head in enumerate(memory.try_words(start, size // word) or ()):
                nodes = self._follow(head)
                if nodes:
                    candidates.setdefault(offset, []).append((thread, pointer, start + offset * word, nodes))
        best = min(candidates, key=lambda offset: self._mismatch(candidates[offset]), default=None)
        return candidates[best] if best is not None else []

    def _mismatch(self, lists: Sequence[_Found]) -> int:
        """Count by how many destructors the lists differ from the libraries' counts."""
        seen: dict[int, int] = {}
        for *_, nodes in lists:
            for *_, link_map in nodes:
                seen[link_map] = seen.get(link_map, 0) + 1
        wanted = self._wanted
        counts = [(wanted[address] or 0, number) for address, number in seen.items() if address in wanted]
        return self._total + sum(abs(count - number) - count for count, number in counts)

    def _follow(self, head: int) -> Sequence[_Node]:
        """Follow a chain; return no nodes if any of it is not a ``struct dtor_list``."""
        if not head:
            return ()
        walk = Walk(head, self._read_node, limit=self._budget, subject="a list", noun="destructors")
        nodes = walk.all()
        if not walk.is_complete:
            if len(nodes) > self._longest:
                self._longest, self.cut = len(nodes), walk.reason
            return ()
        if not self._memory.spend(_NODE_UNITS * len(nodes), "pending TLS destructors"):
            return ()
        self._budget -= len(nodes)
        return nodes

    def _read_node(self, address: int, _: int) -> tuple[_Node, int]:
        if address % self._memory.pointer_size == 0:
            function, obj, link_map, following = self._memory.words(address, 4)
            if function and link_map in self._graph.by_address:
                return (address, function, obj, link_map), following
        raise CorruptError(f"a list leads to {address:#x}, which is no destructor")


def _read_guard(memory: Memory, rtld: ElfImage, pointer: int) -> Optional[int]:
    """Read the guard that mangles a thread's addresses, None if it cannot be found."""
    arch = memory.platform.arch
    if arch in _NOT_MANGLED:
        return 0
    try:
        if arch in _GUARD_OFFSET:
            return memory.pointer(pointer + _GUARD_OFFSET[arch])
        symbol = rtld.find_symbol(_GUARD_SYMBOL) if arch in _GUARD_IN_RTLD else None
        return memory.pointer(symbol[0]) if symbol else None
    except DlwhyError:
        return None  # the destructor is shown as a function that is not known


def _demangle(platform: Platform, value: int, guard: Optional[int]) -> Optional[int]:
    """Undo PTR_MANGLE."""
    if guard is None:
        return None
    rotation = _MANGLE_ROTATION.get(platform.arch, 0)
    bits = 8 * platform.pointer_size
    return (value >> rotation | value << bits - rotation) & platform.address_mask ^ guard
