"""Does the worst file of 64 MB end within 10 s of processor time and 500 MB, with a word on what was cut?

Caps that hold for each item add up: these files have as many items as fit, each with as much as it may have.
Seconds are those of a machine on which a fixed piece of work takes WORK_SECONDS: a shared machine can be three times
slower for minutes, so that piece is timed in the same process, before and after the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import dlwhy
import pytest
from dlwhy.tests.synth import hostile, hostile_windows
from dlwhy.tests.synth.glibc import Layout
from dlwhy.tests.synth.glibc_layouts import V239
from dlwhy.tests.synth.minidump import WIN10
from dlwhy.tests.synth.windows import process

ROOT = Path(dlwhy.__file__).parent
MAX_SECONDS, MAX_MEGABYTES = 10, 500
WORK_SECONDS = 0.3

# The shell's command, which collects no garbage; a limit of its own stops it before the machine suffers.
CHILD = f"""
import gc, os, resource, sys
gc.disable()
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
sys.path.insert(0, {str(ROOT / "tests")!r})
import conftest
from dlwhy.common.cli import main

def seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

def work():
    started, memory = seconds(), bytes(range(256)) * 4096
    for _ in range(4):
        seen = {{}}
        for at in range(0, len(memory), 8):
            value = int.from_bytes(memory[at : at + 8], "little")
            seen[value ^ at] = (at, value)
    return seconds() - started

