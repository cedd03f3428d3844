"""What does a minidump of a user-mode process hold?

Format: https://learn.microsoft.com/windows/win32/api/minidumpapiset/.  The file is mapped, and only what is asked for
is decoded.  Nothing in it is trusted: sizes and offsets are checked against the file, and a stream that is cut off is
read as far as it goes, with a problem.
"""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Optional, Union

from ..errors import DumpFormatError, FaultError, UnsupportedError
from ..files import open_regular
from ..model import Layout, Module, Platform, Problem, Thread
from ..target import Capability
from ..winmodel import Image, SystemVersion, UnloadedImage

SIGNATURE = b"MDMP"

_THREAD_LIST, _MODULE_LIST, _MEMORY_LIST, _SYSTEM_INFO, _MEMORY64_LIST = 3, 4, 5, 7, 9
_UNLOADED_MODULE_LIST, _MISC_INFO, _THREAD_NAMES = 14, 15, 24

_THREAD_SIZE, _MODULE_SIZE, _UNLOADED_SIZE = 48, 108, 24
MAX_STREAMS = 4096
MAX_STRING = 65536
MAX_UNLOADED = 65536

_MISC1_PROCESS_ID = 1
#: VER_PLATFORM_WIN32_NT; Breakpad has its own numbers for other systems.
_PLATFORM_WINDOWS_NT = 2

#: PROCESSOR_ARCHITECTURE_*: what they are called, and whether their loader is known.
_ARCHITECTURES = {0: Platform("i386", 4, "little", "windows"), 9: Platform("x86_64", 8, "little", "windows")}
_OTHER_ARCHITECTURES = {1: "MIPS", 2: "Alpha", 3: "PowerPC", 5: "ARM", 6: "Itanium", 12: "ARM64"}

_AMD64_REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)
_AMD64_FIRST = 0x78
_X86_REGISTERS = ["edi", "esi", "ebx", "edx", "ecx", "eax", "ebp", "eip"]
_X86_FIRST, _X86_ESP = 0x9C, 0xC4

#: _NT_TIB.Self in a 64-bit TEB, which tells a 64-bit process whose dump was written by 32-bit code.
_TEB64_SELF = 0x30
_TEB64_PEB, _TEB32_PEB = 0x60, 0x30


class _Range(NamedTuple):
    start: int
    end: int
    offset: int


class _ThreadEntry(NamedTuple):
    tid: int
    teb: int
    context: bytes


