"""How is a target's memory read with few requests, and how much of it is read at all?

``Memory`` is the only caller of ``Target.read``.  It lives for one command, so nothing it caches becomes stale, and it
enforces the command's budget: reads, and work on many entries, draw from one total.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NoReturn, Optional

from .charset import decode
from .errors import CorruptError, FaultError, LimitError
from .model import Problem
from .target import Target

# A read through gdb costs 1.8 us for 8 bytes and 3.5 us for 16 KiB (gdb 13, local process): reading more than was asked
# for pays as soon as two requests fall into one chunk, and a loader's heap blocks are close together.
CHUNK_SIZE = 16384
PAGE_SIZE = 4096
STRING_LIMIT = 4096
MAX_PARTIAL_CHUNKS = 64
#: A page that was asked for by itself is kept if no more than these are: hundreds are needed only once.
MAX_KEPT_PAGES = 64
MAX_CHUNKS = 4096
#: The largest single read, in bytes: relocations of the largest libraries take 30 MB.
MAX_READ = 64 << 20

# The budget of one command.  A unit is about 20 ns of processor time, or 2 bytes that are kept.
ALLOWANCE = 200_000_000
_READ_UNITS = 64
_FETCH_UNITS = 1024
_STRING_UNITS = 8


class Memory:
    """Read and decode memory of a target through a cache of chunks."""

    def __init__(self, target: Target, allowance: int = ALLOWANCE) -> None:
        """Create a reader of a target; ``allowance``: the budget of one command."""
        self.target = target
        self.platform = target.platform
        self.pointer_size = self.platform.pointer_size
        self.struct_prefix = "<" if self.platform.byteorder == "little" else ">"
        self.pointer_code = "Q" if self.pointer_size == 8 else "I"
        self._mask = self.platform.address_mask
        self._chunks: dict[int, Optional[bytes]] = {}
        self._pages: dict[int, Optional[bytes]] = {}
        self._word_structs: dict[int, struct.Struct] = {}
        self._first = self
        self._left = allowance
        self._cut = ""

    def renewed(self) -> Memory:
        """Return a new reader of the same target, which has run since.

        Chunks that could not be read in full are read page by page from the start: a failed request costs as much as
        ten.  The budget starts anew, also for images that keep the first reader.
        """
        other = Memory(self.target)
        other._first = self._first
        self.renew_allowance()
        partial = [key for key, chunk in self._chunks.items() if chunk is None]
        other._chunks.update(dict.fromkeys(partial[:MAX_PARTIAL_CHUNKS]))
        return other

    def read(self, address: int, size: int) -> bytes:
        """Read exactly ``size`` bytes.

        :raises FaultError: if any of them cannot be read; a LimitError if the command may read no more.
        """
        start = address % CHUNK_SIZE
        if start + size <= CHUNK_SIZE:
            self._left -= size + _READ_UNITS
            if self._left < 0:
                self._refuse(address, size)
            key = address - start
            chunk = self._chunks[key] if key in self._chunks else self._fetch_chunk(key)
            if chunk is not None:
                return chunk[start : start + size]
        return self._read_slowly(address, size)

    def renew_allowance(self) -> None:
        """Restore the full budget: an event of a trace has the same as a command."""
        self._left = self._first._left = ALLOWANCE

    def spend(self, units: int, what: str, address: Optional[int] = None) -> bool:
        """Charge work to the command's budget; return False if it is exhausted.

        ``what`` and ``address``, if it has one, name in the problem what is cut short.
        """
        self._left -= units
        if self._left < 0 and not self._cut:
            self._cut = what if address is None else f"{what} {address:#x}"
        return self._left >= 0

    @property
    def units_left(self) -> int:
        """Return what is left of the command's budget; negative if it is exhausted."""
        return self._left

    def problems(self) -> tuple[Problem, ...]:
        """Return a problem naming where the budget ran out, none if it did not."""
        if not self._cut:
            return ()
        message = "is cut here: the command has read and searched as much as one may; what is missing is not known"
        return (Problem(self._cut, message),)

    def chunk(self, address: int) -> Optional[bytes]:
        """Read the chunk that contains an address; None if a part of it cannot be read."""
        key = address - address % CHUNK_SIZE
        return self._chunks[key] if key in self._chunks else self._fetch_chunk(key)

    def try_page(self, address: int) -> Optional[bytes]:
        """Read the page that begins at an address, and nothing around it; None if it cannot be read."""
        inside = address % CHUNK_SIZE
        chunk = self._chunks.get(address - inside)
        if chunk is not None:
            return chunk[inside : inside + PAGE_SIZE]
        if address in self._pages:
            return self._pages[address]
        page = self._try(address, PAGE_SIZE)
        if len(self._pages) < MAX_KEPT_PAGES:
            self._pages[address] = page
        return page

    def _fetch_chunk(self, key: int) -> Optional[bytes]:
        if len(self._chunks) >= MAX_CHUNKS:
            self._chunks.clear()
            self._pages.clear()
        data = self._try(key, CHUNK_SIZE)
        self._chunks[key] = data
        return data

    def _try(self, address: int, size: int) -> Optional[bytes]:
        self._left -= _FETCH_UNITS
        if address < 0 or address + size - 1 > self._mask:
            return None
        try:
            return self.target.read(address, size)
        except FaultError:
            return None

    def _read_slowly(self, address: int, size: int) -> bytes:
        """Read a range that crosses chunks or is in a chunk that is only partly readable."""
        if address < 0 or size < 0 or address + size - 1 > self._mask:
            raise FaultError(address, size)
        if size > MAX_READ:
            raise FaultError(address, size, "too much for one read")
        parts = []
        end = address + size
        while address < end:
            key = address - address % CHUNK_SIZE
            chunk = self._chunks[key] if key in self._chunks else self._fetch_chunk(key)
            if chunk is None:
                step, chunk, key = self._page(address, end)
            else:
                step = min(end, key + CHUNK_SIZE)
            self._left -= step - address + _READ_UNITS
            if self._left < 0:
                self._refuse(address, size)
            parts.append(chunk[address - key : step - key])
            address = step
        return b"".join(parts)

    def _page(self, address: int, end: int) -> tuple[int, bytes, int]:
        key = address - address % PAGE_SIZE
        step = min(end, key + PAGE_SIZE)
        if key not in self._pages:
            self._pages[key] = self._try(key, PAGE_SIZE)
        page = self._pages[key]
        if page is not None:
            return step, page, key
        # A dump can record part of a page: ask for exactly these bytes.
        self._left -= _FETCH_UNITS
        return step, self.target.read(address, step - address), address

    def try_read(self, address: int, size: int) -> Optional[bytes]:
        """Read ``size`` bytes; None if any of them cannot be read."""
        try:
            return self.read(address, size)
        except FaultError:
            return None

    def read_apart(self, places: Iterable[tuple[int, int]]) -> Iterator[Optional[bytes]]:
        """Read places far from one another, given by address and size, past the cache; None for an unreadable one."""
        read = self.target.read
        for address, size in places:
            self._left -= size + _READ_UNITS
            if self._left < 0 or not 0 <= address <= self._mask - size:
                yield None
                continue
            try:
                yield read(address, size)
            except FaultError:
                yield None

    def try_read_text(self, address: int, size: int) -> Optional[bytes]:
        """Read the bytes of a text, charged for the several forms it is kept in; None if it cannot be read."""
        try:
            data = self.read(address, size)
            self._take_string(address, size)
        except FaultError:
            return None
        return data

    def unsigned(self, address: int, size: int) -> int:
        """Read an unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.read(address, size), "little" if self.struct_prefix == "<" else "big")

    def pointer(self, address: int) -> int:
        """Read a pointer."""
        return self.unsigned(address, self.pointer_size)

    def try_unsigned(self, address: int, size: int) -> Optional[int]:
        """Read an unsigned integer; None if it cannot be read."""
        try:
            return self.unsigned(address, size)
        except FaultError:
            return None

    def try_words(self, address: int, count: int) -> Optional[tuple[int, ...]]:
        """Read consecutive pointer-sized words; None if any of them cannot be read."""
        try:
            return self.words(address, count)
        except FaultError:
            return None

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Read ``count`` consecutive pointer-sized words."""
        unpacker = self._word_structs.get(count)
        if unpacker is None:
            unpacker = struct.Struct(f"{self.struct_prefix}{count}{self.pointer_code}")
            self._word_structs[count] = unpacker
        return unpacker.unpack(self.read(address, count * self.pointer_size))

    def c_string(self, address: int, limit: int = STRING_LIMIT) -> str:
        """Read a zero-terminated string; undecodable bytes survive as surrogates.

        :raises CorruptError: if no terminator comes within ``limit`` bytes.
        """
        return decode(self.c_bytes(address, limit))

    def c_bytes(self, address: int, limit: int = STRING_LIMIT) -> bytes:
        """Read the bytes before a zero terminator.

        :raises CorruptError: if no terminator comes within ``limit`` bytes.
        """
        start = address % CHUNK_SIZE
        chunk = self._chunks.get(address - start)
        if chunk is not None:
            stop = chunk.find(b"\0", start, start + limit)
            if stop >= 0:
                self._take_string(address, stop - start)
                return chunk[start:stop]
        parts = []
        remaining = limit
        while remaining > 0:
            step = min(remaining, 256, CHUNK_SIZE - address % CHUNK_SIZE)
            piece = self.try_read(address, step)
            if piece is None:
                step = min(step, 16 - address % 16)
                piece = self.try_read(address, step)
            if piece is None:
                step = 1
                piece = self.read(address, step)
            stop = piece.find(b"\0")
            if stop >= 0:
                parts.append(piece[:stop])
                found = b"".join(parts)
                self._take_string(address, len(found))
                return found
            parts.append(piece)
            address += step
            remaining -= step
        raise CorruptError(f"string without end within {limit} bytes", address - limit)

    def _refuse(self, address: int, size: int) -> NoReturn:
        self._cut = self._cut or f"{address:#x}"
        raise LimitError(address, size)

    def _take_string(self, address: int, size: int) -> None:
        """Charge the cost of a string beyond its bytes."""
        self._left -= size * _STRING_UNITS + _READ_UNITS
        if self._left < 0:
            self._refuse(address, size)
