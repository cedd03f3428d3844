"""Which facts about closes that are planned are passed between the layers?"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Optional

from ..model import LoaderInfo, Outcome, Problem, TargetInfo, ThreadRef
from .model import Library


class Action(Enum):
    """What can unload a library: a close, a close that only libc can make, threads that exit, any other close."""

    CLOSE = "close"
    LIBC_CLOSE = "libc-close"
    THREAD_EXIT = "thread-exit"
    COLLECT = "collect"


class Step(NamedTuple):
    """One condition for a library to be unloaded.

    ``library`` is the base name of the one that is concerned, ``total`` how many closes it takes or how many
    destructors are pending, ``threads`` those that must exit, as far as they were found.
    """

    action: Action
    library: str
    link_map: int
    namespace: int
    total: int = 0
    threads: tuple[ThreadRef, ...] = ()


class Remedy(NamedTuple):
    """The least that must happen, besides the planned closes, for a library to be unloaded.

    ``steps`` are in an order that works.  Where ``blocker`` is set, nothing helps: this library stays for good, by
    the holds that it has itself.
    """

    steps: tuple[Step, ...] = ()
    blocker: Optional[Library] = None


class Plan(NamedTuple):
    """What would be unloaded if ``library`` were closed ``close_count`` times.

    ``open_count`` is that of now, ``unloads`` are in the order of their finalisers unless ``order_algorithm`` (the name
    of the algorithm that sorts them) is None, ``kept`` are those of its dependencies that stay, itself among them, with
    the holds that they have then.  ``may_unload_more`` names those that could close more while they are unloaded.
    ``unload_bytes`` is what the mappings of the unloaded take, in bytes.  ``remedy`` is None for a library that goes,
    or where it is not known.
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
    unload_bytes: int = 0
    remedy: Optional[Remedy] = None

    @property
    def goes(self) -> bool:
        """Return True if the closed library itself is unloaded, so that a later dlopen maps it anew."""
        return self.is_dying or any(library.link_map == self.library.link_map for library in self.unloads)

    @property
    def is_dying(self) -> bool:
        """Return True if a running close unloads the library already."""
        return any(library.link_map == self.library.link_map and library.is_going for library in self.kept)


class Plans(NamedTuple):
    """The answer of ``dlplan``: one plan, or one for each open handle; ``garbage`` goes with any of them."""

    target: TargetInfo
    loader: LoaderInfo
    plans: tuple[Plan, ...]
    asked: Optional[str] = None
    garbage: tuple[Library, ...] = ()
    problems: tuple[Problem, ...] = ()
