"""How long does a trace keep a process at each event? Beside a bare breakpoint's stop: -m bench -s.

In gdb it is the processors' time of both, which other programs disturb less than the clock's.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.debuggers import LLDB_NEW, LLDB_OLD, LLDB_SCRIPT
from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment
from dlwhy.tests.support.many import build

HERE = Path(__file__).resolve().parent
ROUNDS = 12
CYCLES = 100

pytestmark = pytest.mark.bench


class Work(NamedTuple):
    """What the program opens and closes again and again, and whether it has it open all the time."""

    name: str
    other: str
    hold: bool


COUNTING = Work("that only count", "lib0.so", hold=True)
UNLOADING = Work("that load and unload", "lib0.so", hold=False)
KEEPING = Work("that load and unload what needs eight others", "needs.so", hold=False)


class Figures(NamedTuple):
    """Seconds that the cycles took, as the program says, and the time in a handler, where it was measured.

    ``processor`` is the processors' time of the program and of its debugger meanwhile.
    """

    cycles: float
    handler: float
    processor: float


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build("cycles", tmp_path_factory.mktemp("cycles"))
    needed = [f"./lib{index}.so" for index in range(1, 9)]
    subprocess.run(["gcc", "-shared", "-o", "needs.so", "-Wl,--no-as-needed", *needed], cwd=made.parent, check=True)
    return made


def measure(
    program: Path, libraries: int, work: Work, words: Sequence[str], before: Sequence[str] = (), cycles: int = CYCLES
) -> Figures:
    """Let the program do its cycles while a debugger is attached; ``before`` is its own environment."""
    command = [str(program), str(program.parent), str(libraries), str(cycles), work.other, str(int(work.hold))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=program.parent
    ) as process:
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
                begin = processor_time(process.pid) + processor_time(debugger.pid)
                process.stdin.write("\n")
                process.stdin.flush()
                break
        took = re.search(r"took ([0-9.]+)", process.stdout.readline())
        end = processor_time(process.pid) + processor_time(debugger.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        output += debugger.communicate()[0]
    assert took is not None, output
    found = re.search(r"MEASURED (.*)", output)
    return Figures(float(took[1]), json.loads(found[1])["slower"] if found else 0, end - begin)


def processor_time(pid: int) -> float:
    """Read how long a process has been running, its kernel's part too, to a nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


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
@pytest.mark.parametrize("work", [COUNTING, UNLOADING, KEEPING], ids=lambda work: work.name.replace(" ", "-"))
def test_gdb(work: Work, libraries: int, program: Path) -> None:
    plain, bare, handler = [], [], []
    start = (f"source {HERE / 'measure_trace.py'}", "dltrace start")
    for _ in range(ROUNDS):
        plain.append(measure(program, libraries, COUNTING, gdb()).processor)
        bare.append(measure(program, libraries, COUNTING, gdb(f"source {HERE / 'bare.py'}")).processor)
        handler.append(measure(program, libraries, work, gdb(*start)).handler)
    assert min(handler) > 0
    # The least of each is what they take at the machine's full speed, which others on it do not always leave.
    stop = (min(bare) - min(plain)) / (2 * CYCLES)
    event = stop + min(handler)
    share = event / (1.5 * stop + 7e-6 * libraries)
    print(f"\n{libraries} libraries, opens and closes {work.name}: a bare stop takes {stop * 1e6:.0f} us,", end="")
    print(f" an event {event * 1e6:.0f} us, {share:.2f} of the aim")


def test_gdb_with_tracing_stopped(program: Path) -> None:
    cycles = 20_000
    clock, processor = [], []
    for _ in range(15):
        plain = measure(program, 300, COUNTING, gdb(), cycles=cycles)
        stopped = measure(program, 300, COUNTING, gdb("dltrace start", "dltrace stop"), cycles=cycles)
        clock.append(stopped.cycles / plain.cycles)
        processor.append(stopped.processor / plain.processor)
    for name, ratios in (("the clock's time", clock), ("the processors' time", processor)):
        low, median, high = statistics.quantiles(ratios, n=4)
        print(f"\ntracing stopped, {name}: {median:.3f} of plain gdb's (half of all between {low:.3f} and {high:.3f})")


@pytest.mark.parametrize("host", [LLDB_OLD, LLDB_NEW])
@pytest.mark.parametrize("libraries", [50, 300, 1000])
def test_lldb(host: str, libraries: int, program: Path) -> None:
    version = host.rpartition("-")[2]
    plain, bare, traced = [], [], []
    for _ in range(ROUNDS):
        plain.append(measure(program, libraries, COUNTING, *lldb(version)).cycles)
        source = f'command script import "{HERE / "bare_lldb.py"}"'
        bare.append(measure(program, libraries, COUNTING, *lldb(version, source)).cycles)
        traced.append(measure(program, libraries, COUNTING, *lldb(version, "dltrace start")).cycles)
    stop = statistics.median((b - p) / (2 * CYCLES) for b, p in zip(bare, plain))
    event = statistics.median((t - p) / (2 * CYCLES) for t, p in zip(traced, plain))
    print(f"\n{host}, {libraries} libraries: a bare stop takes {stop * 1e6:.0f} us, an event {event * 1e6:.0f} us")
