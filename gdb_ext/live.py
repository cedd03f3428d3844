"""How does gdb report breakpoint hits and the end of a process?  gdb 10 to 18."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Optional

import gdb

from ..common.errors import NoTargetError, UnsupportedError
from ..common.guards import call_handler
from ..common.paths import base_name
from ..common.render.text import escape
from ..common.target import Hit, Reaction, Subscription
from .charset import shown, text_of
from .target import GdbTarget, SelectionKept

#: Since 13 gdb lists the libraries of all namespaces, including ld.so's entries there.  When such an entry is unloaded,
#: gdb up to at least 16.3 takes ld.so for unloaded: it forgets its breakpoints there but leaves their instructions in
#: memory, which kill the process; 18.1 does not.
_FORGETS_FROM = 13
_FORGETS_BELOW = 18


class GdbLiveTarget(GdbTarget):
    """The selected inferior of gdb, while gdb runs it."""

    def __init__(self, inferior: gdb.Inferior) -> None:
        """Create the target of an inferior.

        :raises NoTargetError: if it is not a process.
        """
        super().__init__(inferior)
        if self.kind == "core":
            raise NoTargetError("a core file does not run: dltrace needs a process")
        self._pid = int(inferior.pid)
        self._breakpoints: list[_Breakpoint] = []
        self._doomed: list[_Breakpoint] = []
        self._listens = False
        self._is_in_handler = False
        self._mask: set[int] = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        self._ending: Optional[_EndSubscription] = None

    @property
    def keeps_breakpoints(self) -> bool:
        """Return True if this version of gdb keeps breakpoints in ld.so."""
        return not _FORGETS_FROM <= _major_version() < _FORGETS_BELOW

    def read(self, address: int, size: int) -> bytes:
        """Read memory: gdb up to at least 13 reads the selected inferior's, whichever is asked.

        :raises NoTargetError: if another inferior is selected.
        """
        if gdb.selected_inferior().num != self._inferior.num:
            raise NoTargetError(
                f"the trace is of inferior {self._inferior.num}: use inferior {self._inferior.num} first"
            )
        return super().read(address, size)

    def is_alive(self) -> bool:
        """Return True if the inferior still has the same process."""
        return bool(self._inferior.is_valid() and self._inferior.pid == self._pid)

    def add_breakpoint(
        self, places: Sequence[int], on_hit: Callable[[Hit], Reaction], *, enabled: bool = True
    ) -> Subscription:
        """Set internal breakpoints, which gdb lists only by ``maintenance info breakpoints``."""
        made = [_Breakpoint(self, place, on_hit) for place in places]
        for each in made:
            each.enabled = enabled
        self._breakpoints += made
        self._listen()
        return _BreakpointSubscription(self, made)

    def exchange(self, old: Sequence[Subscription], new: Sequence[Subscription]) -> None:
        """Replace breakpoints by others; gdb deletes the disabled ones as soon as it has handled the hit.

        When ld.so seems to be unloaded, gdb warns of breakpoints in it even if they are disabled.
        """
        for each in (*old, *new):
            assert isinstance(each, _BreakpointSubscription)
            each.enable(each in new)
            if each in old:
                gdb.post_event(each.delete)

    def on_end(self, callback: Callable[[str], None]) -> Subscription:
        """Listen to the end of the process, and to another program in it."""
        return _EndSubscription(self, callback)

    def react(self, breakpoint_: _Breakpoint) -> bool:
        """Run the handler; return True to stop the process.

        The user's interrupt is blocked until it returns, so that the handler's state is never half changed.
        """
        is_interrupted = _set_mask(self._mask | {signal.SIGINT})
        is_stop = False
        self._is_in_handler = True
        try:
            failures: list[Exception] = []
            hit: Optional[Hit] = call_handler(lambda: self._hit(breakpoint_), None, failures.append)
            if failures:
                hit = _UnreadableHit(breakpoint_.place, failures[0])
            if hit is not None:
                is_stop = breakpoint_.on_hit(hit) is Reaction.STOP
        finally:
            self._is_in_handler = False
            is_interrupted = _set_mask(self._mask) or is_interrupted
        return is_stop or (is_interrupted and self._interrupt())

    def _hit(self, breakpoint_: _Breakpoint) -> Optional[_GdbHit]:
        """Return the hit of the selected thread; None if it is of a child process that gdb follows."""
        selected = gdb.selected_inferior()
        thread = gdb.selected_thread()
        if selected.num != self._inferior.num or selected.pid != self._pid or thread is None:
            return None
        return _GdbHit(breakpoint_.place, thread)

    def _interrupt(self) -> bool:
        """Stop the process as gdb's interrupt key does; return True if it stops here."""
        if self.kind == "live":
            os.kill(self._pid, signal.SIGINT)
            return False
        self.say("dltrace: interrupted.")
        return True

    def remove(self, breakpoints: Sequence[_Breakpoint]) -> None:
        """Delete breakpoints, within a handler when the process next stops."""
        if self._is_in_handler:
            self._doomed += breakpoints
        else:
            self.delete(breakpoints)

    def delete(self, breakpoints: Sequence[_Breakpoint]) -> None:
        """Delete breakpoints that have not been deleted yet."""
        for each in breakpoints:
            if each in self._breakpoints:
                self._breakpoints.remove(each)
            if each.is_valid():
                each.delete()
        self._listen()

    def _listen(self) -> None:
        """Listen to stops as long as there are breakpoints."""
        if self._listens is not bool(self._breakpoints):
            self._listens = not self._listens
            (gdb.events.stop.connect if self._listens else gdb.events.stop.disconnect)(self._on_stop)

    def _on_stop(self, event: Any) -> None:
        """Run the handlers that the user's interrupt preempted, and delete the breakpoints that are due."""
        for breakpoint_ in getattr(event, "breakpoints", ()):
            if breakpoint_ in self._breakpoints and breakpoint_.hit_count != breakpoint_.stops:
                breakpoint_.stops = breakpoint_.hit_count
                self.react(breakpoint_)
        doomed, self._doomed = self._doomed, []
        self.remove(doomed)

    def stack_pointer(self, lwp: int) -> Optional[int]:
        """Read the stack pointer through the selected thread; the user's selection is restored."""
        thread = next((t for t in self._inferior.threads() if t.is_valid() and lwp in t.ptid[1:]), None)
        if thread is None:
            return None
        with SelectionKept():
            try:
                thread.switch()
                return _unsigned(gdb.parse_and_eval("$sp"))
            except (gdb.error, ValueError):
                return None  # a running thread of non-stop mode

    def find_line(self, address: int) -> Optional[str]:
        """Ask gdb for the line; the file's own name is enough."""
        found = gdb.find_pc_line(address)
        if found.symtab is None or not found.line:
            return None
        name = text_of(lambda: found.symtab.filename) or "?"
        return f"{base_name(name)}:{found.line}"

    def say(self, text: str) -> None:
        """Write to gdb's output."""
        gdb.write(shown("".join(escape(line) + "\n" for line in text.splitlines())))


