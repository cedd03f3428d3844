"""How is dlwhy used from the shell?

``dlwhy --pid 4711 dlstate libB.so``, ``dlwhy --core core.4711 dlstate --json``.

Exit status: 0 answered; 1 findings, with --strict; 2 wrong usage, or no such library; 3 the target cannot be read;
4 answered with problems.
"""

from __future__ import annotations

import gc
import os
import sys

from .commands.arguments import REMAINDER, argument, byte_count, read_plain_words
from .commands.registry import NAMES, find_command
from .errors import DlwhyError, NoTargetError, NotFoundError, UnsupportedError, UsageError
from .host import Screen, write_to
from .render.text import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import NoReturn, Optional

    from .target import LiveTarget, Target

EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_TARGET = 3
EXIT_PROBLEMS = 4

ARGUMENTS = (
    argument("--pid", type=int, choice="target", help="examine this process; it is neither attached to nor stopped"),
    argument("--core", metavar="FILE", choice="target", help="examine this core; it may be compressed"),
    argument(
        "--coredump",
        metavar="MATCH",
        choice="target",
        help="examine the core that coredumpctl has of a pid or executable",
    ),
    argument("--dump", metavar="FILE", choice="target", help="examine this dump of Windows; it may be compressed"),
    argument("--sysroot", metavar="DIR", default="", help="look for the files that a core maps below DIR"),
    argument("--exe", metavar="FILE", default="", help="the program that a core is of: qemu-user's cores need it"),
    argument(
        "--max-size",
        metavar="SIZE",
        type=byte_count,
        help="how much room the content of a compressed file may take on disk, such as 500M or 16G (default: 4G)",
    ),
    argument("--strict", action="store_true", help="exit with 1 if the library that was asked for stays"),
    argument("command", metavar="COMMAND", help=f"{', '.join(NAMES)}, or help"),
    argument("words", metavar="ARGUMENT", nargs=REMAINDER, help="the command's own arguments"),
)


class CliHost:
    """The shell as the program that the user types into."""

    name = "cli"

    def __init__(self, target: Optional[Target]) -> None:
        self._target = target
        self.kept: dict[str, object] = {}

    def target(self) -> Target:
        """Give what the command line names."""
        if self._target is None:
            raise NoTargetError("nothing to examine: give --pid PID, --core FILE or --dump FILE before the command")
        return self._target

    def live_target(self) -> LiveTarget:
        """Refuse: nothing is run here."""
        raise UnsupportedError(
            "a trace needs a debugger that runs the process: use dltrace in gdb or LLDB, dlltrace in WinDbg"
        )

    def evaluate(self, expression: str) -> int:
        """Take a number: there is no debugger here to evaluate more."""
        try:
            return int(expression, 0)
        except ValueError as error:
            raise NotFoundError(f"'{expression}' is no number") from error

    def write(self, text: str) -> None:
        """Write to standard output."""
        write_to(sys.stdout, text)

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
    words = sys.argv[1:] if words is None else words
    arguments = read_plain_words(ARGUMENTS, words)
    if arguments is None:
        arguments = _parser().parse_args(words)
    command = find_command(arguments.command)
    if command is None:
        return _help(arguments.command, arguments.words)
    try:
        from .commands.run import run

        result = run(CliHost(_open(arguments)), command, arguments.words)
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


def _parser() -> ArgumentParser:
    from argparse import ArgumentParser

    from .commands.usage import HelpFormatter, add_arguments

    parser = ArgumentParser(
        prog="dlwhy",
        description="Explain the dynamic libraries of a running process, a core or a dump.",
        epilog="dlwhy help COMMAND explains a command.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser, ARGUMENTS)
    return parser


def _help(command: str, words: Sequence[str]) -> int:
    wanted = words[0] if command == "help" and words else None
    if command == "help" and wanted is None:
        _parser().print_help()
        return 0
    explained = find_command(wanted or "")
    if explained is not None:
        sys.stdout.write(explained.help() + "\n")
        return 0
    sys.stderr.write(f"dlwhy: there is no command {wanted or command}; commands: {', '.join(NAMES)}\n")
    return EXIT_USAGE


def _open(arguments: Namespace) -> Optional[Target]:
    if arguments.pid is not None:
        from .dumps.procfs import ProcTarget

        return ProcTarget(arguments.pid)
    if arguments.core is not None:
        from .dumps.opener import open_core

        return open_core(arguments.core, arguments.sysroot, arguments.exe, arguments.max_size)
    if arguments.coredump is not None:
        from .dumps.opener import open_coredump

        return open_coredump(arguments.coredump, arguments.sysroot, arguments.exe, arguments.max_size)
    if arguments.dump is not None:
        from .dumps.opener import open_dump

        return open_dump(arguments.dump, arguments.max_size)
    return None
