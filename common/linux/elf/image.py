"""What do the headers and tables of an ELF image in memory contain?

Everything is read from the target's memory: program headers, dynamic section, symbols, relocations, build-id.
Symbols of the debugger are not used, because they can be absent, or belong to another file.
Sources: System V ABI, gabi chapters 4 and 5; the GNU hash section as described in binutils' ``bfd/elflink.c``.
"""

from __future__ import annotations

import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple, Optional

from ...counts import quantity
from ...errors import CorruptError, DlwhyError, FaultError
from ...memory import Memory

PT_LOAD = 1
PT_DYNAMIC = 2
PT_INTERP = 3
PT_NOTE = 4
PT_PHDR = 6
PT_TLS = 7
PT_GNU_RELRO = 0x6474E552

DT_NEEDED = 1
DT_PLTRELSZ = 2
DT_HASH = 4
DT_STRTAB = 5
DT_SYMTAB = 6
DT_RELA = 7
DT_RELASZ = 8
DT_STRSZ = 10
DT_SONAME = 14
DT_REL = 17
DT_RELSZ = 18
DT_PLTREL = 20
DT_DEBUG = 21
DT_JMPREL = 23
DT_FLAGS_1 = 0x6FFFFFFB
DT_GNU_HASH = 0x6FFFFEF5

NT_GNU_BUILD_ID = 3
STB_WEAK = 2
STT_TLS = 6

# Caps on counts that come from the target.  Real maxima seen: 13 program headers, 40 dynamic entries,
# 300,000 symbols and 1,200,000 relocations (Chromium).
MAX_PROGRAM_HEADERS = 1024
MAX_DYNAMIC_ENTRIES = 1024
MAX_SYMBOLS = 4_000_000
#: The longest symbol name that is read, in bytes; in C++ some have more than 4096.
MAX_NAME = 1 << 16
MAX_RELOCATION_BYTES = 256 << 20
_STRUCTS_AT_ONCE = 1 << 14
MAX_NOTE_BYTES = 1 << 16
MAX_HASH_STEPS = 100_000

# The charge for each, in Memory's units, in addition to the bytes that are read.
_HEADER_UNITS = 150
_ENTRY_UNITS = 64
_SYMBOL_UNITS = 40
_RELOCATION_UNITS = 64

# Elf_Symndx of glibc's bits/elfclass.h, binutils' s390_elf64_size_info: 32 bits everywhere but here and on Alpha.
_SYSV_HASH_WORD = {"s390x": 8}


class ProgramHeader(NamedTuple):
    """An ``Elf_Phdr``."""

    type: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    flags: int
    align: int


class ElfSymbol(NamedTuple):
    """An ``Elf_Sym``; ``name`` is an offset into the string table."""

    name: int
    info: int
    shndx: int
    value: int
    size: int
    other: int

    @property
    def type(self) -> int:
        """Return ``STT_*``."""
        return self.info & 15

    @property
    def binding(self) -> int:
        """Return ``STB_*``."""
        return self.info >> 4


class Relocation(NamedTuple):
    """An ``Elf_Rel`` or ``Elf_Rela``: the address of the relocated word, and the index of the symbol."""

    place: int
    symbol: int


def parse_program_headers(data: bytes, entry_size: int, is_64: bool, prefix: str) -> tuple[ProgramHeader, ...]:
    """Decode a table of program headers."""
    form = struct.Struct(prefix + ("IIQQQQQQ" if is_64 else "8I"))
    if entry_size < form.size:
        raise CorruptError(f"e_phentsize {entry_size} is too small")
    if entry_size == form.size:
        entries = form.iter_unpack(data[: len(data) - len(data) % form.size])
    else:
        entries = (form.unpack_from(data, start) for start in range(0, len(data) - form.size + 1, entry_size))
    if is_64:
        return tuple(
            ProgramHeader(kind, offset, vaddr, filesz, memsz, flags, align)
            for kind, flags, offset, vaddr, _, filesz, memsz, align in entries
        )
    return tuple(
        ProgramHeader(kind, offset, vaddr, filesz, memsz, flags, align)
        for kind, offset, vaddr, _, filesz, memsz, flags, align in entries
    )


