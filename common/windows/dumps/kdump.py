"""How is a dump of a Windows machine read without WinDbg?

The header locates the page tables and the lists of modules and processes; the pages follow in one of four forms:

- complete dumps (type 1): runs of physical pages in the header
- kernel dumps as Windows XP to 7 write them (type 2): a bitmap of the pages present, ``SUMMARY_DUMP``
- bitmap dumps since Windows 8 (types 5 and 6): the same with a larger header
- memory dumps since Windows 10 20H1 (types 8 to 10): ranges of pages, ``RDMP``

Sources: DUMP_HEADER64 of Microsoft's windows-docs-rs, mindumpdef.h of the WDK, kdmp-parser (MIT), rekall.  Both
``PAGEDU64`` and the 32-bit ``PAGEDUMP`` are read here, because kdmp-parser reads no 32-bit and no kernel dumps, and
has packages for x86-64 only; the tests compare with it.
"""

from __future__ import annotations

import bisect
import os
import struct
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import BinaryIO, NamedTuple, Optional, Protocol

from ...counts import quantity
from ...errors import DumpFormatError, FaultError, UnsupportedError
from ...files import open_regular
from ...lists import Walk, follow_ring
from ...memory import Memory
from ...model import Layout, Module, Platform, Problem, Thread
from ...target import AddressSpace, Capability
from ..kernel.kernel import rsds
from ..kernel.paging import PAGE_SIZE, Pager, PagingMode
from ..strings import read_unicode_string
from ..target import MACHINE_REFUSAL, TRIAGE_REFUSAL

SIGNATURE_64 = b"PAGEDU64"
SIGNATURE_32 = b"PAGEDUMP"
SIGNATURE_USER = b"MDMP"
SIGNATURE_OLD_USER = (b"USERDU64", b"USERDUMP")

_MACHINE_AMD64 = 0x8664
_MACHINE_I386 = 0x14C
_PLATFORMS = {
    _MACHINE_AMD64: Platform("x86_64", 8, "little", "windows"),
    _MACHINE_I386: Platform("i386", 4, "little", "windows"),
}

_TRIAGE = 4
_TYPES = {
    1: "complete",
    2: "kernel",
    5: "complete bitmap",
    6: "kernel bitmap",
    8: "kernel memory",
    9: "kernel and user memory",
    10: "complete memory",
}

#: The fill pattern of a header without content.
_FILLER_32 = int.from_bytes(b"PAGE", "little")
_FILLER_64 = int.from_bytes(b"PAGEPAGE", "little")

#: A machine has tens of runs; the gaps in a kernel memory dump split them into thousands.
MAX_RUNS = 1 << 18
#: Physical addresses have at most 52 bits.
MAX_FRAMES = 1 << 40
#: A bitmap for 8 TiB of memory.
MAX_BITMAP_BYTES = 1 << 28

# struct _KDDEBUGGER_DATA64 (wdbgexts.h): the same on 32-bit systems, where pointers are sign-extended.
_KDBG_TAG = (0x10, b"KDBG")
_KDBG_KERNEL_BASE = 0x18
_KDBG_LOADED_MODULES = 0x48
_KDBG_ACTIVE_PROCESSES = 0x50
_KDBG_PROCESSOR_BLOCK = 0x218
_KDBG_THREAD_PROCESS = 0x2A0
_KDBG_PRCB_THREAD = 0x2B4
_KDBG_SIZE = 0x340

# KLDR_DATA_TABLE_ENTRY.DllBase and FullDllName, which have not moved since Windows XP.
_DLL_BASE = {8: 0x30, 4: 0x18}
_FULL_DLL_NAME = {8: 0x48, 4: 0x24}
_MAX_MODULES = 4096


class _Header(NamedTuple):
    """The header of a dump; ``size`` is the offset of what follows."""

    platform: Platform
    size: int
    build: int
    directory_table_base: int
    loaded_modules: int
    active_processes: int
    debugger_data: int
    dump_type: int
    pae: bool


