"""Is a bug of ours one line in every debugger, and its traceback there for who asks for it?"""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.scenario import fixtures

from .typed import DEBUGGERS, ask

REPORT = "please report it with the traceback, which DLWHY_DEBUG=1 in the environment shows"


def broken(host: str, folder: Path, error: str) -> list[str]:
    """Return the commands that take a program to its first stop and break dlstate."""
    program = build(fixtures()["dependency"]) / fixtures()["dependency"].program
    script = folder / "breaking.py"
    body = f"def explain(*_, **__):\n    raise {error}\n"
    script.write_text(f"{body}from dlwhy.common.commands.dlstate import command\ncommand.explain = explain\n")
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
