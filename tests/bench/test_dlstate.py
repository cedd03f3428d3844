"""How much does dlstate cost?  Prints figures and judges none of them: python3 install.py test -- -m bench -s."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from dlwhy.tests.support.many import build, loaded_program

HERE = Path(__file__).resolve().parent
ENTRY_SCRIPT = HERE.parent.parent / "gdb_ext" / "dlwhy_gdb.py"
ROUNDS = 15

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("many", tmp_path_factory.mktemp("many"))


class Figures(NamedTuple):
    """Seconds by the clock, and of the processors."""

    clock: float
    processor: float


def gdb(pid: int, *commands: str) -> tuple[Figures, str]:
    words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", str(pid)]
    for command in commands:
        words += ["-ex", command]
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    clock, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Figures(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


@pytest.mark.parametrize("libraries", [50, 300, 1000])
def test_reading_and_marking(program: Path, libraries: int) -> None:
    with loaded_program(program, libraries) as pid:
        _, output = gdb(pid, f"source {ENTRY_SCRIPT}", f"source {HERE / 'measure_graph.py'}")
    line = next(line for line in output.splitlines() if line.startswith("MEASURED "))
    figures = json.loads(line[len("MEASURED ") :])
    print(f"\n{figures['libraries']} libraries: {figures['best']:.1f} us per link_map, median {figures['median']:.1f}")
    assert figures["libraries"] >= libraries


def test_dlstate_beside_info_sharedlibrary(program: Path) -> None:
    plain, loaded, asked = [], [], []
    load = f"source {ENTRY_SCRIPT}"
    with loaded_program(program, 300) as pid:
        for _ in range(ROUNDS):
            plain.append(gdb(pid, "info sharedlibrary")[0])
            loaded.append(gdb(pid, load, "info sharedlibrary")[0])
            asked.append(gdb(pid, load, "info sharedlibrary", "dlstate")[0])
    for name, top, below in (
        ("dlstate, dlwhy loaded by the init file", asked, loaded),
        ("loading dlwhy", loaded, plain),
        ("both", asked, plain),
    ):
        clock = statistics.median(a.clock / b.clock for a, b in zip(top, below))
        processor = statistics.median(a.processor / b.processor for a, b in zip(top, below))
        print(f"\n{name}: {clock:.2f} of gdb's time by the clock, {processor:.2f} of the processors'", end="")
    print(f" (info sharedlibrary: {statistics.median(each.clock for each in plain):.3f} s)")
    assert len(asked) == ROUNDS
