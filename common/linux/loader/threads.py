"""Where are the thread control blocks, if no debugger provides registers?

glibc links every ``struct pthread`` into one of two lists: threads on stacks that glibc allocated, and threads on
stacks of the user's, the main thread among them.  Since glibc 2.33 (1daccf403b1b) the heads are members of
``_rtld_global``; before, they are the local variables ``stack_used`` and ``__stack_user`` of libpthread, whose symbol
table distributions keep for libthread_db.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from ...lists import follow_ring
from ...memory import Memory
from ...model import Layout, Problem
from ...paths import base_name
from ..elf.image import ElfImages
from ..layouts.resolve import LayoutSet
from .maps import MAX_NAMESPACES, Graph

MAX_THREADS = 1_000_000

# TLS variant I has the control block behind struct pthread; ppc64's pointer is 0x7000 bytes behind the end of its
# tcbhead_t (sysdeps/powerpc/nptl/tls.h), which takes 128 bytes with its alignment, measured in 2.36 and 2.41.
_VARIANT_I_BIAS = {"aarch64": 0, "arm": 0, "riscv64": 0, "loongarch64": 0, "ppc64le": 0x7080, "ppc64": 0x7080}

_IN_RTLD_GLOBAL = ("_dl_stack_used", "_dl_stack_user")
_IN_LIBPTHREAD = ("stack_used", "__stack_user")
_CACHE_IN_RTLD_GLOBAL, _CACHE_IN_LIBPTHREAD = ("_dl_stack_cache",), ("stack_cache",)


def find_thread_pointers(
    memory: Memory, layouts: LayoutSet, graph: Graph, rtld_global: int, problems: list[Problem]
) -> Mapping[int, int]:
    """Find the thread pointers by the kernel's thread ids; empty if the lists cannot be found.

    :param problems: receives a problem for each list that cannot be followed to its end.
    """
    blocks = _Blocks(memory, layouts)
    heads = _heads(memory, layouts, graph, rtld_global, _IN_RTLD_GLOBAL, _IN_LIBPTHREAD)
    return {tid: pointer for tid, pointer in blocks.follow(heads, problems) if tid is not None}


def find_lost_threads(
    memory: Memory, layouts: LayoutSet, graph: Graph, rtld_global: int, problems: list[Problem]
) -> Sequence[int]:
    """Find the thread pointers of threads that do not exist any more, but whose blocks are still in memory.

    In a forked process fork has put the stacks of all other threads into the cache of free stacks (nptl's
    reclaim_stacks), with all that was on them.  A thread that ended by the system call exit is still in the list of the
    used ones, and the kernel has set its id to 0.

    :param problems: receives a problem for each list that cannot be followed to its end.
    """
    blocks = _Blocks(memory, layouts)
    cached = _heads(memory, layouts, graph, rtld_global, _CACHE_IN_RTLD_GLOBAL, _CACHE_IN_LIBPTHREAD)
    used = _heads(memory, layouts, graph, rtld_global, _IN_RTLD_GLOBAL, _IN_LIBPTHREAD)
    found = [pointer for _, pointer in blocks.follow(cached, problems)]
    return [*found, *(pointer for tid, pointer in blocks.follow(used, problems) if tid == 0)]


def find_tid(memory: Memory, layouts: LayoutSet) -> Optional[tuple[int, int]]:
    """Return how far a thread's id in ``struct pthread`` is from the thread pointer, and its size; None if unknown."""
    pthread = layouts.find("pthread")
    tid = pthread.fields.get("tid") if pthread else None
    if pthread is None or tid is None:
        return None
    return tid.offset - _pointer_distance(memory, pthread), tid.size


def _pointer_distance(memory: Memory, pthread: Layout) -> int:
    """Return how far the thread pointer is behind the start of ``struct pthread``."""
    bias = _VARIANT_I_BIAS.get(memory.platform.arch)
    return 0 if bias is None else pthread.size + bias


class _Blocks:
    """Reads lists of ``struct pthread``."""

    def __init__(self, memory: Memory, layouts: LayoutSet) -> None:
        self._memory = memory
        pthread = layouts.find("pthread")
        names = ("list.next", "tid")
        self._pthread = pthread if pthread and all(name in pthread.fields for name in names) else None

    def follow(self, heads: Iterator[int], problems: list[Problem]) -> Iterator[tuple[Optional[int], int]]:
        """Yield each thread's kernel id, None if it cannot be read, and thread pointer."""
        memory, pthread = self._memory, self._pthread
        if pthread is None:
            return
        link, tid = pthread.fields["list.next"].offset, pthread.fields["tid"]
        shift = _pointer_distance(memory, pthread)
        for head in heads:
            walk = follow_ring(
                memory, head, lambda node: node - link, limit=MAX_THREADS, subject="the list", noun="thread"
            )
            for block in walk.all():
                yield memory.try_unsigned(block + tid.offset, tid.size), block + shift
            if walk.reason is not None:
                problems.append(Problem("glibc's threads", f"{walk.reason}: threads can be missing"))


def _heads(
    memory: Memory,
    layouts: LayoutSet,
    graph: Graph,
    rtld_global: int,
    members: Sequence[str],
    variables: Sequence[str],
) -> Iterator[int]:
    """Yield the addresses of list heads: members of ``_rtld_global``, or variables of libpthread."""
    fields = layouts.require("rtld_global").fields
    if all(name in fields for name in members):
        for name in members:
            yield rtld_global + fields[name].offset
        return
    from ..elf.files import find_local_symbol  # newer releases have members

    images = ElfImages(memory)
    threads = [link_map for link_map in graph.by_address.values() if is_libpthread(link_map.name)]
    for link_map in threads[:MAX_NAMESPACES]:
        image = images.at(link_map.field("l_map_start") or 0)
        for name in variables if image else ():
            address = find_local_symbol(memory, image, link_map.name, name) if image else None
            if address is not None:
                yield address


def is_libpthread(path: str) -> bool:
    """Return True if a library is libpthread.

    It was a library of its own until glibc 2.33: libc has its functions since f47f1d91af98 and 49e182c7376b.
    """
    return base_name(path).startswith("libpthread")
