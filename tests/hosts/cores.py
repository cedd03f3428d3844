"""How does the kernel write a core file? Without the pages of files that nobody changed, but for ELF headers.

gdb's generate-core-file dumps everything. `as_kernel` takes away what the kernel's default filter (0x33) would not have
dumped; `kernel_core` lets the kernel write one, where it writes to a plain file.
"""

from __future__ import annotations

import re
import resource
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from dlwhy.tests.hosts.gdbrun import clean_environment

PT_LOAD = 1
PAGE = 4096
HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) \S+ \d+ *(.*)")


def not_dumped(smaps: str) -> Iterator[int]:
    """Yield the start of every mapping of a file of which no page is private."""
    start, path = 0, ""
    for line in smaps.splitlines():
        match = HEADER.fullmatch(line)
        if match is not None:
            start, path = int(match[1], 16), match[5]
        elif line.startswith("Anonymous:") and path.startswith("/") and int(line.split()[1]) == 0:
            yield start


def as_kernel(core: Path, smaps: str, output: Path, *, headers: bool = True) -> int:
    """Copy an x86-64 core without what the kernel does not dump; return how many segments were cut.

    :param headers: keep the pages with ELF headers, as bit 4 of coredump_filter has it.
    """
    data = bytearray(core.read_bytes())
    absent = set(not_dumped(smaps))
    offset, size, count = (
        struct.unpack_from("<Q", data, 32)[0],
        *struct.unpack_from("<HH", data, 54),
    )
    cut = 0
    for index in range(count):
        at = offset + index * size
        kind, _, file_offset, address, _, file_size, _, _ = struct.unpack_from("<IIQQQQQQ", data, at)
        if kind != PT_LOAD or address not in absent or file_size == 0:
            continue
        keep = PAGE if headers and data[file_offset : file_offset + 4] == b"\x7fELF" else 0
        data[file_offset + keep : file_offset + file_size] = bytes(file_size - keep)
        struct.pack_into("<Q", data, at + 32, keep)
        cut += 1
    output.write_bytes(data)
    return cut


def kernel_writes_files() -> bool:
    """Whether the kernel writes cores into the working directory of the process."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="ascii").strip()
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return not pattern.startswith(("|", "/")) and hard == resource.RLIM_INFINITY


def kernel_core(program: Path, environment: Mapping[str, str], stop: int, folder: Path) -> Path:
    """Let a fixture's program die at a stop and return the core that the kernel writes."""
    folder.mkdir(parents=True)
    subprocess.run(
        ["/bin/sh", "-c", 'ulimit -c unlimited && exec "$0"', str(program)],
        cwd=folder,
        env=clean_environment({**environment, "FIXTURE_ABORT": str(stop)}),
        capture_output=True,
        check=False,
    )
    cores = sorted(folder.glob("*core*"))
    assert len(cores) == 1, f"{program}: the kernel left {cores}"
    return cores[0]
