"""Which handles does a process have open?

``_HANDLE_TABLE.TableCode`` points at a page of entries, or, by its two lowest bits, at one or two levels of pages that
point at such pages.  The first entry of each page of entries is not used.  Since Windows 8.1 an entry packs the
object's address into ``ObjectPointerBits``; before, its lowest bits are flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Optional

from ...counts import quantity
from ...errors import FaultError
from ...model import Problem
from .kernel import Nt
from .paging import PAGE_SIZE

#: In one process.
MAX_HANDLES = 1 << 20
#: An object with more handles is none.
MAX_OBJECT_HANDLES = 1 << 20
#: Cost of an entry, in Memory's units.
_ENTRY_UNITS = 80
_HANDLE_STEP = 4
# Lock, inherit and audit bits in _HANDLE_TABLE_ENTRY.Object.
_OBJECT_FLAGS = 7


class Handle(NamedTuple):
    """An open handle: its value, the object's body, and the granted access."""

    value: int
    object: int
    granted_access: int


class HandleReader:
    """Read the handle tables of a kernel's processes."""

    def __init__(self, nt: Nt) -> None:
        self._nt = nt
        self._code = nt.offset("_HANDLE_TABLE", "TableCode")
        self._entry_size = nt.layouts["_HANDLE_TABLE_ENTRY"].size
        self._is_packed = nt.has("_HANDLE_TABLE_ENTRY", "ObjectPointerBits")
        self._names = ("ObjectPointerBits", "GrantedAccessBits") if self._is_packed else ("Object", "GrantedAccess")
        self._entry = nt.members("_HANDLE_TABLE_ENTRY", *self._names)
        self._body = nt.offset("_OBJECT_HEADER", "Body")
        self._counts = nt.members("_OBJECT_HEADER", "PointerCount", "HandleCount")
        self._negative = 1 << 8 * nt.field("_OBJECT_HEADER", "PointerCount").size - 1
        self._table_count = nt.field("_HANDLE_TABLE", "HandleCount") if nt.has("_HANDLE_TABLE", "HandleCount") else None

    def count_handles(self, address: int) -> Optional[int]:
        """Return how many handles an object has, by the address of its body; None if no object is known there."""
        try:
            values = self._counts.read(self._nt.memory, address - self._body)
        except FaultError:
            return None  # the caller says that an object cannot be read
        references, count = values["PointerCount"], values["HandleCount"]
        return count if 0 < references < self._negative and count < MAX_OBJECT_HANDLES else None

    def for_each(self, object_table: int, where: str, problems: list[Problem]) -> Iterator[Handle]:
        """Yield the open handles of a process; unreadable parts are reported in ``problems``.

        An entry whose pointer cannot be one has 0 for its object.
        """
        memory = self._nt.memory
        try:
            code = memory.pointer(object_table + self._code)
        except FaultError as error:
            problems.append(Problem(where, f"its handle table cannot be read: {error}"))
            return
        level = code & 3
        if level == 3:
            problems.append(Problem(where, f"its handle table at {object_table:#x} has an unknown form"))
            return
        per_page = PAGE_SIZE // self._entry_size
        unread = found = 0
        seen: set[int] = set()
        again: list[int] = []
        for number, page in enumerate(self._pages(code & ~3, level, seen, again)):
            read = number * per_page
            if read >= MAX_HANDLES or not memory.spend(_ENTRY_UNITS * per_page, "handle tables"):
                problems.append(Problem(where, f"its handle table has more than the {read} entries that are read"))
                break
            data = memory.try_read(page, PAGE_SIZE)
            if data is None:
                unread += 1
            else:
                for handle in self._entries(data, number * per_page):
                    found += 1
                    yield handle
        if again:
            problems.append(Problem(where, f"its handle table leads to the page at {again[0]:#x} more than once"))
        if unread:
            problems.append(Problem(where, f"{quantity(unread, 'page')} of its handle table cannot be read"))
        elif self._table_count is not None and not again:
            place = object_table + self._table_count.offset
            count = memory.try_unsigned(place, self._table_count.size)
            if count is not None and count != found:
                message = f"HandleCount of its handle table at {place:#x} is {count}, but {found} were found in it"
                problems.append(Problem(where, message))

    def _pages(self, address: int, level: int, seen: set[int], again: list[int]) -> Iterator[int]:
        """Yield the addresses of the pages of entries, each once; a null pointer ends a level.

        :param again: receives pages that are reached a second time.
        """
        if address in seen:
            again.append(address)
            return
        seen.add(address)
        if level == 0:
            yield address
            return
        memory = self._nt.memory
        count = PAGE_SIZE // self._nt.pointer_size
        try:
            pointers = memory.words(address, count)
        except FaultError:
            yield address  # which cannot be read either, and so is counted as unread
            return
        for pointer in pointers:
            if pointer == 0:
                break
            yield from self._pages(pointer, level - 1, seen, again)

    def _entries(self, data: bytes, first: int) -> Iterator[Handle]:
        size = self._entry_size
        empty = bytes(size)
        for index in range(1, len(data) // size):
            entry = data[index * size : (index + 1) * size]
            if entry == empty:
                continue
            values = self._entry.decode(entry)
            pointer, access = (self._entry.get(values, name) or 0 for name in self._names)
            header = self._header(pointer)
            is_one = self._nt.is_kernel_address(header)
            if header:
                yield Handle((first + index) * _HANDLE_STEP, header + self._body if is_one else 0, access)

    def _header(self, pointer: int) -> int:
        """Return the address of the object's header from the bits of it in the entry, 0 for a free entry."""
        if not self._is_packed:
            return pointer & ~_OBJECT_FLAGS
        if pointer == 0:
            return 0
        if self._nt.pointer_size == 4:
            return pointer << _POINTER_ALIGNMENT_X86
        return (pointer << _POINTER_ALIGNMENT_X64) | _KERNEL_HALF


# The entry leaves out the bits that alignment makes zero, and on x64 the upper 16, which are ones in kernel space.
_POINTER_ALIGNMENT_X86 = 3
_POINTER_ALIGNMENT_X64 = 4
_KERNEL_HALF = 0xFFFF << 48
