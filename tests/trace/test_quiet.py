"""Is a trace out of the user's way: interrupts, signals, lists of breakpoints, and where ld.so cannot be read?"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.debuggers import GDB, LLDB_NEW, LLDB_OLD, LLDB_SCRIPT
from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment
from dlwhy.tests.hosts.scenario import Json
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.attached import document_in
from dlwhy.tests.trace.debugging import run
from dlwhy.tests.trace.terminal import Terminal, terminal, wait_until

GDB_WORDS = ["gdb", "-nx", "-q", "-x", str(SCRIPT)]
for setting in ("debuginfod enabled off", "auto-load safe-path /", "confirm off", "width 0", "pagination off"):
    GDB_WORDS += ["-iex", f"set {setting}"]
ASK_GDB = 'python print("mark", {}, "mark", sep="-")'
ASK_LLDB = 'script print("mark", {}, "mark", sep="-")'
SIGNALLED = "Program received signal SIGINT, Interrupt."
#: What gdb says when the key is pressed just before it calls Python: it stops at the breakpoint.
STOPPED = "Python Exception <class 'KeyboardInterrupt'>"


class Log:
    """The events that a trace has written so far."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.jsonl"

    def __len__(self) -> int:
        return self.path.read_text(encoding="utf-8").count("\n") if self.path.exists() else 0

    def wait_for_more(self, count: int = 8) -> None:
        """Wait until the trace has gone on."""
        before = len(self)
        wait_until(lambda: len(self) > before + count, f"no more than {before} events")


def report_of(on_terminal: Terminal) -> Json:
    # Nothing is typed meanwhile: the terminal would show it in the middle of the document.
    on_terminal.begin("dltrace report --json")
    said = on_terminal.wait_for("\n}\n")
    on_terminal.settle()
    return document_in(said + "\n}\n")


def judge(report: Json, closes: int) -> None:
    """Hold what was traced against what the program did: each close unloads."""
    totals = report["totals"]
    assert totals["closes_mispredicted"] == totals["opens_failed"] == totals["closes_that_kept"] == 0
    assert totals["closes"] >= closes
    assert totals["closes_predicted_exactly"] == totals["closes_compared"]


def interrupt(on_terminal: Terminal, log: Log, times: int) -> None:
    """Let the process go on, and press the key once the trace has."""
    for _ in range(times):
        on_terminal.begin("continue")
        log.wait_for_more()
        on_terminal.interrupt_until(SIGNALLED, STOPPED)
        on_terminal.settle()


def test_interrupts_in_gdb(program: Path, tmp_path: Path) -> None:
    log = Log(tmp_path)
    with gdb_at_main(program, tmp_path, "busily") as on_terminal:
        on_terminal.command(f"dltrace start --log {log.path}")
        interrupt(on_terminal, log, 5)
        judge(report_of(on_terminal), 20)


def test_interrupts_in_gdb_while_it_reads(program: Path, tmp_path: Path) -> None:
    # A process that was attached to has another terminal: the key reaches gdb, and mostly while a handler runs.
    log = Log(tmp_path)
    process = subprocess.Popen([program, "busily", program.parent / "libother.so"])
    try:
        words = [*GDB_WORDS, "-p", str(process.pid)]
        with terminal(words, ASK_GDB, tmp_path, clean_environment({})) as on_terminal:
            on_terminal.settle()
            on_terminal.command(f"dltrace start --log {log.path}")
            interrupt(on_terminal, log, 12)
            report = report_of(on_terminal)
            assert report["problems"] == []
            judge(report, 40)
            on_terminal.command("dltrace stop")
            on_terminal.command("detach")
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("host", [LLDB_OLD, LLDB_NEW])
def test_signals_in_lldb(host: str, program: Path, tmp_path: Path) -> None:
    # By a signal: LLDB's own handling of the key misses it while breakpoints follow one another, anybody's.
    log = Log(tmp_path)
    lldb = lldbs.get(host.rpartition("-")[2])
    words = [*lldb.command, "--no-lldbinit", str(program)]
    with terminal(words, ASK_LLDB, tmp_path, clean_environment(lldb.environment)) as on_terminal:
        on_terminal.settle()
        on_terminal.command(f'command script import "{LLDB_SCRIPT}"')
        on_terminal.command(f"settings set -- target.run-args busily {program.parent / 'libother.so'}")
        on_terminal.command("breakpoint set -n main")
        on_terminal.begin("run")
        on_terminal.wait_for("stop reason = breakpoint")
        on_terminal.settle()
        on_terminal.command(f"dltrace start --log {log.path}")
        pid = int(report_of(on_terminal)["target"]["pid"])
        for _ in range(3):
            on_terminal.begin("process continue")
            log.wait_for_more()
            os.kill(pid, signal.SIGINT)
            on_terminal.wait_for("stop reason = signal SIGINT")
            on_terminal.settle()
        judge(report_of(on_terminal), 9)


def test_a_signal_at_the_breakpoint_counts_once(program: Path, tmp_path: Path) -> None:
    # The handler returns to the breakpoint, where the thread then comes again for one and the same call.
    commands = ["start", "break *dlclose", "go", "delete", "signal SIGUSR1", "report"]
    result = run(GDB, tmp_path, program, "nothing", commands)
    assert len(result.events("close")) == 1, result.output
    assert len(result.events("open")) == 1, result.output
    totals = result.report["totals"]
    assert (totals["opens_failed"], totals["closes_mispredicted"], totals["end_not_seen"]) == (0, 0, 0)


