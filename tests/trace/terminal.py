"""How does someone type into a debugger? On a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = 120
PATIENCE = 5
INTERRUPT = b"\x03"
#: What a terminal is told besides text: colours, and where LLDB's line editor draws.
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


class Terminal:
    """A program that prompts on a pseudo terminal."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes], ask: str) -> None:
        self._descriptor = descriptor
        self._process = process
        self._ask = ask
        self._marks = 0
        self.output = ""

    def wait_for(self, text: str) -> str:
        """Wait until a text comes; gives what came up to it."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.output:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.output}"
            self._read()
        before, _, self.output = self.output.partition(text)
        return before

    def _read(self) -> None:
        """Read for up to a second."""
        ready, _, _ = select.select([self._descriptor], [], [], 1)
        if ready:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:
                data = b""
            assert data, f"the debugger has gone:\n{self.output}"
            self.output += _CONTROL.sub(b"", data).decode("utf-8", "replace")

    def send(self, data: bytes) -> None:
        """Type."""
        os.write(self._descriptor, data)

    def interrupt_until(self, *texts: str) -> str:
        """Press the interrupt key until one of some texts comes: LLDB misses it where it goes on by itself."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            self.send(INTERRUPT)
            again = time.monotonic() + PATIENCE
            while time.monotonic() < again:
                for text in texts:
                    if text in self.output:
                        return self.wait_for(text)
                self._read()
            assert time.monotonic() < deadline, f"none of {texts} in:\n{self.output}"

    def begin(self, command: str) -> None:
        """Give a command and do not wait for its end."""
        self.send(command.encode() + b"\n")

    def command(self, command: str) -> str:
        """Give a command, and wait for its end."""
        self.begin(command)
        return self.settle()

    def settle(self) -> str:
        """Wait until the debugger listens; gives what it has said.

        It echoes what is typed before that, and its prompt comes where it likes: it must say what was not typed. LLDB
        gives its process what is typed while that runs, so it is asked again; only the last answer leaves nothing to
        be read, for with a line waiting LLDB goes on reading commands while the process runs.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert time.monotonic() < deadline, f"the debugger does not listen:\n{self.output}"
            self._marks += 1
            mark = f"mark-{self._marks}-mark"
            self.begin(self._ask.format(self._marks))
            patience = time.monotonic() + PATIENCE
            while mark not in self.output and time.monotonic() < patience:
                self._read()
            if mark in self.output:
                return self.wait_for(mark)


@contextmanager
def terminal(words: Sequence[str], ask: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a program on a terminal within the ``with`` statement."""
    controller, other = pty.openpty()
    process = subprocess.Popen(
        words,
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=folder,
        env={**environment, "TERM": "dumb"},
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(other)
    try:
        yield Terminal(controller, process, ask)
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that its interrupt key sends signals."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
