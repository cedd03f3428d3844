"""Which function outside ntdll, kernelbase and kernel32 made a call, and is the call still in flight?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from ...errors import DlwhyError
from ...memory import Memory
from ...trace.events import Site
from ..loader.lists import LdrEntry
from ..pe import find_image
from ..target import LiveWindowsTarget, StackFrame
from .call import WORD, DllCall
from .snapshot import DllSnapshot, is_core

#: Maximum number of frames between a caller and ntdll.
MAX_FRAMES = 40
MAX_SITES = 4096
#: Precedes the name of an export that is only the nearest one before a call.
NEAREST_EXPORT = "nearest export"


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

    def _function(self, address: int, library: Optional[LdrEntry], line: Optional[str]) -> Optional[str]:
        """Return the name of the function at an address; without a line, it can be that of the nearest export."""
        function = self._target.find_symbol(address)
        if function is None or library is None or line is not None:
            return function
        is_near = is_nearest_export(Memory(self._target), library, address, function)
        return f"{NEAREST_EXPORT} {function}" if is_near else function

    def _site(self, address: int, library: Optional[LdrEntry]) -> Site:
        known = self._sites.get(address)
        name = library.name if library else None
        if known is None or known.library != name:
            line = self._target.find_line(address)
            known = Site(address, name, self._function(address, library, line), line)
            if len(self._sites) < MAX_SITES:
                self._sites[address] = known
        return known


def is_nearest_export(memory: Memory, library: LdrEntry, address: int, function: str) -> bool:
    """Return True if ``function``, such as ``main+0x12``, is an export that need not be the function at an address."""
    name, sign, offset = function.rpartition("+0x")
    image = find_image(memory, library.base) if sign else None
    try:
        export = image.find_export(name) if image is not None else None
        if image is None or export is None or export + int(offset, 16) != address:
            return False
        start = image.find_function(address)
    except ValueError:
        return False  # what follows the sign is no number: it belongs to the name
    except DlwhyError:
        return True
    return start is None or start > export


def is_going_on(call: DllCall, frames: Sequence[StackFrame]) -> bool:
    """Return True if a call's frame is still on its thread's stack, or was not unwound that far."""
    if not frames or frames[-1].sp <= call.stack + WORD:
        return True
    return any((frame.pc, frame.sp) == (call.returns_to, call.stack + WORD) for frame in frames)
