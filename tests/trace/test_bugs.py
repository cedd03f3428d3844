"""Does a bug of ours in the handler of a breakpoint leave the process running, and the trace telling of it?

The bug is put in inside the real debugger: from then on a method of the tracer raises.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.debugging import run

#: What is run within the debugger: a method raises at some of its calls.
BREAK = """
import importlib
module, owner, name, error = {module!r}, {owner!r}, {name!r}, {error}
calls = 0
cls = getattr(importlib.import_module(module), owner)
method = getattr(cls, name)
def broken(*arguments, **named):
    global calls
    calls += 1
    if calls in {calls}:
        raise error
    return method(*arguments, **named)
setattr(cls, name, broken)
"""
#: The modules of the classes whose methods are broken.
MODULES = {
    "Tracer": "dlwhy.common.linux.trace.tracer",
    "LoaderSnapshot": "dlwhy.common.linux.trace.snapshot",
    "CallTracker": "dlwhy.common.linux.trace.tracker",
}


def breaking(host: str, folder: Path, calls: str, method: str) -> str:
    """Return the command that breaks a method."""
    script = folder / "breaking.py"
    owner, name = method.split(".")
    module = MODULES[owner]
    error = 'TypeError("two\\nlines")'
    script.write_text(BREAK.format(module=module, owner=owner, name=name, calls=calls, error=error))
    return f"source {script}" if host == GDB else f"command script import {script}"


@pytest.mark.parametrize("host", DEBUGGERS)
@pytest.mark.parametrize(
    "name", ["LoaderSnapshot.refresh", "CallTracker.advance", "Tracer._begin_open", "Tracer._begin_close"]
)
def test_one_event_that_is_not_understood(host: str, name: str, program: Path, tmp_path: Path) -> None:
    broken = breaking(host, tmp_path, "(2,)", name)
    result = run(host, tmp_path, program, "leave", ["start", broken, "go", "dltrace report", "report"])
    assert "done" in result.output
    assert "exited" in result.output
    (problem,) = result.report["problems"]
    assert problem["where"].split(" in thread ")[0] in ("_dl_open", "_dl_close", "dlopen", "dlclose")
    start = "a bug in dlwhy: TypeError: two lines (common/linux/trace/tracer.py:"
    assert problem["message"].startswith(start)
    assert ": the event was not understood, and what was going on then is not known; please" in problem["message"]
    totals = result.report["totals"]
    assert totals["closes_mispredicted"] == 0, "nothing false is said of what was going on"
    # Six opens and three closes; one of them was not seen, or its end was not.
    seen = totals["opens"] + totals["closes"]
    assert seen in (8, 9)
    assert seen == 8 or totals["end_not_seen"], totals
    assert result.report["library_totals"][0]["open_count_now"] is not None
    assert "problem" in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_every_event_is_not_understood(host: str, program: Path, tmp_path: Path) -> None:
    broken = breaking(host, tmp_path, "range(1, 1000)", "LoaderSnapshot.refresh")
    result = run(host, tmp_path, program, "leave", ["start", broken, "go", "dltrace report", "report"])
    assert "done" in result.output
    assert result.report["totals"]["opens"] == 0
    assert len(result.report["problems"]) in (2, 3)  # of opens, closes and the end
    assert "Nothing was seen to be opened or closed." in result.output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_the_report_survives_a_bug_while_the_process_stands(host: str, program: Path, tmp_path: Path) -> None:
    stop = "break puts" if host == GDB else "breakpoint set -n puts"
    broken = breaking(host, tmp_path, "range(1, 1000)", "LoaderSnapshot.refresh")
    result = run(host, tmp_path, program, "leave", [stop, "start", "go", broken, "report", "go"])
    assert [each["where"] for each in result.report["problems"]] == ["loader"]
    assert result.report["totals"]["opens"] + len(result.report["end_not_seen"]) == 6
    assert "done" in result.output


def test_the_end_of_the_process(program: Path, tmp_path: Path) -> None:
    broken = breaking(GDB, tmp_path, "range(1, 1000)", "Tracer._handle_end")
    result = run(GDB, tmp_path, program, "leave", ["start", broken, "go", "report"])
    assert "the end of the process" in [each["where"] for each in result.report["problems"]]
    assert result.report["watching"] is False


@pytest.mark.parametrize("host", DEBUGGERS)
def test_only_who_asks_sees_a_traceback(
    host: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLWHY_DEBUG", "1")
    broken = breaking(host, tmp_path, "(1,)", "Tracer._begin_close")
    with pytest.raises(AssertionError, match="Traceback") as caught:
        run(host, tmp_path, program, "leave", ["start", broken, "go", "report"])
    assert "Traceback (most recent call last):\n" in str(caught.value)
    assert "done" in str(caught.value)


#: gdb does not say which thread is selected: at the second hit only.
NO_THREAD = (
    "python import importlib, itertools; own, hits = importlib.import_module('dlwhy.gdb_ext.live'), itertools.count(); "
    "real, fail = own.GdbLiveTarget._hit, lambda: (_ for _ in ()).throw(RuntimeError('no thread')); "
    "own.GdbLiveTarget._hit = lambda self, each: fail() if next(hits) == 1 else real(self, each)"
)


def test_gdb_itself_fails_at_a_hit(program: Path, tmp_path: Path) -> None:
    result = run(GDB, tmp_path, program, "leave", ["start", NO_THREAD, "go", "dltrace report", "report"])
    assert "done" in result.output
    assert "exited" in result.output
    (problem,) = result.report["problems"]
    assert problem["where"] == "_dl_open"
    assert problem["message"] == "gdb does not say which thread is there: no thread"