class _Pages(Protocol):
    """Maps page frames to file offsets."""

    @property
    def frames(self) -> int:
        """Return the highest page frame plus one."""

    @property
    def end(self) -> int:
        """Return the minimum length of the file."""

    def offset(self, frame: int) -> Optional[int]:
        """Return the file offset of a page, None if the dump lacks the page."""


class _RunPages:
    """Pages in runs, one after the other."""

    def __init__(self, runs: Sequence[tuple[int, int]], first_offset: int) -> None:
        position = first_offset
        placed = []
        for frame, count in runs:
            placed.append((frame, count, position))
            position += count * PAGE_SIZE
        self.end = position
        placed.sort()
        self._placed = placed
        self._starts = [frame for frame, _, _ in placed]
        self.frames = max((frame + count for frame, count, _ in placed), default=0)

    def offset(self, frame: int) -> Optional[int]:
        index = bisect.bisect_right(self._starts, frame) - 1
        if index < 0:
            return None
        start, count, position = self._placed[index]
        return position + (frame - start) * PAGE_SIZE if frame - start < count else None


class _BitmapPages:
    """Pages whose frames are marked in a bitmap, by rising frame."""

    _BLOCK = 128

    def __init__(self, bitmap: bytes, first_offset: int) -> None:
        self._bitmap = bitmap
        self._first = first_offset
        self._ranks = array("Q", [0])
        for start in range(0, len(bitmap), self._BLOCK):
            self._ranks.append(self._ranks[-1] + _ones(bitmap[start : start + self._BLOCK]))
        self.frames = 8 * len(bitmap.rstrip(b"\0"))
        self.end = first_offset + self._ranks[-1] * PAGE_SIZE

    def offset(self, frame: int) -> Optional[int]:
        byte, bit = divmod(frame, 8)
        if byte >= len(self._bitmap) or not self._bitmap[byte] >> bit & 1:
            return None
        block = byte // self._BLOCK
        before = _ones(self._bitmap[block * self._BLOCK : byte]) + _BITS_SET[self._bitmap[byte] & ((1 << bit) - 1)]
        return self._first + (self._ranks[block] + before) * PAGE_SIZE


_BITS_SET = bytes(bin(value).count("1") for value in range(256))


def _ones(data: bytes) -> int:
    return sum(data.translate(_BITS_SET))


