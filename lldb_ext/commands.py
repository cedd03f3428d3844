"""How do our commands appear in LLDB?"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

import lldb

from ..common.commands.registry import Command, commands_of
from ..common.commands.run import Failure, attempt, run
from ..common.errors import NoTargetError, NotFoundError, UsageError
from ..common.host import Screen
from ..common.imports import OwnImports
from ..common.target import Subscription, Target
from .charset import shown
from .live import Dispatcher, EntrySubscription, LldbLiveTarget, dispatcher_of
from .target import open_target, selected_target


class LldbHost:
    """LLDB as the program that the user types into."""

    name = "lldb"

    def __init__(self, debugger: Any, context: Any, result: Any, kept: dict[str, object], calls: Dispatcher) -> None:
        self.kept = kept
        self._calls = calls
        self._debugger = debugger
        self._context = context
        self._result = result

    def target(self) -> Target:
        """Return the target of the command's context."""
        target = self._context.GetTarget()
        # A command that a script runs inside `command script import` has the earlier context.
        return open_target(target) if target.IsValid() else selected_target(self._debugger)

    def live_target(self) -> LldbLiveTarget:
        """Return the target of the command's context, for a trace."""
        target = self._context.GetTarget()
        return LldbLiveTarget(target if target.IsValid() else self._debugger.GetSelectedTarget(), self._calls)

    def when_loaded(self, callback: Callable[[], None]) -> Subscription:
        """Call back when the process comes to the program's first instruction."""
        target = self._context.GetTarget()
        return EntrySubscription(
            target if target.IsValid() else self._debugger.GetSelectedTarget(), self._calls, callback
        )

    def evaluate(self, expression: str) -> int:
        """Evaluate an expression; LLDB 14 cannot in 32-bit minidumps, but a number needs no LLDB."""
        try:
            return int(expression, 0)
        except ValueError:
            pass
        frame = self._context.GetFrame()
        scope = frame if frame.IsValid() else self._context.GetTarget()
        value = scope.EvaluateExpression(expression)
        if not value.GetError().Success():
            raise NotFoundError(f"LLDB cannot evaluate '{expression}': {_first_line(value.GetError().GetCString())}")
        if value.GetType().GetTypeClass() in (lldb.eTypeClassFunction, lldb.eTypeClassArray, lldb.eTypeClassStruct):
            return int(value.AddressOf().GetValueAsUnsigned())
        return int(value.GetValueAsUnsigned())

    def write(self, text: str) -> None:
        """Write into the command's result, so that scripts can capture it."""
        self._result.PutCString(shown(text.rstrip("\n")))

    def screen(self) -> Screen:
        """Follow LLDB's use-color, and NO_COLOR, which LLDB ignores."""
        colour = self._debugger.GetUseColor() and not os.environ.get("NO_COLOR")
        return Screen(self._debugger.GetTerminalWidth() or None, bool(colour))


def _split(words: str) -> list[str]:
    """Split a command's arguments as a shell does."""
    try:
        return shlex.split(words)
    except ValueError as error:
        raise UsageError(f"{error} in {words}") from error


def _first_line(text: str) -> str:
    lines = (text or "").strip().splitlines()
    return lines[0] if lines else "no reason given"


class _LldbCommand:
    """One of our commands in LLDB; subclasses name it."""

    command: Command
    kept: dict[str, object]
    calls: Dispatcher

    def __init__(self, debugger: Any, session: Any) -> None:
        pass

    def __call__(self, debugger: Any, words: str, context: Any, result: Any) -> None:
        """Run the command."""
        name = self.command.name
        host = LldbHost(debugger, context, result, self.kept, self.calls)
        try:
            outcome = attempt(name, lambda: run(host, self.command, _split(words)))
        except KeyboardInterrupt:
            result.SetError(f"{name}: interrupted")
            return
        if isinstance(outcome, Failure):
            result.SetError(shown(outcome.text))

    def get_short_help(self) -> str:
        """Return the one-line help."""
        return f"{self.command.summary[:1].upper()}{self.command.summary[1:]}."

    def get_long_help(self) -> str:
        """Return the text of ``help COMMAND``."""
        with OwnImports():
            return self.command.help()

    def get_repeat_command(self, words: str) -> str:
        """Return an empty string: an empty line repeats nothing."""
        return ""


class ScriptHost(LldbHost):
    """LLDB for a script that it runs, which asks about the current selection."""

    def __init__(self, debugger: Any, calls: Dispatcher) -> None:
        super().__init__(debugger, None, None, {}, calls)

    def target(self) -> Target:
        """Return the selected target."""
        return selected_target(self._debugger)

    def live_target(self) -> LldbLiveTarget:
        """Return the selected target, to be watched while it runs."""
        return LldbLiveTarget(self._debugger.GetSelectedTarget(), self._calls)

    def evaluate(self, expression: str) -> int:
        """Evaluate an expression in the selected frame."""
        target = self._debugger.GetSelectedTarget()
        frame = target.GetProcess().GetSelectedThread().GetSelectedFrame()
        self._context = lldb.SBExecutionContext(frame if frame.IsValid() else target)
        return super().evaluate(expression)


def script_host() -> ScriptHost:
    """Return LLDB for a script that it runs.

    :raises NoTargetError: if no LLDB runs the script.
    """
    debugger = lldb.debugger
    if debugger is None or not debugger.IsValid():
        raise NoTargetError("no LLDB runs this script: use script or command script import in LLDB")
    # LLDB finds the callback of breakpoints by its name in this dictionary, which also has a script's own names.
    session = vars(sys.modules["__main__"]).get(f"{debugger.GetInstanceName()}_dict")
    return ScriptHost(debugger, dispatcher_of(session if isinstance(session, dict) else {}))


def register(debugger: Any, session: dict[str, Any]) -> None:
    """Define all commands in LLDB, replacing earlier definitions."""
    shared = {"kept": {}, "calls": dispatcher_of(session)}
    options = _options(debugger)
    for name, command in commands_of().items():
        title = f"Command_{name}"
        # LLDB finds the class by its name in the session's dictionary.
        session[title] = type(title, (_LldbCommand,), {"command": command, "__doc__": command.summary, **shared})
        completion = "-C module " if "--completion-type" in options and command.completes_libraries else ""
        # Versions without this option always replace a command.
        overwrite = "-o " if "--overwrite" in options else ""
        debugger.HandleCommand(f"command script add {overwrite}{completion}-c {title} {name}")


def _options(debugger: Any) -> str:
    """Return the help of ``command script add``: ``--overwrite`` since LLDB 14, ``--completion-type`` since 15."""
    result = lldb.SBCommandReturnObject()
    debugger.GetCommandInterpreter().HandleCommand("help command script add", result)
    return result.GetOutput() or ""
