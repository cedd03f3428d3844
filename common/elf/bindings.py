"""Through which symbols does one library point into another?

The loader keeps no record of the symbol behind a relocation dependency, but the relocated words are still there:
every place that a symbolic relocation filled is compared with the other library's address range.
"""

from __future__ import annotations

from bisect import bisect_left

from ..errors import DlwhyError
from ..memory import Memory
from .image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal


class Bindings:
    """Where the symbolic relocations of one image point now."""

    def __init__(self, memory: Memory, image: Image) -> None:
        self._image = image
        read, size = memory.try_read, memory.pointer_size
        order: Literal["little", "big"] = "little" if memory.platform.byteorder == "little" else "big"
        words = []
        try:
            for relocation in image.for_each_symbolic_relocation():
                raw = read(relocation.place, size)
                if raw is not None:
                    words.append((int.from_bytes(raw, order), relocation.symbol))
        except DlwhyError:
            words = []  # the relocations are not in memory: nothing can be named
        self._words = sorted(words)

    def symbols_into(self, start: int, end: int) -> tuple[str, ...]:
        """Give the linker's names of the symbols whose place points into ``[start, end)``, sorted."""
        indexes = set()
        position = bisect_left(self._words, (start, 0))
        while position < len(self._words) and self._words[position][0] < end:
            indexes.add(self._words[position][1])
            position += 1
        names = set()
        for index in indexes:
            try:
                names.add(self._image.string(self._image.symbol(index).name))
            except DlwhyError:
                continue
        return tuple(sorted(names))