class KernelDump:
    """A dump of a Windows machine's memory, as a `KernelTarget`."""

    kind = "dump"
    pid = None
    capabilities = Capability.KERNEL

    def __init__(self, path: str, content: Optional[BinaryIO] = None) -> None:
        """Open a dump.

        :param content: the bytes of the dump if the file itself does not have them, as when it is compressed.
        :raises DumpFormatError: if it is not a kernel dump, or damaged.
        :raises UnsupportedError: if it is a dump of another kind.
        """
        self._path = path
        try:
            self._file: BinaryIO = content or open_regular(path)
            self._length = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise DumpFormatError(path, error.strerror or str(error)) from error
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        self._header = self._read_header()
        self.platform = self._header.platform
        self._pages = self._read_pages()
        self._problems: list[Problem] = []
        if self._pages.end > self._length:
            missing = -(-(self._pages.end - self._length) // PAGE_SIZE)
            pages = quantity(missing, "of its pages is", "of its pages are")
            self._problems.append(Problem("dump", f"the file is cut off: {pages} missing, so some answers will be too"))
        self._mode = (
            PagingMode.X64
            if self.platform.pointer_size == 8
            else PagingMode.PAE
            if self._header.pae
            else PagingMode.X86
        )
        self._spaces: dict[int, Pager] = {}
        self._kernel_space = self._space(self._header.directory_table_base)
        self._debugger_data = self._read_debugger_data()
        self._kernel: Optional[Module] = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # -- the file ---------------------------------------------------------------------------------------------

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise DumpFormatError(
                self._path,
                f"cut off: {quantity(size, 'byte is', 'bytes are')} wanted, {quantity(len(data), 'is', 'are')} there",
                offset,
            )
        return data

    def _read_header(self) -> _Header:
        start = self._at(0, min(8, self._length))
        if start == SIGNATURE_64:
            return self._read_header_64(self._at(0, 0x2000))
        if start == SIGNATURE_32:
            return self._read_header_32(self._at(0, 0x1000))
        if start.startswith(SIGNATURE_USER) or start in SIGNATURE_OLD_USER:
            raise UnsupportedError(
                f"{self._path} is a dump of one process: what the kernel knows needs a dump of the machine, "
                "such as C:\\Windows\\MEMORY.DMP"
            )
        raise DumpFormatError(self._path, "no Windows dump: it begins with neither PAGEDU64 nor PAGEDUMP")

    def _read_header_64(self, data: bytes) -> _Header:
        build, base, _, modules, processes, machine = struct.unpack_from("<IQQQQI", data, 0xC)
        debugger_data = int.from_bytes(data[0x80:0x88], "little")
        dump_type = int.from_bytes(data[0xF98:0xF9C], "little")
        return self._checked(
            _Header(self._platform(machine, 8), 0x2000, build, base, modules, processes, debugger_data, dump_type, True)
        )

    def _read_header_32(self, data: bytes) -> _Header:
        build, base, _, modules, processes, machine = struct.unpack_from("<6I", data, 0xC)
        debugger_data = int.from_bytes(data[0x60:0x64], "little")
        dump_type = int.from_bytes(data[0xF88:0xF8C], "little")
        pae = data[0x5C] == 1
        return self._checked(
            _Header(self._platform(machine, 4), 0x1000, build, base, modules, processes, debugger_data, dump_type, pae)
        )

    def _platform(self, machine: int, pointer_size: int) -> Platform:
        platform = _PLATFORMS.get(machine)
        if platform is None or platform.pointer_size != pointer_size:
            raise UnsupportedError(f"{self._path} {MACHINE_REFUSAL.format(machine)}")
        return platform

    def _checked(self, header: _Header) -> _Header:
        if header.dump_type == _TRIAGE:
            raise UnsupportedError(f"{self._path} {TRIAGE_REFUSAL}")
        if header.dump_type not in _TYPES:
            raise UnsupportedError(f"{self._path} is a kernel dump of unknown type {header.dump_type}")
        return header

    def _read_pages(self) -> _Pages:
        header = self._header
        if header.dump_type == 1:
            return self._read_run_pages()
        if header.dump_type == 2:
            return self._read_summary_pages()
        if header.dump_type in (5, 6):
            return self._read_bitmap_pages()
        if header.platform.pointer_size == 4:
            raise UnsupportedError(f"{self._path} is a 32-bit dump of type {header.dump_type}, which is not supported")
        return self._read_range_pages()

    def _read_run_pages(self) -> _Pages:
        wide = self._header.platform.pointer_size == 8
        offset = 0x88 if wide else 0x64
        block = self._at(offset, 700)
        count = int.from_bytes(block[:4], "little")
        first, entry = (16, "<QQ") if wide else (8, "<II")
        size = struct.calcsize(entry)
        if count in (0, _FILLER_32) or first + count * size > len(block):
            raise DumpFormatError(self._path, f"its header lists {count} runs of memory", offset)
        runs = [struct.unpack_from(entry, block, first + number * size) for number in range(count)]
        return _RunPages(self._checked_runs(runs, offset), self._header.size)

    def _checked_runs(self, runs: Sequence[tuple[int, ...]], offset: int) -> list[tuple[int, int]]:
        for frame, count in runs:
            if frame + count > MAX_FRAMES:
                raise DumpFormatError(self._path, f"a run of {count:#x} pages from frame {frame:#x} cannot be", offset)
        return [(frame, count) for frame, count in runs]

    def _read_summary_pages(self) -> _Pages:
        offset = self._header.size
        head = self._at(offset, 0x28)
        self._check_signature(head, (b"SDMP", b"FDMP"), offset)
        first_page, bits = struct.unpack_from("<II", head, 0xC)
        return self._bitmap_pages(
            offset + (0x28 if self._header.platform.pointer_size == 8 else 0x20), bits, first_page
        )

    def _read_bitmap_pages(self) -> _Pages:
        offset = self._header.size
        head = self._at(offset, 0x38)
        self._check_signature(head, (b"SDMP", b"FDMP"), offset)
        first_page, _, bits = struct.unpack_from("<QQQ", head, 0x20)
        return self._bitmap_pages(offset + 0x38, bits, first_page)

    def _check_signature(self, head: bytes, expected: Sequence[bytes], offset: int) -> None:
        if head[:4] not in expected or head[4:8] != b"DUMP":
            raise DumpFormatError(self._path, f"no bitmap of pages: it begins with {head[:8]!r}", offset)

    def _bitmap_pages(self, offset: int, bits: int, first_page: int) -> _Pages:
        size = -(-bits // 8)
        if size > MAX_BITMAP_BYTES or first_page < offset + size:
            raise DumpFormatError(self._path, f"a bitmap of {bits:#x} pages before {first_page:#x} cannot be", offset)
        if first_page > self._length:
            raise DumpFormatError(self._path, "cut off: no page of memory is there", self._length)
        return _BitmapPages(self._at(offset, size), first_page)

    def _read_range_pages(self) -> _Pages:
        offset = self._header.size
        marker, signature, valid, metadata, first_page = struct.unpack("<I4s4sxxxxQQ", self._at(offset, 0x20))
        if (marker, signature, valid) != (0x40, b"RDMP", b"DUMP"):
            raise DumpFormatError(self._path, f"no ranges of pages: it begins with {signature!r}", offset)
        start = offset + 0x30
        size = first_page - start
        if not 0 <= size <= 16 * MAX_RUNS or metadata > 16 * MAX_RUNS + 0x20:
            raise DumpFormatError(self._path, f"ranges of pages before {first_page:#x} cannot be", offset)
        runs = []
        for frame, count in struct.iter_unpack("<QQ", self._at(start, size - size % 16)):
            if frame == 0:
                break
            runs.append((frame, count))
        return _RunPages(self._checked_runs(runs, start), first_page)

    # -- KernelTarget -----------------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        """Describe the target."""
        return f"{_TYPES[self._header.dump_type]} dump {self._path}"

    @property
    def size(self) -> Optional[int]:
        """Return the size of the file in bytes."""
        return self._length

    @property
    def build_number(self) -> Optional[int]:
        """Return the build, None if the header does not say."""
        build = self._header.build
        return None if build in (0, _FILLER_32) else build & 0xFFFF

    def problems(self) -> Sequence[Problem]:
        """Return the problems of the dump, including changes since it was opened."""
        if os.fstat(self._file.fileno()).st_size < self._length:
            return [*self._problems, Problem("dump", "the file has been cut off while it was read")]
        return self._problems

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Add problems to the dump's own."""
        self._problems.extend(problems)

    def read_physical(self, address: int, size: int) -> bytes:
        """Read physical memory.

        :raises FaultError: if any of it is not in the dump.
        """
        parts = []
        position = address
        end = address + size
        while position < end:
            step = min(end, position - position % PAGE_SIZE + PAGE_SIZE) - position
            offset = self._pages.offset(position // PAGE_SIZE)
            if offset is None:
                raise FaultError(address, size, "the page is not in the dump")
            self._file.seek(offset + position % PAGE_SIZE)
            data = self._file.read(step)
            if len(data) != step:
                raise FaultError(address, size, "the dump is cut off")
            parts.append(data)
            position += step
        return b"".join(parts)

    def read(self, address: int, size: int) -> bytes:
        """Read kernel space.

        :raises FaultError: if any of it is not in the dump.
        """
        return self._kernel_space.read(address, size)

    def address_space(self, process: int, directory_table_base: int) -> AddressSpace:
        """Return the memory of a process."""
        return self._space(directory_table_base)

    def _space(self, root: int) -> Pager:
        if root not in self._spaces:
            self._spaces[root] = Pager(self._mode, root, self.read_physical, self._pages.frames)
        return self._spaces[root]

    @property
    def kernel(self) -> Module:
        """Return the kernel's image.

        :raises DumpFormatError: if it cannot be found.
        """
        if self._kernel is None:
            first = next(iter(self._module_list or ()), None)
            base = self._debugger_pointer(_KDBG_KERNEL_BASE)
            if not base and first is None:
                raise DumpFormatError(self._path, "the kernel's image cannot be found: its page tables lead nowhere")
            path = first.path if first is not None else "nt"
            base = base or (first.base if first is not None else 0)
            self._kernel = Module(path, base, rsds(Memory(self), base))
        return self._kernel

    @property
    def current_process(self) -> Optional[int]:
        """Return the process of the first processor's current thread, using the offsets in KdDebuggerDataBlock."""
        block = self._debugger_pointer(_KDBG_PROCESSOR_BLOCK)
        if not block or self._debugger_data is None:
            return None
        in_prcb, in_thread = (
            int.from_bytes(self._debugger_data[offset : offset + 2], "little")
            for offset in (_KDBG_PRCB_THREAD, _KDBG_THREAD_PROCESS)
        )
        memory = Memory(self)
        try:
            thread = memory.pointer(memory.pointer(block) + in_prcb)
            return memory.pointer(thread + in_thread) or None
        except FaultError:
            return None  # who needs a current process asks for its id

    def find_symbol(self, name: str) -> Optional[int]:
        """Find one of the two globals whose addresses are in the header."""
        if name == "PsActiveProcessHead":
            return self._filled(self._header.active_processes) or self._debugger_pointer(_KDBG_ACTIVE_PROCESSES)
        if name == "PsLoadedModuleList":
            return self._filled(self._header.loaded_modules) or self._debugger_pointer(_KDBG_LOADED_MODULES)
        return None

    def _filled(self, value: int) -> Optional[int]:
        return None if value in (0, _FILLER_32, _FILLER_64) else value

    def _read_debugger_data(self) -> Optional[bytes]:
        """Read KdDebuggerDataBlock, None if it is missing, or still encoded as in a running Windows 8 or later."""
        offset, tag = _KDBG_TAG
        try:
            data = self.read(self._header.debugger_data, _KDBG_SIZE)
        except FaultError:
            return None  # the header has the lists' heads too; what it lacks, find_symbol does not find
        return data if data[offset : offset + 4] == tag else None

    def _debugger_pointer(self, offset: int) -> Optional[int]:
        if self._debugger_data is None:
            return None
        value = int.from_bytes(self._debugger_data[offset : offset + 8], "little") & self.platform.address_mask
        return value or None

    def modules(self) -> Sequence[Module]:
        """List the kernel's modules, the kernel itself first."""
        walk = self._module_list
        if walk is None:
            return ()
        problem = Problem("PsLoadedModuleList", f"{walk.reason}: modules of the kernel can be missing")
        if not walk.is_complete and problem not in self._problems:
            self._problems.append(problem)
        return tuple(walk)

    @cached_property
    def _module_list(self) -> Optional[Walk[Module]]:
        """Return a walk of the kernel's module list; None if its head is unknown."""
        head = self.find_symbol("PsLoadedModuleList")
        if not head:
            return None
        memory = Memory(self)
        size = self.platform.pointer_size

        def read(entry: int) -> Module:
            name = read_unicode_string(memory, entry + _FULL_DLL_NAME[size], size)
            return Module(name.text or "", memory.pointer(entry + _DLL_BASE[size]))

        return follow_ring(memory, head, read, limit=_MAX_MODULES, subject="the list of modules", noun="module")

    # -- missing in a dump of a machine ------------------------------------------------------------------------

    def auxv(self) -> Mapping[int, int]:
        """Return an empty mapping: Windows has no auxiliary vector."""
        return {}

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Return None: a dump has no debug information."""
        return None

    def threads(self) -> Sequence[Thread]:
        """Return no threads: they belong to the machine's processes."""
        return ()

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Return no registers: there are no threads."""
        return {}

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Return None: the files are on the dumped machine."""
        return None
