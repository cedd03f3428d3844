"""Which parts does an answer for people consist of?"""

from typing import NamedTuple, Union

Part = Union["Sentence", "Facts", "Table"]


class Sentence(NamedTuple):
    """A line of prose at the margin: the answer first, the remedy last."""

    text: str


class Facts(NamedTuple):
    """Indented rows of cells in aligned columns."""

    rows: tuple[tuple[str, ...], ...]


class Table(NamedTuple):
    """Rows under column titles."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Document(NamedTuple):
    """An answer: parts from top to bottom."""

    parts: tuple[Part, ...]
