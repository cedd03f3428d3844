"""Which memory does an ELF core hold, and which did it omit?

gdb up to 13 reads zeros for memory that a core omits, so its cores are read here: bytes come from the core, else from
the mapped file if its build-id is the one in the core, or, where the core has none, if it fits (`dumps.fitting`); else
they are missing.  The kernel records the page with a library's headers if bit 4 of coredump_filter is set.
Sources: Linux's fs/binfmt_elf.c (NT_FILE, omissions by coredump_filter), gabi chapter 5.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple, Optional

from ...charset import decode
from ...counts import quantity
from ...errors import DumpFormatError, FaultError, OmittedFileError, UnsupportedError
from ...files import open_regular, read_at
from ...model import Module, Problem
from ...paths import base_name
from ..auxv import AT_BASE, AT_PHDR, parse_auxv
from ..elf.image import MAX_NOTE_BYTES, PT_LOAD, PT_NOTE, ProgramHeader, find_build_id, parse_program_headers

ET_CORE = 4
NT_PRSTATUS = 1
NT_PRPSINFO = 3
NT_AUXV = 6
NT_ARM_TLS = 0x401
NT_FILE = 0x46494C45


#: ``e_phnum`` of a file whose number of program headers exceeds 16 bits; section header 0 has the number.
PN_XNUM = 0xFFFF

# Caps, each on all items of a kind in the file; a problem reports what exceeds one.
#: The kernel maps no more than vm.max_map_count, 65,530 unless it was raised.
MAX_SEGMENTS = 1 << 20
#: The kernel and gdb write one segment of notes.
MAX_NOTE_SEGMENTS = 256
MAX_NOTES = 1 << 20
MAX_THREADS = 1 << 17
#: CORE_FILE_NOTE_SIZE_MAX of the kernel's fs/coredump.c.
MAX_FILE_NOTE = 16 << 20
MAX_FILES = 1 << 18
MAX_AUXV = 1 << 14
#: More than any real note of the other types that are read has, in bytes.
_MAX_NOTE = 1 << 12
#: Mappings begin and end at page boundaries, so one read by Memory has no more pieces.
MAX_PIECES = 16
#: Mapped files that are open at the same time, and opened altogether.
MAX_OPEN = 512
MAX_OPENED = 1 << 14

# What is said about files.
TRUSTED = "no build-id in the core: taken on trust, because their dynamic sections agree with it"
NOT_HERE = "is not here"
ANOTHER = "is another build here"
UNVERIFIED = "cannot be verified, because the core lacks its dynamic section"
_MAX_NAMES = 8

_HEADERS_AT_ONCE = 1 << 12
_NOTE_WINDOW = 1 << 12


class Note(NamedTuple):
    """A note: ``NT_*`` and its content."""

    type: int
    data: bytes


class CoreFileMapping(NamedTuple):
    """A file mapping recorded by NT_FILE: ``[start, end)`` shows the file from ``offset``."""

    start: int
    end: int
    offset: int
    path: str


def require_core(path: str, start: bytes) -> None:
    """Require that a file begins like an ELF core.

    :raises DumpFormatError: if it does not.
    """
    if len(start) < 52 or start[:4] != b"\x7fELF" or start[4] not in (1, 2) or start[5] not in (1, 2):
        raise DumpFormatError(path, "no ELF file", 0)
    if int.from_bytes(start[16:18], "little" if start[5] == 1 else "big") != ET_CORE:
        raise DumpFormatError(path, "an ELF file, but no core", 16)


class _Segments:
    """The segments of a core with bytes in the file, by rising address: address, size and file offset."""

    def __init__(self, headers: Iterable[ProgramHeader]) -> None:
        # Lists of numbers would take 120 MB for a million segments; the module array imports a lot.
        columns = bytearray(), bytearray(), bytearray()
        pack = struct.Struct("Q").pack
        for header in headers:
            for column, value in zip(columns, (header.vaddr, header.filesz, header.offset)):
                column += pack(value)
        self.starts, self.sizes, self.offsets = (memoryview(column).cast("Q") for column in columns)
        order = sorted(range(len(self.starts)), key=self.starts.__getitem__)
        if order != list(range(len(order))):
            for name in ("starts", "sizes", "offsets"):
                column = getattr(self, name)
                setattr(self, name, memoryview(b"".join(pack(column[index]) for index in order)).cast("Q"))


class ElfCore:
    """The memory of an ELF core file."""

    def __init__(
        self,
        path: str,
        open_image: Callable[[Module], Optional[BinaryIO]],
        content: Optional[BinaryIO] = None,
    ) -> None:
        """Open a core.

        :param open_image: opens the file that a module was loaded from; returns None if it cannot.
        :param content: the core's bytes if the file at ``path`` is compressed.
        :raises DumpFormatError: if the file is not an ELF core.
        :raises UnsupportedError: if it is a core of another system.
        """
        self.path = path
        self.open_image = open_image
        try:
            self._file = content or open_regular(path)
        except OSError as error:
            raise DumpFormatError(path, error.strerror or str(error)) from error
        self._size = os.fstat(self._file.fileno()).st_size
        self._problems: list[Problem] = []
        self._overlays: dict[str, Optional[BinaryIO]] = {}
        self._open_paths: list[str] = []
        self._opened = 0
        self._end = 0
        self._note_headers: list[ProgramHeader] = []
        self._segments = _Segments(self._for_each_segment())
        self.notes = tuple(self._for_each_note())
        self.auxv: Mapping[int, int] = parse_auxv(
            self._first_note(NT_AUXV), self.pointer_size, "little" if self.prefix == "<" else "big"
        )
        self.files = self._parse_files(self._first_note(NT_FILE))
        self._file_starts = [f.start for f in self.files]
        self._beginnings: Optional[Mapping[str, CoreFileMapping]] = None
        self._in_pieces: set[str] = set()
        self._objections: dict[str, str] = {}
        self._trusted: set[str] = set()
        self._lacking: dict[str, list[str]] = {}

    def add_files(self, stream: BinaryIO, mapped: Sequence[CoreFileMapping]) -> None:
        """Fill the core's gaps from a file, which the caller has verified; keep the stream open."""
        for each in mapped:
            self._overlays[each.path] = stream
        self.files = tuple(sorted((*self.files, *mapped)))
        self._file_starts = [f.start for f in self.files]

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Add problems to the core."""
        self._problems.extend(problems)

    def _note_cut(self, message: str) -> None:
        self._problems.append(Problem(f"core file {self.path}", message))

    def close(self) -> None:
        """Close the core and the files that filled it."""
        for stream in (self._file, *self._overlays.values()):
            if stream is not None:
                stream.close()

    def _pread(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= self._size or size < 0:
            raise DumpFormatError(self.path, "a header points outside the file: the core is cut off", offset)
        return read_at(self._file, offset, size)

    def _for_each_segment(self) -> Iterator[ProgramHeader]:
        """Yield the segments that have bytes in the file; collect the notes and the end of the last segment."""
        notes = 0
        for header in self._for_each_header():
            if header.type in (PT_LOAD, PT_NOTE):
                self._end = max(self._end, header.offset + header.filesz)
            if header.type == PT_LOAD and header.filesz:
                yield header
            elif header.type == PT_NOTE:
                notes += 1
                self._note_headers += [header] if notes <= MAX_NOTE_SEGMENTS else []
        if notes > MAX_NOTE_SEGMENTS:
            self._note_cut(f"it has {notes} segments of notes, of which the first {MAX_NOTE_SEGMENTS} are read")

    def _for_each_header(self) -> Iterator[ProgramHeader]:
        """Yield the program headers."""
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
        if not count or not 0 < entry_size <= 256:
            raise DumpFormatError(
                self.path, f"{quantity(count, 'program header')} of {quantity(entry_size, 'byte')}", phoff
            )
        if phoff + count * entry_size > self._size:
            raise DumpFormatError(self.path, "the program headers are cut off", phoff)
        if count > MAX_SEGMENTS:
            self._note_cut(f"it has {count} program headers, of which the first {MAX_SEGMENTS} are looked at")
            count = MAX_SEGMENTS
        for first in range(0, count, _HEADERS_AT_ONCE):
            size = min(_HEADERS_AT_ONCE, count - first) * entry_size
            data = self._pread(phoff + first * entry_size, size)
            if len(data) < size:
                raise DumpFormatError(self.path, "the program headers are cut off", phoff)
            yield from parse_program_headers(data, entry_size, self.is_64, self.prefix)

    def _for_each_note(self) -> Iterator[Note]:
        """Yield the notes that matter, in their order; a thread's notes follow its NT_PRSTATUS."""
        read = threads = 0
        limits = {
            NT_PRSTATUS: _MAX_NOTE,
            NT_PRPSINFO: _MAX_NOTE,
            NT_ARM_TLS: _MAX_NOTE,
            NT_AUXV: MAX_AUXV,
            NT_FILE: MAX_FILE_NOTE,
        }
        seen: set[int] = set()
        for header in self._note_headers:
            for kind, offset, size in self._notes_of(header):
                read += 1
                threads += kind == NT_PRSTATUS
                if read > MAX_NOTES or threads > MAX_THREADS:
                    limit = f"{MAX_NOTES} notes, or {MAX_THREADS} threads"
                    self._note_cut(f"it has more than {limit}: those behind are not read")
                    return
                limit_of_kind = limits.get(kind)
                if limit_of_kind is None or (kind in seen and kind in (NT_AUXV, NT_FILE)):
                    continue
                seen.add(kind)
                if size > limit_of_kind and kind == NT_FILE:
                    self._note_cut(f"its list of files, NT_FILE, has {size} bytes: {limit_of_kind} are read")
                yield Note(kind, read_at(self._file, offset, min(size, limit_of_kind)))

    def _notes_of(self, header: ProgramHeader) -> Iterator[tuple[int, int, int]]:
        """Yield the notes of a segment: type, offset in the file, size."""
        form = struct.Struct(self.prefix + "III")
        position, end = header.offset, header.offset + header.filesz
        start, data = position, self._pread(position, min(header.filesz, _NOTE_WINDOW))
        while position + form.size <= end:
            if position + form.size > start + len(data):
                if position >= self._size:
                    break
                start, data = position, read_at(self._file, position, min(end - position, _NOTE_WINDOW))
                if len(data) < form.size:
                    break
            name_size, size, kind = form.unpack_from(data, position - start)
            if position == header.offset:
                self._require_linux(data[form.size : form.size + name_size])
            content = position + form.size + (name_size + 3 & ~3)
            if content < self._size:
                yield kind, content, min(size, max(0, end - content))
            position = content + (size + 3 & ~3)

    def _require_linux(self, name: bytes) -> None:
        """Require that the name of the first note is none of another system's."""
        for system in (b"NetBSD", b"FreeBSD", b"OpenBSD"):
            if name.startswith(system):
                raise UnsupportedError(f"{self.path} is a core of {decode(system)}: only those of Linux can be read")

    def _first_note(self, kind: int) -> bytes:
        return next((note.data for note in self.notes if note.type == kind), b"")

    def _parse_files(self, note: bytes) -> tuple[CoreFileMapping, ...]:
        """Decode NT_FILE: count, page size, count x {start, end, page offset}, then the names."""
        code, word = "Q" if self.is_64 else "I", self.pointer_size
        if len(note) < 2 * word:
            return ()
        count, page_size = struct.unpack_from(f"{self.prefix}2{code}", note)
        if count > (len(note) // word - 2) // 3:
            return ()
        end_of_table = (2 + 3 * count) * word
        if count > MAX_FILES:
            self._note_cut(f"it maps {count} files, of which the first {MAX_FILES} are looked at")
            count = MAX_FILES
        words = struct.unpack_from(f"{self.prefix}{3 * count}{code}", note, 2 * word)
        names = decode(note[end_of_table:]).split("\0", count)
        table = zip(words[::3], words[1::3], words[2::3], names)
        return tuple(sorted(CoreFileMapping(start, end, page * page_size, name) for start, end, page, name in table))

    def file_at(self, address: int) -> Optional[CoreFileMapping]:
        """Find the file mapping that holds an address."""
        index = bisect_right(self._file_starts, address) - 1
        if index >= 0 and address < self.files[index].end:
            return self.files[index]
        return None

    def lwp_of(self, note: Note) -> Optional[int]:
        """Return the kernel's id of the thread of an NT_PRSTATUS, None if the note is truncated."""
        first = 32 if self.pointer_size == 8 else 24
        raw = note.data[first : first + 4]
        return int.from_bytes(raw, "little" if self.prefix == "<" else "big") if len(raw) == 4 else None

    def lwps(self) -> frozenset[int]:
        """Return the kernel's ids of the threads that existed when the core was written."""
        found = (self.lwp_of(note) for note in self.notes if note.type == NT_PRSTATUS)
        return frozenset(lwp for lwp in found if lwp is not None)

    def path_of(self, module: Module) -> str:
        """Return the path of a module's file; for one loaded by a relative name, the path in NT_FILE."""
        mapped = None if module.path.startswith("/") else self.file_at(module.base)
        return mapped.path if mapped else module.path

    def problems(self) -> tuple[Problem, ...]:
        """Return the core's problems: truncation, even after it was opened, and added ones."""
        found = [*self._problems]
        end, size = self._end, os.fstat(self._file.fileno()).st_size
        if end > size:
            found.insert(
                0, Problem(f"core file {self.path}", f"it is cut off: the file has {quantity(size, 'byte')} of {end}")
            )
        if self._trusted:
            found.append(Problem(list_names([*self._trusted]), TRUSTED))
        found += [Problem(list_names(paths), message) for message, paths in self._lacking.items()]
        return tuple(found)

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes.

        :raises FaultError: if the core did not record them and no file can replace them.
        """
        parts = []
        end = address + size
        while address < end:
            piece = self.recorded(address, end - address) or self._from_file(address, end - address)
            if not piece:
                raise self._not_recorded(address, end - address)
            parts.append(piece)
            address += len(piece)
            if len(parts) > MAX_PIECES and address < end:
                raise FaultError(address, end - address, "in too many pieces in the core")
        return b"".join(parts)

    def _not_recorded(self, address: int, size: int) -> FaultError:
        mapped = self.file_at(address)
        objection = self._objections.get(mapped.path) if mapped else None
        if mapped is None or objection is None:
            where = " any more: it is cut off" if self._is_cut_off(address) else ""
            return FaultError(address, size, f"not in the core{where}")
        return OmittedFileError(address, size, mapped.path, objection, has_remedy=objection != UNVERIFIED)

    def _is_cut_off(self, address: int) -> bool:
        """Return True if a segment had the byte at an address, before the core was cut off.

        It need not be writable: the loader makes what it has relocated read-only.
        """
        segments = self._segments
        index = bisect_right(segments.starts, address) - 1
        return index >= 0 and address - segments.starts[index] < segments.sizes[index]

    def recorded_exactly(self, address: int, size: int) -> Optional[bytes]:
        """Return the bytes of a range if the core itself has them all, None otherwise."""
        data = b""
        for _ in range(MAX_PIECES):
            piece = self.recorded(address + len(data), size - len(data))
            data += piece
            if len(data) == size or not piece:
                break
        return data if len(data) == size else None

    def recorded(self, address: int, size: int) -> bytes:
        """Return the first bytes of a range as far as one segment of the core has them."""
        segments = self._segments
        index = bisect_right(segments.starts, address) - 1
        if index < 0:
            return b""
        inside = address - segments.starts[index]
        offset = segments.offsets[index] + inside
        if inside >= segments.sizes[index] or offset >= self._size:
            return b""
        return read_at(self._file, offset, min(size, segments.sizes[index] - inside))

    def _from_file(self, address: int, size: int) -> bytes:
        mapped = self.file_at(address)
        # What is cut off the core can have been written to: the file does not have that.
        if mapped is None or self._is_cut_off(address):
            return b""
        stream = self._verified_file(mapped.path)
        if stream is None:
            return b""
        starts = self._segments.starts
        index = bisect_right(starts, address)
        following = starts[index] if index < len(starts) else mapped.end
        stop = min(mapped.end, following, address + size)
        offset = mapped.offset + address - mapped.start
        return read_at(stream, offset, stop - address) if offset < 1 << 63 else b""

    def _verified_file(self, path: str) -> Optional[BinaryIO]:
        """Open a mapped file if it is the one that was mapped."""
        if path not in self._overlays:
            self._overlays[path] = self._open_verified(path)
            if self._overlays[path] is not None:
                self._open_paths.append(path)
        if len(self._open_paths) > MAX_OPEN:
            oldest = self._overlays.pop(self._open_paths.pop(0))
            if oldest is not None:
                oldest.close()
        return self._overlays[path]

    def _open_verified(self, path: str) -> Optional[BinaryIO]:
        if self._beginnings is None:
            self._beginnings = {f.path: f for f in reversed(self.files) if f.offset == 0}
            self._in_pieces = {f.path for f in self.files if f.offset}
        first = self._beginnings.get(path)
        if first is None:
            return None
        self._opened += 1
        if self._opened > MAX_OPENED:
            if self._opened == MAX_OPENED + 1:
                self._note_cut(f"it maps more than {MAX_OPENED} files that are needed: the others are not opened")
            return None
        header = self.recorded(first.start, 4096)
        build_id = build_id_in_first_page(header)
        if header and build_id is None:
            return None  # nothing of it is known to be lacking but for what is read now, which says so
        stream = self.open_image(Module(path, first.start, build_id))
        objection = self._find_objection(stream, first, build_id) if stream else NOT_HERE
        if not objection:
            return stream
        self._objections[path] = objection
        if not header and self._is_library(first, stream) and not self._is_required(first):
            self._lacking.setdefault(f"it {objection}: what the core lacks of it is not known", []).append(path)
        if stream is not None:
            stream.close()
        return None

    def _is_library(self, first: CoreFileMapping, stream: Optional[BinaryIO]) -> bool:
        """Return True if a file is an ELF file; if it is not here, if it was mapped in several pieces, as these are."""
        if stream is not None:
            return read_at(stream, 0, 4) == b"\x7fELF"
        return first.path in self._in_pieces

    def _is_required(self, first: CoreFileMapping) -> bool:
        """Return True if a file is the program's or the dynamic loader's, without which every command refuses."""
        required = (self.file_at(self.auxv.get(tag, 0)) for tag in (AT_PHDR, AT_BASE))
        return first.path in [mapped.path for mapped in required if mapped]

    def _find_objection(self, stream: BinaryIO, first: CoreFileMapping, build_id: Optional[str]) -> str:
        """Return why a file is not the one that was mapped from ``first`` on; empty if it is."""
        if build_id is not None:
            return "" if build_id_in_first_page(read_at(stream, 0, 4096)) == build_id else ANOTHER
        from .fitting import fits  # most cores have build-ids

        fitting = fits(self, stream, first)
        if not fitting:
            return UNVERIFIED if fitting is None else ANOTHER
        self._trusted.add(first.path)
        return ""


def list_names(paths: Sequence[str]) -> str:
    """Return the base names of the first few of some files, sorted, and how many more there are."""
    names = sorted(base_name(path) for path in paths)[:_MAX_NAMES]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {quantity(more, 'more file')}" if more else "")


def build_id_in_first_page(page: bytes) -> Optional[str]:
    """Find the build-id of an ELF file in its first page, None if it is not there."""
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
