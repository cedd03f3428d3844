"""Is a core of gigabytes examined in the memory that a small one takes?"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment
from dlwhy.tests.hosts.processes import started, stops_of
from dlwhy.tests.hosts.scenario import fixtures

LARGE = 5 << 30
MEGABYTE = 1 << 20


def enlarge(core: Path, large: Path) -> None:
    """Copy a core and add a segment of some gigabytes, as a file with a hole, before all that it had."""
    shutil.copy(core, large)
    with large.open("r+b") as file:
        header = bytearray(file.read(64))
        (table,), (size, count) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<HH", header, 54)
        file.seek(table)
        entries = file.read(size * count)
        file.seek(0, os.SEEK_END)
        offset = file.tell() + 4095 & ~4095
        # The heap of a program of this kind could be here.
        segment = struct.pack("<IIQQQQQQ", 1, 6, offset, 0x10000000, 0, LARGE, LARGE, 4096)
        file.truncate(offset + LARGE)
        file.seek(offset + LARGE)
        file.write(entries + segment)
        struct.pack_into("<Q", header, 32, offset + LARGE)
        struct.pack_into("<HH", header, 54, size, count + 1)
        file.seek(0)
        file.write(header)


# A process's peak begins with that of its parent: this one is small.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak(core: Path) -> int:
    """Examine a core by the shell command; return the most memory that it had, in bytes."""
    command = [sys.executable, str(ROOT), "--core", str(core), "dlstate", "--json"]
    words = [sys.executable, "-c", MEASURE, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=clean_environment({}))
    return int(done.stdout) * 1024


def test_peak_memory(tmp_path: Path) -> None:
    fixture = fixtures()["tls_cpp"]
    small, large = tmp_path / "small.core", tmp_path / "large.core"
    with started([str(build(fixture) / fixture.program)], {}) as process:
        assert next(stops_of(process)) == 1
        words = ["gdb", "-nx", "-batch", "-p", str(process.pid), "-ex", f"generate-core-file {small}"]
        subprocess.run(words, check=True, capture_output=True, env=clean_environment({}))
    enlarge(small, large)
    assert large.stat().st_size > LARGE
    figures = [peak(core) for core in (small, large)]
    sizes = [core.stat().st_size for core in (small, large)]
    for size, memory in zip(sizes, figures):
        print(f"\na core of {size / MEGABYTE:.0f} MB: at most {memory / MEGABYTE:.0f} MB of memory")
    assert max(figures) < 100 * MEGABYTE
    assert figures[1] - figures[0] < 10 * MEGABYTE
