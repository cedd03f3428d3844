"""Of which parts does an answer for people consist?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Sentence:
    """A line of prose at the margin: the answer first, the remedy last."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Indented rows of cells, aligned in columns among themselves."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Table:
    """Rows under column titles."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Part = Union[Sentence, Facts, Table]


@dataclass(frozen=True)
class Document:
    """An answer: parts from top to bottom."""

    parts: tuple[Part, ...]
