"""How does a test trace a program in each debugger?"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, LLDB_SCRIPT, SHELL
from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment
from dlwhy.tests.trace.attached import Traced, document_in

DEBUGGERS = [host for host in HOSTS if host != SHELL]


def debug(host: str, folder: Path, program: Path, commands: list[str], arguments: str = "", **variables: str) -> Traced:
    """Run a program in a debugger from main on, and give these commands."""
    folder.mkdir(parents=True, exist_ok=True)
    if host == GDB:
        words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load safe-path /"]
        words += ["-iex", "set pagination off", "-x", str(SCRIPT), str(program)]
        flag, environment = "-ex", {}
        given = [f"set environment {name} {value}" for name, value in variables.items()]
        before = ["set startup-with-shell off", *given, f"set args {arguments}", "break main", "run"]
    else:
        lldb = lldbs.get(host.rpartition("-")[2])
        words = [*lldb.command, "--no-lldbinit", "--batch", str(program)]
        flag, environment = "-o", dict(lldb.environment)
        given = [f"settings set target.env-vars {name}={value}" for name, value in variables.items()]
        before = [f'command script import "{LLDB_SCRIPT}"', *given, "breakpoint set -n main", "run"]
        if arguments:
            before.insert(1, f"settings set -- target.run-args {arguments}")
    for command in [*before, *commands]:
        words += [flag, command.replace("$LOG", str(folder / "log.jsonl"))]
    run = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        check=False,
        env=clean_environment(environment),
        timeout=120,
    )
    assert "Traceback" not in run.stdout, run.stdout
    return Traced(folder, run.stdout)


HERE = Path(__file__).resolve().parent


def run(host: str, folder: Path, program: Path, what: str, commands: Sequence[str]) -> Traced:
    """Do one thing in a debugger; `go` and `report` stand for its own commands."""
    go = "continue" if host == GDB else "process continue"
    given = {"go": go, "report": "dltrace report --json", "start": "dltrace start --log $LOG"}
    arguments = f"{what} {program.parent / 'libother.so'}"
    result = debug(host, folder, program, [given.get(each, each) for each in commands], arguments)
    if "report" in commands:
        result.report = document_in(result.output)
    return result
