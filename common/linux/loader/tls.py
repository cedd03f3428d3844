"""Which threads still have TLS destructors to run, and which libraries do these keep?

Each thread has ``tls_dtor_list`` in libc's static TLS block: a chain of
``struct dtor_list { dtor_func func; void *obj; struct link_map *map; struct dtor_list *next; }``
(stdlib/cxa_thread_atexit_impl.c, since glibc 2.18).  The list's offset in the block is in no symbol table, so the
block is searched for the one word that begins such a chain in every thread; the block has some 150 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from ...errors import CorruptError, DlwhyError
from ...lists import Walk
from ...memory import Memory
from ...model import Platform, Problem, Thread
from ..elf.image import ElfImage
from .collector import CollectorRules
from .maps import Graph, LinkMap

THREAD_POINTER = "thread_pointer"

#: That are followed and told, of all libraries in all threads.
MAX_DESTRUCTORS = 1 << 16
MAX_TLS_BLOCK = 1 << 12
_SPARE_NODES = 1 << 10
# What looking at one word costs, and telling of a destructor, in Memory's units.
_WORD_UNITS = 16
_NODE_UNITS = 3000

# TLS variant II: the block ends at the thread pointer and l_tls_offset counts downwards; elsewhere it counts upwards
# from the control block, which the thread pointer is ahead of on ppc64 (its ABI).
_VARIANT_II = frozenset({"x86_64", "i386", "s390x"})
_THREAD_POINTER_BIAS = {"ppc64le": 0x7000, "ppc64": 0x7000}

# PTR_MANGLE of sysdeps/*/pointer_guard.h: xor with a guard, then on x86 a rotation to the left by so many bits.
_MANGLE_ROTATION = {"x86_64": 17, "i386": 9}
# Where the guard lies from the thread pointer: tcbhead_t of sysdeps/*/nptl/tls.h, fixed by the compilers' ABIs.
# s390x takes the stack guard for it; on ppc64 tcbhead_t ends below the biased pointer.
_GUARD_OFFSET = {"x86_64": 0x30, "i386": 0x18, "s390x": 0x28, "ppc64le": -0x7018, "ppc64": -0x7018}
# These have one guard for all threads, in ld.so.
_GUARD_SYMBOL = "__pointer_chk_guard"
_GUARD_IN_RTLD = frozenset({"aarch64", "arm", "loongarch64"})
_NOT_MANGLED = frozenset({"riscv64"})
# tcbhead_t.self.
_SELF_OFFSET = {"x86_64": 0x10, "i386": 0x8, "s390x": 0x10}


class PendingDestructor(NamedTuple):
    """A pending destructor: thread, function (None: cannot be demangled), object, library."""

    thread: Thread
    function: Optional[int]
    object: int
    link_map: int


class Destructors(NamedTuple):
    """All pending destructors, by the library that they keep."""

    by_map: Mapping[int, tuple[PendingDestructor, ...]]
    problems: tuple[Problem, ...]


def read_destructors(
    memory: Memory,
    graph: Graph,
    libcs: Sequence[LinkMap],
    rules: CollectorRules,
    rtld: ElfImage,
    listed: Callable[[], Mapping[int, int]],
) -> Destructors:
    """Read the destructor lists of all threads; ``libcs`` are the C libraries of all namespaces.

    ``rtld`` is ld.so; ``listed`` gives the thread pointers that glibc's own lists know, by LWP, for targets without
    registers.  The number found for a library must equal its ``l_tls_dtor_count``; otherwise there is a problem.
    """
    wanted = {m.address: m.l_tls_dtor_count for m in graph.by_address.values() if m.l_tls_dtor_count}
    if not wanted:
        return Destructors({}, ())
    problems: list[Problem] = []
    threads = list(_thread_pointers(memory, listed, problems))
    found: dict[int, list[PendingDestructor]] = {}
    finder = _Finder(memory, graph, wanted)
    for libc in libcs:
        for thread, pointer, nodes in finder.find(libc, threads):
            guard = _read_guard(memory, rtld, pointer) if rules.destructors_are_mangled else 0
            for function, obj, link_map in nodes:
                plain = _demangle(memory.platform, function, guard) if rules.destructors_are_mangled else function
                found.setdefault(link_map, []).append(PendingDestructor(thread, plain, obj, link_map))
    for address, count in wanted.items():
        seen = len(found.get(address, ()))
        if seen != count:
            name = graph.by_address[address].name or "the main program"
            message = (
                f"l_tls_dtor_count is {count}, but {seen} pending destructors were found in "
                f"{len(threads)} threads: {finder.cut or 'a thread is registering one just now, or was not seen'}"
            )
            problems.append(Problem(name, message))
    return Destructors({address: tuple(nodes) for address, nodes in found.items()}, tuple(problems))


def _thread_pointers(
    memory: Memory, listed: Callable[[], Mapping[int, int]], problems: list[Problem]
) -> Iterator[tuple[Thread, int]]:
    target = memory.target
    by_lwp: Optional[Mapping[int, int]] = None
    # Debuggers and cores have orders of their own: gdb 16 counts those of a process that it attaches to backwards.
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


def find_static_block(platform: Platform, pointer: int, link_map: LinkMap) -> int:
    """Find where a library of the program's start has its variables of a thread, by the thread pointer."""
    shift = link_map.field("l_tls_offset") or 0
    block = pointer - _THREAD_POINTER_BIAS.get(platform.arch, 0)
    return block - shift if platform.arch in _VARIANT_II else block + shift


