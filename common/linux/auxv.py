"""What does the kernel's auxiliary vector contain?

Entry numbers: Linux's include/uapi/linux/auxvec.h, the same on every architecture.
"""

from __future__ import annotations

import struct

AT_PHDR = 3
AT_PHENT = 4
AT_PHNUM = 5
AT_PAGESZ = 6
AT_BASE = 7
AT_ENTRY = 9
AT_SECURE = 23
AT_RANDOM = 25
AT_EXECFN = 31
AT_SYSINFO_EHDR = 33


def parse_auxv(raw: bytes, pointer_size: int, byteorder: str) -> dict[int, int]:
    """Decode an auxiliary vector into values by ``AT_*`` number, without AT_NULL."""
    count = len(raw) // pointer_size
    form = f"{'<' if byteorder == 'little' else '>'}{count}{'Q' if pointer_size == 8 else 'I'}"
    words = struct.unpack(form, raw[: count * pointer_size])
    return {tag: value for tag, value in zip(words[::2], words[1::2]) if tag}
