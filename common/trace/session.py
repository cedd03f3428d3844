"""What does a trace watch, since when, and why has it ended?"""

from __future__ import annotations

import time
from typing import Optional

from ..target import Subscription


class TraceSession:
    """The breakpoints and callbacks of a trace, and the count of its events.

    ``ending`` says why the trace has ended, None while it runs; ``number`` is the latest event's.
    """

    def __init__(self) -> None:
        self.ending: Optional[str] = None
        self.number = 0
        self._subscriptions: list[Subscription] = []
        self._begun = time.monotonic()
        self._seconds: Optional[float] = None

    def keep(self, *subscriptions: Subscription) -> None:
        """Store subscriptions until the end of the trace."""
        self._subscriptions += subscriptions

    def end(self, why: str) -> bool:
        """Cancel all subscriptions; return False if they were cancelled before."""
        if self.ending is not None:
            return False
        self.ending = why
        self._seconds = time.monotonic() - self._begun
        for subscription in self._subscriptions:
            subscription.remove()
        self._subscriptions.clear()
        return True

    def count(self) -> int:
        """Count an event and return its number."""
        self.number += 1
        return self.number

    def now(self) -> float:
        """Return the time since the trace began, in seconds."""
        return round(time.monotonic() - self._begun, 6)

    def seconds(self) -> float:
        """Return how long the trace has run, or ran, in seconds."""
        return time.monotonic() - self._begun if self._seconds is None else self._seconds
