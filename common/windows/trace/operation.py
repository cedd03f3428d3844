"""What is known of a call of ntdll that has begun and not been seen to end?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from ...model import Outcome
from ...target import Subscription
from ...trace.events import Moment
from ..loader.lists import Entry
from ..model import Dll
from ..state import WindowsExamination
from .events import DllInstance

#: A return address on the stack.
WORD = 8


class Beginning(NamedTuple):
    """How a call began: when, of which function, with the stack pointer at its return address.

    ``examined`` is the process as it was then, ``counts`` the load counts by base.
    """

    moment: Moment
    function: str
    stack: int
    returns_to: int
    examined: WindowsExamination
    counts: Mapping[int, Optional[int]]


class Operation:
    """A call that is going on; ``added`` and ``went`` are what was mapped and unmapped during it."""

    def __init__(self, beginning: Beginning) -> None:
        self.moment, self.function, self.stack, self.returns_to, self.examined, self.counts_before = beginning
        #: An event was not understood meanwhile: it can have ended, and what it did can be lost.
        self.is_doubtful = False
        self.added: list[DllInstance] = []
        self.went: list[DllInstance] = []

    def note_race(self) -> None:
        """Note that another thread loads or frees meanwhile."""
        self.moment = self.moment._replace(raced=True)

    def doubt(self) -> None:
        """Take neither its end nor its effect for known any more."""
        self.is_doubtful = True

    def note_module(self, module: DllInstance, is_loaded: bool) -> None:
        """Note a module that was mapped, else unmapped, by the thread of the call."""
        (self.added if is_loaded else self.went).append(module)

    def release(self) -> None:
        """Take back what was watched for this call only."""


class Loading(Operation):
    """A load, or another call by which a DLL is counted once more or pinned.

    ``output`` is where it writes the handle, 0 where it writes none: then ``base`` is known before.  ``counts`` is
    False where it asks another call to count.
    """

    def __init__(self, beginning: Beginning, base: int = 0, *, pins: bool = False) -> None:
        super().__init__(beginning)
        self.base = base
        self.pins = pins
        self.counts = True
        self.requested: Optional[str] = None
        self.flags: Optional[int] = None
        self.output = 0

    def note_request(self, name: Optional[str], flags: Optional[int] = None, output: int = 0) -> None:
        """Note what is asked for."""
        self.requested = name
        self.flags = flags
        self.output = output

    def leave_counting(self) -> None:
        """Note that a call within this one does its work."""
        self.counts = False


class Prediction(NamedTuple):
    """What a free will do: how it ends, why it does nothing, what goes and what stays.

    ``detaches`` are those that go and get DLL_PROCESS_DETACH, ``at_least`` names those that can free more meanwhile.
    """

    outcome: Outcome
    refusal: Optional[str] = None
    goes: tuple[DllInstance, ...] = ()
    detaches: tuple[Entry, ...] = ()
    at_least: tuple[str, ...] = ()
    keeps: tuple[Dll, ...] = ()


class Unloading(Operation):
    """A free of the DLL at ``base``, with what was predicted of it; ``detached`` names whose DllMain was told."""

    def __init__(self, beginning: Beginning, base: int) -> None:
        super().__init__(beginning)
        self.base = base
        self.library: Optional[DllInstance] = None
        self.prediction = Prediction(Outcome.UNKNOWN)
        self.detached: list[str] = []
        self._entries: dict[int, Subscription] = {}

    @property
    def count_before(self) -> Optional[int]:
        """Return the DLL's load count when it began, None where it is not known."""
        return self.counts_before.get(self.base)

    def note_library(self, library: DllInstance) -> None:
        """Note the DLL that is freed."""
        self.library = library

    def predict(self, prediction: Prediction) -> None:
        """Take a prediction."""
        self.prediction = prediction

    def watch_entry(self, base: int, subscription: Subscription) -> None:
        """Keep the breakpoint at the entry point of a DLL that goes until that is told, or the call ends."""
        self._entries[base] = subscription

    def note_detached(self, base: int, name: str) -> None:
        """Note that the DllMain of a DLL is told that it goes."""
        self.detached.append(name)
        self._entries.pop(base).remove()

    def release(self) -> None:
        """Take back the breakpoints at entry points."""
        for subscription in self._entries.values():
            subscription.remove()
        self._entries.clear()
