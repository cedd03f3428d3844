"""How long does a trace keep a process at each event? Beside a bare breakpoint's stop: -m bench -s."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.debuggers import LLDB_NEW, LLDB_OLD, LLDB_SCRIPT
from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment

HERE = Path(__file__).resolve().parent
ROUNDS = 3
CYCLES = 100

pytestmark = pytest.mark.bench


class Figures(NamedTuple):
    """Seconds that the cycles took, as the program says, and the time in a handler, where it was measured."""

    cycles: float
    handler: Optional[float]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cycles")
    source = folder / "lib.c"
    source.write_text("static int calls; int f(void) { return ++calls; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "lib.so", source], check=True)
    subprocess.run(["gcc", "-o", folder / "cycles", HERE / "cycles.c"], check=True)
    for index in range(1000):
        shutil.copy(folder / "lib.so", folder / f"lib{index}.so")
    return folder / "cycles"


def measure(program: Path, libraries: int, hold: bool, words: Sequence[str], before: Sequence[str] = ()) -> Figures:
    """Let the program do its cycles while a debugger is attached; ``before`` is its own environment."""
    command = [str(program), str(program.parent), str(libraries), str(CYCLES), str(int(hold))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        environment = clean_environment(dict(pair.split("=", 1) for pair in before))
        attach = [word.replace("$PID", str(process.pid)) for word in words]
        # It waits for this line, which is there already when the debugger lets it go on.
        debugger = subprocess.Popen(
            attach,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        assert debugger.stdout is not None
        output = ""
        for line in debugger.stdout:
            output += line
            if "GO ON" in line:
                process.stdin.write("\n")
                process.stdin.flush()
                break
        output += debugger.communicate()[0]
        took = re.search(r"took ([0-9.]+)", process.stdout.read())
    assert took is not None, output
    found = re.search(r"MEASURED (.*)", output)
    return Figures(float(took[1]), json.loads(found[1])["median"] if found else None)


def gdb(*commands: str) -> list[str]:
    """Return gdb's command line."""
    words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", "$PID", "-ex", f"source {SCRIPT}"]
    for command in (*commands, "echo GO ON\\n", "continue"):
        words += ["-ex", command]
    return words


def lldb(version: str, *commands: str) -> tuple[list[str], list[str]]:
    """Return LLDB's command line and environment."""
    found = lldbs.get(version)
    words = [*found.command, "--no-lldbinit", "--batch", "-o", f'command script import "{LLDB_SCRIPT}"']
    for command in ("process attach -p $PID", *commands, "script print('GO ON', flush=True)", "process continue"):
        words += ["-o", command]
    return words, [f"{name}={value}" for name, value in found.environment.items()]


@pytest.mark.parametrize("libraries", [50, 300, 1000])
def test_gdb(libraries: int, program: Path) -> None:
    plain, bare, counting, unloading = [], [], [], []
    start = (f"source {HERE / 'measure_trace.py'}", "dltrace start")
    for _ in range(ROUNDS):
        plain.append(measure(program, libraries, True, gdb()).cycles)
        bare.append(measure(program, libraries, True, gdb(f"source {HERE / 'bare.py'}")).cycles)
        counting.append(measure(program, libraries, True, gdb(*start)).handler or 0)
        unloading.append(measure(program, libraries, False, gdb(*start)).handler or 0)
    stop = statistics.median((b - p) / (2 * CYCLES) for b, p in zip(bare, plain))
    limit = 1.5 * stop + 7e-6 * libraries
    print(
        f"\n{libraries} libraries: a bare stop takes {stop * 1e6:.0f} us; with the handler's part, of 1.5 of it + 7 us"
    )
    for what, handlers in (("that only count", counting), ("that load and unload", unloading)):
        event = stop + statistics.median(handlers)
        print(f"  per library, opens and closes {what}: {event * 1e6:.0f} us ({event / limit:.2f})")


def test_gdb_with_tracing_stopped(program: Path) -> None:
    ratios = []
    for _ in range(ROUNDS):
        plain = measure(program, 300, True, gdb()).cycles
        ratios.append(measure(program, 300, True, gdb("dltrace start", "dltrace stop")).cycles / plain)
    print(f"\ntracing stopped: {statistics.median(ratios):.2f} of plain gdb")


@pytest.mark.parametrize("host", [LLDB_OLD, LLDB_NEW])
@pytest.mark.parametrize("libraries", [50, 300, 1000])
def test_lldb(host: str, libraries: int, program: Path) -> None:
    version = host.rpartition("-")[2]
    plain, traced = [], []
    for _ in range(3):
        plain.append(measure(program, libraries, True, *lldb(version)).cycles)
        traced.append(measure(program, libraries, True, *lldb(version, "dltrace start")).cycles)
    event = statistics.median((t - p) / (2 * CYCLES) for t, p in zip(traced, plain))
    print(f"\n{host}, {libraries} libraries: event {event * 1e6:.0f} us")
