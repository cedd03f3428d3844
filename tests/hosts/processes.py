"""How does a fixture's program get to a stop without a debugger? It says where it is, and waits to be let on."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dlwhy.tests.hosts.gdbrun import clean_environment, run_environment
from dlwhy.tests.hosts.scenario import Fixture, Run

PTRACE_TRACEME = 0
PTRACE_DETACH = 17
TIMEOUT = 60


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program that waits at each of its stops, and end it afterwards."""
    process = subprocess.Popen(
        list(command),
        env=clean_environment({**environment, "FIXTURE_WAIT": "1"}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stops_of(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the number of each stop while the program waits there; go on when the next one is asked for."""
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        word, _, number = line.strip().partition(" ")
        if word == "stop":
            yield int(number)
            process.stdin.write("\n")
    assert process.wait(TIMEOUT) == 0, f"the program ended with {process.returncode}"


@contextmanager
def at_stops(fixture: Fixture, run: Run, build: Path) -> Iterator[Iterator[tuple[int, int]]]:
    """Run a fixture's program; give process id and number of each of its stops, but for the first instruction."""
    with started([str(build / fixture.program)], run_environment(run, build)) as process:
        yield ((process.pid, stop) for stop in stops_of(process))


@contextmanager
def at_first_instruction(program: str, environment: Mapping[str, str]) -> Iterator[int]:
    """Start a program and leave it stopped, untraced, before it has executed anything; LLDB's detach lets it run."""
    variables = clean_environment(environment)
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    pid = os.fork()
    if pid == 0:
        ptrace(PTRACE_TRACEME, 0, None, None)
        os.execve(program, [program], variables)
    try:
        os.waitpid(pid, 0)
        if ptrace(PTRACE_DETACH, pid, None, ctypes.c_void_p(signal.SIGSTOP)):
            raise OSError(ctypes.get_errno(), "ptrace")
        wait_for_state(pid, "T")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def wait_for_state(pid: int, state: str) -> None:
    """Wait until a process is in a state of /proc/PID/stat."""
    deadline = time.monotonic() + TIMEOUT
    while Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline, f"process {pid} never was in state {state}"
        time.sleep(0.001)
