"""How does the engine report breakpoint hits, loaded and unloaded modules?  Through pykd.

Breakpoints of pykd are its own: the engine's ``bl`` does not list them.  A handler can set and remove breakpoints, even
its own.  All of this needs an interpreter that stays loaded, so ``!py -g``, which our aliases use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Optional

import pykd

from ..common.errors import NoTargetError, UnsupportedError
from ..common.paths import windows_base_name
from ..common.target import Capability, Hit, Reaction
from ..common.windows.target import StackFrame
from .target import MachineTarget, ProcessTarget, current_target

_MASK = (1 << 64) - 1


class EngineLiveTarget(ProcessTarget):
    """A process that the engine runs."""

    keeps_breakpoints = True

    def __init__(self) -> None:
        """Create the target of the engine's current process.

        :raises NoTargetError: if there is none, or it is a dump.
        :raises UnsupportedError: if the engine does not run it, or it is a machine.
        """
        if isinstance(current_target(), MachineTarget):
            raise UnsupportedError("a kernel debug session cannot be traced: attach to the process in user mode")
        super().__init__()
        if Capability.LIVE not in self.capabilities:
            raise NoTargetError("a dump does not run: start a program or attach to a process")
        self._traced_pid = self.pid

    def is_alive(self) -> bool:
        """Return True if the process exists; the engine still lists an exited one, but without memory."""
        try:
            if self.is_current():
                return bool(pykd.isValid(self.peb() or 0))
            return self._traced_pid in [int(each.systemID) for each in _processes()]
        except pykd.DbgException:
            return False  # the engine has no process any more

    def is_current(self) -> bool:
        """Return True if the last event came from this process."""
        return self.pid == self._traced_pid

    def current_lwp(self) -> int:
        """Return the id of the thread that the last event came from."""
        return int(pykd.targetThread.getCurrent().systemID)

    def add_breakpoint(self, places: Sequence[int], on_hit: Callable[[Hit], Reaction]) -> _Removal:
        """Set breakpoints, which ``bl`` does not list."""
        return _Removal([self._break_at(place, on_hit) for place in places])

    def _break_at(self, place: int, on_hit: Callable[[Hit], Reaction]) -> Any:
        def hit() -> bool:
            return self.is_current() and on_hit(_EngineHit(self, place)) is Reaction.STOP

        try:
            return pykd.setBp(place, hit)
        except pykd.DbgException as error:
            raise UnsupportedError(f"the engine sets no breakpoint at {place:#x}") from error

    def on_module_change(self, callback: Callable[[int, str, bool], None]) -> _Removal:
        """Listen to modules that are loaded and unloaded."""
        return _Removal([_ModuleEvents(self, callback)])

    def on_end(self, callback: Callable[[str], None]) -> _Removal:
        """Listen to the end of the process."""
        return _Removal([_StatusEvents(self, callback)])

    def frames(self, most: int) -> Sequence[StackFrame]:
        """Unwind by the engine."""
        try:
            return [StackFrame(int(each.ip) & _MASK, int(each.sp) & _MASK) for each in pykd.getStack()[:most]]
        except pykd.DbgException:
            return ()  # then the event has no caller, which is: not known

    def find_symbol(self, address: int) -> Optional[str]:
        """Return the function by the module's PDB, else by its exports."""
        try:
            # Loads symbols now, so that the engine's messages about them stay in this command's output.
            pykd.dbgCommand(f"ln {address:#x}")
            _, name, offset = pykd.findSymbolAndDisp(address)
        except (pykd.DbgException, ValueError, TypeError):
            return None  # then the caller is shown by its module and offset
        if not name:
            return None
        return f"{name}{offset:+#x}" if offset else str(name)

    def find_line(self, address: int) -> Optional[str]:
        """Find the source line by the module's PDB."""
        try:
            path, line, _ = pykd.getSourceLine(address)
        except (pykd.DbgException, ValueError, TypeError):
            return None  # there is no PDB with lines: the function is shown alone
        name = windows_base_name(str(path))
        return f"{name}:{line}" if name else None

    def say(self, text: str) -> None:
        """Write to the debugger's window."""
        pykd.dprintln(text)

    def run(self) -> None:
        """Resume the process: in WinDbg until it stops, elsewhere, as nobody could resume it, until it ends."""
        try:
            pykd.go()
            while not pykd.isWindbgExt():
                pykd.go()
        except pykd.DbgException as error:
            if self.is_alive():
                what = " ".join(str(error).split())
                raise UnsupportedError(f"the engine does not let the process go on: {what}") from error


class _EngineHit:
    """A thread at a breakpoint."""

    def __init__(self, target: EngineLiveTarget, address: int) -> None:
        self.address = address
        self._target = target

    @property
    def lwp(self) -> int:
        return self._target.current_lwp()

    def registers(self, names: Sequence[str]) -> tuple[int, ...]:
        try:
            return tuple(int(pykd.reg(name)) & _MASK for name in names)
        except pykd.DbgException as error:
            raise UnsupportedError(f"the engine has no register of {', '.join(names)}") from error


class _ModuleEvents(pykd.eventHandler):  # type: ignore[misc]
    def __init__(self, target: EngineLiveTarget, callback: Callable[[int, str, bool], None]) -> None:
        super().__init__()
        self._target = target
        self._callback: Optional[Callable[[int, str, bool], None]] = callback

    def onLoadModule(self, base: int, name: str) -> Any:
        return self._tell(base, name, True)

    def onUnloadModule(self, base: int, name: str) -> Any:
        return self._tell(base, name, False)

    def _tell(self, base: int, name: str, is_loaded: bool) -> Any:
        if self._callback is not None and self._target.is_current():
            self._callback(int(base) & self._target.platform.address_mask, str(name), is_loaded)
        return pykd.eventResult.NoChange

    def remove(self) -> None:
        self._callback = None


class _StatusEvents(pykd.eventHandler):  # type: ignore[misc]
    def __init__(self, target: EngineLiveTarget, callback: Callable[[str], None]) -> None:
        super().__init__()
        self._target = target
        self._callback: Optional[Callable[[str], None]] = callback

    def onExecutionStatusChange(self, status: Any) -> None:
        if self._callback is not None and status == pykd.executionStatus.NoDebuggee:
            self._callback("the process has ended, or was let go")

    def remove(self) -> None:
        self._callback = None


class _Removal:
    """A subscription to breakpoints or events."""

    def __init__(self, made: Sequence[Any]) -> None:
        self._made = list(made)

    def remove(self) -> None:
        """Cancel the subscriptions; after the end of the process they no longer exist."""
        for each in self._made:
            try:
                each.remove()
            except pykd.DbgException:
                continue  # it ended with the process
        self._made.clear()


def _processes() -> list[Any]:
    return [pykd.targetProcess.getProcessById(each) for each in pykd.getTargetProcesses()]


if TYPE_CHECKING:
    from ..common.windows.target import LiveWindowsTarget

    _conforms: type[LiveWindowsTarget] = EngineLiveTarget
