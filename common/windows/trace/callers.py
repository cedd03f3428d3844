"""Which function outside ntdll, kernelbase and kernel32 made a call, and is the call still in flight?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ...trace.events import Site
from ..loader.lists import Entry
from ..target import Frame, LiveWindowsTarget
from .operation import WORD, Operation
from .reading import Reading, is_core

#: How many frames lie between a caller and ntdll at most.
MAX_FRAMES = 40
MAX_SITES = 4096


class Callers:
    """Finds and names the callers of ntdll in one process."""

    def __init__(self, target: LiveWindowsTarget, reading: Reading) -> None:
        self._target = target
        self._reading = reading
        self._sites: dict[int, Site] = {}

    def frames(self) -> Sequence[Frame]:
        """Unwind the thread that is at a breakpoint."""
        return self._target.frames(MAX_FRAMES)

    def find(self, frames: Sequence[Frame]) -> Optional[Site]:
        """Find the nearest function outside of the core DLLs, None if there is none."""
        for frame in frames[1:]:
            library = self._reading.find_holding(frame.pc)
            if not is_core(library):
                return self._site(frame.pc, library)
        return None

    def _site(self, address: int, library: Optional[Entry]) -> Site:
        known = self._sites.get(address)
        name = library.name if library else None
        if known is None or known.library != name:
            known = Site(address, name, self._target.find_symbol(address), self._target.find_line(address))
            if len(self._sites) < MAX_SITES:
                self._sites[address] = known
        return known


def is_going_on(operation: Operation, frames: Sequence[Frame]) -> bool:
    """Return True if a call's frame is still on its thread's stack, as far as that was unwound."""
    if not frames or frames[-1].sp <= operation.stack + WORD:
        return True
    return any((frame.pc, frame.sp) == (operation.returns_to, operation.stack + WORD) for frame in frames)
