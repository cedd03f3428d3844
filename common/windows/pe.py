"""What does a PE image that is mapped in memory import and export?

Format: https://learn.microsoft.com/windows/win32/debug/pe-format.  Read from the target's memory, where addresses are
RVAs; every count is bounded, because a target can contain anything.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, Optional

from ..errors import CorruptError, DlwhyError, FaultError
from ..memory import Memory

_PE32, _PE32_PLUS = 0x10B, 0x20B
_EXPORT, _IMPORT, _EXCEPTION, _BOUND_IMPORT, _DELAY_IMPORT = 0, 1, 3, 11, 13
#: IMAGE_DIRECTORY_ENTRY_DEBUG, the size of an entry, and IMAGE_DEBUG_TYPE_REPRO: the stamp is a hash.
_DEBUG, _DEBUG_ENTRY, _REPRODUCIBLE = 6, 28, 16
#: RUNTIME_FUNCTION of x64 {begin, end, unwind information}, and of the latter's first byte: it continues another one.
_RUNTIME_FUNCTION, _CHAINED = 12, 4 << 3
_AMD64 = 0x8664
_MAX_CHAIN = 32

#: Of a delay-load descriptor's attributes.
_RVA_BASED = 1

MAX_DESCRIPTORS = 4096
MAX_FUNCTIONS = 20_000
MAX_NAME = 512
_HEADER_BYTES = 0x400
#: The header of a PE image begins within its first page.
_MAX_LFANEW = 0x1000


class ImportedDll(NamedTuple):
    """An import descriptor: the name as written, and whether the loader skips it because its first IAT slot is 0."""

    name: str
    skipped: bool
    names_rva: int


class DelayLoad(NamedTuple):
    """A delay-load descriptor: the DLL's name, its handle once it is loaded, and where that lies.

    ``can_unload`` says that it has a table for __FUnloadDelayLoadedDLL2 (/DELAY:UNLOAD).
    """

    name: str
    handle: int
    handle_address: int
    can_unload: bool


class PeImage:
    """A PE image at an address."""

    def __init__(self, memory: Memory, base: int) -> None:
        """Read the headers.

        :raises CorruptError: if this is not a PE image.
        :raises FaultError: if they are not in memory.
        """
        self.memory = memory
        self.base = base
        dos = memory.read(base, 64)
        (lfanew,) = struct.unpack_from("<I", dos, 60)
        if dos[:2] != b"MZ" or lfanew > _MAX_LFANEW:
            raise CorruptError("no PE image", base)
        raw = memory.try_read(base + lfanew, _HEADER_BYTES) or memory.read(base + lfanew, 24 + 112)
        if raw[:4] != b"PE\0\0":
            raise CorruptError("no PE header", base + lfanew)
        self.machine, self.sections, self.timestamp = struct.unpack_from("<HHI", raw, 4)
        (magic,) = struct.unpack_from("<H", raw, 24)
        if magic not in (_PE32, _PE32_PLUS):
            raise CorruptError(f"a PE header of unknown kind {magic:#x}", base + lfanew)
        self.pointer_size = 8 if magic == _PE32_PLUS else 4
        self.size, _, self.checksum = struct.unpack_from("<III", raw, 24 + 56)
        first = 24 + (112 if magic == _PE32_PLUS else 96)
        (count,) = struct.unpack_from("<I", raw, first - 4)
        room = max(0, len(raw) - first) // 8
        self.directories = tuple(struct.iter_unpack("<II", raw[first : first + 8 * min(count, 16, room)]))

    def _directory(self, number: int) -> tuple[int, int]:
        return self.directories[number] if number < len(self.directories) else (0, 0)

    def _name(self, rva: int) -> str:
        return self.memory.c_bytes(self.base + rva, MAX_NAME).decode("latin-1")

    def imports(self) -> Iterator[ImportedDll]:
        """Yield the imports in the order in which loaders before Windows 8 walk them.

        That is the bound-import directory, with its forwarder references, if there is one, else the import directory.

        :raises CorruptError: if the table has no end.
        :raises FaultError: if it is not in memory.
        """
        rva, size = self._directory(_BOUND_IMPORT)
        if rva and size:
            yield from self._bound_imports(rva)
        else:
            yield from self.import_directory()

    def _bound_imports(self, start: int) -> Iterator[ImportedDll]:
        """Walk IMAGE_BOUND_IMPORT_DESCRIPTOR {TimeDateStamp u32, OffsetModuleName u16, forwarder references u16}."""
        for number in range(MAX_DESCRIPTORS):
            _, offset, _ = struct.unpack("<IHH", self.memory.read(self.base + start + 8 * number, 8))
            if not offset:
                return
            yield ImportedDll(self._name(start + offset), False, 0)
        raise CorruptError("a bound-import directory without end", self.base + start)

    def import_directory(self) -> Iterator[ImportedDll]:
        """Yield the import descriptors in the directory's order.

        :raises CorruptError: if the table has no end.
        :raises FaultError: if it is not in memory.
        """
        rva, _ = self._directory(_IMPORT)
        if not rva:
            return
        for number in range(MAX_DESCRIPTORS):
            names, _, _, name, first = struct.unpack("<5I", self.memory.read(self.base + rva + 20 * number, 20))
            if not name or not first:
                return
            slot = self.memory.try_read(self.base + first, self.pointer_size)
            yield ImportedDll(self._name(name), slot is not None and not any(slot), names or first)
        raise CorruptError("an import directory without end", self.base + rva)

    def link_time(self) -> Optional[int]:
        """Return when it was linked, in seconds since 1970; None if its TimeDateStamp is a hash (/Brepro) or 0.

        :raises FaultError: if its debug directory is not in memory.
        """
        rva, size = self._directory(_DEBUG)
        for place in range(rva, rva + min(size, MAX_DESCRIPTORS * _DEBUG_ENTRY), _DEBUG_ENTRY) if rva else ():
            if self.memory.unsigned(self.base + place + 12, 4) == _REPRODUCIBLE:
                return None
        return self.timestamp or None

    def delay_loads(self) -> Iterator[DelayLoad]:
        """Yield the delay-load descriptors; those of old compilers, which have addresses for RVAs, are left out.

        :raises CorruptError: if the table has no end.
        :raises FaultError: if it is not in memory.
        """
        rva, _ = self._directory(_DELAY_IMPORT)
        for number in range(MAX_DESCRIPTORS if rva else 0):
            descriptor = struct.unpack("<8I", self.memory.read(self.base + rva + 32 * number, 32))
            attributes, name, slot, _, _, _, unload, _ = descriptor
            if not name:
                return
            if attributes & _RVA_BASED and slot:
                handle = self.memory.unsigned(self.base + slot, self.pointer_size)
                yield DelayLoad(self._name(name), handle, self.base + slot, bool(unload))
        if rva:
            raise CorruptError("a delay-load directory without end", self.base + rva)

    def imports_any(self, wanted: frozenset[str]) -> bool:
        """Return True if one of these functions is imported by name, delay loads included.

        :raises DlwhyError: if the tables cannot be read.
        """
        tables = [imported.names_rva for imported in self.import_directory()]
        rva, _ = self._directory(_DELAY_IMPORT)
        for number in range(MAX_DESCRIPTORS if rva else 0):
            entry = struct.unpack("<8I", self.memory.read(self.base + rva + 32 * number, 32))
            if not entry[1]:
                break
            tables.append(entry[4])
        left = MAX_FUNCTIONS
        by_ordinal = 1 << 8 * self.pointer_size - 1
        for table in tables:
            for number in range(left):
                thunk = self.memory.unsigned(self.base + table + number * self.pointer_size, self.pointer_size)
                if not thunk:
                    break
                left -= 1
                if not thunk & by_ordinal and self._is_one_of(thunk + 2, wanted):
                    return True
            else:
                raise CorruptError(f"more than {MAX_FUNCTIONS} imported functions", self.base + table)
        return False

    def _is_one_of(self, rva: int, wanted: frozenset[str]) -> bool:
        longest = max(map(len, wanted)) + 1
        raw = self.memory.try_read(self.base + rva, longest)
        if raw is None:
            return self._name(rva) in wanted  # shorter, at the end of what is in memory, or unreadable
        return raw.split(b"\0", 1)[0].decode("latin-1") in wanted

    def find_function(self, address: int) -> Optional[int]:
        """Find the start of the function that covers an address, by the exception directory; None beyond x64.

        :raises DlwhyError: if the tables cannot be read.
        """
        rva, size = self._directory(_EXCEPTION)
        low, high = 0, size // _RUNTIME_FUNCTION if self.machine == _AMD64 and rva else 0
        wanted = address - self.base
        while low < high:
            middle = (low + high) // 2
            begin, end, unwind = self._runtime_function(rva + _RUNTIME_FUNCTION * middle)
            if begin <= wanted < end:
                return self.base + self._first_begin(begin, unwind)
            if wanted < begin:
                high = middle
            else:
                low = middle + 1
        return None

    def _runtime_function(self, rva: int) -> tuple[int, int, int]:
        begin, end, unwind = struct.unpack("<3I", self.memory.read(self.base + rva, _RUNTIME_FUNCTION))
        return begin, end, unwind

    def _first_begin(self, begin: int, unwind: int) -> int:
        """Return the start of a function one of whose parts begins at ``begin``."""
        for _ in range(_MAX_CHAIN):
            header = self.memory.read(self.base + unwind, 4)
            if not header[0] & _CHAINED:
                break
            # After the codes of 2 bytes each, of which there is room for an even number.
            begin, _, unwind = self._runtime_function(unwind + 4 + 2 * (header[2] + header[2] % 2))
        return begin

    def find_export(self, wanted: str) -> Optional[int]:
        """Find the address of an exported name, None if there is none or it is forwarded.

        :raises DlwhyError: if the tables cannot be read.
        """
        rva, size = self._directory(_EXPORT)
        if not rva:
            return None
        functions, names, addresses, name_table, ordinals = struct.unpack(
            "<5I", self.memory.read(self.base + rva + 20, 20)
        )
        low, high = 0, min(names, 1 << 20)
        while low < high:
            middle = (low + high) // 2
            found = self._name(self.memory.unsigned(self.base + name_table + 4 * middle, 4))
            if found == wanted:
                ordinal = self.memory.unsigned(self.base + ordinals + 2 * middle, 2)
                if ordinal >= functions:
                    return None
                target = self.memory.unsigned(self.base + addresses + 4 * ordinal, 4)
                return None if rva <= target < rva + size else self.base + target
            if found < wanted:
                low = middle + 1
            else:
                high = middle
        return None


def find_image(memory: Memory, base: int) -> Optional[PeImage]:
    """Find a PE image at an address, None if there is none or its headers are not in memory."""
    try:
        return PeImage(memory, base)
    except (CorruptError, FaultError):
        return None


def find_export(memory: Memory, base: int, name: str) -> Optional[int]:
    """Find an exported name of the image at an address, None if it is missing or unreadable."""
    image = find_image(memory, base)
    if image is None:
        return None
    try:
        return image.find_export(name)
    except DlwhyError:
        return None
