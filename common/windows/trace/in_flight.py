"""Which calls of ntdll are in flight on each thread, and where do they return?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Optional

from ...target import Subscription
from .call import WORD, DllCall
from .snapshot import DllSnapshot, is_core

#: Maximum number of a thread's nested calls, including calls whose end was missed.
MAX_PENDING = 1000


class InFlightDllCalls:
    """The in-flight calls of each thread, outermost first."""

    def __init__(self, snapshot: DllSnapshot, watch: Callable[[int], Subscription]) -> None:
        """Create an empty set.

        :param watch: sets a breakpoint at a return address.
        """
        self._snapshot = snapshot
        self._watch = watch
        self._running: dict[int, list[DllCall]] = {}
        self._threads: set[int] = set()
        self._returns: dict[int, Subscription] = {}

    def add(self, call: DllCall) -> None:
        """Add a call that has begun."""
        lwp = call.header.tid
        self._threads.add(lwp)
        others = [each for thread, calls in self._running.items() if thread != lwp for each in calls]
        for each in (*others, call) if others else ():
            each.note_race()
        own = self._running.setdefault(lwp, [])
        if len(own) < MAX_PENDING:
            own.append(call)
            if call.returns_to not in self._returns:
                self._returns[call.returns_to] = self._watch(call.returns_to)

    def take_repeated(self, lwp: int, function: str, stack: int, returns_to: int) -> Optional[DllCall]:
        """Remove the latest call of a thread if it is about to begin again, else return None.

        If several threads reach a breakpoint at once, the engine lets them reach it again.
        """
        last = next(reversed(self.of_thread(lwp)), None)
        if last is None or (last.stack, last.function, last.returns_to) != (stack, function, returns_to):
            return None
        self.remove(last)
        return last

    def take_returned(self, lwp: int, place: int, stack: int) -> Sequence[DllCall]:
        """Remove the call that returns to ``place``, and the calls nested in it; empty if there is none."""
        own = self.of_thread(lwp)
        index = next(
            (n for n, call in enumerate(own) if (call.stack + WORD, call.returns_to) == (stack, place)), len(own)
        )
        returned = own[index:]
        if returned:
            self._threads.add(lwp)
            del self._running[lwp][index:]
        for call in returned:
            self._release(call)
        return returned

    def remove(self, call: DllCall) -> None:
        """Remove a call that has ended."""
        self._running[call.header.tid].remove(call)
        self._release(call)

    def _release(self, call: DllCall) -> None:
        """Remove a call's breakpoints, except at return addresses that are shared."""
        call.release()
        place = call.returns_to
        if is_core(self._snapshot.find_holding(place)) or any(each.returns_to == place for each in self._all()):
            return
        subscription = self._returns.pop(place, None)
        if subscription is not None:
            subscription.remove()

    def release_all(self) -> None:
        """Remove all breakpoints at the end of the trace."""
        for call in self._all():
            call.release()
        for subscription in self._returns.values():
            subscription.remove()
        self._returns.clear()

    def of_thread(self, lwp: int) -> Sequence[DllCall]:
        """Return a thread's in-flight calls, outermost first."""
        return tuple(self._running.get(lwp, ()))

    def mark_uncertain(self) -> None:
        """Mark all in-flight calls uncertain."""
        for call in self._all():
            call.mark_uncertain()

    def unended(self) -> int:
        """Return the number of in-flight calls."""
        return sum(map(len, self._running.values()))

    def several_threads(self) -> bool:
        """Return True if more than one thread has ever loaded or freed."""
        return len(self._threads) > 1

    def _all(self) -> Iterator[DllCall]:
        for calls in self._running.values():
            yield from calls
