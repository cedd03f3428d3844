"""What does a minidump of a user-mode process hold?

Format: https://learn.microsoft.com/windows/win32/api/minidumpapiset/.  Only requested parts are read and
decoded, and the file is not mapped: truncating it while it is read would end the process with SIGBUS.  Nothing in it is
trusted: sizes and offsets are checked against the file, and a list that is truncated, or has more entries than any
process, is read up to that point, with a problem.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Optional

from ...errors import DumpFormatError, FaultError, UnsupportedError
from ...files import open_regular, read_at
from ...model import Layout, Module, Platform, Problem, Thread
from ...target import Capability
from ..model import ListedImage, SystemVersion, UnloadedImage
from ..target import PROCESSOR_REFUSAL, SYSTEM_REFUSAL, RaisedException

SIGNATURE = b"MDMP"

_THREAD_LIST, _MODULE_LIST, _MEMORY_LIST, _EXCEPTION, _SYSTEM_INFO, _MEMORY64_LIST = 3, 4, 5, 6, 7, 9
_UNLOADED_MODULE_LIST, _MISC_INFO, _THREAD_INFO_LIST, _THREAD_NAMES = 14, 15, 17, 24

_THREAD_SIZE, _MODULE_SIZE, _UNLOADED_SIZE, _EXCEPTION_SIZE = 48, 108, 24, 168
_THREAD_INFO_SIZE = 64
#: MINIDUMP_THREAD_INFO.StartAddress.
_START_ADDRESS = 48
MAX_STREAMS = 4096
MAX_STRING = 65536

# Maximum numbers of the items of each kind.
MAX_RANGES = 1 << 18
MAX_THREADS = 1 << 17
MAX_MODULES = 1 << 14
MAX_UNLOADED = 1 << 14
#: Bytes of all names.
MAX_NAMES = 16 << 20
#: Maximum number of pieces of one read: listed regions are complete pages, so a read by `Memory` has fewer.
MAX_PIECES = 16
_MAX_CONTEXT = 0x1000
_MAX_INFO = 0x1000
#: For streams and names the file is read in blocks of this size; this many are cached.
_BLOCK = 1 << 16
_BLOCKS = 64

_MISC1_PROCESS_ID = 1
#: VER_PLATFORM_WIN32_NT; Breakpad has its own numbers for other systems.
_PLATFORM_WINDOWS_NT = 2

#: PROCESSOR_ARCHITECTURE_*: what they are called, and whether their loader is known.
_ARCHITECTURES = {
    0: Platform("i386", 4, "little", "windows"),
    9: Platform("x86_64", 8, "little", "windows"),
    12: Platform("aarch64", 8, "little", "windows"),
}
_OTHER_ARCHITECTURES = {1: "MIPS", 2: "Alpha", 3: "PowerPC", 5: "ARM", 6: "Itanium"}

_AMD64_REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)
_AMD64_FIRST = 0x78
#: CONTEXT_ARM64, after ContextFlags and Cpsr.
_ARM64_REGISTERS = (*(f"x{number}" for number in range(29)), "fp", "lr", "sp", "pc")
_ARM64_FIRST = 8
_WIDE_REGISTERS = {"x86_64": (_AMD64_FIRST, _AMD64_REGISTERS), "aarch64": (_ARM64_FIRST, _ARM64_REGISTERS)}
_X86_REGISTERS = ["edi", "esi", "ebx", "edx", "ecx", "eax", "ebp", "eip"]
_X86_FIRST, _X86_ESP = 0x9C, 0xC4

#: _NT_TIB.Self in a 64-bit TEB, which identifies a 64-bit process whose dump was written by 32-bit code.
_TEB64_SELF = 0x30
_TEB64_PEB, _TEB32_PEB = 0x60, 0x30


class _Range(NamedTuple):
    start: int
    end: int
    offset: int


class _ThreadEntry(NamedTuple):
    tid: int
    teb: int
    stack: int
    stack_size: int
    context_at: int
    context_size: int


class _File:
    """The bytes of a dump, with a cache of the latest blocks."""

    def __init__(self, path: str, content: Optional[BinaryIO]) -> None:
        try:
            self._stream = content or open_regular(path)
            self.size = self._stream.seek(0, os.SEEK_END)
        except OSError as error:
            raise DumpFormatError(path, error.strerror or str(error)) from error
        self._blocks: dict[int, bytes] = {}

    def close(self) -> None:
        self._stream.close()

    def is_shorter(self) -> bool:
        """Return True if the file has been truncated since it was opened."""
        return os.fstat(self._stream.fileno()).st_size < self.size

    def read(self, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes, as many as there are."""
        return read_at(self._stream, offset, size) if 0 <= offset < self.size else b""

    def peek(self, offset: int, size: int) -> bytes:
        """Read bytes near earlier ones, through a block cache."""
        start = offset - offset % _BLOCK
        if offset + size > start + _BLOCK:
            return self.read(offset, size)
        if start not in self._blocks:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            self._blocks[start] = self.read(start, _BLOCK)
        return self._blocks[start][offset - start : offset - start + size]