def listings(output: str) -> list[list[str]]:
    """Find the lists of breakpoints between the marks, without their numbers and counts of hits."""
    found = []
    for text in output.split("list-begins")[1:]:
        lines = text.partition("list-ends")[0].splitlines()
        lines = [
            re.sub(r"^\s*-?[\d.]+:?\s+|, hit count = \d+|, resolved, |hit count = \d+ *", "", line) for line in lines
        ]
        found.append(
            sorted(line.strip() for line in lines if "already hit" not in line and not line.startswith("(lldb)"))
        )
    return found


@pytest.mark.parametrize("host", DEBUGGERS)
def test_every_list_of_breakpoints_is_as_it_was(host: str, program: Path, tmp_path: Path) -> None:
    # gdb's internal breakpoints, LLDB's too, and what LLDB lists for nobody: names, and breakpoints that are hidden.
    if host == GDB:
        say, all_of_them = "echo {}\\n", ["maintenance info breakpoints"]
    else:
        identities = "sorted(b.GetLocationAtIndex(0).GetLoadAddress() for b in lldb.target.breakpoint_iter())"
        say = "script print('{}'.replace('_', '-'))"
        all_of_them = ["breakpoint list --internal", "breakpoint list", f"script print({identities})"]
        all_of_them += ["breakpoint name list"]
    begin, end = (say.format(each) for each in ("list_begins", "list_ends"))
    if host == GDB:
        begin, end = (each.replace("_", "-") for each in (begin, end))
    listing = [begin, *all_of_them, end]
    stop = "break usleep" if host == GDB else "breakpoint set -n usleep"
    start = "dltrace start --tls --fds libother.so --log $LOG"
    commands = [stop, *listing, start, *listing, "go", "dltrace stop", *listing, "go", *listing]
    result = run(host, tmp_path, program, "lazily", commands)
    before, during, after, later = listings(result.output)
    assert len(result.events("close")) == 2, result.output
    assert len(before) > 2
    assert during != before
    assert after == later == before


@pytest.mark.parametrize("host", DEBUGGERS)
def test_without_the_loaders_own_pointers(host: str, program: Path, tmp_path: Path) -> None:
    # As where no layout of _rtld_global_ro is known: what is exported is watched, and the report says so.
    module = "importlib.import_module('dlwhy.common.linux.trace.entry_points')"
    forget = f"{'python' if host == GDB else 'script'} import importlib; {module}.read_open_close = lambda *_: {{}}"
    result = run(host, tmp_path, program, "spaces", [forget, "start", "go", "report"])
    later = ", but not those by code in namespaces that came later"
    assert result.report["breakpoints"] == {"opens": f"dlopen and dlmopen{later}", "closes": f"dlclose{later}"}
    assert [each["library"]["namespace"] for each in result.events("close")] == [0, 1, 0, 1, 0, 1, 0]
    assert all(each["predicted_exactly"] for each in result.events("close"))
    assert {each["caller"]["function"] for each in result.events("close")} <= {"cycle", "space", "main"}


@contextmanager
def gdb_at_main(program: Path, folder: Path, what: str) -> Iterator[Terminal]:
    """Run the program in gdb on a terminal, up to main."""
    with terminal([*GDB_WORDS, str(program)], ASK_GDB, folder, clean_environment({})) as on_terminal:
        on_terminal.settle()
        for command in (f"set args {what} {program.parent / 'libother.so'}", "break main", "run", "delete"):
            on_terminal.command(command)
        yield on_terminal


def test_long_runs_show_that_they_go_on(program: Path, tmp_path: Path) -> None:
    with gdb_at_main(program, tmp_path, "busily") as on_terminal:
        on_terminal.command("dltrace start")
        module = "importlib.import_module('dlwhy.common.commands.dltrace.command')"
        on_terminal.command(f"python import importlib; {module}.PROGRESS_SECONDS = 0.2")
        on_terminal.command("set height 4")
        on_terminal.command("set pagination on")
        on_terminal.begin("continue")
        for _ in range(6):  # more than the pager lets through
            on_terminal.wait_for("dltrace: ")
            assert re.search(r"^\d+ opens? and \d+ closes? in \d+ s$", on_terminal.wait_for("\n")), on_terminal.output


def test_a_report_goes_through_the_pager(program: Path, tmp_path: Path) -> None:
    with gdb_at_main(program, tmp_path, "leave") as on_terminal:
        on_terminal.command("dltrace start")
        on_terminal.command("continue")
        on_terminal.command("set height 4")
        on_terminal.command("set pagination on")
        on_terminal.begin("dltrace report")
        shown = on_terminal.wait_for("--Type <RET> for more")
        assert "6 opens" in shown
        assert "Never closed" not in shown
        on_terminal.begin("q")
        said = on_terminal.command("set pagination off")
        assert "Traceback" not in said
        assert "Python Exception" not in said
        assert "Never closed: libother.so" in on_terminal.command("dltrace report")