_Node = tuple[int, int, int]


class _Finder:
    """Find the lists of destructors of the maps that are wanted, by their l_tls_dtor_count."""

    def __init__(self, memory: Memory, graph: Graph, wanted: Mapping[int, Optional[int]]) -> None:
        self._memory = memory
        self._graph = graph
        self._wanted = wanted
        self._total = sum(count or 0 for count in wanted.values())
        # There are not many more nodes than all counts together (a thread may be registering just now); hostile words
        # may all begin a list.
        self._budget = min(4 * (self._total + _SPARE_NODES), MAX_DESTRUCTORS)
        #: Why the longest of the chains that are not whole is not; None without such.
        self.cut: Optional[str] = None
        self._longest = 0

    def find(self, libc: LinkMap, threads: Sequence[tuple[Thread, int]]) -> list[tuple[Thread, int, Sequence[_Node]]]:
        """Find the offset whose word begins a destructor chain, and give every thread's chain there."""
        memory = self._memory
        size = min(libc.field("l_tls_blocksize") or 0, MAX_TLS_BLOCK)
        word = memory.pointer_size
        candidates: dict[int, list[tuple[Thread, int, Sequence[_Node]]]] = {}
        for thread, pointer in threads:
            start = find_static_block(memory.platform, pointer, libc)
            memory.spend(_WORD_UNITS * size // word, "thread-local blocks")
            for offset, head in enumerate(memory.try_words(start, size // word) or ()):
                nodes = self._follow(head)
                if nodes:
                    candidates.setdefault(offset, []).append((thread, pointer, nodes))
        best = min(candidates, key=lambda offset: self._mismatch(candidates[offset]), default=None)
        return candidates[best] if best is not None else []

    def _mismatch(self, lists: Sequence[tuple[Thread, int, Sequence[_Node]]]) -> int:
        """Count by how many destructors lists differ from what the libraries count."""
        seen: dict[int, int] = {}
        for _, _, nodes in lists:
            for _, _, link_map in nodes:
                seen[link_map] = seen.get(link_map, 0) + 1
        wanted = self._wanted
        counts = [(wanted[address] or 0, number) for address, number in seen.items() if address in wanted]
        return self._total + sum(abs(count - number) - count for count, number in counts)

    def _follow(self, head: int) -> Sequence[_Node]:
        """Follow a chain; empty if any of it is no ``struct dtor_list``."""
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
                return (function, obj, link_map), following
        raise CorruptError(f"a list leads to {address:#x}, which is no destructor")


def _read_guard(memory: Memory, rtld: ElfImage, pointer: int) -> Optional[int]:
    """Read the guard that a thread's addresses are mangled with, None if it cannot be found."""
    arch = memory.platform.arch
    if arch in _NOT_MANGLED:
        return 0
    try:
        if arch in _GUARD_OFFSET:
            return memory.pointer(pointer + _GUARD_OFFSET[arch])
        symbol = rtld.find_symbol(_GUARD_SYMBOL) if arch in _GUARD_IN_RTLD else None
        return memory.pointer(symbol[0]) if symbol else None
    except DlwhyError:
        return None


def _demangle(platform: Platform, value: int, guard: Optional[int]) -> Optional[int]:
    """Undo PTR_MANGLE."""
    if guard is None:
        return None
    rotation = _MANGLE_ROTATION.get(platform.arch, 0)
    bits = 8 * platform.pointer_size
    return (value >> rotation | value << bits - rotation) & platform.address_mask ^ guard