before, started = work(), seconds()
status = main(sys.argv[1:])
sys.stdout.flush()
used = seconds() - started
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("USED", status, used, (before + work()) / 2, int(peak) >> 10, file=sys.stderr, flush=True)
os._exit(0)
"""


class Spent(NamedTuple):
    """How the shell's command ended: its status, processor time, the most memory it had, all that it wrote.

    `work` is what the fixed piece of work took beside it, in seconds.
    """

    status: int
    seconds: float
    work: float
    megabytes: int
    text: str


def ask(*words: str) -> Spent:
    """Ask in the shell."""
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, check=False)
    errors = done.stderr.decode(errors="replace")
    assert done.returncode == 0, errors[-2000:]
    text, _, figures = errors.rpartition("USED ")
    status, seconds, work, megabytes = figures.split()
    return Spent(int(status), float(seconds), float(work), int(megabytes), done.stdout.decode(errors="replace") + text)


def check(answer: Spent, told: str, statuses: Sequence[int] = (3, 4)) -> None:
    """Check what an answer took, and that it says what was cut."""
    seconds = answer.seconds * min(1.0, WORK_SECONDS / answer.work)
    print(
        f"{answer.seconds:.1f} s, {seconds:.1f} s of {WORK_SECONDS} / {answer.work:.2f}, {answer.megabytes} MB", end=" "
    )
    assert "Traceback" not in answer.text
    text = " ".join(answer.text.split()).replace('", "message": "', ": ")
    assert told in text, text[-2000:]
    assert answer.status in statuses
    assert seconds < MAX_SECONDS
    assert answer.megabytes < MAX_MEGABYTES


SEARCHED = "is cut here: the command has read and searched as much as one may"


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (hostile.zero_notes, "it has more than 1048576 notes"),
        (hostile.notes_again, "it has 2000 segments of notes, of which the first 256 are read"),
        (hostile.thread_notes, "or 131072 threads: those behind are not read"),
        (hostile.segments, "program headers, of which the first 1048576 are looked at"),
        (hostile.mapped_files, "its list of files, NT_FILE, has"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_cores(tmp_path: Path, write: Callable[[Path], Path], told: str) -> None:
    check(ask("--core", str(write(tmp_path / "core")), "dlstate", "--json"), told)


def rarely(*values: object) -> object:
    """Leave a case to the slow runs: it takes long, and others are like it."""
    return pytest.param(*values, marks=pytest.mark.matrix)


@pytest.mark.parametrize(
    ("write", "words", "told"),
    [
        rarely(hostile.many_maps, "dlstate --json", "more than 16384 libraries"),
        (hostile.ranked, "dlplan --all", "8001 libraries are open, only"),
        (hostile.long_names, "dlstate", SEARCHED),
        (hostile.needs_all, "dlstate", SEARCHED),
        rarely(hostile.bound_to_all, "dlstate", SEARCHED),
        (hostile.chain, "dlstate --json", SEARCHED),
        (hostile.pinned_by_startup, "dlstate", f"what libraries are bound to: {SEARCHED}"),
        (hostile.relocations, "dlstate", f"relocations at 0x7f0000400000: {SEARCHED}"),
        (hostile.own_images, "dlstate", SEARCHED),
        rarely(hostile.own_images, "dlplan libx.so", SEARCHED),
        (hostile.unique_symbols, "dlstate", SEARCHED),
        (hostile.destructors, "dlstate --json", SEARCHED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_processes(tmp_path: Path, write: Callable[[Layout, Path], Path], words: str, told: str) -> None:
    check(ask("--core", str(write(V239, tmp_path / "core")), *words.split()), told, (2, 4) if "libx" in words else (4,))


@pytest.mark.parametrize(
    ("write", "words", "told"),
    [
        rarely(hostile_windows.ranges, "dllstate", "4194304 entries are announced, 262144 are looked at"),
        (hostile_windows.threads, "dllgone", "entries are announced, 131072 are looked at"),
        (hostile_windows.modules, "dllstate --json", "entries are announced, 16384 are looked at"),
        rarely(hostile_windows.unloaded, "dllgone --json", "names of dump: they take more than 16777216 bytes"),
        (hostile_windows.many_dlls, "dllstate", "it has more than 16384 entries"),
        (hostile_windows.long_dll_names, "dllstate", SEARCHED),
        (hostile_windows.hub, "dllplan d5.dll", "edges lead from the program to its node at 0x2a8001387b0"),
        (hostile_windows.hub, "dllstate --json", f"DLLs: {SEARCHED}"),
        rarely(hostile_windows.pinned_chain, "dllstate", "d15999.dll"),
        rarely(hostile_windows.pinned_chain, "dllstate --json", SEARCHED),
        rarely(
            hostile_windows.repeated_edges,
            "dllplan d6.dll",
            "more than 500000 records: not all its edges",
        ),
        rarely(hostile_windows.imports, "dllplan d7.dll --frees all", SEARCHED),
        (hostile_windows.vads, "dllshare --all", f"VAD trees: {SEARCHED}"),
        rarely(hostile_windows.processes, "dllshare --all", SEARCHED),
        (hostile_windows.handles, "dllshare --all --json", f"open handles: {SEARCHED}"),
        rarely(hostile_windows.handles, "dllshare python35.dll", "its handle table has more than the"),
        (hostile_windows.bitmap, "dllshare --all", "its page tables lead nowhere"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_dumps_of_windows(tmp_path: Path, write: Callable[[Path], Path], words: str, told: str) -> None:
    check(ask("--dump", str(write(tmp_path / "dump")), *words.split()), told)


CUT_MEANWHILE = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import conftest
from dlwhy.common.windows.state import explain_dlls
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
target = MinidumpTarget(sys.argv[1])
os.truncate(sys.argv[1], 4096)
for problem in explain_dlls(target).problems:
    print(problem.where, problem.message, sep=": ")
"""


def test_a_minidump_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    """Reading from a mapping beyond the end of its file ends the process by SIGBUS."""
    path = tmp_path / "dump"
    path.write_bytes(process(WIN10).dump())
    done = subprocess.run([sys.executable, "-c", CUT_MEANWHILE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "memory of dump: the file has been cut off while it was read" in done.stdout


def test_a_core_that_is_cut_off_while_it_is_read(rich_core: Path, tmp_path: Path) -> None:
    from dlwhy.common.errors import DlwhyError
    from dlwhy.common.linux.dumps.coretarget import CoreTarget
    from dlwhy.common.linux.state.examine import explain

    path = tmp_path / "core"
    path.write_bytes(rich_core.read_bytes())
    target = CoreTarget(str(path))
    os.truncate(path, path.stat().st_size // 2)
    told: Optional[str] = None
    try:
        told = " ".join(problem.message for problem in explain(target).problems)
    except DlwhyError as error:
        told = str(error)
    finally:
        target.close()
    assert "it is cut off: the file has" in told
