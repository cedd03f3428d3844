"""How does a core file look? Written field by field as gabi chapters 4 and 5 describe it, the notes in front.

Shares no code and no format strings with the reader under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Optional

PT_LOAD, PT_NOTE = 1, 4
NT_PRSTATUS, NT_AUXV, NT_FILE = 1, 6, 0x46494C45
ET_EXEC, ET_CORE = 2, 4
PN_XNUM = 0xFFFF
HEADER_SIZES = {32: (52, 32, 40), 64: (64, 56, 64)}


class Segment(NamedTuple):
    """A range of memory; of ``size`` bytes only ``data`` are in the file."""

    address: int
    data: bytes
    size: Optional[int] = None


class FileMapping(NamedTuple):
    """An entry of NT_FILE; ``page`` is the offset in the file, counted in pages."""

    start: int
    end: int
    page: int
    path: bytes


class Encoder:
    """Write integers of one class and byte order."""

    def __init__(self, bits: int = 64, byteorder: str = "little") -> None:
        self.bits = bits
        self.little = byteorder == "little"

    def number(self, value: int, size: int) -> bytes:
        """Write an unsigned integer."""
        return (value & (1 << 8 * size) - 1).to_bytes(size, "little" if self.little else "big")

    def word(self, value: int) -> bytes:
        """Write an integer as large as a pointer."""
        return self.number(value, self.bits // 8)

    def words(self, values: Iterable[int]) -> bytes:
        """Write several of them."""
        return b"".join(self.word(value) for value in values)

    def elf_header(
        self,
        kind: int,
        machine: int,
        *,
        entry: int = 0,
        phoff: int = 0,
        shoff: int = 0,
        phnum: int = 0,
        shnum: int = 0,
    ) -> bytes:
        """Write Elf32_Ehdr or Elf64_Ehdr."""
        header, program, section = HEADER_SIZES[self.bits]
        ident = b"\x7fELF" + bytes([2 if self.bits == 64 else 1, 1 if self.little else 2, 1]) + bytes(9)
        parts = [ident, self.number(kind, 2), self.number(machine, 2), self.number(1, 4)]
        parts += [self.word(entry), self.word(phoff), self.word(shoff), self.number(0, 4)]
        parts += [self.number(each, 2) for each in (header, program, phnum, section, shnum, 0)]
        data = b"".join(parts)
        assert len(data) == header
        return data

    def program_header(
        self, kind: int, offset: int, address: int, file_size: int, size: int, flags: int = 6, align: int = 1
    ) -> bytes:
        """Write Elf32_Phdr or Elf64_Phdr."""
        if self.bits == 64:
            words = (offset, address, address, file_size, size, align)
            return self.number(kind, 4) + self.number(flags, 4) + self.words(words)
        return self.words((kind, offset, address, address, file_size, size, flags, align))

    def section_header_zero(self, count: int) -> bytes:
        """Write the first section header, which has the number of program headers in sh_info."""
        name_and_type = self.number(0, 4) * 2
        link_and_info = self.number(0, 4) + self.number(count, 4)
        return name_and_type + self.words([0] * 4) + link_and_info + self.words([0] * 2)

    def note(self, name: bytes, kind: int, data: bytes) -> bytes:
        """Write an Elf_Nhdr with its name and descriptor, padded to 4 bytes."""
        head = self.number(len(name) + 1, 4) + self.number(len(data), 4) + self.number(kind, 4)
        return head + _pad(name + b"\0") + _pad(data)

    def auxv(self, values: Mapping[int, int]) -> bytes:
        """Write the note with the auxiliary vector."""
        pairs = [word for item in (*values.items(), (0, 0)) for word in item]
        return self.note(b"CORE", NT_AUXV, self.words(pairs))

    def files(self, mappings: Sequence[FileMapping], page_size: int = 4096) -> bytes:
        """Write the note with the mapped files."""
        numbers = [len(mappings), page_size]
        for each in mappings:
            numbers += [each.start, each.end, each.page]
        names = b"".join(each.path + b"\0" for each in mappings)
        return self.note(b"CORE", NT_FILE, self.words(numbers) + names)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def write_core(
    segments: Sequence[Segment],
    notes: bytes = b"",
    *,
    encoder: Optional[Encoder] = None,
    machine: int = 62,
    kind: int = ET_CORE,
    extended: bool = False,
) -> bytes:
    """Write a core; ``extended`` puts the number of program headers where a file with 65,535 of them has it."""
    encoder = encoder or Encoder()
    header_size, program_size, section_size = HEADER_SIZES[encoder.bits]
    count = len(segments) + 1
    data_at = header_size + count * program_size + (section_size if extended else 0)
    programs = [encoder.program_header(PT_NOTE, data_at, 0, len(notes), 0)]
    place = data_at + len(notes)
    for each in segments:
        size = len(each.data) if each.size is None else each.size
        programs.append(encoder.program_header(PT_LOAD, place, each.address, len(each.data), size))
        place += len(each.data)
    section_at = header_size + count * program_size if extended else 0
    header = encoder.elf_header(
        kind,
        machine,
        phoff=header_size,
        shoff=section_at,
        phnum=PN_XNUM if extended else count,
        shnum=1 if extended else 0,
    )
    table = b"".join(programs)
    return (
        header
        + table
        + (encoder.section_header_zero(count) if extended else b"")
        + notes
        + b"".join(each.data for each in segments)
    )


def notes_first(core: bytes, order: Callable[[Segment], int] = lambda segment: segment.address) -> bytes:
    """Put the notes of a 64-bit little-endian core in front of its memory, as the kernel does and gdb does not.

    ``order`` ranks the segments, by address unless it is given.
    """
    notes, segments = read_core(core)
    return write_core(sorted(segments, key=order), notes)


def read_core(core: bytes) -> tuple[bytes, list[Segment]]:
    """Return the notes of a 64-bit little-endian core, and its segments."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(core[at : at + size], "little")

    table, entry, count = number(32, 8), number(54, 2), number(56, 2)
    notes, segments = b"", []
    for at in range(table, table + entry * count, entry):
        kind, offset, address = number(at, 4), number(at + 8, 8), number(at + 16, 8)
        file_size, size = number(at + 32, 8), number(at + 40, 8)
        data = core[offset : offset + file_size]
        if kind == PT_NOTE:
            notes += data
        elif kind == PT_LOAD:
            segments.append(Segment(address, data, size))
    return notes, segments
