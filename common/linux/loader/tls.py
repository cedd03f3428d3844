"""Which threads still have TLS destructors to run, and which libraries do these keep?

Their functions are mangled with a guard of the thread, or of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from ...counts import quantity
from ...errors import DlwhyError
from ...memory import Memory
from ...model import Platform, Problem, Thread
from ...target import THREAD_POINTER
from ..elf.image import ElfImage
from .collector import CollectorRules
from .maps import Graph, LinkMap
from .tls_lists import DestructorLists, FoundList

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
    finder = ListReader(memory, graph, wanted)
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
    lists = ListReader(memory, graph, wanted).read(libcs, rules, rtld, threads) if threads else ()
    return tuple(pending for each in lists for pending in each.pending)


def find_owed(graph: Graph) -> Mapping[int, Optional[int]]:
    """Return the numbers of pending destructors of the libraries that have any, by link map address."""
    return {m.address: m.l_tls_dtor_count for m in graph.by_address.values() if m.l_tls_dtor_count}


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


class ListReader(DestructorLists):
    """Reads the destructors in the lists of the wanted link maps."""

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

    def _list(self, rules: CollectorRules, rtld: ElfImage, found: FoundList) -> ThreadList:
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
