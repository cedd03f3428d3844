"""What must the program that the user types into provide?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple, Optional, Protocol, TextIO, runtime_checkable

from .charset import escape_unencodable
from .errors import ClosedOutputError, OutputError
from .target import LiveTarget, Subscription, Target


class Screen(NamedTuple):
    """The properties of a screen: its columns (None: no limit), and whether to use ANSI escape codes."""

    width: Optional[int]
    colour: bool


class Host(Protocol):
    """The program that the user types into: gdb, LLDB, WinDbg or the shell."""

    @property
    def name(self) -> str:
        """Return the program's name."""

    def target(self) -> Target:
        """Return the current target.

        :raises NoTargetError: if none is selected.
        """

    def live_target(self) -> LiveTarget:
        """Return the process that this program runs, for a trace that outlives the command.

        :raises UnsupportedError: if this program cannot run processes.
        :raises NoTargetError: if it runs none.
        """

    @property
    def kept(self) -> dict[str, object]:
        """Return the objects that commands keep between runs, by name."""

    def evaluate(self, expression: str) -> int:
        """Evaluate an expression in the program's own syntax to an address.

        :raises NotFoundError: if the program cannot.
        """

    def write(self, text: str) -> None:
        """Write text to the user."""

    def screen(self) -> Screen:
        """Return the width and whether escape codes can be shown."""


@runtime_checkable
class ProgramHost(Host, Protocol):
    """A program that can also start the processes that are traced."""

    def when_loaded(self, callback: Callable[[], None]) -> Subscription:
        """Call back, perhaps several times, when the loader of the program that is started may have run.

        :raises NoTargetError: if there is no program that could be started.
        """


def write_to(stream: TextIO, text: str) -> None:
    """Write text to a stream at once, with an escape sequence for each character that its encoding lacks.

    :raises ClosedOutputError: if its reader has gone.
    :raises OutputError: if it cannot be written, as on a full disk.
    """
    try:
        stream.write(escape_unencodable(text, stream.encoding or "utf-8"))
        stream.flush()
    except BrokenPipeError as error:
        raise ClosedOutputError("cannot write: the reader has gone") from error
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}") from error


def open_closed_streams() -> None:
    """Open closed standard streams as /dev/null: else a file opened for reading could become standard output."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