class ElfNote(NamedTuple):
    """An ``Elf_Nhdr`` with its name, without the final zeros, and its data."""

    owner: bytes
    kind: int
    data: bytes


def for_each_note(notes: bytes, prefix: str) -> Iterator[ElfNote]:
    """Yield the notes of one segment or section."""
    position = 0
    while position + 12 <= len(notes):
        name_size, data_size, kind = struct.unpack_from(prefix + "III", notes, position)
        name_start = position + 12
        data_start = name_start + (name_size + 3 & ~3)
        owner = notes[name_start : name_start + name_size].rstrip(b"\0")
        yield ElfNote(owner, kind, notes[data_start : data_start + data_size])
        position = data_start + (data_size + 3 & ~3)


def find_build_id(notes: bytes, prefix: str) -> Optional[str]:
    """Find the GNU build-id among the notes of one segment or section, None if there is none."""
    for note in for_each_note(notes, prefix):
        if note.kind == NT_GNU_BUILD_ID and note.owner == b"GNU":
            return note.data.hex()
    return None


def gnu_hash(name: bytes) -> int:
    """Hash a symbol name as ``DT_GNU_HASH`` does."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def sysv_hash(name: bytes) -> int:
    """Hash a symbol name as ``DT_HASH`` does."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


class ElfImage:
    """An ELF image in memory, known by its program headers."""

    def __init__(self, memory: Memory, headers: tuple[ProgramHeader, ...], bias: int, entry: int) -> None:
        self.memory = memory
        self.headers = headers
        self.bias = bias
        self.entry = entry
        self._functions: Optional[_SymbolRanges] = None
        self._soname: Optional[str] = None
        self._dynamic: Optional[dict[int, int]] = None
        self._entries: Optional[tuple[tuple[int, int], ...]] = None

    @classmethod
    def at(cls, memory: Memory, base: int) -> ElfImage:
        """Read the image whose ELF header is at ``base``.

        :raises CorruptError: if there is no ELF header of the target's class.
        :raises FaultError: if it cannot be read.
        """
        ident = memory.read(base, 64)
        is_64 = memory.pointer_size == 8
        expected = b"\x7fELF" + bytes([2 if is_64 else 1, 1 if memory.struct_prefix == "<" else 2])
        if not ident.startswith(expected):
            raise CorruptError("no ELF header", base)
        if is_64:
            entry, offset = struct.unpack_from(memory.struct_prefix + "QQ", ident, 24)
            size, count = struct.unpack_from(memory.struct_prefix + "HH", ident, 54)
        else:
            entry, offset = struct.unpack_from(memory.struct_prefix + "II", ident, 24)
            size, count = struct.unpack_from(memory.struct_prefix + "HH", ident, 42)
        headers = cls._read_headers(memory, base + offset, count, size)
        first = min((h.vaddr - h.offset for h in headers if h.type == PT_LOAD), default=0)
        return cls(memory, headers, base - first & memory.platform.address_mask, entry)

    @classmethod
    def from_program_headers(cls, memory: Memory, address: int, count: int, entry_size: int) -> ElfImage:
        """Read the image whose program headers are at ``address``, as in ``AT_PHDR``.

        :raises CorruptError: if the headers contradict themselves.
        :raises FaultError: if they cannot be read.
        """
        headers = cls._read_headers(memory, address, count, entry_size)
        own = next((h for h in headers if h.type == PT_PHDR), None)
        if own is not None:
            return cls(memory, headers, address - own.vaddr & memory.platform.address_mask, 0)
        # ld.so and static-pie programs have no PT_PHDR; linkers put the table right behind the ELF header.
        header_size = 64 if memory.pointer_size == 8 else 52
        try:
            return cls.at(memory, address - header_size)
        except (CorruptError, FaultError):
            # Not position-independent, or moved to where its dynamic section is not found, which is an error then.
            return cls(memory, headers, 0, 0)

    @staticmethod
    def _read_headers(memory: Memory, address: int, count: int, entry_size: int) -> tuple[ProgramHeader, ...]:
        if not 0 < count <= MAX_PROGRAM_HEADERS or entry_size > 256:
            raise CorruptError(f"{quantity(count, 'program header')} of {quantity(entry_size, 'byte')}", address)
        memory.spend(count * _HEADER_UNITS, f"program headers at {address:#x}")
        data = memory.read(address, count * entry_size)
        return parse_program_headers(data, entry_size, memory.pointer_size == 8, memory.struct_prefix)

    def find_header(self, kind: int) -> Optional[ProgramHeader]:
        """Find the first program header of a type."""
        return next((header for header in self.headers if header.type == kind), None)

    def address(self, vaddr: int) -> int:
        """Convert a virtual address of the file to one of the target."""
        return (self.bias + vaddr) & self.memory.platform.address_mask

    def contains(self, address: int) -> bool:
        """Return True if an address is in a loaded segment."""
        offset = (address - self.bias) & self.memory.platform.address_mask
        return any(h.type == PT_LOAD and h.vaddr <= offset < h.vaddr + h.memsz for h in self.headers)

    def load_range(self) -> tuple[int, int]:
        """Return the address range of the loaded segments; (0, 0) without one."""
        loads = [h for h in self.headers if h.type == PT_LOAD]
        if not loads:
            return 0, 0
        return self.address(min(h.vaddr for h in loads)), self.address(max(h.vaddr + h.memsz for h in loads))

    def read_build_id(self) -> Optional[str]:
        """Read the GNU build-id note; None if there is none or it is not in memory."""
        for notes in self._read_notes():
            build_id = find_build_id(notes, self.memory.struct_prefix)
            if build_id:
                return build_id
        return None

    def has_note_of(self, owner: bytes) -> bool:
        """Return True if a note in memory is of this owner."""
        prefix = self.memory.struct_prefix
        return any(note.owner == owner for notes in self._read_notes() for note in for_each_note(notes, prefix))

    def _read_notes(self) -> Iterator[bytes]:
        for header in self.headers:
            if header.type == PT_NOTE and 0 < header.memsz <= MAX_NOTE_BYTES:
                yield self.memory.try_read(self.address(header.vaddr), header.memsz) or b""

    @property
    def dynamic(self) -> dict[int, int]:
        """Return the first value of each tag of the dynamic section; empty without one."""
        if self._dynamic is None:
            self._dynamic = dict(reversed(self.dynamic_entries))
        return self._dynamic

    @property
    def dynamic_entries(self) -> tuple[tuple[int, int], ...]:
        """Return the (tag, value) pairs of the dynamic section; empty without one."""
        if self._entries is None:
            header = self.find_header(PT_DYNAMIC)
            self._entries = read_dynamic(self.memory, self.address(header.vaddr)) if header else ()
        return self._entries

    def read_needed(self) -> tuple[str, ...]:
        """Read the DT_NEEDED names.

        :raises FaultError: if the string table is not in memory.
        """
        return tuple(self.string(value) for tag, value in self.dynamic_entries if tag == DT_NEEDED)

    def dynamic_address(self, tag: int) -> Optional[int]:
        """Return a pointer-valued dynamic entry as an address.

        The loader replaces these entries by addresses, unless the section is read-only (the vDSO, RISC-V) or the
        loader has not run yet: a value below the image's own range is still an offset.
        """
        value = self.dynamic.get(tag)
        if value is None or self.contains(value):
            return value
        return self.address(value)

    def string(self, offset: int) -> str:
        """Read a string of the dynamic string table."""
        table = self.dynamic_address(DT_STRTAB)
        if table is None or not 0 <= offset < self.dynamic.get(DT_STRSZ, 0):
            raise CorruptError(f"string offset {offset} outside the string table")
        return self.memory.c_string(table + offset, MAX_NAME)

    def read_soname(self) -> Optional[str]:
        """Read DT_SONAME; None if there is none or it is not in memory."""
        if self._soname is None:
            try:
                offset = self.dynamic.get(DT_SONAME)
                self._soname = None if offset is None else self.string(offset)
            except DlwhyError:
                return None  # `GlibcProcess.lacks_soname` finds the difference to a library without one
        return self._soname

    def symbol(self, index: int) -> ElfSymbol:
        """Read an entry of the dynamic symbol table."""
        table = self.dynamic_address(DT_SYMTAB)
        if table is None or not 0 <= index < MAX_SYMBOLS:
            raise CorruptError(f"no dynamic symbol {index}")
        form = self.symbol_struct()
        return self.decode_symbol(form.unpack(self.memory.read(table + index * form.size, form.size)))

    def symbol_struct(self) -> struct.Struct:
        """Return the ``struct`` format of an ``Elf_Sym``."""
        return struct.Struct(self.memory.struct_prefix + ("IBBHQQ" if self.memory.pointer_size == 8 else "IIIBBH"))

    def decode_symbol(self, values: tuple[int, ...]) -> ElfSymbol:
        """Decode an ``Elf_Sym``; its members are in a different order in each ELF class."""
        if self.memory.pointer_size == 8:
            name, info, other, shndx, value, size = values
        else:
            name, value, size, info, other, shndx = values
        return ElfSymbol(name, info, shndx, value, size, other)

    def find_symbol(self, name: str) -> Optional[tuple[int, int]]:
        """Find a defined dynamic symbol by its hash; return (address, size).

        :raises FaultError: if a table that is needed is not in memory.
        """
        symbol = self._find_symbol(name)
        return (self.address(symbol.value), symbol.size) if symbol else None

    def find_function(self, name: str) -> Optional[int]:
        """Find the instruction of an exported function that every call of it executes.

        :raises FaultError: if a table that is needed is not in memory.
        """
        symbol = self._find_symbol(name)
        if symbol is None:
            return None
        arch = self.memory.platform.arch
        if arch == "arm":  # bit 0 says that it is Thumb code (ELF for the Arm architecture)
            return self.address(symbol.value & ~1)
        # Calls from within a library enter behind the code that finds the TOC (64-bit ELFv2 ABI, 3.4.1).
        local = (1 << (symbol.other >> 5)) >> 2 << 2 if arch == "ppc64le" else 0
        return self.address(symbol.value + local)

    def _find_symbol(self, name: str) -> Optional[ElfSymbol]:
        for index in self._hash_candidates(name.encode()):
            symbol = self.symbol(index)
            if symbol.shndx != 0 and self.string(symbol.name) == name:
                return symbol
        return None

    def _hash_candidates(self, name: bytes) -> Iterator[int]:
        gnu = self.dynamic_address(DT_GNU_HASH)
        sysv = self.dynamic_address(DT_HASH)
        if gnu is not None:
            yield from self._gnu_candidates(gnu, gnu_hash(name))
        elif sysv is not None:
            yield from self._sysv_candidates(sysv, sysv_hash(name))

    def _u32(self, address: int) -> int:
        return self.memory.unsigned(address, 4)

    def _gnu_candidates(self, table: int, value: int) -> Iterator[int]:
        bucket_count, first, bloom_words = (self._u32(table + 4 * i) for i in range(3))
        if bucket_count == 0:
            raise CorruptError("GNU hash table without buckets", table)
        buckets = table + 16 + bloom_words * self.memory.pointer_size
        chains = buckets + 4 * bucket_count
        index = self._u32(buckets + 4 * (value % bucket_count))
        for _ in range(MAX_HASH_STEPS):
            if index < first:
                return
            entry = self._u32(chains + 4 * (index - first))
            if entry | 1 == value | 1:
                yield index
            if entry & 1:
                return
            index += 1
        raise CorruptError("GNU hash chain without end", table)

    def _sysv_word(self, table: int, index: int) -> int:
        """Read a word of DT_HASH: number of buckets, number of symbols, buckets, chains."""
        size = _SYSV_HASH_WORD.get(self.memory.platform.arch, 4)
        return self.memory.unsigned(table + index * size, size)

    def _sysv_candidates(self, table: int, value: int) -> Iterator[int]:
        bucket_count = self._sysv_word(table, 0)
        if bucket_count == 0:
            raise CorruptError("hash table without buckets", table)
        index = self._sysv_word(table, 2 + value % bucket_count)
        for _ in range(MAX_HASH_STEPS):
            if index == 0:
                return
            yield index
            index = self._sysv_word(table, 2 + bucket_count + index)
        raise CorruptError("hash chain without end", table)

    def symbol_count(self) -> int:
        """Return the number of dynamic symbols, from the hash table; 0 if unknown."""
        gnu = self.dynamic_address(DT_GNU_HASH)
        sysv = self.dynamic_address(DT_HASH)
        if sysv is not None:
            return min(self._sysv_word(sysv, 1), MAX_SYMBOLS)
        if gnu is None:
            return 0
        bucket_count, first, bloom_words = (self._u32(gnu + 4 * i) for i in range(3))
        if not 0 < bucket_count <= MAX_SYMBOLS:
            return 0
        buckets = gnu + 16 + bloom_words * self.memory.pointer_size
        from array import array  # its imports would take longer than most answers

        firsts = array("I", self.memory.read(buckets, 4 * bucket_count))
        if self.memory.platform.byteorder != sys.byteorder:
            firsts.byteswap()
        last = max(firsts)
        chains = buckets + 4 * bucket_count
        while first <= last < MAX_SYMBOLS and not self._u32(chains + 4 * (last - first)) & 1:
            last += 1
        return last + 1 if last >= first else first

    def covering_symbol(self, address: int) -> Optional[tuple[str, int]]:
        """Find the dynamic symbol that covers an address, the first if there are several; return (name, start)."""
        if self._functions is None:
            self._functions = _SymbolRanges(self)
        offset = (address - self.bias) & self.memory.platform.address_mask
        index = self._functions.find(offset)
        if index is None:
            return None
        symbol = self.symbol(index)
        return self.string(symbol.name), self.address(symbol.value)

    def covering_variable(self, offset: int) -> Optional[str]:
        """Find the thread-local dynamic symbol that covers an offset in the image's block; return its name."""
        index = _SymbolRanges(self, of_threads=True).find(offset)
        return None if index is None else self.string(self.symbol(index).name)

    def for_each_symbolic_relocation(self) -> Iterator[Relocation]:
        """Yield the relocations that name a symbol, including the PLT's.

        :raises CorruptError: if a table has an implausible size.
        :raises FaultError: if a table is not in memory.
        """
        is_rela = self.dynamic.get(DT_PLTREL, DT_RELA) == DT_RELA
        tables = (
            (DT_RELA, DT_RELASZ, True),
            (DT_REL, DT_RELSZ, False),
            (DT_JMPREL, DT_PLTRELSZ, is_rela),
        )
        for tag, size_tag, has_addend in tables:
            start = self.dynamic_address(tag)
            size = self.dynamic.get(size_tag, 0)
            if start is None or size == 0:
                continue
            if size > MAX_RELOCATION_BYTES:
                raise CorruptError(f"{size} bytes of relocations", start)
            yield from self._relocations(start, size, has_addend)

    def _relocations(self, start: int, size: int, has_addend: bool) -> Iterator[Relocation]:
        code = self.memory.pointer_code
        form = struct.Struct(self.memory.struct_prefix + code * (3 if has_addend else 2))
        shift = 32 if self.memory.pointer_size == 8 else 8
        spend, what = self.memory.spend, f"relocations at {start:#x}"
        for values in for_each_struct(self.memory, form, start, size):
            symbol = values[1] >> shift
            if symbol:
                spend(_RELOCATION_UNITS, what)
                yield Relocation(self.address(values[0]), symbol)


