"""Is a bug of ours one line in every debugger, and its traceback there for who asks for it?"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, LLDB_SCRIPT, SHELL
from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment
from dlwhy.tests.hosts.scenario import fixtures

NONE: Mapping[str, str] = {}
DEBUGGERS = [host for host in HOSTS if host != SHELL]
REPORT = "please report it with the traceback, which DLWHY_DEBUG=1 in the environment shows"


def debugger_words(
    host: str, commands: Sequence[str], *, with_dlwhy: bool = True
) -> tuple[list[str], Mapping[str, str]]:
    """Return a debugger's command line with dlwhy and these commands, and what its environment must say."""
    if host == GDB:
        words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load safe-path /"]
        words += ["-iex", "set pagination off", *(["-x", str(SCRIPT)] if with_dlwhy else [])]
        return [*words, *(word for command in commands for word in ("-ex", command))], {}
    lldb = lldbs.get(host.rpartition("-")[2])
    words = [*lldb.command, "--no-lldbinit", "--batch"]
    words += ["-o", f'command script import "{LLDB_SCRIPT}"'] if with_dlwhy else []
    return [*words, *(word for command in commands for word in ("-o", command))], lldb.environment


def ask(
    host: str, commands: Sequence[str], folder: Path, variables: Mapping[str, str] = NONE, *, with_dlwhy: bool = True
) -> str:
    """Run commands in a debugger; return all that it wrote."""
    words, environment = debugger_words(host, commands, with_dlwhy=with_dlwhy)
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        cwd=folder,
        env=clean_environment({**environment, "HOME": str(folder), **variables}),
        timeout=120,
        check=False,
    )
    return done.stdout


def broken(host: str, folder: Path, error: str) -> list[str]:
    """Return the commands that take a program to its first stop and break dlstate."""
    program = build(fixtures()["dependency"]) / fixtures()["dependency"].program
    script = folder / "breaking.py"
    body = f"def explain(*_, **__):\n    raise {error}\n"
    script.write_text(f"{body}from dlwhy.common.commands import dlstate\ndlstate.explain = explain\n")
    if host == GDB:
        return [f"file {program}", "break stop_here", "run", f"source {script}"]
    return [f"target create {program}", "breakpoint set -n stop_here", "run", f"command script import {script}"]


@pytest.mark.parametrize("host", DEBUGGERS)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("TypeError('it is\\nbroken →')", "TypeError: it is broken →"),
        ("MemoryError", "MemoryError"),
        ("RecursionError('\\x1b[31m')", "RecursionError: \\x1b[31m"),
        ("UnicodeDecodeError('ascii', b'\\xff', 0, 1, 'no')", "UnicodeDecodeError: 'ascii' codec can't decode byte"),
    ],
)
def test_one_line(host: str, error: str, said: str, tmp_path: Path) -> None:
    output = ask(host, [*broken(host, tmp_path, error), "dlstate"], tmp_path)
    line = next(line for line in output.splitlines() if "a bug in dlwhy" in line)
    assert line.removeprefix("error: ").startswith(f"dlstate: a bug in dlwhy: {said}")
    assert line.endswith(f"; {REPORT}")
    assert " (common/commands/dlstate/command.py:" in line or " (common/commands/run.py:" in line
    assert "Traceback" not in output
    assert "Python Exception" not in output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_with_its_traceback(host: str, tmp_path: Path) -> None:
    output = ask(host, [*broken(host, tmp_path, "TypeError('broken')"), "dlstate"], tmp_path, {"DLWHY_DEBUG": "1"})
    assert "dlstate: a bug in dlwhy: TypeError: broken (common/" in output
    assert "; please report it with this traceback\nTraceback (most recent call last):\n" in output
    assert "\nTypeError: broken\n" in output


def test_in_mi(tmp_path: Path) -> None:
    commands = [*broken(GDB, tmp_path, "TypeError('broken')"), 'interpreter-exec mi "-dlstate"']
    (line,) = [line for line in ask(GDB, commands, tmp_path).splitlines() if line.startswith("^")]
    assert line.startswith('^error,msg="a bug in dlwhy: TypeError: broken (common/')
    assert line.endswith(f'; {REPORT}"')
