"""Does reading a process that opens and closes libraries all the while ever give a wrong verdict, or slow it down?"""

from __future__ import annotations

import mmap
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.errors import CorruptError, DlwhyError, FaultError, LayoutError
from dlwhy.common.linux.model import HoldKind, State
from dlwhy.common.linux.state import examine as state_module
from dlwhy.tests.hosts.gdbrun import ROOT

HERE = Path(__file__).resolve().parent
LIBRARIES = 4
READINGS = 1000
WINDOWS = 16
#: What is open between any two calls of the loop: one library, or it and the next one.
CONSISTENT = [{i} for i in range(LIBRARIES)] + [{i, (i + 1) % LIBRARIES} for i in range(LIBRARIES)]
#: What a library may be seen as while a call is under way.
PLAUSIBLE = {
    HoldKind.OPEN_COUNT,
    HoldKind.HALF_LOADED,
    HoldKind.CLOSE_IN_PROGRESS,
    HoldKind.DEPENDENCY,
    HoldKind.RELOCATION,
}


class Loop:
    """The program that opens and closes."""

    def __init__(self, pid: int, counter: mmap.mmap) -> None:
        self.pid = pid
        self._counter = counter

    def rounds(self) -> int:
        """Return how often it has opened a library."""
        return int.from_bytes(self._counter[:8], "little")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program and its libraries; the first of them needs another."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "lib.c").write_text("static int calls; int NAME(void) { return ++calls; }\n")
    library = ["gcc", "-shared", "-fPIC", "-Wl,-rpath,$ORIGIN", str(folder / "lib.c"), "-o"]
    subprocess.run([*library, str(folder / "libdep.so"), "-DNAME=dep", "-Wl,-soname,libdep.so"], check=True)
    for index in range(LIBRARIES):
        needed = [] if index else ["-Wl,--no-as-needed", str(folder / "libdep.so")]
        output = str(folder / f"libloop{index}.so")
        subprocess.run([*library, output, f"-DNAME=loop{index}", *needed], check=True)
    subprocess.run(["gcc", "-O1", "-o", str(folder / "loop"), str(HERE / "loop.c"), "-ldl"], check=True)
    return folder


@contextmanager
def looping(folder: Path, pause: int) -> Iterator[Loop]:
    """Run the program; it rests that many microseconds after each call."""
    with (folder / "counter").open("w+b") as file:
        file.write(bytes(4096))
        file.flush()
        command = [str(folder / "loop"), str(folder), str(folder / "counter"), str(pause)]
        with mmap.mmap(file.fileno(), 4096) as counter, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                yield Loop(process.pid, counter)
                assert process.poll() is None, f"the program ended with {process.returncode}"
            finally:
                process.kill()


def loop_libraries(state: State) -> set[int]:
    """Return which of the loop's libraries are listed, by their numbers."""
    return {int(each.name[7]) for each in state.libraries if each.name.startswith("libloop")}


def wrong(state: State) -> Iterator[str]:
    """Say what cannot be of a state that claims to be one moment's."""
    listed = loop_libraries(state)
    if listed not in CONSISTENT:
        yield f"{listed} are open at once"
    names = [each.name for each in state.libraries]
    if len(set(names)) != len(names):
        yield f"twice in the list: {names}"
    if ("libdep.so" in names) != (0 in listed):
        yield f"libdep.so with {listed}"
    for library in state.libraries:
        kinds = [hold.kind for hold in library.holds]
        if not library.held:
            yield f"{library.name}: held is {library.held}"
        if library.name.startswith("libloop") and (kinds != [HoldKind.OPEN_COUNT] or library.holds[0].total != 1):
            yield f"{library.name}: {library.holds}"
        if library.name == "libdep.so" and (
            kinds != [HoldKind.DEPENDENCY] or library.holds[0].chain[0] != "libloop0.so"
        ):
            yield f"{library.name}: {library.holds}"


def implausible(state: State) -> Iterator[str]:
    """Say what cannot be even of a mixture of two moments.

    A library may have any name in it: the memory of one that has just gone is used again.
    """
    for library in state.libraries:
        ours = library.name.startswith("libloop") or library.name == "libdep.so"
        if library.name in ("loop", "libc.so.6", "libdl.so.2", "ld-linux-x86-64.so.2") and library.held is not True:
            yield f"{library.name}: held is {library.held}"
        elif ours and not {hold.kind for hold in library.holds} <= PLAUSIBLE:
            yield f"{library.name}: {library.holds}"


@pytest.mark.parametrize("pause", [0, 3000], ids=["without-rest", "with-rests"])
def test_a_thousand_readings(folder: Path, pause: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state without a problem is exactly one of the loop's; one with problems says so and is still plausible."""
    monkeypatch.setattr(state_module, "MAX_SETTLING_SECONDS", 0.0 if pause == 0 else 1.0)
    found: list[str] = []
    outcomes: Counter[str] = Counter()
    with looping(folder, pause) as loop, dlwhy.open(loop.pid) as process:
        before = loop.rounds()
        begin = time.monotonic()
        for _ in range(READINGS):
            try:
                state = process.state()
            except (FaultError, CorruptError, LayoutError) as error:
                outcomes[type(error).__name__] += 1
                continue
            if state.problems:
                outcomes["with problems"] += 1
                found += implausible(state)
                assert all(each.message for each in state.problems)
            else:
                outcomes["settled"] += 1
                found += wrong(state)
        seconds = time.monotonic() - begin
        rounds = loop.rounds() - before
    print(f"\n{READINGS} readings in {seconds:.1f} s while {rounds} libraries came and went: {dict(outcomes)}")
    assert not found, "\n".join(["", *found[:20]])
    # Without rests the loader is locked nearly always.
    assert outcomes["settled"] or not pause


@pytest.mark.bench
@pytest.mark.parametrize("pause", [0, 3000], ids=["without-rest", "with-rests"])
def test_how_much_the_process_is_slowed_down(folder: Path, pause: int) -> None:
    """Its rate while the shell command asks about it all the time, or a script reads it, beside its rate alone.

    Each reading takes the lock of the process's memory map some 30 times, for which a program that does nothing but
    map and unmap has to wait.
    """
    with looping(folder, pause) as loop, dlwhy.open(loop.pid) as process:
        command = [sys.executable, "-IS", str(ROOT / "__main__.py"), "--pid", str(loop.pid), "dlstate"]

        def run_command() -> None:
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

        def read_at_once() -> None:
            with suppress(DlwhyError):
                process.state()

        for how, read in (
            ("by one command after the other", run_command),
            ("in a script, without a pause", read_at_once),
        ):
            rates: dict[bool, list[float]] = {False: [], True: []}
            for index in range(WINDOWS):
                # Read, not read, not read, read: a slow drift of the machine falls on both.
                reading = index % 4 in (0, 3)
                rates[reading].append(rate(loop, read if reading else None))
            alone = statistics.median(rates[False])
            ratio = statistics.median(rates[True]) / alone
            print(f"\n{alone:.0f} libraries opened a second; {ratio:.3f} of that while it is read {how}")


def rate(loop: Loop, read: Callable[[], None] | None, seconds: float = 0.5) -> float:
    """Return how many libraries per second it opens, while it is read or is left alone."""
    first, begin = loop.rounds(), time.monotonic()
    while time.monotonic() - begin < seconds:
        if read is None:
            time.sleep(0.005)
        else:
            read()
    return (loop.rounds() - first) / (time.monotonic() - begin)
