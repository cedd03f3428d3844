"""Which physical page holds this virtual address?

x64 with four levels, x86 with and without PAE, large pages.  An entry that is invalid for the processor can
still locate the page: in transition (on the standby or modified list), or described by a prototype PTE.  Pages in the
page file are not in a dump.

The bits of valid entries are the processor's (Intel SDM, volume 3, chapter 4), the bits of invalid ones NT's
(``_MMPTE_TRANSITION``, ``_MMPTE_PROTOTYPE`` in ntkrnlmp.pdb; they have not moved from Windows 7 to 11).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, Optional

from ...errors import FaultError

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = PAGE_SIZE - 1

_VALID = 1
_LARGE = 1 << 7
_PROTOTYPE = 1 << 10
_TRANSITION = 1 << 11

# A prototype PTE with this address is found through the VAD: MI_PTE_LOOKUP_NEEDED.
_LOOKUP_NEEDED = 0xFFFFFFFF0000

# A page of prototype PTEs is itself in paged pool, whose own page tables are not paged out.
_MAX_PROTOTYPE_DEPTH = 4


class PagingMode(enum.Enum):
    """The format of the page tables."""

    X64 = "x64"
    PAE = "x86 PAE"
    X86 = "x86"


class _Level(NamedTuple):
    """A level of tables: which bits of the address choose the entry, and whether the entry can map a large page."""

    shift: int
    entries: int
    can_be_large: bool


class _Mode(NamedTuple):
    entry_size: int
    root_mask: int
    frame_mask: int
    address_bits: int
    levels: tuple[_Level, ...]


_MODES = {
    PagingMode.X64: _Mode(
        8,
        0xFFFFFFFFFF000,
        0xFFFFFFFFFF000,
        48,
        (_Level(39, 512, False), _Level(30, 512, True), _Level(21, 512, True), _Level(12, 512, False)),
    ),
    PagingMode.PAE: _Mode(
        8, 0xFFFFFFE0, 0xFFFFFFFFFF000, 32, (_Level(30, 4, False), _Level(21, 512, True), _Level(12, 512, False))
    ),
    PagingMode.X86: _Mode(4, 0xFFFFF000, 0xFFFFF000, 32, (_Level(22, 1024, True), _Level(12, 1024, False))),
}


class Pager:
    """Translate the virtual addresses of one address space.

    :param read_physical: reads ``size`` bytes at a physical address; raises FaultError if any of them is missing.
    :param frame_limit: the number of the machine's page frames: an entry in transition can have bits above it (the
        mask against L1TF, CVE-2018-3620), which are dropped.
    """

    def __init__(
        self, mode: PagingMode, root: int, read_physical: Callable[[int, int], bytes], frame_limit: int
    ) -> None:
        self._mode = _MODES[mode]
        self._root = root & self._mode.root_mask
        self._read_physical = read_physical
        self._frame_bits_mask = ((1 << max(frame_limit - 1, 1).bit_length()) - 1) << PAGE_SHIFT
        self._tables: dict[int, Optional[bytes]] = {}
        self._pages: dict[int, Optional[int]] = {}
        self._resolving: set[int] = set()

    def translate(self, address: int) -> Optional[int]:
        """Return the physical address, None if the page is not in memory."""
        page = address & ~PAGE_MASK
        if page in self._pages:
            frame = self._pages[page]
        else:
            frame = self._pages[page] = self._walk(page)
        return None if frame is None else frame | (address & PAGE_MASK)

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of virtual memory.

        :raises FaultError: if any of them cannot be read.
        """
        parts = []
        end = address + size
        position = address
        while position < end:
            step = min(end, (position & ~PAGE_MASK) + PAGE_SIZE) - position
            physical = self.translate(position)
            if physical is None:
                raise FaultError(address, size, "the page is not in memory")
            parts.append(self._read_physical(physical, step))
            position += step
        return b"".join(parts)

    def _walk(self, page: int) -> Optional[int]:
        mode = self._mode
        if mode.address_bits < 64 and not _is_canonical(page, mode.address_bits):
            return None
        table = self._root
        for level in mode.levels:
            index = (page >> level.shift) & (level.entries - 1)
            entry = self._entry(table, index, level.entries)
            if entry is None:
                return None
            if not entry & _VALID:
                return self._invalid(entry) if level is mode.levels[-1] else None
            if level.can_be_large and entry & _LARGE:
                return self._large(entry, level.shift) | (page & ((1 << level.shift) - 1))
            table = entry & mode.frame_mask
        return table

    def _large(self, entry: int, shift: int) -> int:
        frame = entry & self._mode.frame_mask & ~((1 << shift) - 1)
        if self._mode.entry_size == 4:
            frame |= (entry >> 13 & 0xFF) << 32  # PSE-36
        return frame

    def _entry(self, table: int, index: int, entries: int) -> Optional[int]:
        size = self._mode.entry_size
        if table not in self._tables:
            try:
                self._tables[table] = self._read_physical(table, entries * size)
            except FaultError:
                self._tables[table] = None  # then a read of what it maps faults
        content = self._tables[table]
        return None if content is None else int.from_bytes(content[index * size : (index + 1) * size], "little")

    def _invalid(self, entry: int) -> Optional[int]:
        """Find the page of an entry that is invalid for the processor."""
        if entry & _PROTOTYPE:
            address = self._prototype_address(entry)
            return None if address is None else self._prototype(address)
        if entry & _TRANSITION:
            return entry & self._mode.frame_mask & self._frame_bits_mask
        return None

    def _prototype_address(self, entry: int) -> Optional[int]:
        if self._mode.entry_size == 4:
            return None  # an offset from the start of paged pool, which only the kernel knows
        if self._mode.address_bits == 32:
            return entry >> 32
        address = entry >> 16
        if address == _LOOKUP_NEEDED:
            return None
        return address | 0xFFFF << 48 if address >> 47 else address

    def _prototype(self, address: int) -> Optional[int]:
        """Follow a prototype PTE; it is in paged pool, whose page can be described by a prototype PTE in turn."""
        if address in self._resolving or len(self._resolving) >= _MAX_PROTOTYPE_DEPTH:
            return None
        self._resolving.add(address)
        try:
            entry = int.from_bytes(self.read(address, self._mode.entry_size), "little")
        except FaultError:
            return None  # then the read of its page faults
        finally:
            self._resolving.discard(address)
        if entry & _VALID:
            return entry & self._mode.frame_mask
        if not entry & _PROTOTYPE and entry & _TRANSITION:
            return entry & self._mode.frame_mask & self._frame_bits_mask
        return None  # in the page file, or in the mapped file itself


def _is_canonical(address: int, bits: int) -> bool:
    if bits == 32:
        return 0 <= address < 1 << 32
    return address >> (bits - 1) in (0, (1 << (65 - bits)) - 1)
