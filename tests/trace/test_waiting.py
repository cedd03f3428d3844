"""Does a trace that is asked for before the loader has run begin by itself, in a program without symbols?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS, debugger_words
from dlwhy.tests.support.children import output_of
from dlwhy.tests.trace.attached import document_in

PROGRAM = """
#include <dlfcn.h>
__attribute__((constructor)) static void begin(void) { dlclose(dlopen("libm.so.6", RTLD_NOW)); }
int main(void) { dlopen("libm.so.6", RTLD_NOW); return 0; }
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waiting")
    (folder / "early.c").write_text(PROGRAM, encoding="ascii")
    subprocess.run(["gcc", "-s", "-o", str(folder / "early"), str(folder / "early.c"), "-ldl"], check=True)
    return folder / "early"


def debug(host: str, program: Path, commands: list[str]) -> str:
    """Give commands to a debugger that has not started the program."""
    before = ["set startup-with-shell off"] if host == GDB else []
    words, environment = debugger_words(host, [*before, *commands], program)
    output = output_of(words, program.parent, environment)
    assert "Traceback" not in output, output
    return output


def judge(output: str) -> None:
    assert "The loader has not run yet: the trace begins when it has.\n" in output
    assert "Tracing all opens and closes; dltrace report sums up, dltrace stop ends.\n" in output
    totals = document_in(output)["totals"]
    assert (totals["opens"], totals["closes"], totals["closes_predicted_exactly"]) == (2, 1, 1), output
    assert document_in(output)["problems"] == []


@pytest.mark.parametrize("host", DEBUGGERS)
def test_before_run(host: str, program: Path) -> None:
    judge(debug(host, program, ["dltrace start", "run", "dltrace report --json"]))


@pytest.mark.parametrize("host", DEBUGGERS)
def test_at_the_first_instruction_of_all(host: str, program: Path) -> None:
    first = "starti" if host == GDB else "process launch --stop-at-entry"
    go = "continue" if host == GDB else "process continue"
    judge(debug(host, program, [first, "dltrace start", go, "dltrace report --json"]))


def test_a_trace_that_waits_can_be_ended(program: Path) -> None:
    commands = ["dltrace start", "dltrace report", "dltrace start", "dltrace stop", "run", "dltrace report"]
    output = debug(GDB, program, commands)
    assert "dltrace: the loader has not run yet: the trace begins when it has\n" in output
    assert "The trace was ended before it began.\n" in output
    assert "nothing has been traced: use dltrace start first" in output
    assert "Tracing" not in output


def test_without_a_program_there_is_nothing_to_wait_for(program: Path) -> None:
    assert "dltrace: no program: use file, or attach, first" in debug(GDB, program, ["file", "dltrace start"])


def test_a_core_is_not_waited_for(program: Path, tmp_path: Path) -> None:
    core = tmp_path / "core"
    commands = [
        "break __libc_start_main",
        "run",
        f"generate-core-file {core}",
        "kill",
        f"core-file {core}",
        "dltrace start",
    ]
    output = debug(GDB, program, ["set breakpoint pending on", *commands])
    assert "dltrace: a core file does not run: dltrace needs a process" in output


def test_a_program_that_cannot_be_traced_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "still.c").write_text("int main(void) { return 0; }\n", encoding="ascii")
    program = tmp_path / "still"
    subprocess.run(["gcc", "-static", "-o", str(program), str(program) + ".c"], check=True)
    output = debug(GDB, program, ["dltrace start", "starti", "dltrace start"])
    assert "dltrace: the program is statically linked" in output
