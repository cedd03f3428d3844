"""Which values do traces of all systems share?"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Optional, TypeVar

_T = TypeVar("_T")


class Site(NamedTuple):
    """A location in code: library, function and source line, each None if unknown."""

    address: int
    library: Optional[str] = None
    function: Optional[str] = None
    line: Optional[str] = None


class EventHeader(NamedTuple):
    """The keys common to all events: number, time, thread and caller.

    ``caller`` is the nearest function that belongs neither to libc nor to the loader, ``initiated_by`` says whether it
    called itself ("user") or libc did for it ("libc").  ``within_event`` is the number of the event during which this
    one happened.  ``raced`` says that another thread opened or closed meanwhile: which of them came first cannot be
    told.
    """

    number: int
    time_seconds: float
    tid: int
    caller: Optional[Site] = None
    initiated_by: str = "user"
    within_event: Optional[int] = None
    at_exit: bool = False
    raced: bool = False


class OpenResult(Enum):
    """How a dlopen ended: LOADED is new, ALREADY_LOADED was there before, UNKNOWN was not seen to end."""

    LOADED = "loaded"
    ALREADY_LOADED = "already-loaded"
    FAILED = "failed"
    UNKNOWN = None


class Calls(NamedTuple):
    """How often one call site opened, or closed, a library."""

    caller: Optional[Site]
    initiated_by: str
    total: int


class LibraryTotals(NamedTuple):
    """The opens and closes of one library in one namespace.

    ``open_count_at_start`` is its open count when the trace began, ``open_count_now`` the one now, None where it is not
    loaded.  ``closes_without_effect`` are closes that did nothing, because it is NODELETE.  What was loaded
    ``at_start`` of the program never goes.
    """

    name: str
    path: str
    namespace: int
    open_count_at_start: int
    opens_by_caller: tuple[Calls, ...]
    closes_by_caller: tuple[Calls, ...]
    closes_without_effect: int
    open_count_now: Optional[int]
    at_start: bool = False


class Totals(NamedTuple):
    """What was counted.

    ``closes_predicted_exactly`` is out of ``closes_compared``: the closes that were seen to end, and did not race.
    """

    opens: int = 0
    opens_failed: int = 0
    closes: int = 0
    closes_that_unloaded: int = 0
    libraries_unloaded: int = 0
    closes_that_kept: int = 0
    closes_predicted_exactly: int = 0
    closes_nested: int = 0
    closes_raced: int = 0
    closes_mispredicted: int = 0
    end_not_seen: int = 0
    opens_unseen: int = 0
    closes_unseen: int = 0
    closes_compared: int = 0


def without(some: tuple[_T, ...], others: tuple[_T, ...]) -> tuple[_T, ...]:
    """Return the items of one tuple that another lacks."""
    if some == others:
        return ()
    taken = set(others)
    return tuple(each for each in some if each not in taken)
