"""Which facts about planned closes are passed between the layers?"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Optional

from ..model import LoaderInfo, Outcome, Problem, TargetInfo, ThreadRef
from .model import CodeSymbol, Library
from .rebuild_model import Rebuild


class Action(Enum):
    """An event that can unload a library: a close, a close that only libc can make, threads' exits, any other close."""

    CLOSE = "close"
    LIBC_CLOSE = "libc-close"
    THREAD_EXIT = "thread-exit"
    COLLECT = "collect"


class ClosingWay(Enum):
    """How a library's finalisers can reach dlclose.

    IMPORT: it imports dlclose.  LOOKUP: it looks dlclose up by dlsym.  CALL: through a function of another library that
    imports dlclose.  POINTER: perhaps through such a function, which it imports, as they call through pointers, such as
    virtual functions.  UNKNOWN: it cannot be read, or is too large to be followed.
    """

    IMPORT = "import"
    LOOKUP = "lookup"
    CALL = "call"
    POINTER = "pointer"
    UNKNOWN = None


class Closer(NamedTuple):
    """A library whose finalisers can close others: how, and for CALL and POINTER the function.

    ``library`` is its base name; the address in ``through`` is 0 if only its symbol is known.
    """

    library: str
    way: ClosingWay
    through: Optional[CodeSymbol] = None


class Step(NamedTuple):
    """One condition for a library to be unloaded.

    ``library`` is the base name of the library to close or with the destructors, ``link_map`` the address of its
    ``struct link_map``, ``namespace`` an ``Lmid_t``; ``total`` is the number of closes, or of pending destructors;
    ``threads`` are the threads that must exit, as far as they were found, and ``unseen`` is the number of pending
    destructors whose threads were not found: these may not exist.
    """

    action: Action
    library: str
    link_map: int
    namespace: int
    total: int = 0
    threads: tuple[ThreadRef, ...] = ()
    unseen: int = 0


class Remedy(NamedTuple):
    """The least that must happen, in addition to the planned closes, for a library to be unloaded.

    ``steps`` are in an order that works.  If ``blocker`` is set, nothing helps: this library stays for good, because of
    its own holds; ``rebuild`` is then what would help in another process.
    """

    steps: tuple[Step, ...] = ()
    blocker: Optional[Library] = None
    rebuild: Optional[Rebuild] = None

    @property
    def is_possible(self) -> Optional[bool]:
        """Return whether the steps can happen; None if they need threads to exit that may not exist."""
        if self.blocker is not None:
            return False
        return None if any(step.unseen for step in self.steps) else True


class ThreadInside(NamedTuple):
    """A thread that executes code of an unloaded library, or returns to it.

    ``library`` is the library's base name, ``link_map`` the address of its ``struct link_map``.  ``certain`` is False
    if only a word on the thread's stack says so, which can be left over from an earlier call.
    """

    library: str
    link_map: int
    thread: ThreadRef
    certain: bool


class Plan(NamedTuple):
    """The libraries that would be unloaded if ``library`` were closed ``close_count`` times.

    ``open_count`` is the current one, None if unknown.  ``unloads`` are in the order of their finalisers, unless
    ``order_algorithm`` (the name of the algorithm that sorts them) is None; ``order_certain`` is False if the process
    may sort otherwise.  ``kept`` are the library and its dependencies as far as they stay, with their holds then.
    ``may_unload_more`` names unloaded libraries whose destructors could close others, ``imports_unread`` those of them
    that are named because their imports cannot be read, and ``closers`` says by what each could.  ``unload_bytes`` is
    the size of the unloaded mappings, in bytes.  ``remedy`` is None if the library is unloaded, or if it is unknown.
    ``threads_inside`` are the threads that are in code which is unloaded, ``threads_unknown`` is the number of threads
    that can be, because their program counters are not known; 0 if nothing is unloaded.
    """

    library: Library
    open_count: Optional[int]
    close_count: int
    outcome: Outcome
    unloads: tuple[Library, ...] = ()
    order_algorithm: Optional[str] = None
    order_certain: bool = True
    kept: tuple[Library, ...] = ()
    may_unload_more: tuple[str, ...] = ()
    imports_unread: tuple[str, ...] = ()
    closers: tuple[Closer, ...] = ()
    unload_bytes: int = 0
    remedy: Optional[Remedy] = None
    threads_inside: tuple[ThreadInside, ...] = ()
    threads_unknown: int = 0

    @property
    def is_unloaded(self) -> bool:
        """Return True if the closed library itself is unloaded, so that a later dlopen maps it anew."""
        return self.is_being_unloaded or any(library.link_map == self.library.link_map for library in self.unloads)

    @property
    def is_being_unloaded(self) -> bool:
        """Return True if a running close unloads the library already."""
        return any(library.link_map == self.library.link_map and library.is_being_unloaded for library in self.kept)


class Plans(NamedTuple):
    """The answer of ``dlplan``: one plan, or one for each open library.

    Any close also unloads ``garbage``, which is None if unknown, because not all libraries could be read.
    ``unranked`` is the number of open libraries without a plan, because the command may not search more.
    """

    target: TargetInfo
    loader: LoaderInfo
    plans: tuple[Plan, ...]
    asked: Optional[str] = None
    garbage: Optional[tuple[Library, ...]] = ()
    problems: tuple[Problem, ...] = ()
    unranked: int = 0
