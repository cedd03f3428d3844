"""What does the container of a minidump hold, whatever system its process was of?

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
from typing import BinaryIO, NamedTuple, Optional

from .counts import quantity
from .errors import DumpFormatError, FaultError
from .files import open_regular, read_at
from .model import Layout, Module, Problem, Thread
from .target import Capability

SIGNATURE = b"MDMP"

_THREAD_LIST, MODULE_LIST, _MEMORY_LIST, _SYSTEM_INFO, MEMORY64_LIST = 3, 4, 5, 7, 9
_MISC_INFO, _THREAD_NAMES = 15, 24

_THREAD_SIZE, MODULE_SIZE = 48, 108
MAX_STREAMS = 4096
MAX_STRING = 65536

# Maximum numbers of the items of each kind.
MAX_RANGES = 1 << 18
MAX_THREADS = 1 << 17
MAX_MODULES = 1 << 14
#: Bytes of all names.
MAX_NAMES = 16 << 20
#: Maximum number of pieces of one read: listed regions are complete pages, so a read by `Memory` has fewer.
MAX_PIECES = 16
MAX_CONTEXT = 0x1000
_MAX_INFO = 0x1000
#: For streams and names the file is read in blocks of this size; this many are cached.
BLOCK = 1 << 16
_BLOCKS = 64

_MISC1_PROCESS_ID = 1
#: MD_OS_LINUX of Breakpad's minidump_format.h, and MD_OS_ANDROID, whose kernel is Linux too.
_LINUX_PLATFORMS = (0x8201, 0x8203)


class _Range(NamedTuple):
    start: int
    end: int
    offset: int


class ThreadEntry(NamedTuple):
    """An entry of the thread list: addresses of TEB and stack, and where in the file the CONTEXT is."""

    tid: int
    teb: int
    stack: int
    stack_size: int
    context_at: int
    context_size: int


class SystemInfo(NamedTuple):
    """The SystemInfo stream: PROCESSOR_ARCHITECTURE_*, version as major, minor, build, and VER_PLATFORM_*."""

    processor: int
    version: tuple[int, int, int]
    platform: int


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
        start = offset - offset % BLOCK
        if offset + size > start + BLOCK:
            return self.read(offset, size)
        if start not in self._blocks:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            self._blocks[start] = self.read(start, BLOCK)
        return self._blocks[start][offset - start : offset - start + size]


class MinidumpFile:
    """A minidump, read without a debugger: what is the same for every system."""

    kind = "dump"
    capabilities = Capability.NONE

    def __init__(self, path: str, content: Optional[BinaryIO] = None) -> None:
        """Open a minidump.

        :param content: the bytes of the dump if the file at ``path`` is compressed.
        :raises DumpFormatError: if it is not a minidump.
        :raises UnsupportedError: if it is of a system or processor whose loader is unknown.
        """
        self.path = path
        self._problems: dict[str, str] = {}
        self._names_left = MAX_NAMES
        self._file = _File(path, content)
        self._starts, self._ends, self._offsets = array("Q"), array("Q"), array("Q")
        #: VER_PLATFORM_*.
        self.system_platform = 0
        self._thread_entries: Sequence[ThreadEntry] = ()
        self._threads: Optional[Sequence[Thread]] = None
        try:
            self._streams = self._read_directory()
            info = self._read_system_info()
            self.system_platform = info.platform
            self._identify(info)
            self._take_ranges(self._read_ranges())
            self._thread_entries = tuple(self._read_threads())
        except BaseException:
            self.close()
            raise

    def _identify(self, info: SystemInfo) -> None:
        """Set the platform and system of the dump.

        :raises UnsupportedError: if it is of a system or processor whose loader is unknown.
        """

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
            fitting = min(room, MAX_STREAMS)
            announced = quantity(count, "stream is", "streams are")
            self._note("stream directory", f"{announced} announced, {quantity(fitting, 'fits', 'fit')}")
            count = fitting
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
            beyond = "looked at" if room == limit else "there"
            announced = quantity(count, "entry is", "entries are")
            self._note(name, f"{announced} announced, {quantity(room, 'is', 'are')} {beyond}")
        at_once = max(1, BLOCK // size)
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

    def _read_system_info(self) -> SystemInfo:
        data = self._stream(_SYSTEM_INFO)
        if len(data) < 24:
            raise DumpFormatError(self.path, "it has no SystemInfo stream, so its processor is not known")
        (processor,) = struct.unpack_from("<H", data)
        major, minor, build, platform = struct.unpack_from("<IIII", data, 8)
        return SystemInfo(processor, (major, minor, build), platform)

    # -- memory -----------------------------------------------------------------------------------------------

    def _read_ranges(self) -> Iterator[_Range]:
        size = self._file.size
        where, length = self._streams.get(MEMORY64_LIST, (0, 0))
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

    def _is_cut(self, kind: int, name: str) -> bool:
        """Return True if a problem with a stream, or with the list in it, was noted."""
        return any(where.startswith((f"stream {kind} of ", f"{name} of ")) for where in self._problems)

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Return None: there is no debugger."""
        return None

    def _read_threads(self) -> Iterator[ThreadEntry]:
        for raw in self._entries(_THREAD_LIST, "thread list", _THREAD_SIZE, MAX_THREADS):
            tid, teb, stack, stack_size = struct.unpack_from("<I12xQQI", raw)
            size, offset = struct.unpack_from("<II", raw, 40)
            yield ThreadEntry(tid, teb, stack, stack_size, offset, min(size, MAX_CONTEXT))

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


def is_of_linux(path: str, content: Optional[BinaryIO] = None) -> bool:
    """Return True if a minidump is of a process of Linux.

    :param content: the bytes of the dump if the file at ``path`` is compressed; they stay open.
    :raises DumpFormatError: if it is not a minidump.
    """
    dump = MinidumpFile(path, content)
    if content is None:
        dump.close()
    return dump.system_platform in _LINUX_PLATFORMS
