"""How does LLDB report breakpoint hits and the end of a process?  LLDB 14 and 19."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Optional

import lldb

from ..common.errors import NoTargetError, UnsupportedError
from ..common.render.text import escape
from ..common.target import Hit, Reaction, Subscription
from .charset import shown
from .target import LldbTarget

#: The name of our breakpoints; it hides them from lists, and from the user's commands for all breakpoints.
NAME = "dlwhy"

#: The name by which LLDB finds the callback in the session's dictionary.
CALLBACK = "dlwhy_on_hit"


class Dispatcher:
    """Maps breakpoints to handlers: LLDB knows callbacks only by the name of a function."""

    def __init__(self, session: dict[str, Any]) -> None:
        self._handlers: dict[tuple[int, int], Callable[[Any, Any], bool]] = {}
        self._session = session
        session[CALLBACK] = self._on_hit

    def add(self, breakpoint_: Any, handler: Callable[[Any, Any], bool]) -> None:
        """Register the handler of a breakpoint, which returns whether the process stops."""
        self._handlers[_key(breakpoint_)] = handler
        breakpoint_.SetScriptCallbackFunction(CALLBACK)

    def drop(self, breakpoint_: Any) -> None:
        """Forget a breakpoint."""
        self._handlers.pop(_key(breakpoint_), None)

    def _on_hit(self, frame: Any, location: Any, _: Any, __: Any = None) -> bool:
        handler = self._handlers.get(_key(location.GetBreakpoint()))
        names = len(self._session)
        is_stop = handler is not None and handler(frame, location)
        if len(self._session) != names:
            # LLDB's function for a new breakpoint is there now.  The caller, its function for this one, copies all
            # names of the session back from its globals, in which that one is missing.
            sys._getframe(1).f_globals.update(self._session)
        return is_stop


def dispatcher_of(session: dict[str, Any]) -> Dispatcher:
    """Return the dispatcher of a session: the one that its breakpoints use already, else a new one."""
    known = getattr(session.get(CALLBACK), "__self__", None)
    return known if isinstance(known, Dispatcher) else Dispatcher(session)


def _key(breakpoint_: Any) -> tuple[int, int]:
    target = breakpoint_.GetTarget() if hasattr(breakpoint_, "GetTarget") else None
    return (hash(target.GetExecutable().fullpath) if target else 0, int(breakpoint_.GetID()))


class LldbLiveTarget(LldbTarget):
    """A target of LLDB, while LLDB runs its process."""

    def __init__(self, target: Any, dispatcher: Dispatcher) -> None:
        """Create the target of an ``SBTarget``.

        :raises NoTargetError: if it has no process.
        """
        super().__init__(target)
        if self.kind == "core":
            raise NoTargetError("a core file does not run: dltrace needs a process")
        self._dispatcher = dispatcher
        self._unique_id = int(self._process.GetUniqueID())
        self._is_in_handler = False
        self._doomed: list[Any] = []
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def keeps_breakpoints(self) -> bool:
        """Return True: LLDB lists no other namespaces."""
        return True

    def is_alive(self) -> bool:
        """Return True if the target still has the same process."""
        self._delete_disabled()
        process = self._target.GetProcess()
        if process.GetState() == lldb.eStateDetached:
            for callback in tuple(self._callbacks):
                callback("LLDB let go of the process")
        ended = (lldb.eStateExited, lldb.eStateDetached, lldb.eStateInvalid, lldb.eStateUnloaded)
        return int(process.GetUniqueID()) == self._unique_id and process.GetState() not in ended

    def add_breakpoint(
        self, places: Sequence[int], on_hit: Callable[[Hit], Reaction], *, enabled: bool = True
    ) -> Subscription:
        """Set breakpoints that are not listed."""
        name = lldb.SBBreakpointName(self._target, NAME)
        name.SetAllowList(False)
        name.SetAllowDelete(False)
        name.SetAllowDisable(False)
        made = []
        for place in places:
            breakpoint_ = self._target.BreakpointCreateByAddress(place)
            self._dispatcher.add(breakpoint_, lambda frame, location: self._react(frame, location, on_hit))
            breakpoint_.AddName(NAME)
            breakpoint_.SetEnabled(enabled)
            made.append(breakpoint_)
        return _BreakpointSubscription(self, made)

    def exchange(self, old: Sequence[Subscription], new: Sequence[Subscription]) -> None:
        """Replace breakpoints by others."""
        for each in (*old, *new):
            assert isinstance(each, _BreakpointSubscription)
            each.enable(each in new)

    def remove(self, breakpoints: Sequence[Any]) -> None:
        """Delete breakpoints; within a handler only disable them, to be deleted at the next `is_alive`."""
        self._doomed += breakpoints
        for each in breakpoints:
            self._dispatcher.drop(each)
            each.SetEnabled(False)
        if not self._is_in_handler:
            self._delete_disabled()

    def _delete_disabled(self) -> None:
        doomed, self._doomed = self._doomed, []
        for each in doomed:
            self._target.BreakpointDelete(each.GetID())
        if doomed and not any(each.MatchesName(NAME) for each in self._target.breakpoint_iter()):
            self._target.DeleteBreakpointName(NAME)

    def on_end(self, callback: Callable[[str], None]) -> Subscription:
        """Call back when `is_alive` is asked after a detach: LLDB does not announce the end of a process."""
        self._callbacks.append(callback)
        return _EndSubscription(self._callbacks, callback)

    def _react(self, frame: Any, location: Any, on_hit: Callable[[Hit], Reaction]) -> bool:
        if int(frame.GetThread().GetProcess().GetUniqueID()) != self._unique_id:
            return False
        self._is_in_handler = True
        try:
            return on_hit(_LldbHit(frame, int(location.GetLoadAddress()))) is Reaction.STOP
        except KeyboardInterrupt:
            return True
        finally:
            self._is_in_handler = False

    def stack_pointer(self, lwp: int) -> Optional[int]:
        """Read the stack pointer from the thread's first frame."""
        frame = self._process.GetThreadByID(lwp).GetFrameAtIndex(0)
        return int(frame.GetSP()) if frame.IsValid() else None

    def find_line(self, address: int) -> Optional[str]:
        """Ask LLDB for the line; the file's own name is enough."""
        entry = self._target.ResolveLoadAddress(address).GetLineEntry()
        if not entry.IsValid() or not entry.GetLine():
            return None
        return f"{entry.GetFileSpec().GetFilename()}:{entry.GetLine()}"

    def say(self, text: str) -> None:
        """Write to LLDB's output."""
        sys.stdout.write(shown("".join(escape(line) + "\n" for line in text.splitlines())))
        sys.stdout.flush()


