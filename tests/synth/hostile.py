"""What is the worst that a file of 64 MB can ask of a reader?

Cores whose headers, notes, lists and tables are as many as fit, and of processes in which every library has everything
at once: memory that several segments show is in the file once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dlwhy.tests.fakes import X86_64
from dlwhy.tests.synth.elfcore import Encoder
from dlwhy.tests.synth.glibc import DYNAMIC, IMAGE_SIZE, NOTE, Layout, Library, Process

SIZE = 64 << 20
PAGE = 4096
HEADER, ENTRY = 64, 56
PT_LOAD, PT_NOTE = 1, 4
NT_PRSTATUS = 1

#: ld.so of Debian trixie's glibc 2.41: of a known build the lists are believed as far as they go.
BUILD_ID = bytes.fromhex("86f7eb4ff495ed3f2831c6d3d662e4321762a2a3")
RTLD_GLOBAL_SIZE = 2888

# Members of struct link_map, on top of the Layout that a test types in.
L_ADDR, L_NAME, L_LD, L_NEXT, L_PREV, L_REAL = 0, 8, 16, 24, 32, 40


class CoreFile:
    """A core that is written piece by piece; the program headers come last."""

    def __init__(self) -> None:
        self.data = bytearray(HEADER)
        self.headers: list[bytes] = []
        self.out = Encoder()

    def put(self, data: bytes, align: int = 16) -> int:
        """Add bytes to the file; gives their offset."""
        self.data += bytes(-len(self.data) % align)
        offset = len(self.data)
        self.data += data
        return offset

    def show(self, address: int, offset: int, size: int) -> None:
        """Show bytes of the file at an address."""
        self.headers.append(self.out.program_header(PT_LOAD, offset, address, size, size))

    def note(self, offset: int, size: int) -> None:
        """Add a segment of notes."""
        self.headers.append(self.out.program_header(PT_NOTE, offset, 0, size, 0))

    def save(self, path: Path) -> Path:
        """Write it."""
        table = self.put(b"".join(self.headers))
        count = len(self.headers)
        sections = self.put(self.out.section_header_zero(count)) if count >= 0xFFFF else 0
        head = self.out.elf_header(4, 62, phoff=table, shoff=sections, phnum=min(count, 0xFFFF), shnum=bool(sections))
        self.data[:HEADER] = head
        path.write_bytes(self.data)
        return path


class Crowd:
    """A process of glibc 2.41 with as many libraries as are asked for, all of which look like one."""

    def __init__(self, layout: Layout, count: int, prototype: Library, others: Sequence[Library] = ()) -> None:
        """Make a process; ``count`` libraries follow those that every process has."""
        self.layout = layout
        self.count = count
        self.made = Process(
            X86_64,
            layout,
            [
                Library("main", type=0, needs=["libc.so.6"]),
                Library("libc.so.6", type=1, tls_size=0x90),
                Library("ld.so", type=1),
                *others,
                prototype,
            ],
            rtld_global_size=RTLD_GLOBAL_SIZE,
            version=(2, 41),
            exports_descriptors=True,
            mangles=True,
        )
        self.target = self.made.target()
        self.segments = {start: bytearray(data) for start, data in self.target._segments}
        self.prototype = self.made.maps[prototype.name]
        self.image = self.made.bases[prototype.name]
        rtld = self.made.bases["ld.so"]
        self.write(rtld + NOTE + 16, BUILD_ID)
        self.first = 0x6000_0000_0000
        self.core = CoreFile()
        self._next = 0x6100_0000_0000

    def write(self, address: int, data: bytes) -> None:
        """Overwrite memory."""
        start = max(each for each in self.segments if each <= address)
        at = address - start
        self.segments[start][at : at + len(data)] = data

    def word(self, address: int, *values: int) -> None:
        """Overwrite words."""
        self.write(address, struct.pack(f"<{len(values)}Q", *values))

    def new(self, data: bytes) -> int:
        """Add memory; gives its address."""
        address = self._next
        self.core.show(address, self.core.put(data, PAGE), len(data))
        self._next += -(-len(data) // PAGE) * PAGE + PAGE
        return address

    def address(self, index: int) -> int:
        """Give the address of a library's link_map."""
        return self.first + index * self.layout.size

    def add_maps(self, change: Callable[[int], Mapping[int, int]]) -> None:
        """Write the libraries; ``change`` gives for each the words that differ from the prototype's."""
        size, raw = self.layout.size, bytearray()
        start = max(each for each in self.segments if each <= self.prototype)
        at = self.prototype - start
        template = bytes(self.segments[start][at : at + size])
        put = struct.Struct("<Q").pack_into
        for index in range(self.count):
            each = bytearray(template)
            address = self.first + index * size
            put(each, L_NEXT, address + size if index + 1 < self.count else 0)
            put(each, L_PREV, address - size if index else self.prototype)
            put(each, L_REAL, address)
            for offset, value in change(index).items():
                put(each, offset, value)
            raw += each
        self.core.show(self.first, self.core.put(bytes(raw), PAGE), len(raw))
        self.word(self.prototype + L_NEXT, self.first)
        names = self.made.libraries
        self.write(self.rtld_global + 8, struct.pack("<I", len(names) + self.count))

    @property
    def rtld_global(self) -> int:
        """Give the address of _rtld_global."""
        return self.made.bases["ld.so"] + 0x2000

    def show_image(self, index: int) -> int:
        """Show the prototype's image once more; gives the address."""
        return 0x6800_0000_0000 + index * 2 * IMAGE_SIZE

    def save(self, path: Path) -> Path:
        """Write the core."""
        out = self.core.out
        for start, data in self.segments.items():
            self.core.show(start, self.core.put(bytes(data), PAGE), len(data))
        status = bytearray(336)
        struct.pack_into("<I", status, 32, 4711)
        struct.pack_into("<Q", status, 112 + 21 * 8, self.made.tls)
        notes = out.note(b"CORE", NT_PRSTATUS, bytes(status)) + out.auxv(self.target.auxv())
        # What NT_FILE maps is nothing that is here.
        self.core.note(self.core.put(notes + out.files([])), len(notes))
        return self.core.save(path)


__all__ = ["BUILD_ID", "DYNAMIC", "SIZE", "CoreFile", "Crowd"]
