"""Which local symbols does the file on disk have that memory lacks?

A file is used only if its build-id is the one in memory.  pyelftools reads it, in the helper process: a file of 24 KiB
can have a symbol table of gigabytes.  Without pyelftools answers lack local names, but no verdict changes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Optional

from ...files import open_first, read_at
from ...helper import shared_helper
from ...memory import Memory
from ...model import Module, Platform
from .image import MAX_PROGRAM_HEADERS, ElfImage, ProgramHeader, parse_program_headers
from .machine import platform_of

if TYPE_CHECKING:
    from ...helper import Task


DEBUG_DIRECTORY = "/usr/lib/debug/.build-id"

#: Seconds of processor time for a search in a file: pyelftools takes 30 ms to import, and 0.5 us for a symbol.
FILE_SECONDS = 1.5

_MAX_DIGITS = 20

# The shorter answers of the helper process about files.
_answers: dict[tuple[object, ...], bytes] = {}
_MAX_ANSWERS = 1000
_MAX_ANSWER_LENGTH = 4096


class ElfFile(NamedTuple):
    """The header of an ELF file; ``table`` is the file offset of its program headers."""

    platform: Platform
    entry: int
    table: int
    headers: tuple[ProgramHeader, ...]


def read_elf_file(stream: BinaryIO) -> Optional[ElfFile]:
    """Read the header of a file, None if it is not an ELF file for a known processor."""
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


def name_function(memory: Memory, image: ElfImage, path: str, base: int, address: int) -> Optional[str]:
    """Return the name of the function that covers an address: from the file, its debug file, or memory.

    :param path: the file's path.
    :param base: the address of the image's ELF header.
    :param address: an address in the target, not an offset in the file.
    :return: the mangled name; None if no symbol covers the address.
    """
    from .symbols import covering_function

    build_id = image.read_build_id()
    offset = (address - image.bias) & memory.platform.address_mask
    if build_id is not None:
        found = _search(memory, Module(path, base, build_id), covering_function, str(offset))
        if found:
            return found
    covering = image.covering_symbol(address)
    return covering[0] if covering else None


def name_tls_variable(memory: Memory, image: ElfImage, path: str, base: int, offset: int) -> Optional[str]:
    """Return the name of the thread-local variable that covers an offset in a library's block.

    :param path: the file's path.
    :param base: the address of the image's ELF header.
    :return: the mangled name, from the file, its debug file, or memory; None if no symbol covers the offset.
    """
    from .symbols import covering_variable

    build_id = image.read_build_id()
    found = _search(memory, Module(path, base, build_id), covering_variable, str(offset)) if build_id else ""
    return found or image.covering_variable(offset)


def hides_names(memory: Memory, image: ElfImage, path: str, base: int) -> bool:
    """Return True if a file's symbol table has local names of external linkage: its compiler or linker hid them.

    False also if the file has no such table, or is not here.

    :param path: the file's path.
    :param base: the address of the image's ELF header.
    """
    from .symbols import has_hidden_names

    build_id = image.read_build_id()
    return build_id is not None and bool(_search(memory, Module(path, base, build_id), has_hidden_names, ""))


def find_local_symbol(memory: Memory, image: ElfImage, path: str, name: str) -> Optional[int]:
    """Return the address in memory of a symbol that only the file's symbol table has, None if it is not there."""
    from .symbols import value_of

    build_id = image.read_build_id()
    if build_id is None:
        return None
    found = _search(memory, Module(path, image.load_range()[0], build_id), value_of, name)
    return image.address(int(found)) if found and found.isdecimal() and len(found) <= _MAX_DIGITS else None


def _search(memory: Memory, module: Module, task: Task, wanted: str) -> str:
    """Search the symbol tables of a module's files in the helper process; empty if nothing is found."""
    item = f"{module.build_id} {wanted}".encode("utf-8", "surrogateescape")
    for stream in _symbol_files(memory, module):
        with stream:
            found = _ask(task, item, stream)
        if found:
            return found.decode("utf-8", "surrogateescape")
    return ""


def _ask(task: Task, item: bytes, stream: BinaryIO) -> Optional[bytes]:
    """Ask the helper process, unless it has answered this about the same file: a trace asks at each event."""
    state = os.fstat(stream.fileno())
    key = (task.__name__, item, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    found = _answers.get(key)
    if found is None:
        (found,) = shared_helper().ask(task, [item], FILE_SECONDS, stream.fileno())
        if found is not None and len(found) <= _MAX_ANSWER_LENGTH and len(_answers) < _MAX_ANSWERS:
            _answers[key] = found
    return found


def _symbol_files(memory: Memory, module: Module) -> Iterator[BinaryIO]:
    stream = memory.target.open_image(module)
    if stream is not None:
        yield stream
    build_id = module.build_id or ""
    stream = open_first([os.path.join(DEBUG_DIRECTORY, build_id[:2], f"{build_id[2:]}.debug")])
    if stream is not None:
        yield stream
