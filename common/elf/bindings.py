"""Through which symbols does one library point into another?

The loader keeps no record of the symbol behind a relocation dependency, but the relocated words are still there:
every place that a symbolic relocation filled is compared with the other library's address range.
"""

from __future__ import annotations

import struct
from bisect import bisect_left

from ..errors import DlwhyError
from ..memory import Memory
from .image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Optional

    from .image import Relocation

#: Places no further apart than this are read together: nearly all lie in .got, .got.plt and .data.rel.ro.
_GAP = 256


class Bindings:
    """Where the symbolic relocations of one image point now."""

    def __init__(self, memory: Memory, image: Image) -> None:
        self._image = image
        self._runs: list[list[Relocation]] = []
        self._pieces: list[bytes] = []
        try:
            # In order, or else there are none: where relocations are not in memory, nothing can be named.
            relocations = sorted(image.for_each_symbolic_relocation())
        except DlwhyError:
            relocations = []
        for run in _group(relocations, memory.pointer_size):
            piece = _read(memory, run)
            single = [[each] for each in run] if piece is None else []
            for each, raw in [(run, piece), *((one, _read(memory, one)) for one in single)]:
                if raw is not None:
                    self._runs.append(each)
                    self._pieces.append(raw)
        self._note_words(memory)

    def later(self, memory: Memory) -> Bindings:
        """Give the bindings of the same image when its process has gone on: this one, if they are what they were."""
        pieces = [_read(memory, run) for run in self._runs]
        return self if pieces == self._pieces else Bindings(memory, self._image)

    def _note_words(self, memory: Memory) -> None:
        word = struct.Struct(memory.struct_prefix + memory.pointer_code)
        words = []
        for run, raw in zip(self._runs, self._pieces):
            start = run[0].place
            words += [(word.unpack_from(raw, place - start)[0], symbol) for place, symbol in run]
        self._words: list[tuple[int, int]] = sorted(words)

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


def _group(relocations: Sequence[Relocation], size: int) -> Iterator[list[Relocation]]:
    """Put together the words, of this size, that lie close together."""
    run: list[Relocation] = []
    for relocation in relocations:
        if run and relocation.place - run[-1].place > _GAP + size:
            yield run
            run = []
        run.append(relocation)
    if run:
        yield run


def _read(memory: Memory, run: Sequence[Relocation]) -> Optional[bytes]:
    return memory.try_read(run[0].place, run[-1].place + memory.pointer_size - run[0].place)
