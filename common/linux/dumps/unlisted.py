"""Which files did a process map, if its core lists none?

qemu-user writes no NT_FILE, and omits every segment that begins with an ELF header (``vma_dump_size`` of its
linux-user/elfload.c): only the files have program headers, symbols and build-ids.  The user names the executable, which
is checked by AT_PHDR and AT_ENTRY; through it the ``link_map`` chain is found, which names the libraries.

A file is used if its build-id is the one in the core; if the core has none, if the loader's copy of its dynamic section
matches, allowing for l_addr.  The latter is reported as taken on trust.
"""

from __future__ import annotations

import os
from typing import BinaryIO, Optional

from ...counts import quantity
from ...errors import DlwhyError, UnsupportedError
from ...files import open_regular, read_at
from ...memory import Memory
from ...model import Module, Problem
from ...target import Target
from ..auxv import AT_BASE, AT_ENTRY, AT_PHDR, AT_PHNUM
from ..elf.files import ElfFile, read_elf_file
from ..elf.image import PT_DYNAMIC, PT_LOAD, PT_PHDR, ProgramHeader
from ..loader.rendezvous import PublicMap, find_rendezvous, lacks_loader
from .elfcore import NOT_HERE, TRUSTED, CoreFileMapping, ElfCore, build_id_in_first_page, list_names
from .fitting import has_same_dynamic_section

PF_W = 2

#: Files are kept open, and qemu-user runs no large programs.
MAX_LIBRARIES = 512

# Messages about files.
_MISSING = "not here: what the core lacks of them is not known; is the sysroot right?"
_OTHER = "other builds than those in the core, and so not used; is the sysroot right?"
_UNVERIFIED = "cannot be verified, because the core lacks their dynamic sections, and so not used"


def map_unlisted_files(target: Target, core: ElfCore, executable: str = "") -> None:
    """Add the files of a core that lists none, and problems with them, to the core.

    :param executable: the path of the core's program here.
    :raises UnsupportedError: if the core needs a file that is missing, or is another build here.
    """
    if core.files:
        return
    finder = _Finder(target, core)
    finder.map_executable(executable)
    finder.map_libraries()
    core.add_problems(finder.problems())


