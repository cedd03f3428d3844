"""How do our commands appear in gdb: command line, ``info``, completion, MI?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Optional

import gdb

from ..common.charset import from_native
from ..common.commands.registry import Command, commands_of
from ..common.commands.run import Failure, attempt, run
from ..common.errors import DlwhyError, NoTargetError, NotFoundError
from ..common.host import Screen
from ..common.imports import OwnImports
from ..common.linux.loader.rendezvous import find_rendezvous
from ..common.memory import Memory
from ..common.paths import base_name
from ..common.render.jsontext import to_strict
from ..common.render.text import escape
from ..common.target import Subscription
from .charset import host_charset, shown
from .live import GdbLiveTarget
from .target import GdbTarget, selected_target


class GdbHost:
    """gdb as the program that the user types into."""

    name = "gdb"

    def __init__(self, kept: dict[str, object], colour: Optional[bool] = None) -> None:
        self.kept = kept
        self._colour = colour

    def target(self) -> GdbTarget:
        """Return the selected inferior."""
        return selected_target()

    def live_target(self) -> GdbLiveTarget:
        """Return the selected inferior, for a trace."""
        from .live import GdbLiveTarget

        return GdbLiveTarget(gdb.selected_inferior())

    def when_loaded(self, callback: Callable[[], None]) -> Subscription:
        """Call back when gdb has read the symbols of another library."""
        from .live import SymbolSubscription

        progspace = gdb.current_progspace()
        if (progspace is None or progspace.filename is None) and not gdb.selected_inferior().pid:
            raise NoTargetError("no program: use file, or attach, first")
        return SymbolSubscription(callback)

    def evaluate(self, expression: str) -> int:
        """Evaluate an expression to a number; a function or array to its address."""
        try:
            value = gdb.parse_and_eval(expression)
            if value.type.strip_typedefs().code in (
                gdb.TYPE_CODE_FUNC,
                gdb.TYPE_CODE_ARRAY,
                gdb.TYPE_CODE_STRUCT,
            ):
                return _to_address(value.address)
            return _to_address(value)
        except (gdb.error, TypeError, OverflowError, UnicodeError) as error:
            raise NotFoundError(f"gdb cannot evaluate '{expression}': {error}") from error

    def write(self, text: str) -> None:
        """Write through gdb's pager."""
        gdb.write(shown(text))

    def screen(self) -> Screen:
        """Return width and styling from gdb's settings; MI front ends get no escape codes."""
        width = gdb.parameter("width")
        columns = int(width) if isinstance(width, int) else 0
        styled = gdb.parameter("style enabled") and _is_terminal()
        return Screen(columns or None, bool(styled) if self._colour is None else self._colour)


def _to_address(value: Any) -> int:
    return int(value) & (1 << 64) - 1


def _is_terminal() -> bool:
    """Return True if escape codes can be shown, by gdb's own criteria, which no API exposes."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False  # gdb itself obeys NO_COLOR since 16
    return os.isatty(1) and not _is_mi()


def _is_mi() -> bool:
    """Return True if a front end started gdb, perhaps on a pseudo terminal; no setting names the interpreter."""
    try:
        with open("/proc/self/cmdline", "rb") as stream:
            words = stream.read()
    except OSError:
        return False
    return re.search(rb"\0--?i(nt[a-z]*)?[=\0](mi\d?|dap)\0", words) is not None


class _CliCommand(gdb.Command):
    """One of our commands on gdb's command line."""

    def __init__(self, name: str, command: Command, text: str, kept: dict[str, object]) -> None:
        self.__doc__ = text
        self._command = command
        self._kept = kept
        super().__init__(name, gdb.COMMAND_STATUS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Run the command."""
        self.dont_repeat()
        host, words = GdbHost(self._kept), gdb.string_to_argv(argument)
        outcome = attempt(self._command.name, lambda: run(host, self._command, _ours(words)))
        if isinstance(outcome, Failure):
            raise gdb.GdbError(shown(outcome.text))

    def complete(self, text: str, word: Optional[str]) -> Sequence[str]:
        """Complete the names of the loaded libraries."""
        if not self._command.completes_libraries:
            return ()
        start = text[: len(text) - len(word or "")]
        wanted = text.split()[-1] if text and not text[-1].isspace() else ""
        cut = len(wanted) - len(word or "") if start else 0
        return sorted({name[cut:] for name in _loaded_names() if name.startswith(wanted)})


def _ours(words: Sequence[str]) -> list[str]:
    """Return words of a command line, which gdb has decoded, as our text."""
    return [from_native(word, host_charset()) for word in words]


def _loaded_names() -> set[str]:
    """Collect the base namespace's base names that can be typed: enough for completion, and fast."""
    try:
        with OwnImports():
            maps = find_rendezvous(Memory(selected_target())).maps
    except DlwhyError:
        return set()  # a completion has nowhere to say why; the command itself does
    names = {base_name(entry.l_name) for entry in maps if entry.l_name}
    return {name for name in names if shown(escape(name)) == name}


class _MiHost(GdbHost):
    """gdb under MI: nothing is written, the record has the document."""

    def write(self, text: str) -> None:
        """Discard the text: the MI record carries the document."""


def _register_mi(command: Command, kept: dict[str, object]) -> None:
    if not hasattr(gdb, "MICommand"):
        return  # gdb before 12

    class MiCommand(gdb.MICommand):  # type: ignore[misc,unused-ignore]
        """One of our commands in gdb's machine interface."""

        def __init__(self) -> None:
            super().__init__(f"-{command.name}")

        def invoke(self, argv: Sequence[str]) -> dict[str, Any]:
            """Run the command; return its JSON document as a result record."""
            # gdb takes a first argument --all for its own option.
            words = argv or [flag for each in command.arguments for flag in each.flags if flag == "--all"]
            outcome = attempt(command.name, lambda: _document(_MiHost(kept, False), command, words))
            if isinstance(outcome, Failure):
                raise gdb.GdbError(shown(outcome.message))
            return outcome

    MiCommand()


def _document(host: _MiHost, command: Command, words: Sequence[str]) -> dict[str, Any]:
    """Run a command; return its document, with strings that gdb can write."""
    result = run(host, command, _ours([*words, "--color=never"]))
    converted: dict[str, Any] = _mi_value(to_strict({"help": command.help()} if result is None else result.document()))
    return converted


def _mi_value(value: Any) -> Any:
    """Convert JSON to what MI can carry: keys with dashes, values as text, null as an empty list."""
    if isinstance(value, dict):
        return {key.replace("_", "-"): _mi_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mi_value(item) for item in value]
    if value is None:
        return []
    if isinstance(value, bool):
        return "true" if value else "false"
    return shown(str(value))


def script_host() -> GdbHost:
    """Return gdb for a script that it runs."""
    return GdbHost({})


def register() -> None:
    """Define all commands in gdb, replacing earlier definitions."""
    kept: dict[str, object] = {}
    for name, command in commands_of("linux").items():
        text = command.help()
        _CliCommand(name, command, text, kept)
        _CliCommand(f"info {name}", command, text, kept)
        _register_mi(command, kept)
