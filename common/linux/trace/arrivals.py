"""Which threads have come to ``_dl_open`` and wait for the loader's lock, and what do they request?"""

from __future__ import annotations

from typing import NamedTuple, Optional

from .callers import Caller
from .failures import OpenFailure
from .request import OpenRequest

#: RTLD_BINDING_MASK: without one of these flags _dl_open fails before it takes the lock.
_BINDING = 3


class Arrival(NamedTuple):
    """A thread at the start of ``_dl_open``: its stack pointer, the request, the caller, and where it returns to.

    ``failure`` is the first error that it has raised since.
    """

    stack: int
    request: OpenRequest
    caller: Caller
    returns_to: Optional[int]
    failure: Optional[OpenFailure] = None

    def is_repeated_by(self, other: Arrival) -> bool:
        """Return True if the thread has only come to the same instruction once more, after a signal was handled."""
        fails = self.failure is not None or not self.request.flags & _BINDING
        return not fails and (self.stack, self.request) == (other.stack, other.request)


class Arrivals:
    """The opens of each thread that have not taken the lock yet: at most one for each thread."""

    def __init__(self) -> None:
        self._waiting: dict[int, Arrival] = {}

    def add(self, lwp: int, arrival: Arrival) -> Optional[Arrival]:
        """Add an arrival; return the thread's one before it, which has returned without having taken the lock."""
        before = self._waiting.pop(lwp, None)
        self._waiting[lwp] = arrival
        return None if before is None or before.is_repeated_by(arrival) else before

    def find(self, lwp: int) -> Optional[Arrival]:
        """Return a thread's arrival, None without one."""
        return self._waiting.get(lwp)

    def take(self, lwp: int) -> Optional[Arrival]:
        """Remove a thread's arrival and return it, None without one."""
        return self._waiting.pop(lwp, None)

    def take_all(self) -> tuple[tuple[int, Arrival], ...]:
        """Remove all arrivals and return them with their threads, in the order in which they came."""
        found = tuple(self._waiting.items())
        self._waiting.clear()
        return found

    def note_failure(self, lwp: int, failure: OpenFailure) -> None:
        """Record the first error that a thread raises before it has the lock."""
        arrival = self._waiting[lwp]
        if arrival.failure is None:
            self._waiting[lwp] = arrival._replace(failure=failure)

    def threads(self) -> tuple[int, ...]:
        """Return the threads that have arrived."""
        return tuple(self._waiting)
