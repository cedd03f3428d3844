"""Which values do traces of all systems share?"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Optional, TypeVar

_T = TypeVar("_T")


class Site(NamedTuple):
    """A location in code: address, library, function and source line (``main.c:12``), each None if unknown.

    ``through`` is the library by which this one called, and which only passed the call on; None if there was none.
    """

    address: int
    library: Optional[str] = None
    function: Optional[str] = None
    line: Optional[str] = None
    through: Optional[str] = None


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
    """The result of a dlopen; UNKNOWN: its return was not seen, or threads raced and it is unknown.

    OPENED: it has not failed; as threads raced, it is unknown whether it loaded the library.
    NOT_LOADED: RTLD_NOLOAD asked whether the library is loaded, and it was not.
    """

    LOADED = "loaded"
    ALREADY_LOADED = "already-loaded"
    OPENED = "opened"
    NOT_LOADED = "not-loaded"
    FAILED = "failed"
    UNKNOWN = None


class Calls(NamedTuple):
    """How often one call site opened, or closed, a library."""

    caller: Optional[Site]
    initiated_by: str
    total: int


class LibraryTotals(NamedTuple):
    """The opens and closes of one library in one namespace.

    :param path: its path, None if unknown.
    :param open_count_at_start: its open count when the trace began, 0 if it was not open; of a DLL the part of its load
        count that LoadLibrary contributed.  None if it is unknown, or if the DLL was pinned, which has no count.
    :param opens_by_caller: its opens, the most frequent caller first.
    :param closes_by_caller: its closes that had an effect, the most frequent caller first.
    :param closes_without_effect: closes that did nothing, because it is NODELETE.
    :param open_count_now: its current open count, likewise; 0 also if it is not loaded any more.
    :param loaded_now: whether it is loaded, None if unknown.
    :param pinned_now: whether a DLL is pinned, None if unknown; None for other libraries.
    :param at_start: it was loaded at program start, so it is never unloaded.
    """

    name: str
    path: Optional[str]
    namespace: int
    open_count_at_start: Optional[int]
    opens_by_caller: tuple[Calls, ...]
    closes_by_caller: tuple[Calls, ...]
    closes_without_effect: int
    open_count_now: Optional[int]
    loaded_now: Optional[bool]
    pinned_now: Optional[bool] = None
    at_start: bool = False


class Totals(NamedTuple):
    """The totals of a trace.

    ``opens_not_loaded`` asked with RTLD_NOLOAD for what was not loaded.
    ``closes_predicted_exactly`` is out of ``closes_compared``: the closes that were predicted and seen to return, and
    did not race; ``closes_not_predicted`` returned and did not race, but what they would do was unknown.
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
    closes_not_predicted: int = 0
    opens_not_loaded: int = 0


def joined(some: Optional[tuple[_T, ...]], others: Optional[tuple[_T, ...]]) -> Optional[tuple[_T, ...]]:
    """Return the items of both tuples, None if one is unknown."""
    return None if some is None or others is None else (*some, *others)


def without(some: Optional[tuple[_T, ...]], others: Optional[tuple[_T, ...]]) -> Optional[tuple[_T, ...]]:
    """Return the items of one tuple that another lacks, None if one is unknown."""
    if some is None or others is None:
        return None
    if some == others:
        return ()
    taken = set(others)
    return tuple(each for each in some if each not in taken)


def are_equal(some: Optional[tuple[_T, ...]], others: Optional[tuple[_T, ...]]) -> Optional[bool]:
    """Return whether two tuples are equal, None if one is unknown."""
    return None if some is None or others is None else some == others
