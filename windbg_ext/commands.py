"""How do our commands appear in WinDbg: aliases, DML, and without WinDbg on a dump or process?

An extension's command must be an exported function, which Python cannot provide: ``!dllshare`` is an alias for the
``!py`` of pykd's bootstrapper.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Optional, Union

import pykd

from ..common.commands.parser import HelpFormatter
from ..common.commands.registry import Command, commands_of
from ..common.commands.run import EXIT_PROBLEMS, EXIT_USAGE, Failure, attempt, run
from ..common.errors import NoTargetError, NotFoundError, OutputError, UsageError
from ..common.host import Screen, write_to
from ..common.render.dml import to_dml
from ..common.target import LiveTarget
from .live import EngineLiveTarget
from .target import MachineTarget, ProcessTarget, current_target

# The engine truncates pieces of output at 16 KiB.
_PIECE = 4000
# State that commands keep: each command is a separate run of our script, in one interpreter.
_KEPT: dict[str, object] = {}
# The --help of other extensions of WinDbg.
_HELP = ("-?", "/?")


class WinDbgHost:
    """WinDbg, or a Python that has opened the target by pykd, as the program that the user types into."""

    name = "windbg"

    def __init__(self, link: Optional[str] = None) -> None:
        """Create the host.

        :param link: the command, such as ``!dllshare``, that DLL names in the output link to.
        """
        self._is_windbg = bool(pykd.isWindbgExt())
        self._link = link
        self.kept = _KEPT

    def target(self) -> Union[ProcessTarget, MachineTarget]:
        """Return the engine's current target."""
        return current_target()

    def live_target(self) -> LiveTarget:
        """Return the engine's current process, for a trace."""
        return EngineLiveTarget()

    def evaluate(self, expression: str) -> int:
        """Evaluate an expression by the engine's evaluator."""
        try:
            return int(pykd.expr(expression)) & (1 << 64) - 1
        except (pykd.DbgException, TypeError) as error:
            raise NotFoundError(f"the engine cannot evaluate '{expression}'") from error

    def write(self, text: str) -> None:
        """Write to the debugger's window, with links if it shows DML; without WinDbg to standard output."""
        if not self._is_windbg:
            write_to(sys.stdout, text)
            return
        for line in text.splitlines(keepends=True):
            marked = to_dml(line, self._link)
            if len(marked) <= _PIECE:
                pykd.dprint(marked, True)
                continue
            for start in range(0, len(line), _PIECE):
                pykd.dprint(line[start : start + _PIECE], False)

    def fail(self, text: str) -> None:
        """Write an error to the user; without WinDbg to standard error."""
        if self._is_windbg:
            pykd.dprint(text, False)
            return
        with suppress(OutputError):
            write_to(sys.stderr, text)

    def screen(self) -> Screen:
        """Return no escape codes and no width: WinDbg shows none, and wraps lines itself."""
        return Screen(None, False)


def script_host() -> WinDbgHost:
    """Return WinDbg, or pykd, for a script that it runs."""
    return WinDbgHost()


def main(words: Sequence[str], script: str) -> int:
    """Run a command of ours, after opening a target without WinDbg; return the exit status."""
    outcome = attempt("dlwhy_windbg.py", lambda: _answer(words, script))
    return _status_of(outcome, WinDbgHost())


def _status_of(outcome: Union[int, Failure], host: WinDbgHost) -> int:
    """Write a failure, if there is one, to the user, and return the exit status."""
    if not isinstance(outcome, Failure):
        return outcome
    if outcome.text:
        host.fail(outcome.text + "\n")
    return outcome.status


def _answer(words: Sequence[str], script: str) -> int:
    parser = _parser(bool(pykd.isWindbgExt()))
    arguments = parser.parse_args(words)
    if arguments.install:
        _define_aliases(script)
        return 0
    command = commands_of("windows").get(arguments.command)
    if command is None:
        WinDbgHost().fail(parser.format_help())
        return EXIT_USAGE
    link = None if "--json" in arguments.words or command.links_to is None else f"!{command.links_to}"
    host = WinDbgHost(link)
    return _status_of(attempt(command.name, lambda: _run(host, command, arguments)), host)


def _run(host: WinDbgHost, command: Command, arguments: argparse.Namespace) -> int:
    if not pykd.isWindbgExt():
        _open(arguments)
    result = run(host, command, ["--help" if word in _HELP else word for word in arguments.words])
    return EXIT_PROBLEMS if result is not None and result.has_problems else 0


def _parser(is_windbg: bool) -> argparse.ArgumentParser:
    names = ", ".join(commands_of("windows"))
    parser = argparse.ArgumentParser(
        prog="dlwhy_windbg.py",
        description="Explain the DLLs of a process, a machine or a dump.",
        epilog=f"COMMAND --help explains a command. Commands: {names}.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--install", action="store_true", help="define an alias such as !dllshare for each command")
    if not is_windbg:
        source = parser.add_mutually_exclusive_group()
        source.add_argument("-z", dest="dump", metavar="FILE", help="open this dump")
        source.add_argument(
            "-p", dest="pid", metavar="PID", type=int, help="attach to this process, and let it go after"
        )
        source.add_argument("-o", dest="program", metavar="COMMANDLINE", help="start this program, to trace it")
        parser.add_argument("-y", dest="symbols", metavar="PATH", help="look for PDBs here, as _NT_SYMBOL_PATH says")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help=names)
    parser.add_argument("words", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="the command's own arguments")
    return parser


def _open(arguments: argparse.Namespace) -> None:
    """Open the target with an engine of our own.

    :raises UsageError: if nothing is named.
    :raises NoTargetError: if it cannot be opened.
    """
    if arguments.dump is None and arguments.pid is None and arguments.program is None:
        raise UsageError("nothing to examine: give -z DUMP or -p PID before the command, or run it inside WinDbg")
    try:
        pykd.initialize()
        if arguments.symbols is not None:
            pykd.setSymbolPath(arguments.symbols)
        if arguments.dump is not None:
            pykd.loadDump(arguments.dump)
        elif arguments.program is not None:
            pykd.startProcess(arguments.program)
        else:
            pykd.attachProcess(arguments.pid)
    except pykd.DbgException as error:
        what = arguments.dump or arguments.program or f"process {arguments.pid}"
        raise NoTargetError(f"the engine cannot open {what}: {' '.join(str(error).split())}") from error


def _define_aliases(script: str) -> None:
    for name in commands_of("windows"):
        # The option -g is needed: the engine itself fails on a quoted word right after !py.
        pykd.dbgCommand(f'aS !{name} !py -g "{script}" {name}')
