"""What does the file on disk say that memory does not: local symbols?

A file is used only if its build-id is the one in memory.  pyelftools reads it; without pyelftools there are no
local names, which costs words but no verdict.
"""

from __future__ import annotations

import os
import struct
import sys

from ..charset import file_name
from ..lean import NamedTuple
from ..memory import Memory
from ..model import Module, Platform
from .image import MAX_PROGRAM_HEADERS, Image, ProgramHeader, find_build_id, parse_program_headers
from .machine import platform_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, BinaryIO, Optional, TypeVar

    _T = TypeVar("_T")

DEBUG_DIRECTORY = "/usr/lib/debug/.build-id"

_STT_FUNC = 2
_STT_GNU_IFUNC = 10


def open_first(paths: Sequence[str]) -> Optional[BinaryIO]:
    """Open the first of several files that is there; names out of a core can be those of pipes or devices."""
    for path in paths:
        try:
            name = file_name(path)
            if os.path.isfile(name):
                return open(name, "rb")
        except (OSError, ValueError):
            continue
    return None


if sys.platform == "win32":

    def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes of a file from an offset on."""
        stream.seek(offset)
        return stream.read(size)

else:

    def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes of a file from an offset on."""
        return os.pread(stream.fileno(), size, offset)


class ElfFile(NamedTuple):
    """What the header of an ELF file says; ``table`` is where its program headers lie in the file."""

    platform: Platform
    entry: int
    table: int
    headers: tuple[ProgramHeader, ...]


def read_elf_file(stream: BinaryIO) -> Optional[ElfFile]:
    """Read the header of a file, None if it is no ELF file of a known processor."""
    start = read_at(stream, 0, 64)
    platform = platform_of(start)
    if platform is None or len(start) < 64:
        return None
    prefix, is_64 = "<" if platform.byteorder == "little" else ">", platform.pointer_size == 8
    entry, table = struct.unpack_from(prefix + ("QQ" if is_64 else "II"), start, 24)
    size, count = struct.unpack_from(prefix + "HH", start, 54 if is_64 else 42)
    if count > MAX_PROGRAM_HEADERS or not (56 if is_64 else 32) <= size <= 256 or table >= 1 << 62:
        return None
    data = read_at(stream, table, count * size)
    return ElfFile(platform, entry, table, parse_program_headers(data, size, is_64, prefix))


def name_function(memory: Memory, image: Image, path: str, base: int, address: int) -> Optional[str]:
    """Name the function that covers an address: from the file's symbols, else its debug file's, else memory's.

    Gives the linker's name, None if no symbol covers the address.
    """
    build_id = image.read_build_id()
    offset = (address - image.bias) & memory.platform.address_mask
    if build_id is not None:
        for stream in _symbol_files(memory, Module(path, base, build_id)):
            with stream:
                name = _search(stream, build_id, lambda table: _covering_function(table, offset))
            if name is not None:
                return name
    covering = image.covering_symbol(address)
    return covering[0] if covering else None


def find_local_symbol(memory: Memory, image: Image, path: str, name: str) -> Optional[int]:
    """Find a symbol that only the file's own symbol table has; gives its address in memory, None if it has none."""
    build_id = image.read_build_id()
    if build_id is None:
        return None
    for stream in _symbol_files(memory, Module(path, image.load_range()[0], build_id)):
        with stream:
            value = _search(stream, build_id, lambda table: _value_of(table, name))
        if value is not None:
            return image.address(value)
    return None


def _value_of(table: Any, name: str) -> Optional[int]:
    for symbol in table.get_symbol_by_name(name) or ():
        if symbol["st_shndx"] != "SHN_UNDEF":
            return int(symbol["st_value"])
    return None


def _symbol_files(memory: Memory, module: Module) -> Iterator[BinaryIO]:
    stream = memory.target.open_image(module)
    if stream is not None:
        yield stream
    build_id = module.build_id or ""
    stream = open_first([os.path.join(DEBUG_DIRECTORY, build_id[:2], f"{build_id[2:]}.debug")])
    if stream is not None:
        yield stream


def _covering_function(table: Any, offset: int) -> Optional[str]:
    is_64 = table.elffile.elfclass == 64
    index = _covering_index(table.data(), is_64, "<" if table.elffile.little_endian else ">", offset)
    return None if index is None else str(table.get_symbol(index).name)


def _search(stream: BinaryIO, build_id: str, search: Callable[[Any], Optional[_T]]) -> Optional[_T]:
    """Search the .symtab sections (pyelftools' objects) of a file; None if it is another build, or damaged."""
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return None
    import zlib

    try:
        elf = ELFFile(stream)
        note = elf.get_section_by_name(".note.gnu.build-id")
        if note is None or find_build_id(note.data(), "<" if elf.little_endian else ">") != build_id:
            return None
        results = (search(section) for section in elf.iter_sections("SHT_SYMTAB"))
        return next((result for result in results if result is not None), None)
    except (ELFError, OSError, ValueError, LookupError, ArithmeticError, MemoryError, struct.error, zlib.error):
        return None


def _covering_index(table: bytes, is_64: bool, prefix: str, offset: int) -> Optional[int]:
    form = struct.Struct(prefix + ("IBBHQQ" if is_64 else "IIIBBH"))
    for index, values in enumerate(form.iter_unpack(table[: len(table) - len(table) % form.size])):
        if is_64:
            _, info, _, shndx, value, size = values
        else:
            _, value, size, info, _, shndx = values
        if shndx and info & 15 in (_STT_FUNC, _STT_GNU_IFUNC) and value <= offset < value + size:
            return index
    return None