class MinidumpTarget:
    """A minidump, read without a debugger."""

    kind = "dump"
    capabilities = Capability.NONE

    def __init__(self, path: str, content: Optional[BinaryIO] = None) -> None:
        """Open a minidump.

        :param content: the bytes of the dump if the file at ``path`` is compressed.
        :raises DumpFormatError: if it is not a minidump.
        :raises UnsupportedError: if it is of a processor whose loader is unknown.
        """
        self.path = path
        self._problems: dict[str, str] = {}
        self._names_left = MAX_NAMES
        self._file = _File(path, content)
        self.system = SystemVersion(0, 0, 0)
        self._starts, self._ends, self._offsets = array("Q"), array("Q"), array("Q")
        self._thread_entries: Sequence[_ThreadEntry] = ()
        self._images: Optional[Sequence[ListedImage]] = None
        self._threads: Optional[Sequence[Thread]] = None
        try:
            self._streams = self._read_directory()
            self.platform = self._read_system_info()
            self._take_ranges(self._read_ranges())
            self._thread_entries = tuple(self._read_threads())
        except BaseException:
            self.close()
            raise
        if self.platform.pointer_size == 4 and self._is_64_bit_after_all():
            self.platform = _ARCHITECTURES[9]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # -- the file ---------------------------------------------------------------------------------------------

    def _read_directory(self) -> Mapping[int, tuple[int, int]]:
        """Return offset and size of each stream by type; the first of duplicates counts."""
        header = self._file.peek(0, 32)
        if len(header) < 32 or header[:4] != SIGNATURE:
            raise DumpFormatError(self.path, "no minidump", 0)
        count, offset = struct.unpack_from("<II", header, 8)
        room = max(0, self._file.size - offset) // 12
        if not room:
            raise DumpFormatError(self.path, "the stream directory is cut off", offset)
        if count > min(room, MAX_STREAMS):
            self._note("stream directory", f"{count} streams are announced, {min(room, MAX_STREAMS)} fit")
            count = min(room, MAX_STREAMS)
        streams: dict[int, tuple[int, int]] = {}
        entries = self._file.peek(offset, 12 * count)
        for kind, size, where in struct.iter_unpack("<III", entries[: len(entries) - len(entries) % 12]):
            if not kind:
                continue
            if where + size > self._file.size:
                self._note(f"stream {kind}", "it is cut off: the file ends before it does")
            streams.setdefault(kind, (where, max(0, min(size, self._file.size - where))))
        return streams

    def _stream(self, kind: int) -> bytes:
        """Read a stream's beginning."""
        offset, size = self._streams.get(kind, (0, 0))
        return self._file.peek(offset, min(size, _MAX_INFO))

    def _note(self, where: str, message: str) -> None:
        self._problems.setdefault(f"{where} of {os.path.basename(self.path)}", message)

    def _entries(self, kind: int, name: str, size: int, limit: int) -> Iterator[bytes]:
        """Yield the entries of a counted stream; some writers align the first entry to 8."""
        offset, length = self._streams.get(kind, (0, 0))
        head = self._file.peek(offset, min(length, 4))
        if len(head) < 4:
            return
        (count,) = struct.unpack("<I", head)
        start = 8 if length == 8 + count * size else 4
        yield from self._pieces(name, offset + start, max(0, length - start), count, size, limit)

    def _pieces(self, name: str, offset: int, length: int, count: int, size: int, limit: int) -> Iterator[bytes]:
        """Yield ``count`` entries of ``size`` bytes, as far as present, and at most ``limit``."""
        room = min(length // size, limit)
        if count > room:
            beyond = "are looked at" if room == limit else "are there"
            self._note(name, f"{count} entries are announced, {room} {beyond}")
        at_once = max(1, _BLOCK // size)
        for first in range(0, min(count, room), at_once):
            number = min(at_once, count - first, room - first)
            data = self._file.read(offset + first * size, number * size)
            if len(data) < number * size:
                self._note(name, "the file was cut off while it was read")
            for at in range(0, len(data) - size + 1, size):
                yield data[at : at + size]

    def _string(self, offset: int) -> str:
        raw = self._file.peek(offset, 4)
        if not offset or len(raw) < 4:
            return ""
        size = min(struct.unpack("<I", raw)[0], MAX_STRING)
        if size > self._names_left:
            self._note("names", f"they take more than {MAX_NAMES} bytes: those behind are not read")
            return ""
        self._names_left -= size
        return self._file.peek(offset + 4, size).decode("utf-16-le", "replace").rstrip("\0")

    def _read_system_info(self) -> Platform:
        data = self._stream(_SYSTEM_INFO)
        if len(data) < 24:
            raise DumpFormatError(self.path, "it has no SystemInfo stream, so its processor is not known")
        (arch,) = struct.unpack_from("<H", data)
        if arch not in _ARCHITECTURES:
            name = _OTHER_ARCHITECTURES.get(arch, f"processor {arch}")
            raise UnsupportedError(f"{self.path} {PROCESSOR_REFUSAL.format(name)}")
        if struct.unpack_from("<I", data, 20)[0] != _PLATFORM_WINDOWS_NT:
            raise UnsupportedError(f"{self.path} {SYSTEM_REFUSAL}")
        self.system = SystemVersion(*struct.unpack_from("<III", data, 8))
        return _ARCHITECTURES[arch]

    # -- memory -----------------------------------------------------------------------------------------------

    def _read_ranges(self) -> Iterator[_Range]:
        size = self._file.size
        where, length = self._streams.get(_MEMORY64_LIST, (0, 0))
        head = self._file.peek(where, 16) if length >= 16 else b""
        cut = False
        if len(head) == 16:
            count, offset = struct.unpack("<QQ", head)
            cut = count > (length - 16) // 16
            for raw in self._pieces("memory list", where + 16, length - 16, count, 16, MAX_RANGES):
                start, span = struct.unpack("<QQ", raw)
                end = min(span, max(0, size - offset))
                cut = cut or end < span
                if end:
                    yield _Range(start, start + end, offset)
                offset += span
        # A thread's stack is listed with the thread, and mostly, but not always, with the memory too.
        stacks = (raw[24:40] for raw in self._entries(_THREAD_LIST, "thread list", _THREAD_SIZE, MAX_THREADS))
        for raw in (*self._entries(_MEMORY_LIST, "memory list", 16, MAX_RANGES), *stacks):
            start, span, offset = struct.unpack("<QII", raw)
            end = min(span, max(0, size - offset))
            cut = cut or end < span
            if end:
                yield _Range(start, start + end, offset)
        if cut:
            self._note("memory", "it is cut off: the file ends before the memory that it lists")

    def _take_ranges(self, ranges: Iterable[_Range]) -> None:
        for start, end, offset in _without_overlaps(sorted(ranges)):
            self._starts.append(start)
            self._ends.append(end)
            self._offsets.append(offset)

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of memory.

        :raises FaultError: if the dump does not hold all of them.
        """
        starts, ends = self._starts, self._ends
        index = bisect_right(starts, address) - 1
        parts: list[bytes] = []
        end = address + size
        while address < end:
            if not 0 <= index < len(starts) or not starts[index] <= address < ends[index]:
                raise FaultError(address, end - address, "not in the dump")
            step = min(end, ends[index])
            piece = self._file.read(self._offsets[index] + address - starts[index], step - address)
            if len(piece) < step - address:
                raise FaultError(address, end - address, "the dump was cut off while it was read")
            if len(parts) >= MAX_PIECES:
                raise FaultError(address, end - address, "in too many pieces in the dump")
            parts.append(piece)
            address = step
            index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _word(self, address: int, size: int) -> Optional[int]:
        try:
            return int.from_bytes(self.read(address, size), "little")
        except FaultError:
            return None

    # -- contents ---------------------------------------------------------------------------------------------

    @property
    def pid(self) -> Optional[int]:
        """Return the process id, None if the dump does not have it."""
        data = self._stream(_MISC_INFO)
        if len(data) < 12:
            return None
        _, flags, pid = struct.unpack_from("<III", data)
        return int(pid) if flags & _MISC1_PROCESS_ID else None

    @property
    def description(self) -> str:
        """Describe the dump."""
        return f"minidump {self.path}"

    def problems(self) -> Sequence[Problem]:
        """Return which parts of the file are truncated, including changes since it was opened."""
        if self._file.is_shorter():
            self._note("memory", "the file has been cut off while it was read")
        return [Problem(where, message) for where, message in self._problems.items()]

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Add problems to the dump's own."""
        self._problems.update(problems)

    def auxv(self) -> Mapping[int, int]:
        """Return an empty mapping: Windows has no auxiliary vector."""
        return {}

    def images(self) -> Sequence[ListedImage]:
        """List the modules of the ModuleList stream, which begins with the program."""
        if self._images is None:
            self._images = tuple(self._read_images())
        return self._images

    @property
    def images_complete(self) -> bool:
        """Return True if there is a module list, and it has as many entries as it announces."""
        return _MODULE_LIST in self._streams and bool(self.images()) and not self._is_cut(_MODULE_LIST, "module list")

    def _is_cut(self, kind: int, name: str) -> bool:
        """Return True if a problem with a stream, or with the list in it, was noted."""
        return any(where.startswith((f"stream {kind} of ", f"{name} of ")) for where in self._problems)

    def _read_images(self) -> Iterator[ListedImage]:
        for raw in self._entries(_MODULE_LIST, "module list", _MODULE_SIZE, MAX_MODULES):
            base, size, checksum, timestamp, name = struct.unpack_from("<QIIII", raw)
            yield ListedImage(self._string(name), base, size, timestamp, checksum)

    def modules(self) -> Sequence[Module]:
        """List the modules."""
        return [Module(image.path, image.base) for image in self.images()]

    def unloaded_images(self) -> Optional[Sequence[UnloadedImage]]:
        """List the UnloadedModuleList stream, in its order, None without one; its header has the sizes."""
        offset, length = self._streams.get(_UNLOADED_MODULE_LIST, (0, 0))
        data = self._file.peek(offset, 12) if length >= 12 else b""
        if len(data) < 12:
            return None
        header, size, count = struct.unpack("<III", data)
        if header < 12 or not _UNLOADED_SIZE <= size <= _BLOCK:
            self._note("unloaded module list", f"its header of {header} and entries of {size} bytes make no sense")
            return None
        found = []
        pieces = self._pieces(
            "unloaded module list", offset + header, max(0, length - header), count, size, MAX_UNLOADED
        )
        for raw in pieces:
            base, length, checksum, timestamp, name = struct.unpack_from("<QIIII", raw)
            found.append(UnloadedImage(self._string(name), base, length, timestamp, checksum))
        return found

    def thread_starts(self) -> Mapping[int, int]:
        """Return where threads began, by the ThreadInfoList stream; its header has the sizes."""
        offset, length = self._streams.get(_THREAD_INFO_LIST, (0, 0))
        data = self._file.peek(offset, 12) if length >= 12 else b""
        if len(data) < 12:
            return {}
        header, size, count = struct.unpack("<III", data)
        if header < 12 or not _THREAD_INFO_SIZE <= size <= _BLOCK:
            self._note("thread information", f"its header of {header} and entries of {size} bytes make no sense")
            return {}
        room = max(0, length - header)
        pieces = self._pieces("thread information", offset + header, room, count, size, MAX_THREADS)
        starts = {struct.unpack_from("<I", raw)[0]: struct.unpack_from("<Q", raw, _START_ADDRESS)[0] for raw in pieces}
        return {thread.number: starts[thread.lwp] for thread in self.threads() if starts.get(thread.lwp)}

    def memory_ranges(self) -> Optional[Sequence[tuple[int, int]]]:
        """List the ranges of a dump with all memory, None for others."""
        return list(zip(self._starts, self._ends)) if _MEMORY64_LIST in self._streams else None

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Return None: there is no debugger."""
        return None

    def _read_threads(self) -> Iterator[_ThreadEntry]:
        for raw in self._entries(_THREAD_LIST, "thread list", _THREAD_SIZE, MAX_THREADS):
            tid, teb, stack, stack_size = struct.unpack_from("<I12xQQI", raw)
            size, offset = struct.unpack_from("<II", raw, 40)
            yield _ThreadEntry(tid, teb, stack, stack_size, offset, min(size, _MAX_CONTEXT))

    def threads(self) -> Sequence[Thread]:
        """List the threads in the dump's order."""
        if self._threads is None:
            names: dict[int, str] = {}
            for raw in self._entries(_THREAD_NAMES, "thread names", 12, MAX_THREADS):
                tid, offset = struct.unpack("<IQ", raw)
                names[tid] = self._string(offset)
            self._threads = [
                Thread(number, entry.tid, names.get(entry.tid) or None)
                for number, entry in enumerate(self._thread_entries, 1)
            ]
        return self._threads

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Return the registers of a thread's CONTEXT, and its TEB."""
        if not 1 <= thread.number <= len(self._thread_entries):
            return {}
        entry = self._thread_entries[thread.number - 1]
        found = self._registers_of(self._file.read(entry.context_at, entry.context_size))
        return {"thread_pointer": entry.teb, **found}

    def _registers_of(self, context: bytes) -> dict[str, int]:
        """Return the registers in a CONTEXT, none if it is truncated."""
        found: dict[str, int] = {}
        if self.platform.pointer_size == 8:
            first, names = _WIDE_REGISTERS[self.platform.arch]
            if len(context) >= first + 8 * len(names):
                found.update(zip(names, struct.unpack_from(f"<{len(names)}Q", context, first)))
        elif len(context) >= _X86_ESP + 4:
            found.update(
                zip(_X86_REGISTERS, struct.unpack_from(f"<{len(_X86_REGISTERS)}I", context, _X86_FIRST)),
                esp=struct.unpack_from("<I", context, _X86_ESP)[0],
            )
        return found

    def stack(self, thread: Thread) -> Optional[tuple[int, int]]:
        """Return start and end of the memory that the thread list names as a thread's stack."""
        if not 1 <= thread.number <= len(self._thread_entries):
            return None
        entry = self._thread_entries[thread.number - 1]
        return (entry.stack, entry.stack + entry.stack_size) if entry.stack_size else None

    def exception(self) -> Optional[RaisedException]:
        """Return the exception of the Exception stream, with its own context."""
        data = self._stream(_EXCEPTION)
        if len(data) < _EXCEPTION_SIZE:
            return None
        tid, code, _, _, address, count = struct.unpack_from("<I4xIIQQI", data)
        parameters = struct.unpack_from("<15Q", data, 40)[: min(count, 15)]
        size, where = struct.unpack_from("<II", data, 160)
        context = self._file.read(where, min(size, _MAX_CONTEXT))
        return RaisedException(tid, code, address, parameters, self._registers_of(context))

    def peb(self) -> Optional[int]:
        """Return the PEB that a thread's TEB points at."""
        wide = self.platform.pointer_size == 8
        for entry in self._thread_entries:
            found = self._word(entry.teb + (_TEB64_PEB if wide else _TEB32_PEB), 8 if wide else 4)
            if found:
                return found
        return None

    def _is_64_bit_after_all(self) -> bool:
        return any(entry.teb and self._word(entry.teb + _TEB64_SELF, 8) == entry.teb for entry in self._thread_entries)

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Return None: the files are on another machine."""
        return None


def _without_overlaps(ranges: Iterable[_Range]) -> Iterator[_Range]:
    """Yield sorted ranges, trimmed so that none begins before the end of the previous one."""
    last = 0
    for each in ranges:
        start = max(each.start, last)
        if start < each.end:
            yield _Range(start, each.end, each.offset + start - each.start)
            last = each.end


if TYPE_CHECKING:
    from ..target import WindowsTarget

    _conforms: type[WindowsTarget] = MinidumpTarget
