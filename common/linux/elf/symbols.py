"""Which symbols does a file's symbol table contain?  Read by pyelftools, in the helper process only."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from typing import Any, Optional

from .image import MAX_NAME, STT_TLS, find_build_id

_STT_FUNC = 2
_STT_GNU_IFUNC = 10
#: ``st_info`` of local objects and functions: STB_LOCAL is 0.
_LOCAL_CODE_AND_DATA = (1, _STT_FUNC)
#: Names of C++'s members and templates, and what shows that one is static, in an anonymous namespace, a lambda's, or a
#: part of a function: these are local in any case.
_EXTERNAL = re.compile(rb"_ZN")
_INTERNAL = re.compile(rb"_GLOBAL__N_|U[lt]|[.$@]|[0-9a-zKE]L[0-9]")


def covering_function(item: bytes, descriptor: int) -> bytes:
    """Return the name of the function at an offset: ``BUILD-ID OFFSET``; empty without one, or for another build."""
    return _covering_symbol(item, descriptor, (_STT_FUNC, _STT_GNU_IFUNC))


def covering_variable(item: bytes, descriptor: int) -> bytes:
    """Return the name of the thread-local variable at an offset in its block: ``BUILD-ID OFFSET``; or empty."""
    return _covering_symbol(item, descriptor, (STT_TLS,))


def _covering_symbol(item: bytes, descriptor: int, types: Collection[int]) -> bytes:
    build_id, _, offset = item.decode().partition(" ")
    for table in _symbol_tables(descriptor, build_id):
        is_64 = table.elffile.elfclass == 64
        place = _covering_name(table.data(), is_64, "<" if table.elffile.little_endian else ">", int(offset), types)
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


def has_hidden_names(item: bytes, descriptor: int) -> bytes:
    """Return a byte if a local symbol is a name of C++ with external linkage: ``BUILD-ID``; empty if none is."""
    build_id = item.decode().rstrip()
    for table in _symbol_tables(descriptor, build_id):
        is_64 = table.elffile.elfclass == 64
        strings = table.stringtable.data()
        for name, info, shndx, _, _ in _decode(table.data(), is_64, "<" if table.elffile.little_endian else ">"):
            if shndx and info in _LOCAL_CODE_AND_DATA:
                text = strings[name : name + MAX_NAME].partition(b"\0")[0]
                if _EXTERNAL.match(text) and not _INTERNAL.search(text):
                    return b"1"
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


def _covering_name(table: bytes, is_64: bool, prefix: str, offset: int, types: Collection[int]) -> Optional[int]:
    """Return the string-table offset of the name of the symbol, of some types, that covers an offset."""
    for name, info, shndx, value, size in _decode(table, is_64, prefix):
        if shndx and info & 15 in types and value <= offset < value + size:
            return name
    return None


def _decode(table: bytes, is_64: bool, prefix: str) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield name, info, section, value and size of each symbol."""
    form = struct.Struct(prefix + ("IBBHQQ" if is_64 else "IIIBBH"))
    entries = memoryview(table)[: len(table) - len(table) % form.size]
    if is_64:
        for name, info, _, shndx, value, size in form.iter_unpack(entries):
            yield name, info, shndx, value, size
    else:
        for name, value, size, info, _, shndx in form.iter_unpack(entries):
            yield name, info, shndx, value, size