class _Finder:
    def __init__(self, target: Target, core: ElfCore) -> None:
        self._target = target
        self._core = core
        self._mask = target.platform.address_mask
        self._said: dict[str, list[str]] = {}

    def map_executable(self, path: str) -> None:
        table = self._core.auxv.get(AT_PHDR)
        if table is None or self._core.recorded(table, 1):
            return
        core = self._core.path
        if not path:
            raise UnsupportedError(
                f"{core} has neither the program's headers nor the names of its files, as qemu-user writes cores: name "
                "the program (in the shell --exe FILE, in Python executable=FILE, in gdb file FILE)"
            )
        try:
            stream = open_regular(path)
        except OSError as error:
            raise UnsupportedError(f"{path}: {error.strerror or error}") from error
        objection = self._add_program(path, stream, table)
        if objection:
            stream.close()
            raise UnsupportedError(f"{path} is not the program that {core} is of: {objection}")

    def _add_program(self, path: str, stream: BinaryIO, table: int) -> str:
        file = read_elf_file(stream)
        bias = _bias_of_program(file, table) if file else None
        if file is None or bias is None:
            return "it is not an executable"
        if file.platform != self._target.platform:
            return f"it is for {file.platform.arch}"
        entry, count = self._core.auxv.get(AT_ENTRY), self._core.auxv.get(AT_PHNUM)
        if entry is not None and entry != bias + file.entry & self._mask:
            return f"AT_ENTRY is {entry:#x}, by the file it would be {bias + file.entry & self._mask:#x}"
        if count is not None and count != len(file.headers):
            return f"AT_PHNUM is {count}, the file has {quantity(len(file.headers), 'program header')}"
        objection = self._add(path, stream, file, bias)
        if objection == _UNVERIFIED:
            return "the core lacks the dynamic section that would show it"
        return "its build-id or dynamic section is another" if objection else ""

    def map_libraries(self) -> None:
        try:
            start = find_rendezvous(Memory(self._target))
        except DlwhyError:
            return  # fails again when the question is answered, and is reported there
        # The program itself has no name, the vDSO no folder; ld.so is listed once more in each further namespace.
        named = {entry.l_name: entry for entry in reversed(start.maps) if "/" in entry.l_name}
        for number, entry in enumerate(named.values()):
            if number == MAX_LIBRARIES:
                message = f"it lists no files; of {len(named)} libraries only {MAX_LIBRARIES} files are looked for"
                self._core.add_problems([Problem(f"core file {self._core.path}", message)])
                break
            self._map_library(entry)

    def _map_library(self, entry: PublicMap) -> None:
        if self._core.recorded(entry.l_addr, 1) and not self._recorded_build_id(entry.l_addr):
            return
        stream = self._core.open_image(Module(entry.l_name, entry.l_addr))
        objection = self._add_library(entry, stream) if stream else _MISSING
        if not objection:
            return
        if stream:
            stream.close()
        self._said.setdefault(objection, []).append(entry.l_name)
        if entry.l_addr == self._core.auxv.get(AT_BASE) and not self._core.recorded(entry.l_addr, 1):
            how = {_MISSING: NOT_HERE, _OTHER: "is another build here"}.get(objection, "cannot be verified")
            raise lacks_loader(entry.l_name, how)

    def _add_library(self, entry: PublicMap, stream: BinaryIO) -> str:
        file = read_elf_file(stream)
        if file is None or file.platform != self._target.platform:
            return _OTHER
        if entry.l_ld != _dynamic_address(file, entry.l_addr) & self._mask:
            return _OTHER
        return self._add(entry.l_name, stream, file, entry.l_addr)

    def _recorded_build_id(self, base: int) -> Optional[str]:
        return build_id_in_first_page(self._core.recorded(base, 4096))

    def _add(self, path: str, stream: BinaryIO, file: ElfFile, bias: int) -> str:
        """Map a file into the core's gaps if it is the right one, and return ""; else return the objection."""
        loads = [h for h in file.headers if h.type == PT_LOAD]
        size = os.fstat(stream.fileno()).st_size
        if any(h.offset + h.filesz > size for h in file.headers if h.type in (PT_LOAD, PT_DYNAMIC)):
            return _OTHER
        base = min((h.vaddr - h.offset for h in loads), default=0) + bias & self._mask
        recorded = self._recorded_build_id(base)
        if recorded is None:
            agrees = has_same_dynamic_section(self._core, stream, file, bias)
            if not agrees:
                return _UNVERIFIED if agrees is None else _OTHER
            self._said.setdefault(TRUSTED, []).append(path)
        elif recorded != build_id_in_first_page(read_at(stream, 0, 4096)):
            return _OTHER
        # Writable segments were recorded, or differ from the file by now.
        shown = [h for h in loads if not h.flags & PF_W and h.filesz]
        self._core.add_files(stream, [self._mapped(path, h, bias) for h in shown])
        return ""

    def _mapped(self, path: str, header: ProgramHeader, bias: int) -> CoreFileMapping:
        start = bias + header.vaddr & self._mask
        return CoreFileMapping(start, start + header.filesz, header.offset, path)

    def problems(self) -> list[Problem]:
        return [Problem(list_names(paths), message) for message, paths in self._said.items()]


def _bias_of_program(file: ElfFile, table: int) -> Optional[int]:
    """Return the load bias of the program whose program headers are at an address."""
    own = next((h for h in file.headers if h.type == PT_PHDR), None)
    if own is not None:
        return table - own.vaddr
    loads = [h for h in file.headers if h.type == PT_LOAD and h.offset <= file.table < h.offset + h.filesz]
    return table - (file.table - loads[0].offset + loads[0].vaddr) if loads else None


def _dynamic_address(file: ElfFile, bias: int) -> int:
    header = next((h for h in file.headers if h.type == PT_DYNAMIC), None)
    return -1 if header is None else header.vaddr + bias
