"""Which values do traces of all systems share?"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Optional, TypeVar

_T = TypeVar("_T")


class Site(NamedTuple):
    """A location in code: address, library, function and source line (``main.c:12``), each None if unknown."""

    address: int
    library: Optional[str] = None
    function: Optional[str] = None
    line: Optional[str] = None


class EventHeader(NamedTuple):
    """The keys common to all events: number, time, thread and caller.

    :param number: the position in the order in which events began, from 1.
    :param time_seconds: when the event began, in seconds since the trace did.
    :param tid: the thread that called, on Linux its LWP; 0 if unknown.
    :param caller: the nearest function that belongs neither to libc nor to the loader, None if not found.
    :param initiated_by: "user" if that function called, "libc" if libc did on its behalf.
    :param within_event: the number of the event during which this one happened, None if during none.
    :param at_exit: the program was exiting, and finalisers ran.
    :param raced: another thread opened or closed at the same time, so effects cannot be attributed reliably.
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
    """The result of a dlopen; UNKNOWN: its return was not seen."""

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

    :param open_count_at_start: its open count when the trace began, 0 if it was not open.
    :param opens_by_caller: its opens, the most frequent caller first.
    :param closes_by_caller: its closes that had an effect, the most frequent caller first.
    :param closes_without_effect: closes that did nothing, because it is NODELETE.
    :param open_count_now: its current open count, None if it is not loaded.
    :param at_start: it was loaded at program start, so it is never unloaded.
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
    """The totals of a trace.

    ``closes_predicted_exactly`` is out of ``closes_compared``: the closes that were seen to return, and did not race.
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
