"""Which TLS destructors of a library are pending, and in which threads?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Optional

from ...model import ThreadRef
from ..loader.find import is_libc
from ..loader.maps import MAX_NAMESPACES, LinkMap, is_same_library
from ..model import CodeSymbol, TlsDestructor
from .process import GlibcProcess
from .symbols import TEXT_UNITS, name_variable

if TYPE_CHECKING:
    from ..loader.tls import Destructors, PendingDestructor


class PendingDestructors:
    """The pending thread-local destructors of a process; independent of open counts."""

    def __init__(self, process: GlibcProcess, follower: Optional[_Follower] = None) -> None:
        """Create the destructors of a process.

        :param follower: takes over what has not changed since an earlier snapshot, None for the first one.
        """
        self._process = process
        self._follower = follower
        self._variables: dict[tuple[int, int], Optional[str]] = {}

    def later(self, process: GlibcProcess) -> PendingDestructors:
        """Return the pending destructors of the same process after it has run."""
        return PendingDestructors(process, self._follower or _Follower(process))

    def of(self, link_map: LinkMap) -> tuple[PendingDestructor, ...]:
        """Return the pending destructors that keep a library; record a problem if its own count differs."""
        return self._by_map.get(link_map.address, ())

    def threads(self, link_map: LinkMap) -> tuple[ThreadRef, ...]:
        """Return the threads with pending destructors of a library, sorted by LWP."""
        found = {thread.tid: thread for thread in map(_thread, self.of(link_map)) if thread is not None}
        return tuple(found[tid] for tid in sorted(found))

    def never_end(self, link_map: LinkMap) -> bool:
        """Return True if a library is owed a destructor by a thread that does not exist: its count never falls to 0."""
        # Threads that do not exist are looked for only if the others owe too few.
        return any(pending.thread is None for pending in self.of(link_map))

    def describe(self, link_map: LinkMap) -> tuple[TlsDestructor, ...]:
        """Describe the pending destructors that keep a library: functions and threads."""
        pending = self.of(link_map)
        if self._follower is None:
            return tuple(map(self._describe, pending))
        return self._follower.describe(self._process, link_map, pending, self._describe)

    def _describe(self, pending: PendingDestructor) -> TlsDestructor:
        unknown = CodeSymbol(0, None, None)
        function = unknown if pending.function is None else self._process.code_symbol(pending.function)
        size = len(function.name or "") + len(function.library or "")
        if not self._process.memory.spend(TEXT_UNITS * size, "names of destructors"):
            function = CodeSymbol(function.address, None, None)
        return TlsDestructor(_thread(pending), function, pending.object, self._variable(pending))

    def _variable(self, pending: PendingDestructor) -> Optional[str]:
        """Return the name of the thread-local variable that is the object; None if it is none, or not known."""
        from ..loader.tls_blocks import find_offset

        process = self._process
        link_map = process.graph.by_address[pending.link_map]
        offset = find_offset(process.memory, pending.thread_pointer, link_map, pending.object)
        if offset is None:
            return None
        key = (pending.link_map, offset)
        if key not in self._variables:
            name = name_variable(
                process.memory, process.image(link_map), process.path(link_map) or "", link_map, offset
            )
            self._variables[key] = name
        return self._variables[key]

    @cached_property
    def _by_map(self) -> Mapping[int, tuple[PendingDestructor, ...]]:
        """Group the pending destructors by the address of the link map that they keep."""
        from ..loader.tls import read_destructors  # few libraries are kept by any

        process = self._process

        def read_all() -> Destructors:
            return read_destructors(
                process.memory,
                process.graph,
                self._libcs,
                process.rules,
                process.private.rtld,
                self._listed_threads,
                lambda: self._lost,
            )

        follower = self._follower
        found = follower.lists.read(process.memory, process.graph, read_all) if follower else read_all()
        process.problems.extend(found.problems)
        return found.by_map

    @cached_property
    def _lost(self) -> tuple[PendingDestructor, ...]:
        """Return the destructors that threads owed which do not exist any more."""
        from ..loader.tls import read_lost_destructors

        process = self._process
        return read_lost_destructors(
            process.memory, process.graph, self._libcs, process.rules, process.private.rtld, self._lost_threads
        )

    @cached_property
    def _libcs(self) -> Sequence[LinkMap]:
        maps = self._process.graph.by_address.values()
        return [m for m in maps if not m.is_proxy and is_libc(m.name)][:MAX_NAMESPACES]

    def _listed_threads(self) -> Mapping[int, int]:
        from ..loader.threads import find_thread_pointers

        process = self._process
        place = process.private.rtld_global
        return find_thread_pointers(process.memory, process.layouts, process.graph, place, process.problems)

    def _lost_threads(self) -> Sequence[int]:
        from ..loader.threads import find_lost_threads

        process = self._process
        place = process.private.rtld_global
        return find_lost_threads(process.memory, process.layouts, process.graph, place, process.problems)


class _Described(NamedTuple):
    """Pending destructors, their descriptions, and in which library each of their functions was."""

    pending: Sequence[PendingDestructor]
    words: tuple[TlsDestructor, ...]
    places: Mapping[int, Optional[LinkMap]]


class _Follower:
    """What is known of a process's destructors from one snapshot to the next."""

    def __init__(self, process: GlibcProcess) -> None:
        from ..loader.incremental_tls import IncrementalDestructorReader

        self.lists = IncrementalDestructorReader(process.layouts, process.rules, process.private.rtld)
        self._known: dict[int, _Described] = {}

    def describe(
        self,
        process: GlibcProcess,
        link_map: LinkMap,
        pending: tuple[PendingDestructor, ...],
        describe: Callable[[PendingDestructor], TlsDestructor],
    ) -> tuple[TlsDestructor, ...]:
        """Describe destructors; those are taken over that were described before, if their functions' libraries stay."""
        known = self._known.pop(link_map.address, None)
        if known is None or not all(_is_at(process, *place) for place in known.places.items()):
            known = _Described((), (), {})
        words = known.words
        if known.pending != pending:
            described = dict(zip(known.pending, known.words))
            words = tuple(described.get(each) or describe(each) for each in pending)
            functions = {each.function for each in pending if each.function is not None}
            known = _Described(pending, words, {function: process.find_map(function) for function in functions})
        if process.memory.units_left > 0:  # else some are described without their names
            self._known[link_map.address] = known
        return words


def _is_at(process: GlibcProcess, function: int, link_map: Optional[LinkMap]) -> bool:
    now = process.find_map(function)
    return now is None if link_map is None else is_same_library(link_map, now)


def _thread(pending: PendingDestructor) -> Optional[ThreadRef]:
    thread = pending.thread
    return None if thread is None else ThreadRef(thread.number, thread.lwp, thread.name)
