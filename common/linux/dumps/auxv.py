"""What did the kernel tell the process at its start?"""

from __future__ import annotations

import struct


def parse_auxv(raw: bytes, pointer_size: int, byteorder: str) -> dict[int, int]:
    """Decode an auxiliary vector: values by ``AT_*`` number."""
    count = len(raw) // pointer_size
    form = f"{'<' if byteorder == 'little' else '>'}{count}{'Q' if pointer_size == 8 else 'I'}"
    words = struct.unpack(form, raw[: count * pointer_size])
    return {tag: value for tag, value in zip(words[::2], words[1::2]) if tag}
