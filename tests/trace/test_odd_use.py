"""Does a trace stay right, and out of the way, where programs and users do what is seldom done?"""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.scenario import fixtures
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.attached import document_in
from dlwhy.tests.trace.debugging import debug, run


@pytest.mark.parametrize("host", DEBUGGERS)
def test_closes_of_what_is_not_open(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "vainly", ["start", "go", "dltrace report", "report"])
    account = next(each for each in result.report["library_totals"] if each["name"] == "safety")
    assert (account["open_count_at_start"], account["open_count_now"]) == (1, 1)
    assert sum(each["count"] for each in account["opens_by_caller"]) == 2
    assert sum(each["count"] for each in account["closes_by_caller"]) == 2
    close, other = result.report["closes_not_open"]
    assert (close["library"]["name"], close["predicted_outcome"], close["caller"]["function"]) == (
        "safety",
        "not-open",
        "main",
    )
    assert (other["library"], other["predicted_outcome"]) == (None, "not-open")
    said = " ".join(result.output.split())
    assert "Closed without being open: dlclose(safety) by main (safety.c:" in said
    assert f"; dlclose({other['handle']}) by main (safety.c:" in said
    assert "Never closed" not in result.output  # the program cannot go anyway


@pytest.mark.parametrize("host", DEBUGGERS)
def test_whole_accounts_where_one_library_is_asked_for(host: str, tmp_path: Path) -> None:
    # The open of libdying.so is not about libnext.so; its close is, since its destructor closes that.
    main = build(fixtures()["closing"]) / "main"
    go = "continue" if host == GDB else "process continue"
    start = "dltrace start --log $LOG"
    result = debug(host, tmp_path, main, [f"{start} libnext.so", go, "dltrace report --json"])
    assert [(each["event"], each["library"]["name"], each["within_event"]) for each in result.events()] == [
        ("open", "libnext.so", None),
        ("close", "libdying.so", None),
        ("close", "libnext.so", 3),
    ]
    report = document_in(result.output)
    assert report["filter"] == ["libnext.so"]
    counts = {
        each["name"]: tuple(sum(calls["count"] for calls in each[f"{key}_by_caller"]) for key in ("opens", "closes"))
        for each in report["library_totals"]
    }
    assert counts == {"libdying.so": (1, 1), "libnext.so": (1, 1)}
    assert [each["predicted_for_outer_close"] for each in result.events("close")] == [[], ["libnext.so"]]
    nothing = debug(host, tmp_path / "nothing", main, [f"{start} libnone.so", go, "dltrace report"])
    assert "Nothing of libnone.so was opened or closed." in nothing.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_what_is_under_way_is_told(host: str, program: Path, tmp_path: Path) -> None:
    start = "dltrace start --log $LOG --stop-when "
    for when, word, kind in (("opened", "dlopen", "open"), ("unloaded", "dlclose", "close")):
        result = run(host, tmp_path, program, "nothing", [start + when, "go", "dltrace report", "report"])
        assert [each["event"] for each in result.report["end_not_seen"]] == [kind]
        assert f"  not seen to end   #{1 if kind == 'open' else 2} {word}(" in result.output
        assert "by cycle (safety.c:" in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_an_open_that_has_failed_just_now(host: str, program: Path, tmp_path: Path) -> None:
    stop = "break puts" if host == GDB else "breakpoint set -n puts"
    result = run(host, tmp_path, program, "failures", [stop, "start", "go", "report", "go"])
    totals = result.report["totals"]
    assert (totals["opens"], totals["opens_failed"], totals["end_not_seen"]) == (3, 2, 0)
    assert result.report["end_not_seen"] == []
    assert result.report["watching"] is True


