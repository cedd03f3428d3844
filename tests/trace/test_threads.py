"""Is every open and close told right while threads open and close at once? With marker matrix a hundred times."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.trace.attached import Traced, document_in
from dlwhy.tests.trace.debugging import HERE, debug

NAMES = ("liba.so", "libb.so", "libc1.so", "libx.so")
THREADS = 8


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("threads")
    for name in NAMES:
        source = folder / "library.c"
        function = name.partition(".")[0]
        needs = "void libb(void);" if name == "libc1.so" else ""
        call = "libb();" if needs else ""
        source.write_text(f"{needs} void {function}(void) {{ {call} }}\n")
        options = ["-L", str(folder), "-lb", "-Wl,-rpath,$ORIGIN"] if needs else []
        words = ["-shared", "-fPIC", "-o", str(folder / name), str(source), *options]
        subprocess.run(["gcc", *words], check=True)
    words = ["-g", "-O1", "-Wall", "-Wextra", "-o", str(folder / "threads"), str(HERE / "threads.c")]
    subprocess.run(["gcc", *words, "-ldl", "-lpthread"], check=True)
    return folder / "threads"


def run(
    host: str, folder: Path, program: Path, rounds: int, names: Sequence[str] = NAMES, mode: str = "leak"
) -> Traced:
    """Trace the program from main to its end."""
    go = "continue" if host == GDB else "process continue"
    libraries = " ".join(str(program.parent / name) for name in names)
    commands = ["dltrace start --log $LOG", go, "dltrace report", "dltrace report --json"]
    result = debug(host, folder, program, commands, f"{rounds} {THREADS} {mode} {libraries}")
    assert "done" in result.output, result.output
    result.report = document_in(result.output)
    return result


def judge_truth(result: Traced, rounds: int) -> None:
    """Hold each event against what the program did, as far as it says anything."""
    opens, closes = [e for e in result.events("open") if e["requested_namespace"] == -2], result.events("close")
    assert (len(opens), len(closes)) == (rounds * THREADS, rounds * THREADS - 1)
    # An open is told as what it requested, a close as what its handle was.
    assert all(each["library"]["path"] == each["requested"] for each in opens)
    assert {each["result"] for each in opens} <= {"loaded", "already-loaded", "opened"}
    assert all(each["library"]["link_map"] == each["handle"] for each in closes)
    opened = Counter(each["library"]["name"] for each in opens)
    (leaked,) = (opened - Counter(each["library"]["name"] for each in closes)).elements()
    accounts = [each for each in result.report["library_totals"] if each["namespace"] == 0]
    assert [each["name"] for each in accounts if each["open_count_now"]] == [leaked]
    assert f"{leaked} was opened once more than closed, by work (threads.c:" in result.output
    assert set(Counter(each["thread"]["tid"] for each in opens).values()) == {rounds}
    assert result.report["closes_not_open"] == result.report["closes_mispredicted"] == []
    assert result.report["opens_failed"] == result.report["end_not_seen"] == []
    assert "Closed without being open" not in result.output
    unknown = ("predicted_unloads", "kept", "unloaded", "open_count_before", "predicted_exactly")
    assert all(each[key] is None for each in closes if each["raced"] for key in unknown)


def judge(result: Traced, rounds: int) -> None:
    """Hold each event against what the program did; each is judged."""
    judge_truth(result, rounds)
    totals = result.report["totals"]
    assert totals["closes_raced"] == totals["opens_unseen"] == totals["closes_unseen"] == 0
    assert totals["closes_predicted_exactly"] == totals["closes"] == rounds * THREADS - 1
    assert totals["libraries_unloaded"] == sum(len(each["unloaded"]) for each in result.events("close"))


@pytest.mark.parametrize("host", DEBUGGERS)
def test_eight_threads(host: str, program: Path, tmp_path: Path) -> None:
    judge(run(host, tmp_path, program, 8), 8)


def test_where_the_lock_is_not_seen_nothing_false_is_said(program: Path, tmp_path: Path) -> None:
    # gdb 13 to 17 leaves ld.so when there is a namespace.
    result = run(GDB, tmp_path, program, 8, mode="apart")
    assert result.report["breakpoints"]["closes"].startswith(("dlclose", "_dl_close"))
    judge_truth(result, 8)


@pytest.mark.matrix
@pytest.mark.parametrize("host", DEBUGGERS)
def test_eight_threads_a_hundred_times(host: str, program: Path, tmp_path: Path) -> None:
    for index in range(100):
        judge(run(host, tmp_path / str(index), program, 20), 20)


@pytest.mark.matrix
def test_where_the_lock_is_not_seen_a_hundred_times(program: Path, tmp_path: Path) -> None:
    for index in range(100):
        judge_truth(run(GDB, tmp_path / str(index), program, 20, mode="apart"), 20)


@pytest.mark.matrix
@pytest.mark.parametrize("host", DEBUGGERS)
def test_ten_thousand_operations(host: str, program: Path, tmp_path: Path) -> None:
    judge(run(host, tmp_path, program, 625), 625)