def _set_mask(mask: set[int]) -> bool:
    """Set the signal mask; return True if the user's interrupt was pending."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    except KeyboardInterrupt:
        return True
    return False


def _major_version() -> int:
    return int("".join(c if c.isdigit() else " " for c in gdb.VERSION).split()[0])


class _Breakpoint(gdb.Breakpoint):
    def __init__(self, target: GdbLiveTarget, place: int, on_hit: Callable[[Hit], Reaction]) -> None:
        super().__init__(f"*{place:#x}", internal=True)
        self.silent = True
        self.place = place
        self.on_hit = on_hit
        #: How often it was to stop the process.  gdb's hit_count counts only these hits, and hits at which the user's
        #: interrupt ended stop() at its very beginning.
        self.stops = 0
        self._target = target

    def stop(self) -> bool:
        """Answer gdb's question whether to stop."""
        is_stop = self._target.react(self)
        self.stops += is_stop
        return is_stop


class _GdbHit:
    def __init__(self, address: int, thread: gdb.InferiorThread) -> None:
        self.address = address
        self._thread = thread
        self._registers: dict[str, int] = {}

    @property
    def lwp(self) -> int:
        return int(self._thread.ptid[1] or self._thread.ptid[2])

    def registers(self, names: Sequence[str]) -> tuple[int, ...]:
        # $NAME is the register of the same frame; a gdb.Frame has an identity, which takes unwinding.
        try:
            for name in names:
                if name not in self._registers:
                    self._registers[name] = _unsigned(gdb.parse_and_eval(f"${name}"))
        except (gdb.error, ValueError) as error:
            raise UnsupportedError(f"gdb cannot read the registers {', '.join(names)}: {error}") from error
        return tuple(self._registers[name] for name in names)