class _SymbolRanges:
    """The defined dynamic symbols of an image by the addresses that they cover."""

    def __init__(self, image: ElfImage, of_threads: bool = False) -> None:
        """Read the symbol table.

        :param of_threads: only the thread-local symbols, by their offsets in the block; else all others.
        :raises FaultError: if it is not in memory.
        """
        from array import array

        self._memory = memory = image.memory
        starts, ends, indexes = array("Q"), array("Q"), array("I")
        table, count = image.dynamic_address(DT_SYMTAB), image.symbol_count()
        if table is not None and count:
            memory.spend(count * _SYMBOL_UNITS, f"symbols at {table:#x}")
            form = image.symbol_struct()
            for index, values in enumerate(for_each_struct(memory, form, table, count * form.size)):
                symbol = image.decode_symbol(values)
                if symbol.shndx and symbol.size and (symbol.type == STT_TLS) is of_threads:
                    starts.append(symbol.value)
                    ends.append(min(symbol.value + symbol.size, memory.platform.address_mask))
                    indexes.append(index)
        order = sorted(range(len(starts)), key=starts.__getitem__)
        self._starts = array("Q", map(starts.__getitem__, order))
        self._ends = array("Q", map(ends.__getitem__, order))
        self._indexes = array("I", map(indexes.__getitem__, order))
        #: The highest end of each symbol and all before it.
        self._reach = array("Q", accumulate(self._ends, max))

    def find(self, offset: int) -> Optional[int]:
        """Find the first symbol of the table that covers an offset."""
        found = None
        position = bisect_right(self._starts, offset) - 1
        while position >= 0 and self._reach[position] > offset and self._memory.spend(4, "symbols that overlap"):
            if offset < self._ends[position] and (found is None or self._indexes[position] < found):
                found = self._indexes[position]
            position -= 1
        return found


