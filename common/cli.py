"""How is dlwhy used from the shell?

``dlwhy --pid 4711 dlstate libB.so``, ``dlwhy --core core.4711 dlstate --json``.

Exit status: 0 answered; 1 findings, with --strict; 2 wrong usage, or no such library; 3 the target cannot be read;
4 answered with problems.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Optional

from .commands.registry import COMMANDS, HelpFormatter
from .errors import DlwhyError, NoTargetError, NotFoundError, UnsupportedError, UsageError
from .host import Screen
from .render.text import escape
from .target import LiveTarget, Target

EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_TARGET = 3
EXIT_PROBLEMS = 4


class CliHost:
    """The shell as the program that the user types into."""

    name = "cli"

    def __init__(self, target: Optional[Target]) -> None:
        self._target = target
        self.kept: dict[str, object] = {}

    def target(self) -> Target:
        """Give what the command line names."""
        if self._target is None:
            raise NoTargetError("nothing to examine: give --pid PID or --core FILE before the command")
        return self._target

    def live_target(self) -> LiveTarget:
        """Refuse: nothing is run here."""
        raise UnsupportedError("a trace needs a debugger that runs the process: use dltrace in gdb or LLDB")

    def evaluate(self, expression: str) -> int:
        """Take a number: there is no debugger here to evaluate more."""
        try:
            return int(expression, 0)
        except ValueError as error:
            raise NotFoundError(f"'{expression}' is no number") from error

    def write(self, text: str) -> None:
        """Write to standard output."""
        sys.stdout.write(text)

    def screen(self) -> Screen:
        """Colour for terminals, unless NO_COLOR is set (https://no-color.org) or the terminal is dumb."""
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        return Screen(None, terminal and not os.environ.get("NO_COLOR"))


def entry() -> NoReturn:
    """Run as the shell's command, without garbage collection and without tearing the interpreter down.

    Both together took a fifth of the time of an answer.
    """
    gc.disable()
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(words: Optional[Sequence[str]] = None) -> int:
    """Run one command and give the exit status."""
    parser = _parser()
    arguments = parser.parse_args(words)
    from .commands import dlplan, dlstate, dltrace  # noqa: F401 - define the commands
    from .commands.run import run

    if arguments.command == "help" or arguments.command not in COMMANDS:
        return _help(parser, arguments.command, arguments.words)
    try:
        result = run(CliHost(_open(arguments)), COMMANDS[arguments.command], arguments.words)
        sys.stdout.flush()
    except DlwhyError as error:
        sys.stderr.write(f"{arguments.command}: {escape(str(error))}\n")
        return EXIT_USAGE if isinstance(error, (UsageError, NotFoundError)) else EXIT_TARGET
    except BrokenPipeError:
        # The reader has gone, which is its right; the interpreter must not find that out once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if result is None:
        return 0
    if result.has_problems:
        return EXIT_PROBLEMS
    return EXIT_FINDINGS if arguments.strict and result.has_findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dlwhy",
        description="Explain the dynamic libraries of a running process or a core.",
        epilog="dlwhy help COMMAND explains a command. Commands: dlplan, dlstate, dltrace.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--pid", type=int, help="examine this process; it is neither attached to nor stopped")
    source.add_argument("--core", metavar="FILE", help="examine this core; it may be compressed")
    source.add_argument(
        "--coredump", metavar="MATCH", help="examine the core that coredumpctl has of a pid or executable"
    )
    parser.add_argument("--sysroot", metavar="DIR", default="", help="look for the files that a core maps below DIR")
    parser.add_argument(
        "--exe", metavar="FILE", default="", help="the program that a core is of: qemu-user's cores need it"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if the library that was asked for stays")
    parser.add_argument("command", metavar="COMMAND", help="dlplan, dlstate, dltrace, or help")
    parser.add_argument("words", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="the command's own arguments")
    return parser


def _help(parser: argparse.ArgumentParser, command: str, words: Sequence[str]) -> int:

    wanted = words[0] if command == "help" and words else None
    if command == "help" and wanted is None:
        parser.print_help()
        return 0
    if wanted in COMMANDS:
        sys.stdout.write(COMMANDS[wanted].help() + "\n")
        return 0
    sys.stderr.write(f"dlwhy: there is no command {wanted or command}; commands: {', '.join(COMMANDS)}\n")
    return EXIT_USAGE


def _open(arguments: argparse.Namespace) -> Optional[Target]:
    if arguments.pid is not None:
        from .dumps.procfs import ProcTarget

        return ProcTarget(arguments.pid)
    if arguments.core is not None:
        from .dumps.opener import open_core

        return open_core(arguments.core, arguments.sysroot, arguments.exe)
    if arguments.coredump is not None:
        from .dumps.opener import open_coredump

        return open_coredump(arguments.coredump, arguments.sysroot, arguments.exe)
    return None
