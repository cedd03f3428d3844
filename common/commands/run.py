"""How is a command run, and its answer or failure reported?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional, TypeVar, Union

from ..errors import ClosedOutputError, DlwhyError, IncompleteSearchError, NotFoundError, UsageError
from ..guards import describe_bug, traceback_of
from ..host import Host
from ..imports import OwnImports
from ..render.text import escape, render
from .parser import HelpRequested
from .registry import Command
from .session import Result, Session

_T = TypeVar("_T")


#: Exit statuses; 70 is EX_SOFTWARE of sysexits.h.
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_TARGET = 3
EXIT_PROBLEMS = 4
EXIT_BUG = 70


class Failure(NamedTuple):
    """Why a command failed: its name, the message, and the shell's exit status."""

    name: str
    message: str
    status: int

    @property
    def text(self) -> str:
        """Return the message prefixed with the command's name; empty if the output's reader has gone."""
        return f"{self.name}: {self.message}" if self.message else ""


def attempt(name: str, act: Callable[[], _T]) -> Union[_T, Failure]:
    """Return the result of ``act``, the run of a command, or its failure; KeyboardInterrupt propagates to the host.

    An unexpected exception is a bug of ours and reported as one in one line; DLWHY_DEBUG=1 shows its traceback.
    """
    try:
        with OwnImports():
            return act()
    except ClosedOutputError:
        return Failure(name, "", 0)
    except IncompleteSearchError as error:
        return Failure(name, escape(str(error)), EXIT_PROBLEMS)
    except DlwhyError as error:
        is_usage = isinstance(error, (UsageError, NotFoundError))
        return Failure(name, escape(str(error)), EXIT_USAGE if is_usage else EXIT_TARGET)
    except Exception as error:  # noqa: BLE001 - no bug ends a debugger, or looks like an answer
        return Failure(name, _bug_message(error), EXIT_BUG)


def _bug_message(error: Exception) -> str:
    line = f"a bug in dlwhy: {escape(describe_bug(error))}; please report it"
    trace = traceback_of(error)
    if not trace:
        return f"{line} with the traceback, which DLWHY_DEBUG=1 in the environment shows"
    return "\n".join([f"{line} with this traceback", *map(escape, trace.splitlines())])


def run(host: Host, command: Command, words: Sequence[str]) -> Optional[Result]:
    """Run a command and write its answer to the host; return None if only help was asked for.

    :raises DlwhyError: if it cannot be answered.
    """
    try:
        arguments = command.parse(words)
    except HelpRequested:
        host.write(command.help() + "\n")
        return None
    result = command.function()(Session(host), arguments)
    if arguments.json:
        from ..render.json_parts import dump  # json takes longer to import than a short text to write

        host.write(dump(result.document()))
        return result
    text = render(result.view(arguments.verbose))
    if arguments.color == "always" or (arguments.color == "auto" and host.screen().colour):
        from ..render.colour import colourise  # pygments

        text = colourise(text)
    host.write(text)
    return result