def for_each_struct(memory: Memory, form: struct.Struct, start: int, size: int) -> Iterator[tuple[int, ...]]:
    """Decode an array of structures, reading it piece by piece.

    :raises FaultError: if a piece is not in memory.
    """
    block = form.size * _STRUCTS_AT_ONCE
    end = start + size - size % form.size
    for address in range(start, end, block):
        yield from form.iter_unpack(memory.read(address, min(block, end - address)))


def read_dynamic(memory: Memory, address: int) -> tuple[tuple[int, int], ...]:
    """Read a dynamic section: (tag, value) pairs without the final DT_NULL.

    :raises CorruptError: if it has no end.
    :raises FaultError: if it cannot be read.
    """
    entries: list[tuple[int, int]] = []
    block = 64
    for first in range(0, MAX_DYNAMIC_ENTRIES, block):
        start = address + first * 2 * memory.pointer_size
        try:
            words = memory.words(start, 2 * block)
        except FaultError:
            words = tuple(_words_until_null(memory, start, block))
        tags = words[::2]
        count = tags.index(0) if 0 in tags else len(tags)
        memory.spend(_ENTRY_UNITS * (1 + count), f"dynamic section at {address:#x}")
        entries += zip(tags[:count], words[1::2])
        if count < len(tags):
            return tuple(entries)
    raise CorruptError("dynamic section without end", address)


def _words_until_null(memory: Memory, address: int, count: int) -> Iterator[int]:
    for index in range(count):
        pair = memory.words(address + index * 2 * memory.pointer_size, 2)
        yield from pair
        if pair[0] == 0:
            return


class ElfImages:
    """The images in one target's memory, each read once."""

    def __init__(self, memory: Memory, is_trusted: Callable[[int, ElfImage], bool] = lambda *_: True) -> None:
        """Create the cache of a target's images.

        :param is_trusted: returns False for an image, given with its address, that is not to be used.
        """
        self._memory = memory
        self._is_trusted = is_trusted
        self._known: dict[int, Optional[ElfImage]] = {}

    def at(self, base: int) -> Optional[ElfImage]:
        """Return the image whose ELF header is at ``base``, None if it cannot be read or is not to be used."""
        if base not in self._known:
            self._known[base] = None
            try:
                image = ElfImage.at(self._memory, base)
            except (CorruptError, FaultError):
                return None
            if self._is_trusted(base, image):
                self._known[base] = image
        return self._known[base]