@pytest.mark.parametrize("host", DEBUGGERS)
@pytest.mark.parametrize("library", ["", "libother.so", "libo*"])
def test_an_open_stops_the_process_once(host: str, library: str, program: Path, tmp_path: Path) -> None:
    start = f"dltrace start --log $LOG --stop-when opened {library}"
    result = run(host, tmp_path, program, "leave", [start, *["go"] * 7, "report"])
    assert result.output.count("dltrace: dlopen(") == 6
    assert "dltrace: before" not in result.output
    assert result.report["end_reason"] == "the process ended"


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_full_disk_does_not_stop_the_process(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "leave", ["dltrace start --log /dev/full", "go", "report", "dltrace stop"])
    said = "/dev/full cannot be written: No space left on device; the log ends there"
    assert result.output.count(f"dltrace: {said}") == 1
    assert result.report["problems"] == [{"where": "log", "message": said}]
    assert result.report["totals"]["opens"] == 6
    assert "done" in result.output
    assert "Python Exception" not in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_process_that_is_let_go(host: str, program: Path, tmp_path: Path) -> None:
    # LLDB 14 goes on to the next command before it has let go.
    is_gone = "lldb.target.process.GetState() == lldb.eStateDetached"
    wait = f"script import time; [time.sleep(0.01) for _ in iter(lambda: {is_gone}, True)]"
    away = ["detach"] if host == GDB else ["process detach", wait]
    result = run(host, tmp_path, program, "nothing", ["start", *away, "report"])
    killed = "the process was killed, or gdb let go of it"
    assert result.report["end_reason"] == (killed if host == GDB else "LLDB let go of the process")


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_destructor_of_a_library_just_opened(host: str, program: Path, tmp_path: Path) -> None:
    result = run(host, tmp_path, program, "owes", ["dltrace start --tls --log $LOG", "go", "dltrace report"])
    (registered,) = result.events("tls-registration")
    assert (registered["library"]["name"], registered["destructor"]["library"]) == ("libother.so", "libm.so.6")
    assert registered["destructor_elsewhere"] is True
    assert (registered["destructor"]["library"], registered["within_event"]) == ("libm.so.6", None)
    assert "wrong owner: libm.so.6" in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_dlsym_of_the_program_makes_nodelete(host: str, program: Path, tmp_path: Path) -> None:
    # Afterwards it could have been RTLD_NODELETE too; but no open had that.
    result = run(host, tmp_path, program, "binds", ["start", "go", "dltrace report"])
    (pin,) = result.events("pin")
    assert (pin["library"]["name"], pin["origin"], pin["symbols"]) == ("libother.so", "bound-by-startup", None)
    assert "dlsym by what was loaded at start" in result.output


def test_a_child_that_gdb_follows(program: Path, tmp_path: Path) -> None:
    result = run(GDB, tmp_path, program, "fork", ["set follow-fork-mode child", "start", "go", "report"])
    assert result.report["end_reason"] == "the process was killed, or gdb let go of it"
    assert "exited normally" in result.output
    assert "Cannot insert breakpoint" not in result.output


def test_symbols_read_anew(program: Path, tmp_path: Path) -> None:
    result = run(GDB, tmp_path, program, "leave", ["start", f"file {program}", "go", "report"])
    assert result.report["end_reason"] == "the process ended"
    assert len(result.events("open")) == 6


def test_another_program_in_the_same_gdb(program: Path, tmp_path: Path) -> None:
    commands = ["start", "add-inferior", "inferior 2", "dltrace report", "dltrace start", "inferior 1", "report"]
    arguments = f"set args nothing {program.parent / 'libother.so'}"
    commands += ["inferior 2", f"file {program}", arguments, "run", "continue", "inferior 1", "continue"]
    result = run(GDB, tmp_path, program, "leave", [*commands, "report"])
    assert "dltrace: the trace is of inferior 1: use inferior 1 first" in result.output
    assert "dltrace: a trace is going on: use dltrace stop first" in result.output
    first = result.output[: result.output.rindex('{\n  "schema"')]
    assert document_in(first)["watching"] is True
    assert result.report["end_reason"] == "gdb was given another program beside it"
    assert "Cannot insert breakpoint" not in result.output
    assert result.output.count("exited normally") == 2


def test_wrong_words(program: Path, tmp_path: Path) -> None:
    commands = ["dltrace", "dltrace start --stop-when never", "dltrace start ''", f"dltrace start --log {tmp_path}"]
    result = run(GDB, tmp_path, program, "nothing", [*commands, "dltrace report"])
    assert "dltrace: the following arguments are required: start|report|stop; see help dltrace" in result.output
    assert "dltrace: argument --stop-when: invalid choice: 'never'" in result.output
    assert "dltrace: LIB is empty: name a library, or give none to trace all" in result.output
    assert f"dltrace: {tmp_path} cannot be written: Is a directory" in result.output
    assert "dltrace: nothing has been traced: use dltrace start first" in result.output


def test_gdb_takes_an_option_for_its_own(program: Path, tmp_path: Path) -> None:
    asked = 'interpreter-exec mi "-dlplan --all"'
    result = run(GDB, tmp_path, program, "leave", ["break puts", "go", asked])
    assert '^done,schema="dlwhy/1",command="dlplan"' in result.output
    assert 'plans=[{library={name="libother.so"' in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_musl_has_no_closes_to_trace(host: str, tmp_path: Path) -> None:
    fixture = fixtures()["musl"]
    result = debug(host, tmp_path, build(fixture) / fixture.program, ["dltrace start"])
    assert "dltrace: musl never unloads, by design: there is no close to trace" in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_all_symbols_that_make_a_library_stay_are_counted(host: str, tmp_path: Path) -> None:
    fixture = fixtures()["story"]
    go = "continue" if host == GDB else "process continue"
    commands = ["dltrace start --log $LOG", go, "dltrace report", "dltrace report -v"]
    result = debug(host, tmp_path, build(fixture) / fixture.program, commands)
    (pin,) = (each for each in result.events("pin") if each["library"]["name"] == "libstdc++.so.6")
    count = len(pin["symbols"]) + pin["symbols_omitted"]
    assert count > len(pin["symbols"]) > 0
    assert f"{count} symbols" in result.output
    assert f", {pin['symbols_omitted']} more" in result.output
