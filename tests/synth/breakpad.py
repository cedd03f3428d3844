"""How does Breakpad write a minidump of a process of Linux? Field by field, as its minidump_format.h describes it.

Shares no code with the reader.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

LINUX, MACOS = 0x8201, 0x8101
AMD64, X86, ARM64 = 9, 0, 12
THREAD_LIST, MODULE_LIST, MEMORY_LIST, SYSTEM_INFO = 3, 4, 5, 7
AUXV, DSO_DEBUG = 0x47670008, 0x4767000A


class Listed(NamedTuple):
    """A module: its path, where it was mapped, and its build-id."""

    path: str
    base: int
    size: int
    build_id: bytes = b""


class Map(NamedTuple):
    """A link map as the DSO debug stream has it."""

    l_addr: int
    name: str
    l_ld: int


class Dump:
    """A minidump that grows."""

    def __init__(self, processor: int = AMD64, platform: int = LINUX) -> None:
        self._data = bytearray(32 + 12 * 16)
        self._streams: list[tuple[int, int, int]] = []
        self._word = 4 if processor == X86 else 8
        system = struct.pack("<HHHBBIIIIIHH", processor, 6, 0, 2, 0, 0, 0, 0, platform, 0, 0, 0)
        self.stream(SYSTEM_INFO, system + bytes(24))

    def blob(self, data: bytes) -> int:
        """Add bytes; return where."""
        self._data += bytes(-len(self._data) % 8)
        where = len(self._data)
        self._data += data
        return where

    def string(self, text: str) -> int:
        """Add an MDString."""
        raw = text.encode("utf-16-le")
        return self.blob(struct.pack("<I", len(raw)) + raw + bytes(2))

    def stream(self, kind: int, data: bytes) -> None:
        """Add a stream."""
        self._streams.append((kind, len(data), self.blob(data)))

    def modules(self, listed: Sequence[Listed], announced: Optional[int] = None) -> None:
        """Add the module list."""
        body = struct.pack("<I", len(listed) if announced is None else announced)
        for each in listed:
            record = b"LEpB" + each.build_id if each.build_id else b""
            place = self.blob(record)
            body += struct.pack("<QIIII", each.base, each.size, 0, 0, self.string(each.path)) + bytes(52)
            body += struct.pack("<IIIIQQ", len(record), place, 0, 0, 0, 0)
        self.stream(MODULE_LIST, body)

    def maps(self, maps: Sequence[Map]) -> None:
        """Add the DSO debug stream."""
        form = "<QIQ" if self._word == 8 else "<III"
        body = b"".join(struct.pack(form, each.l_addr, self.string(each.name), each.l_ld) for each in maps)
        form = "<IIIQQQ" if self._word == 8 else "<IIIIII"
        self.stream(DSO_DEBUG, struct.pack(form, 1, self.blob(body), len(maps), 0, 0, 0))

    def memory(self, pieces: Mapping[int, bytes]) -> None:
        """Add the memory list."""
        body = struct.pack("<I", len(pieces))
        for address, data in pieces.items():
            body += struct.pack("<QII", address, len(data), self.blob(data))
        self.stream(MEMORY_LIST, body)

    def finish(self) -> bytes:
        """Return the file."""
        struct.pack_into("<4sIIIIIQ", self._data, 0, b"MDMP", 0xA793, len(self._streams), 32, 0, 0x60000000, 0)
        for index, each in enumerate(self._streams):
            struct.pack_into("<III", self._data, 32 + 12 * index, *each)
        return bytes(self._data)
