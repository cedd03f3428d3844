"""Through which symbols does one library point into another?

The loader does not record the symbol behind a relocation dependency, but the relocated words are still there: each word
that a symbolic relocation filled is compared with the other library's address range.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from ...errors import DlwhyError, FaultError
from ...memory import Memory
from .image import STB_WEAK, ElfImage

#: Words at most this many bytes apart are read together: nearly all are in .got, .got.plt and .data.rel.ro.
_GAP = 256
#: One number has a word's address or value above these bits, and the index of its symbol in them.
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class Bindings:
    """The current targets of an image's symbolic relocations."""

    def __init__(self, memory: Memory, image: ElfImage) -> None:
        self._image = image
        #: The addresses and bytes that were read.
        self._pieces: list[tuple[int, bytes]] = []
        self._names: dict[int, str] = {}
        #: Whether all relocated words were found and read.
        self.is_complete = True
        try:
            places = sorted(place << _INDEX_BITS | symbol for place, symbol in image.for_each_symbolic_relocation())
        except DlwhyError:
            self.is_complete = False
            places = []
        words: list[int] = []
        for run in _group(places, memory.pointer_size):
            words += self._read(memory, run) or [word for each in run for word in self._read(memory, [each])]
        self.is_complete = self.is_complete and len(words) == len(places)
        words.sort()
        self._values = _packed("Q", [word >> _INDEX_BITS for word in words])
        self._symbols = _packed("I", [word & _INDEX_MASK for word in words])

    def _read(self, memory: Memory, run: Sequence[int]) -> list[int]:
        """Read words that are close together; return none unless all of them are in memory."""
        start, last = run[0] >> _INDEX_BITS, run[-1] >> _INDEX_BITS
        raw = memory.try_read(start, last + memory.pointer_size - start)
        if raw is None:
            return []
        self._pieces.append((start, raw))
        unpack = struct.Struct(memory.struct_prefix + memory.pointer_code).unpack_from
        return [unpack(raw, (each >> _INDEX_BITS) - start)[0] << _INDEX_BITS | (each & _INDEX_MASK) for each in run]

    def later(self, memory: Memory) -> Bindings:
        """Return the image's bindings in a later snapshot: this object if they are unchanged."""
        unchanged = all(memory.try_read(start, len(raw)) == raw for start, raw in self._pieces)
        return self if unchanged else Bindings(memory, self._image)

    def symbols_into(self, start: int, end: int) -> tuple[str, ...]:
        """Return the mangled names of the symbols bound to addresses in ``[start, end)``, sorted."""
        first, last = self._places(start, end)
        return tuple(sorted({self._name(index) for index in set(self._symbols[first:last])}))

    def undefined_into(self, start: int, end: int) -> tuple[str, ...]:
        """Return the bound symbols that only another image can define: undefined here, and not weak."""
        first, last = self._places(start, end)
        return tuple(
            sorted({self._name(index) for index in set(self._symbols[first:last]) if self._is_undefined(index)})
        )

    def _is_undefined(self, index: int) -> bool:
        try:
            symbol = self._image.symbol(index)
        except DlwhyError:
            return True  # what cannot be read is not taken for defined
        return symbol.shndx == 0 and symbol.binding != STB_WEAK

    def count_into(self, start: int, end: int) -> int:
        """Return how many words point into ``[start, end)``."""
        first, last = self._places(start, end)
        return max(0, last - first)

    def _places(self, start: int, end: int) -> tuple[int, int]:
        return bisect_left(self._values, start), bisect_left(self._values, end)

    def _name(self, index: int) -> str:
        if index not in self._names:
            try:
                self._names[index] = self._image.string(self._image.symbol(index).name)
            except FaultError:
                self._names[index] = "(name not in memory)"
            except DlwhyError:
                self._names[index] = "(a name that is too long, or outside the string table)"
        return self._names[index]


def _packed(code: str, values: Sequence[int]) -> Sequence[int]:
    """Pack numbers into few bytes; importing the module array would be expensive."""
    return memoryview(struct.pack(f"{len(values)}{code}", *values)).cast(code)  # type: ignore[call-overload,no-any-return]


def _group(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield groups of adjacent words of this size."""
    first = 0
    for index in range(1, len(places)):
        if (places[index] >> _INDEX_BITS) - (places[index - 1] >> _INDEX_BITS) > _GAP + size:
            yield places[first:index]
            first = index
    if places:
        yield places[first:]
