"""Which memory does an ELF core file hold, and which bytes did it leave out?

gdb up to 13 reads zeros where a core recorded nothing, so its cores are read here: bytes come from the core, else
from the mapped file if that file's build-id is the one in the core, else they are missing.
Sources: Linux fs/binfmt_elf.c (NT_FILE, what coredump_filter leaves out), gabi chapter 5.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right

from ..charset import decode
from ..elf.files import read_at
from ..elf.image import (
    MAX_NOTE_BYTES,
    MAX_PROGRAM_HEADERS,
    PT_LOAD,
    PT_NOTE,
    ProgramHeader,
    find_build_id,
    parse_program_headers,
)
from ..elf.machine import platform_of
from ..errors import DumpFormatError, FaultError, UnsupportedError
from ..files import open_first, open_regular
from ..lean import NamedTuple
from ..model import Layout, Module, Problem, Thread
from ..target import Capability
from .auxv import parse_auxv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO, Optional


AT_PHDR = 3
ET_CORE = 4
NT_PRSTATUS = 1
NT_AUXV = 6
NT_ARM_TLS = 0x401
NT_FILE = 0x46494C45

# Where struct elf_prstatus holds the thread pointer: pr_reg begins at 112, then fs_base, r13, tp, or the access
# registers 0 and 1 (arch/*/include/asm/elf.h and user_regs_struct of each).
_THREAD_POINTER_OFFSETS = {"x86_64": 112 + 21 * 8, "ppc64le": 112 + 13 * 8, "riscv64": 112 + 4 * 8, "s390x": 112 + 144}

#: ``e_phnum`` of a file with more program headers than 16 bits count; the number is in section header 0 then.
PN_XNUM = 0xFFFF
MAX_SEGMENTS = 4_000_000
MAX_NOTES = 256 << 20


class Note(NamedTuple):
    """A note: ``NT_*`` and its content."""

    type: int
    data: bytes


class MappedFile(NamedTuple):
    """A file mapping recorded by NT_FILE: ``[start, end)`` shows the file from ``offset``."""

    start: int
    end: int
    offset: int
    path: str


def require_core(path: str, start: bytes) -> None:
    """Require that a file begins as an ELF core does.

    :raises DumpFormatError: if it does not.
    """
    if len(start) < 52 or start[:4] != b"\x7fELF" or start[4] not in (1, 2) or start[5] not in (1, 2):
        raise DumpFormatError(path, "no ELF file", 0)
    if int.from_bytes(start[16:18], "little" if start[5] == 1 else "big") != ET_CORE:
        raise DumpFormatError(path, "an ELF file, but no core", 16)


class ElfCore:
    """The memory of an ELF core file."""

    def __init__(
        self,
        path: str,
        open_image: Callable[[Module], Optional[BinaryIO]],
        content: Optional[BinaryIO] = None,
    ) -> None:
        """Open a core; ``open_image`` opens the file that a module was loaded from.

        ``content`` has the core's bytes where the file at ``path`` is compressed.

        :raises DumpFormatError: if the file is no ELF core.
        """
        self.path = path
        self.open_image = open_image
        try:
            self._file = content or open_regular(path)
        except OSError as error:
            raise DumpFormatError(path, error.strerror or str(error)) from error
        self._size = os.fstat(self._file.fileno()).st_size
        self._overlays: dict[str, Optional[BinaryIO]] = {}
        headers = self._read_headers()
        self._loads = sorted((h for h in headers if h.type == PT_LOAD), key=lambda h: h.vaddr)
        self._starts = [h.vaddr for h in self._loads]
        self.notes = self._read_notes(headers)
        self.auxv: Mapping[int, int] = parse_auxv(
            self._first_note(NT_AUXV), self.pointer_size, "little" if self.prefix == "<" else "big"
        )
        self.files = self._parse_files(self._first_note(NT_FILE))
        self._file_starts = [f.start for f in self.files]
        self._problems: list[Problem] = []

    def add_files(self, stream: BinaryIO, mapped: Sequence[MappedFile]) -> None:
        """Show a file, which the caller has found to be the right one, where the core has nothing; keeps the stream."""
        for each in mapped:
            self._overlays[each.path] = stream
        self.files = tuple(sorted((*self.files, *mapped)))
        self._file_starts = [f.start for f in self.files]

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Note what is to be said of the core."""
        self._problems.extend(problems)

    def close(self) -> None:
        """Close the core and the files that filled it."""
        for stream in (self._file, *self._overlays.values()):
            if stream is not None:
                stream.close()

    def _pread(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= self._size or size < 0:
            raise DumpFormatError(self.path, "a header points outside the file: the core is cut off", offset)
        return read_at(self._file, offset, size)

    def _read_headers(self) -> tuple[ProgramHeader, ...]:
        ident = self._pread(0, 64)
        require_core(self.path, ident)
        self.ident = ident
        self.is_64 = ident[4] == 2
        self.prefix = "<" if ident[5] == 1 else ">"
        self.pointer_size = 8 if self.is_64 else 4
        if self.is_64 and len(ident) == 64:
            phoff, shoff = struct.unpack_from(self.prefix + "QQ", ident, 32)
            entry_size, count = struct.unpack_from(self.prefix + "HH", ident, 54)
        else:
            phoff, shoff = struct.unpack_from(self.prefix + "II", ident, 28)
            entry_size, count = struct.unpack_from(self.prefix + "HH", ident, 42)
        if count == PN_XNUM:
            raw = self._pread(shoff, 64)
            where = 44 if self.is_64 else 28
            if len(raw) < where + 4:
                raise DumpFormatError(self.path, "section header 0 is cut off", shoff)
            count = struct.unpack_from(self.prefix + "I", raw, where)[0]
        if not 0 < count <= max(MAX_SEGMENTS, MAX_PROGRAM_HEADERS) or not 0 < entry_size <= 256:
            raise DumpFormatError(self.path, f"{count} program headers of {entry_size} bytes", phoff)
        data = self._pread(phoff, count * entry_size)
        if len(data) < count * entry_size:
            raise DumpFormatError(self.path, "the program headers are cut off", phoff)
        return parse_program_headers(data, entry_size, self.is_64, self.prefix)

    def _read_notes(self, headers: tuple[ProgramHeader, ...]) -> tuple[Note, ...]:
        """Collect the notes in their order; those of a thread follow its NT_PRSTATUS."""
        notes: list[Note] = []
        for header in headers:
            if header.type != PT_NOTE or header.filesz > MAX_NOTES:
                continue
            data = self._pread(header.offset, header.filesz)
            position = 0
            while position + 12 <= len(data):
                name_size, size, kind = struct.unpack_from(self.prefix + "III", data, position)
                start = position + 12 + (name_size + 3 & ~3)
                notes.append(Note(kind, data[start : start + size]))
                position = start + (size + 3 & ~3)
        return tuple(notes)

    def _first_note(self, kind: int) -> bytes:
        return next((note.data for note in self.notes if note.type == kind), b"")

    def _words(self, data: bytes) -> tuple[int, ...]:
        code = "Q" if self.is_64 else "I"
        count = len(data) // self.pointer_size
        return struct.unpack(f"{self.prefix}{count}{code}", data[: count * self.pointer_size])

    def _parse_files(self, note: bytes) -> tuple[MappedFile, ...]:
        """Decode NT_FILE: count, page size, count x {start, end, page offset}, then the names."""
        words = self._words(note)
        if len(words) < 2 or words[0] > (len(words) - 2) // 3:
            return ()
        count, page_size = words[0], words[1]
        end_of_table = 2 + 3 * count
        names = decode(note[end_of_table * self.pointer_size :]).split("\0")
        table = zip(words[2:end_of_table:3], words[3:end_of_table:3], words[4:end_of_table:3], names)
        return tuple(sorted(MappedFile(start, end, page * page_size, name) for start, end, page, name in table))

    def file_at(self, address: int) -> Optional[MappedFile]:
        """Find the file mapping that holds an address."""
        index = bisect_right(self._file_starts, address) - 1
        if index >= 0 and address < self.files[index].end:
            return self.files[index]
        return None

    def path_of(self, module: Module) -> str:
        """Give the path of a module's file; of one that was loaded by a relative name it is in NT_FILE."""
        mapped = None if module.path.startswith("/") else self.file_at(module.base)
        return mapped.path if mapped else module.path

    def problems(self) -> tuple[Problem, ...]:
        """Tell whether the file ends before the memory that its headers announce, and what was noted."""
        end = max((h.offset + h.filesz for h in self._loads), default=0)
        if end <= self._size:
            return tuple(self._problems)
        message = f"it is cut off: the file has {self._size} bytes of {end}"
        return (Problem(f"core file {self.path}", message), *self._problems)

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes.

        :raises FaultError: if the core did not record them and no file can replace them.
        """
        parts = []
        end = address + size
        while address < end:
            piece = self.recorded(address, end - address) or self._from_file(address, end - address)
            if not piece:
                raise FaultError(address, end - address, "not in the core")
            parts.append(piece)
            address += len(piece)
        return b"".join(parts)

    def recorded(self, address: int, size: int) -> bytes:
        """Give the first bytes of a range as far as one segment of the core has them."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return b""
        header = self._loads[index]
        inside = address - header.vaddr
        if inside >= header.filesz or header.offset + inside >= self._size:
            return b""
        return read_at(self._file, header.offset + inside, min(size, header.filesz - inside))

    def _from_file(self, address: int, size: int) -> bytes:
        mapped = self.file_at(address)
        if mapped is None:
            return b""
        stream = self._verified_file(mapped.path)
        if stream is None:
            return b""
        index = bisect_right(self._starts, address) - 1
        following = self._starts[index + 1] if index + 1 < len(self._starts) else mapped.end
        stop = min(mapped.end, following, address + size)
        offset = mapped.offset + address - mapped.start
        return read_at(stream, offset, stop - address) if offset < 1 << 63 else b""

    def _verified_file(self, path: str) -> Optional[BinaryIO]:
        """Open a mapped file if it is the one that was mapped: the build-ids in core and file must agree."""
        if path not in self._overlays:
            self._overlays[path] = self._open_verified(path)
        return self._overlays[path]

    def _open_verified(self, path: str) -> Optional[BinaryIO]:
        first = next((f for f in self.files if f.path == path and f.offset == 0), None)
        header = self.recorded(first.start, 4096) if first else b""
        build_id = build_id_in_first_page(header)
        if first is None or build_id is None:
            return None
        stream = self.open_image(Module(path, first.start, build_id))
        if stream is None:
            return None
        if build_id_in_first_page(read_at(stream, 0, 4096)) != build_id:
            stream.close()
            return None
        return stream


class CoreTarget:
    """A core file, read without a debugger."""

    kind = "core"
    capabilities = Capability.NONE

    def __init__(self, path: str, sysroot: str = "", content: Optional[BinaryIO] = None, executable: str = "") -> None:
        """Open a core; files that it maps are looked for below ``sysroot``, its program is ``executable``.

        :raises DumpFormatError: if the file is no ELF core.
        :raises UnsupportedError: if its architecture is not known, or it needs a file that is not here.
        """
        self._sysroot = sysroot.rstrip("/")
        self._executable = os.path.abspath(executable) if executable else ""
        self._core = ElfCore(path, self.open_image, content)
        platform = platform_of(self._core.ident)
        if platform is None:
            raise UnsupportedError(f"{path} is a core of an architecture that is not supported")
        self.platform = platform
        self._thread_pointers = dict(self._parse_threads())
        if not self._core.files:
            from .unlisted import map_unlisted_files

            map_unlisted_files(self, self._core, self._executable)

    def close(self) -> None:
        """Close the files."""
        self._core.close()

    @property
    def pid(self) -> Optional[int]:
        """Give the process id: the first thread's in a core of the kernel's."""
        return next(iter(self._thread_pointers), None)

    @property
    def description(self) -> str:
        """Describe the core."""
        return f"core file {self._core.path}"

    def problems(self) -> Sequence[Problem]:
        """Tell whether the core is cut off, and which files were taken on trust."""
        return self._core.problems()

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Note what is to be said of the core."""
        self._core.add_problems(problems)

    def read(self, address: int, size: int) -> bytes:
        """Read memory."""
        return self._core.read(address, size)

    def auxv(self) -> Mapping[int, int]:
        """Give the auxiliary vector."""
        return self._core.auxv

    def modules(self) -> Sequence[Module]:
        """Give the main program, where the core says which file it was."""
        mapped = self._core.file_at(self._core.auxv.get(AT_PHDR, 0))
        return (Module(mapped.path, mapped.start),) if mapped else ()

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find nothing: there is no debugger here."""
        return None

    def threads(self) -> Sequence[Thread]:
        """List the threads in the core's order."""
        return [Thread(number, lwp) for number, lwp in enumerate(self._thread_pointers, 1)]

    def registers(self, thread: Thread) -> Mapping[str, int]:
        """Give the thread pointer, where the core has it."""
        pointer = self._thread_pointers.get(thread.lwp)
        return {} if pointer is None else {"thread_pointer": pointer}

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file: below the sysroot, if there is one."""
        path = self._core.path_of(module)
        if self._executable and path in [program.path for program in self.modules()]:
            return open_first([self._executable]) or open_first([path], self._sysroot or "/")
        return open_first([path], self._sysroot or "/")

    def _parse_threads(self) -> Iterator[tuple[int, Optional[int]]]:
        """Take each thread's kernel id and thread pointer out of its NT_PRSTATUS and the notes that follow."""
        lwp, pointer = None, None
        for note in self._core.notes:
            if note.type == NT_PRSTATUS:
                if lwp is not None:
                    yield lwp, pointer
                lwp = self._integer(note.data, 32 if self.platform.pointer_size == 8 else 24, 4)
                offset = _THREAD_POINTER_OFFSETS.get(self.platform.arch)
                pointer = None if offset is None else self._integer(note.data, offset, 8)
            elif note.type == NT_ARM_TLS and self.platform.arch in ("aarch64", "arm"):
                pointer = self._integer(note.data, 0, self.platform.pointer_size)
        if lwp is not None:
            yield lwp, pointer

    def _integer(self, data: bytes, offset: int, size: int) -> Optional[int]:
        raw = data[offset : offset + size]
        return int.from_bytes(raw, "little" if self._core.prefix == "<" else "big") if len(raw) == size else None


def build_id_in_first_page(page: bytes) -> Optional[str]:
    """Find the build-id of an ELF file by its first page, None if that does not hold it."""
    if len(page) < 64 or page[:4] != b"\x7fELF":
        return None
    is_64, prefix = page[4] == 2, "<" if page[5] == 1 else ">"
    phoff = struct.unpack_from(prefix + ("Q" if is_64 else "I"), page, 32 if is_64 else 28)[0]
    entry_size, count = struct.unpack_from(prefix + "HH", page, 54 if is_64 else 42)
    if entry_size < (56 if is_64 else 32):
        return None
    for header in parse_program_headers(page[phoff : phoff + count * entry_size], entry_size, is_64, prefix):
        if header.type == PT_NOTE and header.filesz <= MAX_NOTE_BYTES:
            build_id = find_build_id(page[header.offset : header.offset + header.filesz], prefix)
            if build_id:
                return build_id
    return None