class MinidumpTarget:
    """A minidump, read without a debugger."""

    kind = "dump"
    capabilities = Capability.NONE

    def __init__(self, path: str, content: Optional[BinaryIO] = None) -> None:
        """Open a minidump; ``content`` has its bytes where the file at ``path`` is compressed.

        :raises DumpFormatError: if it is none.
        :raises UnsupportedError: if it is of a processor whose loader is not known.
        """
        self.path = path
        self._problems: dict[str, str] = {}
        self._data = _map(path, content)
        self._streams = self._read_directory()
        self.system = SystemVersion(0, 0, 0)
        self._ranges: Sequence[_Range] = ()
        self._starts: Sequence[int] = ()
        self._thread_entries: Sequence[_ThreadEntry] = ()
        try:
            self.platform = self._read_system_info()
            self._ranges = tuple(_without_overlaps(sorted(self._read_ranges())))
            self._starts = [each.start for each in self._ranges]
            self._thread_entries = tuple(self._read_threads())
        except BaseException:
            self.close()
            raise
        if self.platform.pointer_size == 4 and self._is_64_bit_after_all():
            self.platform = _ARCHITECTURES[9]

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    # -- the file ---------------------------------------------------------------------------------------------

    def _read_directory(self) -> Mapping[int, tuple[int, int]]:
        """Give offset and size of each stream by its type; of two of a type the first."""
        header = self._data[:32]
        if len(header) < 32 or header[:4] != SIGNATURE:
            raise DumpFormatError(self.path, "no minidump", 0)
        count, offset = struct.unpack_from("<II", header, 8)
        room = max(0, len(self._data) - offset) // 12
        if not room:
            raise DumpFormatError(self.path, "the stream directory is cut off", offset)
        if count > min(room, MAX_STREAMS):
            self._note("stream directory", f"{count} streams are announced, {min(room, MAX_STREAMS)} fit")
            count = min(room, MAX_STREAMS)
        streams: dict[int, tuple[int, int]] = {}
        for kind, size, where in struct.iter_unpack("<III", self._data[offset : offset + 12 * count]):
            if not kind:
                continue
            if where + size > len(self._data):
                self._note(f"stream {kind}", "it is cut off: the file ends before it does")
            streams.setdefault(kind, (where, max(0, min(size, len(self._data) - where))))
        return streams

    def _stream(self, kind: int) -> bytes:
        offset, size = self._streams.get(kind, (0, 0))
        return self._data[offset : offset + size]

    def _note(self, where: str, message: str) -> None:
        self._problems.setdefault(f"{where} of {os.path.basename(self.path)}", message)

    def _entries(self, kind: int, name: str, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield the entries of a stream that begins with their number; some writers align the first to 8 bytes."""
        data = self._stream(kind)
        if len(data) < 4:
            return
        (count,) = struct.unpack_from("<I", data)
        start = 8 if len(data) == 8 + count * size else 4
        room = max(0, len(data) - start) // size
        if count > room:
            self._note(name, f"{count} entries are announced, {room} are there")
        for number in range(min(count, room)):
            yield number, data[start + number * size : start + (number + 1) * size]

    def _string(self, offset: int) -> str:
        raw = self._data[offset : offset + 4]
        if not offset or len(raw) < 4:
            return ""
        size = min(struct.unpack("<I", raw)[0], MAX_STRING)
        return self._data[offset + 4 : offset + 4 + size].decode("utf-16-le", "replace").rstrip("\0")

    def _read_system_info(self) -> Platform:
        data = self._stream(_SYSTEM_INFO)
        if len(data) < 24:
            raise DumpFormatError(self.path, "it has no SystemInfo stream, so its processor is not known")
        (arch,) = struct.unpack_from("<H", data)
        if arch not in _ARCHITECTURES:
            name = _OTHER_ARCHITECTURES.get(arch, f"processor {arch}")
            raise UnsupportedError(f"{self.path} is of {name}: only x86 and x64 are supported")
        if struct.unpack_from("<I", data, 20)[0] != _PLATFORM_WINDOWS_NT:
            raise UnsupportedError(f"{self.path} is no minidump of Windows, but of a program of another system")
        self.system = SystemVersion(*struct.unpack_from("<III", data, 8))
        return _ARCHITECTURES[arch]

    # -- memory -----------------------------------------------------------------------------------------------

    def _read_ranges(self) -> Iterator[_Range]:
        size = len(self._data)
        data = self._stream(_MEMORY64_LIST)
        cut = False
        if len(data) >= 16:
            count, offset = struct.unpack_from("<QQ", data)
            room = (len(data) - 16) // 16
            cut = count > room
            for start, length in struct.iter_unpack("<QQ", data[16 : 16 + 16 * min(count, room)]):
                end = min(length, max(0, size - offset))
                cut = cut or end < length
                if end:
                    yield _Range(start, start + end, offset)
                offset += length
        pieces = [raw for _, raw in self._entries(_MEMORY_LIST, "memory list", 16)]
        # A thread's stack is listed with the thread, and mostly, but not always, with the memory too.
        pieces += [raw[24:40] for _, raw in self._entries(_THREAD_LIST, "thread list", _THREAD_SIZE)]
        for raw in pieces:
            start, length, offset = struct.unpack("<QII", raw)
            end = min(length, max(0, size - offset))
            cut = cut or end < length
            if end:
                yield _Range(start, start + end, offset)
        if cut:
            self._note("memory", "it is cut off: the file ends before the memory that it lists")

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of memory.

        :raises FaultError: if the dump does not hold all of them.
        """
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            found = self._ranges[index]
            if address + size <= found.end:
                offset = found.offset + address - found.start
                return self._data[offset : offset + size]
        parts = []
        end = address + size
        while address < end:
            if index < 0 or index >= len(self._ranges):
                raise FaultError(address, end - address, "not in the dump")
            found = self._ranges[index]
            if not found.start <= address < found.end:
                raise FaultError(address, end - address, "not in the dump")
            step = min(end, found.end)
            offset = found.offset + address - found.start
            parts.append(self._data[offset : offset + step - address])
            address = step
            index += 1
        return b"".join(parts)

    def _word(self, address: int, size: int) -> Optional[int]:
        try:
            return int.from_bytes(self.read(address, size), "little")
        except FaultError:
            return None

    # -- what is in it ----------------------------------------------------------------------------------------

    @property
    def pid(self) -> Optional[int]:
        """Give the process id, where the dump tells it."""
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
        """Tell what of the file is cut off."""
        return [Problem(where, message) for where, message in self._problems.items()]

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Note what is to be said of the dump."""
        self._problems.update(problems)

    def auxv(self) -> Mapping[int, int]:
        """Give nothing: Windows has no auxiliary vector."""
        return {}

    def images(self) -> Sequence[Image]:
        """List the modules of the ModuleList stream, which begins with the program."""
        found = []
        for _, raw in self._entries(_MODULE_LIST, "module list", _MODULE_SIZE):
            base, size, checksum, timestamp, name = struct.unpack_from("<QIIII", raw)
            found.append(Image(self._string(name), base, size, timestamp, checksum))
        return found

    def modules(self) -> Sequence[Module]:
        """List the modules."""
        return [Module(image.path, image.base) for image in self.images()]

    def unloaded_images(self) -> Sequence[UnloadedImage]:
        """List the UnloadedModuleList stream, in its order; its header tells the sizes."""
        data = self._stream(_UNLOADED_MODULE_LIST)
        if len(data) < 12:
            return ()
        header, size, count = struct.unpack_from("<III", data)
        if header < 12 or size < _UNLOADED_SIZE:
            self._note("unloaded module list", f"its header of {header} and entries of {size} bytes make no sense")
            return ()
        room = min(max(0, len(data) - header) // size, MAX_UNLOADED)
        if count > room:
            self._note("unloaded module list", f"{count} entries are announced, {room} are there or looked at")
        found = []
        for number in range(min(count, room)):
            base, length, checksum, timestamp, name = struct.unpack_from("<QIIII", data, header + number * size)
            found.append(UnloadedImage(self._string(name), base, length, timestamp, checksum))
        return found

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find nothing: there is no debugger here."""
        return None

    def _read_threads(self) -> Iterator[_ThreadEntry]:
        for _, raw in self._entries(_THREAD_LIST, "thread list", _THREAD_SIZE):
            tid, teb = struct.unpack_from("<I12xQ", raw)
            size, offset = struct.unpack_from("<II", raw, 40)
            yield _ThreadEntry(tid, teb, self._data[offset : offset + min(size, 0x1000)])

    def threads(self) -> Sequence[Thread]:
        """List the threads in the dump's order."""
        names: dict[int, str] = {}
        for _, raw in self._entries(_THREAD_NAMES, "thread names", 12):
            tid, offset = struct.unpack("<IQ", raw)
            names[tid] = self._string(offset)
        return [
            Thread(number, entry.tid, names.get(entry.tid) or None)
            for number, entry in enumerate(self._thread_entries, 1)
        ]

    def registers(self, thread: Thread) -> Mapping[str, int]:
        """Give the registers of a thread's CONTEXT, and its TEB."""
        if not 1 <= thread.number <= len(self._thread_entries):
            return {}
        entry = self._thread_entries[thread.number - 1]
        found = {"thread_pointer": entry.teb}
        context = entry.context
        if self.platform.pointer_size == 8:
            if len(context) >= _AMD64_FIRST + 8 * len(_AMD64_REGISTERS):
                values = struct.unpack_from(f"<{len(_AMD64_REGISTERS)}Q", context, _AMD64_FIRST)
                found.update(zip(_AMD64_REGISTERS, values))
        elif len(context) >= _X86_ESP + 4:
            found.update(
                zip(_X86_REGISTERS, struct.unpack_from(f"<{len(_X86_REGISTERS)}I", context, _X86_FIRST)),
                esp=struct.unpack_from("<I", context, _X86_ESP)[0],
            )
        return found

    def peb(self) -> Optional[int]:
        """Give the PEB that a thread's TEB points at."""
        wide = self.platform.pointer_size == 8
        for entry in self._thread_entries:
            found = self._word(entry.teb + (_TEB64_PEB if wide else _TEB32_PEB), 8 if wide else 4)
            if found:
                return found
        return None

    def _is_64_bit_after_all(self) -> bool:
        return any(entry.teb and self._word(entry.teb + _TEB64_SELF, 8) == entry.teb for entry in self._thread_entries)

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open nothing: the files of another machine are not here."""
        return None


def _map(path: str, content: Optional[BinaryIO]) -> Union[bytes, mmap.mmap]:
    try:
        if content is not None:
            return mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        with open_regular(path) as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DumpFormatError(path, error.strerror or str(error)) from error
    except ValueError as error:  # an empty file cannot be mapped
        raise DumpFormatError(path, "no minidump", 0) from error


def _without_overlaps(ranges: Sequence[_Range]) -> Iterator[_Range]:
    """Yield sorted ranges so that none begins before the end of the one before."""
    last = 0
    for each in ranges:
        start = max(each.start, last)
        if start < each.end:
            yield _Range(start, each.end, each.offset + start - each.start)
            last = each.end


if TYPE_CHECKING:
    from ..wintarget import WindowsTarget

    _conforms: type[WindowsTarget] = MinidumpTarget
