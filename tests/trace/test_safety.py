"""Does a trace leave process and debugger alone: namespaces that go, forks, exec, kill, run again, threads?"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.support.naming import names_of
from dlwhy.tests.trace.attached import document_in
from dlwhy.tests.trace.debugging import run


@pytest.mark.parametrize("host", DEBUGGERS)
def test_survives_namespaces_that_go(host: str, program: Path, tmp_path: Path) -> None:
    # gdb 13 to 17 take the end of a namespace for that of ld.so, and forget a breakpoint there: the process dies of it.
    result = run(host, tmp_path, program, "spaces", ["start", "go", "report"])
    closes = result.events("close")
    assert [each["library"]["namespace"] for each in closes] == [0, 1, 0, 1, 0, 1, 0]
    assert all(each["predicted_exactly"] for each in closes)
    assert names_of(closes[1]["unloaded"]) == ["libc.so.6", "libother.so"]
    assert "warning" not in result.output
    assert "SIGSEGV" not in result.output
    assert result.report["totals"]["end_not_seen"] == 0


@pytest.mark.parametrize("host", DEBUGGERS)
@pytest.mark.parametrize("what", ["fork", "fork-exec"])
def test_children_are_left_alone(host: str, what: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, what, ["start", "go", "report"])
    assert "done" in result.output
    assert len(result.events("close")) == 2
    assert result.report["totals"]["closes_mispredicted"] == 0


@pytest.mark.parametrize("host", DEBUGGERS)
def test_another_program_ends_the_trace(host: str, program: Path, tmp_path: Path) -> None:
    # gdb stops again at main, LLDB at the exec too.
    result = run(host, tmp_path, program, "exec", ["start", *["go"] * (2 if host == GDB else 3), "report"])
    assert "done" in result.output
    assert len(result.events("close")) == 1
    assert result.report["end_reason"] == "the process executed another program"
    assert "Cannot insert breakpoint" not in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_threads_at_once(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "threads", ["start", "go", "report"])
    closes = result.events("close")
    assert len(closes) == len(result.events("open")) == 81
    totals = result.report["totals"]
    assert (totals["closes_mispredicted"], totals["end_not_seen"], totals["opens_unseen"], totals["closes_unseen"]) == (
        0,
        0,
        0,
        0,
    )
    assert result.report["problems"] == []
    assert sum(names_of(each["unloaded"]) == ["libother.so"] for each in closes) == totals["closes_that_unloaded"]


@pytest.mark.parametrize("host", DEBUGGERS)
def test_failed_opens(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "failures", ["start", "go", "report"])
    failed = [each for each in result.events("open") if each["result"] == "failed"]
    assert [each["requested"] for each in failed] == ["libmissing.so", "libmissing.so"]
    assert result.report["totals"]["opens_failed"] == 2


@pytest.mark.parametrize("host", DEBUGGERS)
def test_names_who_never_closed(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "leave", ["start", "go", "dltrace report", "report"])
    (account,) = result.report["library_totals"]
    assert (account["name"], account["open_count_at_start"]) == ("libother.so", 0)
    assert sum(each["count"] for each in account["opens_by_caller"]) == 6
    assert sum(each["count"] for each in account["closes_by_caller"]) == 3
    assert "Never closed: libother.so was opened 3 times more than closed, by " in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_stopped_trace_leaves_nothing(host: str, program: Path, tmp_path: Path) -> None:
    listing = "maintenance info breakpoints" if host == GDB else "breakpoint list --internal"
    result = run(host, tmp_path, program, "spaces", ["start", "dltrace stop", listing, "go", "report"])
    assert result.events() == []
    assert result.report["end_reason"] == "it was stopped"
    assert "exited" in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_kill_and_run_again(host: str, program: Path, tmp_path: Path) -> None:
    go = ["kill" if host == GDB else "process kill", "run", "go"]
    result = run(host, tmp_path, program, "spaces", ["start", *go, "report"])
    assert result.events() == []
    assert "done" in result.output
    assert result.report["watching"] is False
    # And a new trace can begin in the new process.
    again = run(host, tmp_path / "again", program, "fork", ["start", *go[:2], "start", "go", "report"])
    assert len(again.events("close")) == 2


def test_detaching_takes_the_breakpoints_away(program: Path, tmp_path: Path) -> None:
    result = run(GDB, tmp_path, program, "spaces", ["start", "detach", "shell sleep 0.5", "dltrace report --json"])
    assert "done" in result.output
    assert document_in(result.output)["watching"] is False


def test_the_users_breakpoints_are_as_they_were(program: Path, tmp_path: Path) -> None:
    commands = ["info breakpoints", "start", "info breakpoints", "break puts", "go", "backtrace 1", "report"]
    result = run(GDB, tmp_path, program, "spaces", commands)
    listings = result.output.split("Num     Type")[1:]
    assert len(listings) == 2
    assert listings[0].splitlines()[1:3] == listings[1].splitlines()[1:3]
    assert "Breakpoint 2 at" in result.output  # as if there were no others
    assert "#0  " in result.output


def test_non_stop_mode(program: Path, tmp_path: Path) -> None:
    result = run(GDB, tmp_path, program, "threads", ["kill", "set non-stop on", "run", "start", "go", "report"])
    assert len(result.events("close")) == 81
    assert result.report["totals"]["closes_mispredicted"] == 0


def test_nothing_is_asked_twice(program: Path, tmp_path: Path) -> None:
    commands = ["dltrace report", "dltrace stop", "start", "dltrace start", "dltrace report --tls", "go", "dltrace bar"]
    result = run(GDB, tmp_path, program, "fork", commands)
    assert result.output.count("dltrace: nothing has been traced: use dltrace start first") == 2
    assert "dltrace: a trace is going on: use dltrace stop first" in result.output
    assert "dltrace: dltrace report takes no libraries and no options of dltrace start" in result.output
    assert "invalid choice: 'bar'" in result.output
    assert shutil.which("gdb")
