"""What does a minidump of a process of Windows hold?

Format: https://learn.microsoft.com/windows/win32/api/minidumpapiset/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Optional

from ...errors import FaultError, UnsupportedError
from ...minidumps import (
    BLOCK,
    MAX_CONTEXT,
    MAX_MODULES,
    MAX_THREADS,
    MEMORY64_LIST,
    MODULE_LIST,
    MODULE_SIZE,
    MinidumpFile,
    SystemInfo,
)
from ...model import Module, Platform, Thread
from ..model import ListedImage, SystemVersion, UnloadedImage
from ..target import PROCESSOR_REFUSAL, SYSTEM_REFUSAL, RaisedException

_EXCEPTION, _UNLOADED_MODULE_LIST, _THREAD_INFO_LIST = 6, 14, 17
_UNLOADED_SIZE, _EXCEPTION_SIZE, _THREAD_INFO_SIZE = 24, 168, 64
#: MINIDUMP_THREAD_INFO.StartAddress.
_START_ADDRESS = 48

#: Maximum number of unloaded modules.
MAX_UNLOADED = 1 << 14

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


class MinidumpTarget(MinidumpFile):
    """A minidump of a process of Windows, read without a debugger."""

    def __init__(self, path: str, content: Optional[BinaryIO] = None) -> None:
        """Open a minidump.

        :param content: the bytes of the dump if the file at ``path`` is compressed.
        :raises DumpFormatError: if it is not a minidump.
        :raises UnsupportedError: if it is of another system, or a processor whose loader is unknown.
        """
        self.platform = _ARCHITECTURES[9]
        self.system = SystemVersion(0, 0, 0)
        self._images: Optional[Sequence[ListedImage]] = None
        super().__init__(path, content)
        if self.platform.pointer_size == 4 and self._is_64_bit_after_all():
            self.platform = _ARCHITECTURES[9]

    def _identify(self, info: SystemInfo) -> None:
        if info.processor not in _ARCHITECTURES:
            name = _OTHER_ARCHITECTURES.get(info.processor, f"processor {info.processor}")
            raise UnsupportedError(f"{self.path} {PROCESSOR_REFUSAL.format(name)}")
        if info.platform != _PLATFORM_WINDOWS_NT:
            raise UnsupportedError(f"{self.path} {SYSTEM_REFUSAL}")
        self.system = SystemVersion(*info.version)
        self.platform = _ARCHITECTURES[info.processor]

    def _word(self, address: int, size: int) -> Optional[int]:
        try:
            return int.from_bytes(self.read(address, size), "little")
        except FaultError:
            return None  # without a PEB the answer has a problem

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
        return MODULE_LIST in self._streams and bool(self.images()) and not self._is_cut(MODULE_LIST, "module list")

    def _read_images(self) -> Iterator[ListedImage]:
        for raw in self._entries(MODULE_LIST, "module list", MODULE_SIZE, MAX_MODULES):
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
        if header < 12 or not _UNLOADED_SIZE <= size <= BLOCK:
            self._note(
                "unloaded module list", f"the sizes of its header, {header}, and of its entries, {size}, make no sense"
            )
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
        if header < 12 or not _THREAD_INFO_SIZE <= size <= BLOCK:
            self._note(
                "thread information", f"the sizes of its header, {header}, and of its entries, {size}, make no sense"
            )
            return {}
        room = max(0, length - header)
        pieces = self._pieces("thread information", offset + header, room, count, size, MAX_THREADS)
        starts = {struct.unpack_from("<I", raw)[0]: struct.unpack_from("<Q", raw, _START_ADDRESS)[0] for raw in pieces}
        return {thread.number: starts[thread.lwp] for thread in self.threads() if starts.get(thread.lwp)}

    def memory_ranges(self) -> Optional[Sequence[tuple[int, int]]]:
        """List the ranges of a dump with all memory, None for others."""
        return list(zip(self._starts, self._ends)) if MEMORY64_LIST in self._streams else None

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
        context = self._file.read(where, min(size, MAX_CONTEXT))
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


if TYPE_CHECKING:
    from ..target import WindowsTarget

    _conforms: type[WindowsTarget] = MinidumpTarget
