"""How is dlwhy used from the shell?

``dlwhy --pid 4711 dlstate libB.so``, ``dlwhy --core core.4711 dlstate --json``.

Exit status: see docs/scripts.md.  A reader that has left and a closed standard output are not failures.
"""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import NoReturn, Optional, Union

from .. import __version__
from .charset import own_path
from .commands.arguments import PROCESS_ARGUMENT, argument, byte_count
from .commands.parser import HelpFormatter, ShellParser, add_arguments
from .commands.registry import Command, find_command, names
from .commands.run import EXIT_BUG, EXIT_FINDINGS, EXIT_PROBLEMS, EXIT_USAGE, Failure, attempt, run
from .errors import NotFoundError, OutputError, UnsupportedError, UsageError
from .host import Screen, open_closed_streams, write_to
from .render.text import escape
from .target import LiveTarget, Target

#: The exit status by which shells report a program that SIGINT ended.
EXIT_INTERRUPTED = 130

#: The only option of dlwhy itself that can stand among those of a command.
STRICT = "--strict"

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
    argument(
        STRICT,
        action="store_true",
        help="exit with 1 if there are findings: what was asked about stays, or something is wrong; also after COMMAND",
    ),
    argument("--version", action="version", version=f"dlwhy {__version__}", help="show the version"),
    argument("command", metavar="COMMAND", help="what to do, or help; the options below stand before it"),
    argument("words", metavar="ARGUMENT", nargs=REMAINDER, help="the command's own arguments"),
)


class CliHost:
    """The shell as the program that the user types into."""

    name = "cli"

    def __init__(self, target: Optional[Target]) -> None:
        self._target = target
        self.kept: dict[str, object] = {}

    def target(self) -> Target:
        """Return the target that the command line names.

        :raises UsageError: if it names nothing.
        """
        if self._target is None:
            raise UsageError("nothing to examine: give --pid PID, --core FILE or --dump FILE before the command")
        return self._target

    def live_target(self) -> LiveTarget:
        """Raise UnsupportedError: the shell runs no process."""
        raise UnsupportedError(
            "a trace needs a debugger that runs the process: use dltrace in gdb or LLDB, dlltrace in WinDbg"
        )

    def evaluate(self, expression: str) -> int:
        """Parse a number: the shell has no debugger to evaluate other expressions."""
        try:
            return int(expression, 0)
        except ValueError as error:
            raise NotFoundError(f"'{expression}' is no number") from error

    def write(self, text: str) -> None:
        """Write to standard output."""
        write_to(sys.stdout, text)

    def screen(self) -> Screen:
        """Return the width and whether to colour: on terminals, but not with NO_COLOR (no-color.org) or a dumb TERM."""
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        return Screen(None, terminal and not os.environ.get("NO_COLOR"))


def entry() -> NoReturn:
    """Run as the shell's command, without tearing the interpreter down, which would take a tenth of the time."""
    status: object = EXIT_BUG
    try:
        open_closed_streams()
        status = main()
    except SystemExit as end:  # raised by argparse after help
        status = end.code
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    finally:
        os._exit(status if isinstance(status, int) else 0)


def main(words: Optional[Sequence[str]] = None) -> int:
    """Run one command and return the exit status."""
    words = sys.argv[1:] if words is None else words
    return _status_of(attempt("dlwhy", lambda: _answer(list(map(own_path, words)))))


def _answer(words: Sequence[str]) -> int:
    arguments = _parser().parse_args(words)
    name = arguments.command if find_command(arguments.command) else "dlwhy"
    return _status_of(attempt(name, lambda: _run(arguments)))


def _status_of(outcome: Union[int, Failure]) -> int:
    """Write a failure, if there is one, to standard error, and return the exit status."""
    if not isinstance(outcome, Failure):
        return outcome
    if outcome.text:
        _complain(outcome.text)
    return outcome.status


def _complain(text: str) -> None:
    try:
        write_to(sys.stderr, text + "\n")
    except OutputError:
        return  # standard error cannot be written either


def _run(arguments: Namespace) -> int:
    command = find_command(arguments.command)
    if command is None:
        return _help(arguments.command, arguments.words)
    words, is_strict = _take_own(command, arguments.words)
    result = run(CliHost(_open(arguments)), command, words)
    if result is None:
        return 0
    if result.has_problems:
        return EXIT_PROBLEMS
    return EXIT_FINDINGS if (arguments.strict or is_strict) and result.has_findings else 0


def _take_own(command: Command, words: Sequence[str]) -> tuple[Sequence[str], bool]:
    """Return a command's words without ``--strict``, and whether it is among them.

    :raises UsageError: if other options of dlwhy itself are among them.
    """
    end = words.index("--") if "--" in words else len(words)
    own = {flag for item in ARGUMENTS for flag in item.flags if flag.startswith("--")} - {STRICT}
    for word in words[:end]:
        option = word.partition("=")[0]
        if option in own:
            other = option == "--pid" and PROCESS_ARGUMENT in command.arguments
            also = "; a process of a kernel dump is given by --process" if other else ""
            raise UsageError(f"{option} is an option of dlwhy itself: give it before the command{also}")
    kept = [word for word in words[:end] if word != STRICT]
    return [*kept, *words[end:]], len(kept) < end


class _Parser(ShellParser):
    def _print_message(self, message: str, file: object = None) -> None:
        """Write what the option --version says."""
        write_to(sys.stdout, message)

    def format_help(self) -> str:
        """Return the help with the names of the commands."""
        self.epilog = f"Commands: {', '.join(names())}. dlwhy help COMMAND explains one."
        return super().format_help()


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="dlwhy",
        description="Explain the dynamic libraries of a running process, a core or a dump.",
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
        write_to(sys.stdout, explained.help() + "\n")
        return 0
    _complain(f"dlwhy: there is no command {escape(wanted or command)}; commands: {', '.join(names())}")
    return EXIT_USAGE


def _require_fitting(arguments: Namespace) -> None:
    """Require that no option is given that is for another kind of target.

    :raises UsageError: if one is.
    """
    if arguments.pid is None and arguments.dump is None:
        return
    what = "--dump" if arguments.pid is None else "--pid"
    for option, value in (("--sysroot", arguments.sysroot), ("--exe", arguments.exe)):
        if value:
            raise UsageError(f"{option} is for cores, not for {what}")
    if arguments.pid is not None and arguments.max_size is not None:
        raise UsageError("--max-size is for files, not for --pid")


def _open(arguments: Namespace) -> Optional[Target]:
    _require_fitting(arguments)
    if arguments.pid is not None:
        from .linux.dumps.procfs import ProcTarget

        return ProcTarget(arguments.pid)
    if arguments.core is not None:
        from .open import open_core

        return open_core(arguments.core, arguments.sysroot, arguments.exe, arguments.max_size)
    if arguments.coredump is not None:
        from .open import open_coredump

        return open_coredump(arguments.coredump, arguments.sysroot, arguments.exe, arguments.max_size)
    if arguments.dump is not None:
        from .open import open_dump

        return open_dump(arguments.dump, arguments.max_size)
    return None