class _LldbHit:
    def __init__(self, frame: Any, address: int) -> None:
        self.address = address
        self._frame = frame
        self._thread = frame.GetThread()

    @property
    def lwp(self) -> int:
        return int(self._thread.GetThreadID())

    def registers(self, names: Sequence[str]) -> tuple[int, ...]:
        found = []
        for name in names:
            value = self._frame.FindRegister(name)
            if not value.IsValid():
                raise UnsupportedError(f"LLDB cannot read the register {name}")
            found.append(int(value.GetValueAsUnsigned()))
        return tuple(found)


class _BreakpointSubscription:
    def __init__(self, target: LldbLiveTarget, breakpoints: Sequence[Any]) -> None:
        self._target = target
        self._breakpoints = breakpoints

    def remove(self) -> None:
        self._target.remove(self._breakpoints)

    def enable(self, on: bool) -> None:
        for each in self._breakpoints:
            each.SetEnabled(on)


class _EndSubscription:
    def __init__(self, callbacks: list[Callable[[str], None]], callback: Callable[[str], None]) -> None:
        self._callbacks = callbacks
        self._callback = callback

    def remove(self) -> None:
        self._callbacks.remove(self._callback)


class EntrySubscription:
    """A breakpoint at the program's first instruction, to which the loader goes when it has run."""

    def __init__(self, target: Any, dispatcher: Dispatcher, callback: Callable[[], None]) -> None:
        """Set the breakpoint, which waits for the process if there is none.

        :raises NoTargetError: if there is no program.
        """
        entry = target.GetModuleAtIndex(0).GetObjectFileEntryPointAddress() if target.IsValid() else None
        if entry is None or not entry.IsValid():
            raise NoTargetError("no program: use target create, or attach, first")
        self._target = target
        self._dispatcher = dispatcher
        self._callback = callback
        self._breakpoint = target.BreakpointCreateBySBAddress(entry)
        dispatcher.add(self._breakpoint, self._on_hit)

    def _on_hit(self, _frame: Any, _location: Any) -> bool:
        self._callback()
        return False

    def remove(self) -> None:
        """Remove the breakpoint, which is only disabled: its own callback can call this."""
        self._dispatcher.drop(self._breakpoint)
        self._breakpoint.SetEnabled(False)


if TYPE_CHECKING:
    from ..common.target import LiveLinuxTarget

    _conforms: type[LiveLinuxTarget] = LldbLiveTarget
