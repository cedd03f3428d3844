"""How much of a processor does a trace take? The whole of it, with what gdb itself does meanwhile: -m bench -s.

In gdb it is the processors' time of the program and of gdb, which other programs disturb less than the clock's.  What
does not belong to an event, such as the start, is the same in a short and in a long run: their difference is counted.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.debuggers import LLDB_NEW, LLDB_OLD, LLDB_SCRIPT
from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment
from dlwhy.tests.support.many import build

HERE = Path(__file__).resolve().parent
ROUNDS = 12
CYCLES = 100
#: The rounds in which the whole is measured, and the cycles of a short and a long run; many more where one is fast.
WHOLE_ROUNDS = 3
SHORT, LONG = 20, 80
FAST = 200

#: A library that owes threads its destructor, by libc's own function, as a thread_local object of C++ does.
OWING = """
extern void *__dso_handle;
int __cxa_thread_atexit_impl(void (*function)(void *), void *object, void *handle);
static void destroy(void *object) { (void)object; }
void owe(void) { __cxa_thread_atexit_impl(destroy, 0, __dso_handle); }
"""

pytestmark = pytest.mark.bench


class Work(NamedTuple):
    """What the program opens and closes again and again, and whether it has it open all the time.

    So many threads owe the library a TLS destructor.
    """

    name: str
    other: str
    hold: bool
    threads: int = 0


COUNTING = Work("that only count", "lib0.so", hold=True)
UNLOADING = Work("that load and unload", "lib0.so", hold=False)
KEEPING = Work("that load and unload what needs eight others", "needs.so", hold=False)
OWED = "of a library that {} owe a TLS destructor"


class Figures(NamedTuple):
    """Seconds that the cycles took, as the program says, and what an open and a close took in handlers, if measured.

    ``processor`` is the processors' time of the program and of its debugger meanwhile.
    """

    cycles: float
    handlers: float
    processor: float


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build("cycles", tmp_path_factory.mktemp("cycles"))
    needed = [f"./lib{index}.so" for index in range(1, 9)]
    subprocess.run(["gcc", "-shared", "-o", "needs.so", "-Wl,--no-as-needed", *needed], cwd=made.parent, check=True)
    (made.parent / "owing.c").write_text(OWING)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "owing.so", "owing.c"], cwd=made.parent, check=True)
    return made


def measure(
    program: Path,
    libraries: int,
    work: Work,
    words: Optional[Sequence[str]],
    before: Sequence[str] = (),
    cycles: int = CYCLES,
) -> Figures:
    """Let the program do its cycles, with a debugger unless ``words`` is None; ``before`` is its own environment."""
    numbers = [str(int(work.hold)), str(work.threads)]
    command = [str(program), str(program.parent), str(libraries), str(cycles), work.other, *numbers]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=program.parent
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        output, debugger = "", None
        if words is not None:
            environment = clean_environment(dict(pair.split("=", 1) for pair in before))
            debugger = subprocess.Popen(
                [word.replace("$PID", str(process.pid)) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
            assert debugger.stdout is not None
            for line in debugger.stdout:
                output += line
                if "GO ON" in line:
                    break
        pids = [process.pid] if debugger is None else [process.pid, debugger.pid]
        begin = sum(map(processor_time, pids))
        # It waits for this line, which is there already when the debugger lets it go on.
        process.stdin.write("\n")
        process.stdin.flush()
        took = re.search(r"took ([0-9.]+)", process.stdout.readline())
        end = sum(map(processor_time, pids))
        process.stdin.write("\n")
        process.stdin.flush()
        if debugger is not None:
            output += debugger.communicate()[0]
    assert took is not None, output
    found = re.search(r"MEASURED (.*)", output)
    return Figures(float(took[1]), json.loads(found[1]) if found else 0, end - begin)


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


#: What traces the program, from nothing to all: gdb's commands.
TRACERS: Mapping[str, Optional[Sequence[str]]] = {
    "native": None,
    "gdb": (),
    "gdb with two breakpoints": (f"source {HERE / 'bare.py'}",),
    "gdb with dltrace": ("dltrace start",),
}


def per_event(program: Path, libraries: int, work: Work) -> Mapping[str, float]:
    """Measure the seconds that an open or a close takes as a whole: the median of several rounds, by tracer."""
    found: dict[str, list[float]] = {name: [] for name in TRACERS}
    for _ in range(WHOLE_ROUNDS):
        for name, commands in TRACERS.items():
            words = None if commands is None else gdb(*commands)
            loads = not (work.hold or work.threads)
            times = 1 if commands or (loads and words) else FAST
            short, long = (measure(program, libraries, work, words, cycles=times * cycles) for cycles in (SHORT, LONG))
            found[name].append((long.processor - short.processor) / (2 * times * (LONG - SHORT)))
    return {name: statistics.median(times) for name, times in found.items()}


def tell(libraries: int, work: Work, times: Mapping[str, float]) -> None:
    """Print the figures of one row, and their ratio to gdb's own."""
    shown = [f"{name} {seconds * 1e6:.1f} us ({seconds / times['gdb']:.2f})" for name, seconds in times.items()]
    print(f"\n{libraries} libraries, opens and closes {work.name}: {', '.join(shown)}", end="")


@pytest.mark.parametrize("libraries", [50, 300, 1000])
@pytest.mark.parametrize("work", [COUNTING, UNLOADING, KEEPING], ids=lambda work: work.name.replace(" ", "-"))
def test_gdb(work: Work, libraries: int, program: Path) -> None:
    tell(libraries, work, per_event(program, libraries, work))


@pytest.mark.parametrize("threads", [1, 100, 1000])
def test_gdb_with_pending_destructors(threads: int, program: Path) -> None:
    work = Work(OWED.format("one thread" if threads == 1 else f"{threads} threads"), "owing.so", False, threads)
    tell(1, work, per_event(program, 1, work))


@pytest.mark.parametrize("libraries", [50, 300, 1000])
@pytest.mark.parametrize("work", [COUNTING, UNLOADING, KEEPING], ids=lambda work: work.name.replace(" ", "-"))
def test_share_of_handlers(work: Work, libraries: int, program: Path) -> None:
    commands = (f"source {HERE / 'measure_trace.py'}", "dltrace start")
    # The least is what they take at the machine's full speed, which others on it do not always leave.
    event = min(measure(program, libraries, work, gdb(*commands)).handlers for _ in range(ROUNDS)) / 2
    assert event > 0
    share = event / (250e-6 + 1e-6 * libraries)
    print(f"\n{libraries} libraries, opens and closes {work.name}: {event * 1e6:.0f} us in handlers, ", end="")
    print(f"{share:.2f} of the aim")


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
