"""What is in the symbol table of a file?  Asked of pyelftools, in the helper process alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Optional

from .image import find_build_id

_STT_FUNC = 2
_STT_GNU_IFUNC = 10


def covering_function(item: bytes, descriptor: int) -> bytes:
    """Name the function at an offset: ``BUILD-ID OFFSET``; empty if no symbol covers it, or it is another build."""
    build_id, _, offset = item.decode().partition(" ")
    for table in _symbol_tables(descriptor, build_id):
        is_64 = table.elffile.elfclass == 64
        index = _covering_index(table.data(), is_64, "<" if table.elffile.little_endian else ">", int(offset))
        if index is not None:
            return str(table.get_symbol(index).name).encode("utf-8", "surrogateescape")
    return b""


def value_of(item: bytes, descriptor: int) -> bytes:
    """Find the value of a symbol: ``BUILD-ID NAME``; empty if it is not defined there, or it is another build."""
    build_id, _, name = item.decode().partition(" ")
    for table in _symbol_tables(descriptor, build_id):
        for symbol in table.get_symbol_by_name(name) or ():
            if symbol["st_shndx"] != "SHN_UNDEF":
                return str(symbol["st_value"]).encode()
    return b""


def _symbol_tables(descriptor: int, build_id: str) -> Iterator[Any]:
    """Yield the .symtab sections (pyelftools' objects) of a file; none if it is of another build."""
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(open(descriptor, "rb", closefd=False))  # noqa: SIM115 - the descriptor is the caller's
    note = elf.get_section_by_name(".note.gnu.build-id")
    if note is not None and find_build_id(note.data(), "<" if elf.little_endian else ">") == build_id:
        yield from elf.iter_sections("SHT_SYMTAB")


def _covering_index(table: bytes, is_64: bool, prefix: str, offset: int) -> Optional[int]:
    form = struct.Struct(prefix + ("IBBHQQ" if is_64 else "IIIBBH"))
    whole = memoryview(table)[: len(table) - len(table) % form.size]
    for index, values in enumerate(form.iter_unpack(whole)):
        if is_64:
            _, info, _, shndx, value, size = values
        else:
            _, value, size, info, _, shndx = values
        if shndx and info & 15 in (_STT_FUNC, _STT_GNU_IFUNC) and value <= offset < value + size:
            return index
    return None
