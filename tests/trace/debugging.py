"""How does a test trace a program in each debugger?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import debugger_words
from dlwhy.tests.support.children import output_of
from dlwhy.tests.trace.attached import Traced, document_in


def debug(host: str, folder: Path, program: Path, commands: list[str], arguments: str = "", **variables: str) -> Traced:
    """Run a program in a debugger from main on, and give these commands."""
    folder.mkdir(parents=True, exist_ok=True)
    if host == GDB:
        given = [f"set environment {name} {value}" for name, value in variables.items()]
        before = ["set startup-with-shell off", *given, f"set args {arguments}", "break main", "run"]
    else:
        given = [f"settings set target.env-vars {name}={value}" for name, value in variables.items()]
        if arguments:
            given.append(f"settings set -- target.run-args {arguments}")
        before = [*given, "breakpoint set -n main", "run"]
    given = [command.replace("$LOG", str(folder / "log.jsonl")) for command in commands]
    words, environment = debugger_words(host, [*before, *given], program)
    output = output_of(words, folder, environment)
    assert "Traceback" not in output, output
    return Traced(folder, output)


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
