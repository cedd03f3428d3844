"""Which symbols does a file's symbol table contain?  Read by pyelftools, in the helper process only."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Optional

from .image import MAX_NAME, find_build_id

_STT_FUNC = 2
_STT_GNU_IFUNC = 10


def covering_function(item: bytes, descriptor: int) -> bytes:
    """Return the name of the function at an offset: ``BUILD-ID OFFSET``; empty without one, or for another build."""
    build_id, _, offset = item.decode().partition(" ")
    for table in _symbol_tables(descriptor, build_id):
        is_64 = table.elffile.elfclass == 64
        place = _covering_name(table.data(), is_64, "<" if table.elffile.little_endian else ">", int(offset))
        if place is not None:
            return _read_string(table, place)
    return b""


def value_of(item: bytes, descriptor: int) -> bytes:
    """Find the value of a symbol: ``BUILD-ID NAME``; empty if it is not defined, or for another build."""
    build_id, _, name = item.decode().partition(" ")
    for table in _symbol_tables(descriptor, build_id):
        for symbol in table.get_symbol_by_name(name) or ():
            if symbol["st_shndx"] != "SHN_UNDEF":
                return str(symbol["st_value"]).encode()
    return b""


def _symbol_tables(descriptor: int, build_id: str) -> Iterator[Any]:
    """Yield the .symtab sections (pyelftools' objects) of a file; none if it is another build."""
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(open(descriptor, "rb", closefd=False))  # noqa: SIM115 - the descriptor is the caller's
    note = elf.get_section_by_name(".note.gnu.build-id")
    if note is not None and find_build_id(note.data(), "<" if elf.little_endian else ">") == build_id:
        yield from elf.iter_sections("SHT_SYMTAB")


def _read_string(table: Any, place: int) -> bytes:
    """Read a name from the string table of a symbol table: pyelftools would replace bytes that are not UTF-8."""
    strings = table.stringtable
    if not 0 <= place < strings["sh_size"]:
        return b""
    table.stream.seek(strings["sh_offset"] + place)
    name, end, _ = table.stream.read(min(MAX_NAME + 1, strings["sh_size"] - place)).partition(b"\0")
    return name if end else b""


def _covering_name(table: bytes, is_64: bool, prefix: str, offset: int) -> Optional[int]:
    """Return the string-table offset of the name of the function that covers an offset."""
    form = struct.Struct(prefix + ("IBBHQQ" if is_64 else "IIIBBH"))
    entries = memoryview(table)[: len(table) - len(table) % form.size]
    for values in form.iter_unpack(entries):
        if is_64:
            name, info, _, shndx, value, size = values
        else:
            name, value, size, info, _, shndx = values
        if shndx and info & 15 in (_STT_FUNC, _STT_GNU_IFUNC) and value <= offset < value + size:
            return int(name)
    return None