class _UnreadableHit:
    """A hit of which gdb does not say anything: its handler meets the reason, and reports it."""

    def __init__(self, address: int, failure: Exception) -> None:
        self.address = address
        self._failure = failure

    @property
    def lwp(self) -> int:
        raise UnsupportedError(f"gdb does not say which thread is there: {self._failure}") from self._failure

    def registers(self, names: Sequence[str]) -> tuple[int, ...]:
        raise UnsupportedError(f"gdb cannot read the registers {', '.join(names)}: {self._failure}")


def _unsigned(value: Any) -> int:
    return int(value) & (1 << 8 * int(value.type.sizeof)) - 1


class _BreakpointSubscription:
    def __init__(self, target: GdbLiveTarget, breakpoints: Sequence[_Breakpoint]) -> None:
        self._target = target
        self._breakpoints = breakpoints

    def remove(self) -> None:
        self._target.remove(self._breakpoints)

    def enable(self, on: bool) -> None:
        for each in self._breakpoints:
            each.enabled = on

    def delete(self) -> None:
        # gdb calls this between two events.
        self._target.delete(self._breakpoints)


class _EndSubscription:
    """A subscription to gdb's events that an inferior has lost its process or executes another program."""

    def __init__(self, target: GdbLiveTarget, callback: Callable[[str], None]) -> None:
        self._target = target
        self._callback = callback
        gdb.events.exited.connect(self._on_exited)
        gdb.events.clear_objfiles.connect(self._on_cleared)

    def _on_exited(self, event: Any) -> None:
        # Also when the user kills it, or detaches from it.
        if event.inferior.num == self._target._inferior.num:
            has_exited = hasattr(event, "exit_code")
            self._callback("the process ended" if has_exited else "the process was killed, or gdb let go of it")

    def _on_cleared(self, event: Any) -> None:
        if event.progspace == self._target._inferior.progspace:
            self._callback("the process executed another program")
        elif gdb.selected_inferior().num != self._target._inferior.num:
            # gdb would set our breakpoints in the other program, at addresses where nothing is mapped.
            self._callback("gdb was given another program beside it")

    def remove(self) -> None:
        gdb.events.exited.disconnect(self._on_exited)
        gdb.events.clear_objfiles.disconnect(self._on_cleared)


class SymbolSubscription:
    """A subscription to gdb's event that it has read the symbols of a library.

    When the loader has loaded all libraries, gdb stops in it and reads them, before any code of theirs runs.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        gdb.events.new_objfile.connect(self._on_new)

    def _on_new(self, _: Any) -> None:
        self._callback()

    def remove(self) -> None:
        """Cancel the subscription."""
        gdb.events.new_objfile.disconnect(self._on_new)


if TYPE_CHECKING:
    from ..common.target import LiveLinuxTarget

    _conforms: type[LiveLinuxTarget] = GdbLiveTarget
