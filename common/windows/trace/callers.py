"""Which function outside ntdll, kernelbase and kernel32 made a call, and is the call still in flight?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ...trace.events import Site
from ..loader.lists import LdrEntry
from ..target import LiveWindowsTarget, StackFrame
from .call import WORD, DllCall
from .snapshot import DllSnapshot, is_core

#: Maximum number of frames between a caller and ntdll.
MAX_FRAMES = 40
MAX_SITES = 4096


class DllCallers:
    """Finds and names the callers of ntdll in one process."""

    def __init__(self, target: LiveWindowsTarget, snapshot: DllSnapshot) -> None:
        self._target = target
        self._snapshot = snapshot
        self._sites: dict[int, Site] = {}

    def frames(self) -> Sequence[StackFrame]:
        """Unwind the thread that is at a breakpoint."""
        return self._target.frames(MAX_FRAMES)

    def find(self, frames: Sequence[StackFrame]) -> Optional[Site]:
        """Find the nearest function outside of the core DLLs, None if there is none."""
        for frame in frames[1:]:
            library = self._snapshot.find_holding(frame.pc)
            if not is_core(library):
                return self._site(frame.pc, library)
        return None

    def _site(self, address: int, library: Optional[LdrEntry]) -> Site:
        known = self._sites.get(address)
        name = library.name if library else None
        if known is None or known.library != name:
            known = Site(address, name, self._target.find_symbol(address), self._target.find_line(address))
            if len(self._sites) < MAX_SITES:
                self._sites[address] = known
        return known


def is_going_on(call: DllCall, frames: Sequence[StackFrame]) -> bool:
    """Return True if a call's frame is still on its thread's stack, or was not unwound that far."""
    if not frames or frames[-1].sp <= call.stack + WORD:
        return True
    return any((frame.pc, frame.sp) == (call.returns_to, call.stack + WORD) for frame in frames)
