"""What does gdb leave out of a core that it writes? Imported in gdb, of any version that is tested."""

from __future__ import annotations

import re
import struct
from pathlib import Path


def mend(core: Path, said: str, pid: int) -> None:
    """Fill in the mappings that gdb gave up, as it said when it wrote the core.

    Since glibc 2.42, on Linux 6.13 or newer, a thread's stack has guard pages inside one mapping, and gdb <= 13 writes
    nothing of such a mapping. The kernel writes all the rest of it.
    """
    failed = re.findall(r"Memory read failed for corefile section, \d+ bytes at (0x[0-9a-f]+)", said)
    starts = {int(start, 16) for start in failed}
    if not starts:
        return
    with core.open("r+b") as file, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        header = file.read(64)
        (table,), (size, count) = struct.unpack_from("<Q", header, 32), struct.unpack_from("<HH", header, 54)
        for index in range(count):
            file.seek(table + index * size)
            kind, _, offset, address, _, length, _, _ = struct.unpack("<IIQQQQQQ", file.read(56))
            if kind != 1 or address not in starts:
                continue
            for page in range(0, length, 4096):
                try:
                    memory.seek(address + page)
                    data = memory.read(4096)
                except (OSError, OverflowError):  # a guard page; the vsyscall page
                    continue
                file.seek(offset + page)
                file.write(data)
