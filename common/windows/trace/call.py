"""What is known of an in-flight call of ntdll?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from ...model import Outcome
from ...target import Subscription
from ...trace.events import EventHeader
from ..loader.lists import LdrEntry
from ..model import Dll
from ..state import WindowsExamination
from .events import DllInstance

#: A return address on the stack.
WORD = 8


class DllCallStart(NamedTuple):
    """The start of a call: its event header, its function, and the stack pointer at its return address.

    ``examined`` is the process as it was then, ``counts`` the load counts by base.
    """

    header: EventHeader
    function: str
    stack: int
    returns_to: int
    examined: WindowsExamination
    counts: Mapping[int, Optional[int]]


class DllCall:
    """An in-flight call; ``added`` and ``went`` were mapped and unmapped during it."""

    def __init__(self, call_start: DllCallStart) -> None:
        self.header, self.function, self.stack, self.returns_to, self.examined, self.counts_before = call_start
        #: An event was not understood meanwhile: it can have ended, and what it did can be lost.
        self.is_uncertain = False
        self.added: list[DllInstance] = []
        self.went: list[DllInstance] = []

    def note_race(self) -> None:
        """Record that another thread loaded or freed during the call."""
        self.header = self.header._replace(raced=True)

    def mark_uncertain(self) -> None:
        """Mark the call uncertain: it may have returned, and its effects may be lost."""
        self.is_uncertain = True

    def note_module(self, module: DllInstance, is_loaded: bool) -> None:
        """Record a module that the call's thread mapped or unmapped."""
        (self.added if is_loaded else self.went).append(module)

    def release(self) -> None:
        """Remove the breakpoints that serve this call only."""


class LoadCall(DllCall):
    """A load, or another call that increments a DLL's count or pins it.

    ``output`` is where it writes the handle, 0 where it writes none: then ``base`` is known before.  ``counts`` is
    False where it asks another call to count.
    """

    def __init__(self, call_start: DllCallStart, base: int = 0, *, pins: bool = False) -> None:
        super().__init__(call_start)
        self.base = base
        self.pins = pins
        self.counts = True
        self.requested: Optional[str] = None
        self.flags: Optional[int] = None
        self.output = 0

    def note_request(self, name: Optional[str], flags: Optional[int] = None, output: int = 0) -> None:
        """Record the request."""
        self.requested = name
        self.flags = flags
        self.output = output

    def leave_counting(self) -> None:
        """Record that a nested call does the counting."""
        self.counts = False


class FreePrediction(NamedTuple):
    """What a free will do: its outcome, why it does nothing, what is unloaded and what stays.

    ``detaches`` are those that go and get DLL_PROCESS_DETACH, ``at_least`` names those that can free more meanwhile.
    """

    outcome: Outcome
    refusal: Optional[str] = None
    goes: tuple[DllInstance, ...] = ()
    detaches: tuple[LdrEntry, ...] = ()
    at_least: tuple[str, ...] = ()
    keeps: tuple[Dll, ...] = ()


class FreeCall(DllCall):
    """A free of the DLL at ``base``, with its prediction; ``detached``: whose DllMain was called."""

    def __init__(self, call_start: DllCallStart, base: int) -> None:
        super().__init__(call_start)
        self.base = base
        self.library: Optional[DllInstance] = None
        self.prediction = FreePrediction(Outcome.UNKNOWN)
        self.detached: list[str] = []
        self._entries: dict[int, Subscription] = {}

    @property
    def count_before(self) -> Optional[int]:
        """Return the DLL's load count when it began, None where it is not known."""
        return self.counts_before.get(self.base)

    def note_library(self, library: DllInstance) -> None:
        """Record the DLL that is freed."""
        self.library = library

    def predict(self, prediction: FreePrediction) -> None:
        """Set the prediction."""
        self.prediction = prediction

    def watch_entry(self, base: int, subscription: Subscription) -> None:
        """Store the breakpoint at a doomed DLL's entry point until it is hit or the call ends."""
        self._entries[base] = subscription

    def note_detached(self, base: int, name: str) -> None:
        """Record that a DLL's DllMain has received DLL_PROCESS_DETACH."""
        self.detached.append(name)
        self._entries.pop(base).remove()

    def release(self) -> None:
        """Remove the breakpoints at entry points."""
        for subscription in self._entries.values():
            subscription.remove()
        self._entries.clear()
