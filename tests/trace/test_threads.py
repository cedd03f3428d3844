"""Is every open and close told right while threads open and close at once? With marker matrix a hundred times."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.trace.attached import Traced, document_in
from dlwhy.tests.trace.debugging import DEBUGGERS, HERE, debug

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


def judge(result: Traced, rounds: int) -> None:
    """Hold each event against what the program did."""
    opens, closes = result.events("open"), result.events("close")
    assert (len(opens), len(closes)) == (rounds * THREADS, rounds * THREADS - 1)
    # An open is told as what it requested, a close as what its handle was.
    assert all(each["library"]["path"] == each["requested"] for each in opens)
    opened = Counter(each["library"]["name"] for each in opens)
    (leaked,) = (opened - Counter(each["library"]["name"] for each in closes)).elements()
    assert [each["name"] for each in result.report["library_totals"] if each["open_count_now"]] == [leaked]
    assert result.report["closes_not_open"] == []
    assert result.report["closes_mispredicted"] == []
    assert "Closed without being open" not in result.output
    assert f"Never closed: {leaked} was opened once more than closed, by work (threads.c:" in result.output
    assert result.report["totals"]["closes_raced"] == 0
    assert result.report["totals"]["closes_predicted_exactly"] == len(closes)
    assert [each["number"] for each in result.events()] == sorted(each["number"] for each in result.events())
    thread_of = Counter(each["thread"]["tid"] for each in opens)
    assert set(thread_of.values()) == {rounds}


@pytest.mark.parametrize("host", DEBUGGERS)
def test_eight_threads(host: str, program: Path, tmp_path: Path) -> None:
    judge(run(host, tmp_path, program, 8), 8)


@pytest.mark.matrix
@pytest.mark.parametrize("host", DEBUGGERS)
def test_eight_threads_a_hundred_times(host: str, program: Path, tmp_path: Path) -> None:
    for index in range(100):
        judge(run(host, tmp_path / str(index), program, 20), 20)


@pytest.mark.matrix
@pytest.mark.parametrize("host", DEBUGGERS)
def test_ten_thousand_operations(host: str, program: Path, tmp_path: Path) -> None:
    judge(run(host, tmp_path, program, 625), 625)
