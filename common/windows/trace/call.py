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

    ``examined`` is the process at that time, ``counts`` the load counts by base.
    """

    header: EventHeader
    function: str
    stack: int
    returns_to: int
    examined: WindowsExamination
    counts: Mapping[int, Optional[int]]


class DllCall:
    """An in-flight call; ``loaded`` and ``unloaded`` were mapped and unmapped during it."""

    def __init__(self, call_start: DllCallStart) -> None:
        self.header, self.function, self.stack, self.returns_to, self.examined, self.counts_before = call_start
        #: An event during the call was not understood: the call may have ended, and its effects may be lost.
        self.is_uncertain = False
        self.loaded: list[DllInstance] = []
        self.unloaded: list[DllInstance] = []

    def note_race(self) -> None:
        """Record that another thread loaded or freed during the call."""
        self.header = self.header._replace(raced=True)

    def mark_uncertain(self) -> None:
        """Mark the call uncertain: it may have returned, and its effects may be lost."""
        self.is_uncertain = True

    def note_module(self, module: DllInstance, is_loaded: bool) -> None:
        """Record a module that the call's thread mapped or unmapped."""
        (self.loaded if is_loaded else self.unloaded).append(module)

    def release(self) -> None:
        """Remove the breakpoints that serve this call only."""


class LoadCall(DllCall):
    """A load, or another call that increments a DLL's count or pins it.

    ``output`` is the address to which it writes the handle; if 0, it writes none, and ``base`` is known at the start.
    ``counts`` is False if a nested call does the counting.
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
    """The prediction of a free: outcome, why it does nothing, which DLLs it unloads and which stay.

    ``get_process_detach`` are the unloaded DLLs whose DllMain is called with DLL_PROCESS_DETACH, ``may_unload_more``
    the names of the ones whose DllMain can free others.  If the outcome is unknown, all of it is.
    """

    outcome: Outcome
    refusal: Optional[str] = None
    unloads: tuple[DllInstance, ...] = ()
    get_process_detach: tuple[LdrEntry, ...] = ()
    may_unload_more: tuple[str, ...] = ()
    kept: tuple[Dll, ...] = ()

    @property
    def is_known(self) -> bool:
        """Return True if it could be predicted what the free does."""
        return self.outcome is not Outcome.UNKNOWN


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
        """Return the DLL's load count at the start of the call, None if unknown."""
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
