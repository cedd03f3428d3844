"""How do our commands appear in gdb: command line, ``info``, completion, MI?"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import gdb

from ..common.commands.registry import Command, elf_commands
from ..common.commands.run import run
from ..common.errors import DlwhyError, NotFoundError
from ..common.host import Screen
from ..common.loaders.start import find_start
from ..common.memory import Memory
from ..common.render.text import escape
from .target import GdbTarget, selected_target

if TYPE_CHECKING:
    from .live import GdbLiveTarget


class GdbHost:
    """gdb as the program that the user types into."""

    name = "gdb"

    def __init__(self, kept: dict[str, object], colour: Optional[bool] = None) -> None:
        self.kept = kept
        self._colour = colour

    def target(self) -> GdbTarget:
        """Give the selected inferior."""
        return selected_target()

    def live_target(self) -> GdbLiveTarget:
        """Give the selected inferior, to be watched while it runs."""
        from .live import GdbLiveTarget

        return GdbLiveTarget(gdb.selected_inferior())

    def evaluate(self, expression: str) -> int:
        """Evaluate an expression; a function or array stands for its address."""
        try:
            value = gdb.parse_and_eval(expression)
            if value.type.strip_typedefs().code in (
                gdb.TYPE_CODE_FUNC,
                gdb.TYPE_CODE_ARRAY,
                gdb.TYPE_CODE_STRUCT,
            ):
                return _to_address(value.address)
            return _to_address(value)
        except (gdb.error, TypeError, OverflowError) as error:
            raise NotFoundError(f"gdb cannot evaluate '{expression}': {error}") from error

    def write(self, text: str) -> None:
        """Write through gdb's pager."""
        gdb.write(text)

    def screen(self) -> Screen:
        """Take width and styling from gdb's settings; MI front ends get no escape codes."""
        width = gdb.parameter("width")
        columns = int(width) if isinstance(width, int) else 0
        styled = gdb.parameter("style enabled") and _is_terminal()
        return Screen(columns or None, bool(styled) if self._colour is None else self._colour)


def _to_address(value: Any) -> int:
    return int(value) & (1 << 64) - 1


def _is_terminal() -> bool:
    """Tell whether escape codes can be shown: what gdb itself looks at before it styles, which no API tells."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False  # gdb heeds NO_COLOR since 16
    return os.isatty(1) and not _is_mi()


def _is_mi() -> bool:
    """Tell whether a front end started gdb, maybe on a pseudo terminal; no setting names the interpreter."""
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
        try:
            run(GdbHost(self._kept), self._command, gdb.string_to_argv(argument))
        except DlwhyError as error:
            raise gdb.GdbError(f"{self._command.name}: {escape(str(error))}") from error

    def complete(self, text: str, word: Optional[str]) -> Sequence[str]:
        """Complete the names of the loaded libraries."""
        if not any(argument.completes_libraries for argument in self._command.arguments):
            return ()
        start = text[: len(text) - len(word or "")]
        wanted = text.split()[-1] if text and not text[-1].isspace() else ""
        cut = len(wanted) - len(word or "") if start else 0
        return sorted({name[cut:] for name in _loaded_names() if name.startswith(wanted)})


def _loaded_names() -> set[str]:
    """Collect base names of the base namespace: enough for completion, and quick."""
    try:
        maps = find_start(Memory(selected_target())).maps
    except DlwhyError:
        return set()
    return {entry.l_name.rsplit("/", 1)[-1] for entry in maps if entry.l_name}


class _MiHost(GdbHost):
    """gdb under MI: nothing is written, the document goes into the record."""

    def write(self, text: str) -> None:
        """Write nothing."""


def _register_mi(command: Command, kept: dict[str, object]) -> None:
    if not hasattr(gdb, "MICommand"):
        return  # gdb before 12

    class MiCommand(gdb.MICommand):  # type: ignore[misc,unused-ignore]
        """One of our commands in gdb's machine interface."""

        def __init__(self) -> None:
            super().__init__(f"-{command.name}")

        def invoke(self, argv: Sequence[str]) -> dict[str, Any]:
            """Run the command and give its JSON document as a result record."""
            # Where it stands first gdb takes --all for its own.
            words = argv or [flag for each in command.arguments for flag in each.flags if flag == "--all"]
            try:
                result = run(_MiHost(kept, False), command, [*words, "--color=never"])
            except DlwhyError as error:
                raise gdb.GdbError(escape(str(error))) from error
            document = {"help": command.help()} if result is None else result.document()
            converted: dict[str, Any] = _mi_value(document)
            return converted

    MiCommand()


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
    return str(value)


def register() -> None:
    """Define all commands in gdb; a second call replaces them."""
    kept: dict[str, object] = {}
    for name, command in elf_commands().items():
        text = command.help()
        _CliCommand(name, command, text, kept)
        _CliCommand(f"info {name}", command, text, kept)
        _register_mi(command, kept)
