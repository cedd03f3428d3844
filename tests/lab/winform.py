"""How would Windows 10 have kept the books of a process that was dumped under Wine?

Wine fills the lists and the edges of the graph, counts in the 16 bits of old, and leaves counts and states of the nodes
zero. What is rewritten here is what a dump of Windows 10 17134 has there; nothing is shared with the readers.
"""

from __future__ import annotations

import struct

READY_TO_RUN = 9
STATIC_DEPENDENCY, DYNAMIC_LOAD = 0, 4
STATIC_IMPORT = 0x20
FLAGS = 0x8A2CC
CORE = ("ntdll.dll", "kernel32.dll", "kernelbase.dll")


class _File:
    def __init__(self, content: bytes) -> None:
        self.data = bytearray(content)
        self.runs: list[tuple[int, int, int]] = []
        self.teb = 0
        count, where = struct.unpack_from("<II", self.data, 8)
        for number in range(count):
            kind, _, offset = struct.unpack_from("<III", self.data, where + 12 * number)
            if kind == 9:
                ranges, data = struct.unpack_from("<QQ", self.data, offset)
                for each in range(ranges):
                    start, size = struct.unpack_from("<QQ", self.data, offset + 16 + 16 * each)
                    self.runs.append((start, size, data))
                    data += size
            elif kind == 3:
                (self.teb,) = struct.unpack_from("<Q", self.data, offset + 4 + 16)

    def place(self, address: int) -> int:
        return next(data + address - start for start, size, data in self.runs if start <= address < start + size)

    def get(self, code: str, address: int) -> int:
        return int(struct.unpack_from("<" + code, self.data, self.place(address))[0])

    def text(self, address: int) -> str:
        size, buffer = self.get("H", address), self.place(self.get("Q", address + 8))
        return self.data[buffer : buffer + size].decode("utf-16-le")

    def put(self, code: str, address: int, value: int) -> None:
        struct.pack_into("<" + code, self.data, self.place(address), value)


def to_windows_10(content: bytes) -> bytes:
    """Rewrite a 64-bit full dump of a Wine process."""
    file = _File(content)
    head = file.get("Q", file.get("Q", file.teb + 0x60) + 0x18) + 0x10
    entry = file.get("Q", head)
    first = True
    while entry != head:
        node = file.get("Q", entry + 0x98)
        count = file.get("h", entry + 0x6C)
        core = first or file.text(entry + 0x58).lower() in CORE
        static = count == -1 and not core and file.get("Q", node + 0x30) != 0
        if static:
            # A static import of the program keeps its count: one for each edge.
            tail = file.get("Q", node + 0x30)
            link, edges = file.get("Q", tail), 1
            while link != tail:
                link, edges = file.get("Q", link), edges + 1
            count = edges
        file.put("i", node + 0x18, count)
        file.put("i", node + 0x38, READY_TO_RUN)
        file.put("h", entry + 0x6C, -1 if count == -1 else 6)
        file.put("i", entry + 0x10C, STATIC_DEPENDENCY if static or core else DYNAMIC_LOAD)
        file.put("I", entry + 0x114, 2)
        file.put("I", entry + 0x68, FLAGS | (STATIC_IMPORT if static else 0))
        first = False
        entry = file.get("Q", entry)
    return bytes(file.data)
