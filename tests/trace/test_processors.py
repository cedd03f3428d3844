"""Does dltrace see the same on other processors? i386 runs here, the others below qemu-user (matrix)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.crossbuild import EMULATED, I386, SOCKET, Architecture, require, sysroot_of, waiting_for_gdb
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.gdbrun import SCRIPT
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.support.children import output_of
from dlwhy.tests.support.naming import names_of
from dlwhy.tests.trace.attached import Traced, document_in
from dlwhy.tests.trace.debugging import HERE, run

SYSTEMS = [pytest.param(each, suite, id=f"{each.name}-{suite}") for each in EMULATED for suite in each.suites]


def build(architecture: Architecture, folder: Path) -> Path:
    """Build the program and the library that it opens."""
    require(architecture)
    folder.mkdir()
    compiler = f"{architecture.triplet}-gcc"
    (folder / "other.c").write_text("int other;\n")
    shared = ["-shared", "-fPIC", "-Wl,--no-as-needed", "-lc"]
    subprocess.run([compiler, "-g", "-o", "libother.so", "other.c", *shared], check=True, cwd=folder)
    words = [compiler, "-g", "-O1", "-o", "safety", str(HERE / "safety.c"), "-ldl", "-lpthread"]
    subprocess.run(words, check=True, cwd=folder)
    return folder / "safety"


def judge_namespaces(result: Traced) -> None:
    """Hold a trace against what the program did."""
    closes = result.events("close")
    assert [each["library"]["namespace"] for each in closes] == [0, 1, 0, 1, 0, 1, 0]
    assert all(each["predicted_exactly"] for each in closes)
    assert {each["caller"]["function"] for each in closes} <= {"cycle", "space", "main"}
    assert result.report["totals"]["end_not_seen"] == 0
    assert result.report["problems"] == []


def judge_failures(result: Traced) -> None:
    """Hold a trace of opens that fail against what the program did."""
    failed = [each["requested"] for each in result.events("open") if each["result"] == "failed"]
    assert failed == ["libmissing.so", "libmissing.so"]
    assert result.report["totals"]["end_not_seen"] == 0


@pytest.fixture(scope="module")
def i386_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(I386, tmp_path_factory.mktemp("i386") / "program")


@pytest.mark.parametrize("host", DEBUGGERS)
def test_i386(host: str, i386_program: Path, tmp_path: Path) -> None:
    spaces = run(host, tmp_path / "spaces", i386_program, "spaces", ["start", "go", "report"])
    judge_namespaces(spaces)
    assert names_of(spaces.events("close")[1]["unloaded"]) == ["libc.so.6", "libother.so"]
    watched = "dlclose, but not those by code in namespaces that came later"
    seen = watched if host == GDB else "_dl_close, by _rtld_global_ro"
    assert spaces.report["breakpoints"]["closes"] == seen
    judge_failures(run(host, tmp_path / "failures", i386_program, "failures", ["start", "go", "report"]))


@pytest.mark.parametrize("host", DEBUGGERS)
def test_threads_of_i386(host: str, i386_program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, i386_program, "threads", ["start", "go", "report"])
    assert len(result.events("close")) == len(result.events("open")) == 81
    totals = result.report["totals"]
    assert (totals["closes_mispredicted"], totals["end_not_seen"], totals["opens_unseen"], totals["closes_unseen"]) == (
        0,
        0,
        0,
        0,
    )


@pytest.mark.matrix
@pytest.mark.parametrize(("architecture", "suite"), SYSTEMS)
def test_over_qemu(architecture: Architecture, suite: str, tmp_path: Path) -> None:
    program = build(architecture, tmp_path / "program")
    judge_namespaces(trace_emulated(architecture, suite, program, "spaces", tmp_path / "spaces"))
    judge_failures(trace_emulated(architecture, suite, program, "failures", tmp_path / "failures"))


def trace_emulated(architecture: Architecture, suite: str, program: Path, what: str, folder: Path) -> Traced:
    """Let gdb-multiarch trace a program in the emulator."""
    sysroot = sysroot_of(architecture, suite)
    folder.mkdir()
    words = ["gdb-multiarch", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-x", str(SCRIPT)]
    commands = [f"set sysroot {sysroot}", f"file {program}", f"target remote {SOCKET}", "break main", "continue"]
    commands += [f"dltrace start --log {folder / 'log.jsonl'}", "continue", "dltrace report --json"]
    for command in commands:
        words += ["-ex", command]
    emulated = architecture.command(sysroot, program, "-g", SOCKET)
    with waiting_for_gdb([*emulated, what, str(program.parent / "libother.so")], dict(os.environ), folder):
        output = output_of(words, folder)
    return Traced(folder, output, document_in(output))
