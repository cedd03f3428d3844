"""How do long names and paths fit on a line?  Verbose answers show them in full."""

from __future__ import annotations

from collections.abc import Sequence

from .document import Facts, Table
from .text import INDENT, MAX_WIDTH, escape

_CUT = "..."
_TABLE_GAP = 2
_FACTS_GAP = 3
_CELL_ROOM = 20
#: Longer names of functions are shown without arguments.
_LONG_NAME = 40
_ANONYMOUS = "(anonymous namespace)"


def cut(text: str, width: int) -> str:
    """Shorten a text in its middle, where names and paths differ least."""
    text = escape(text)
    if len(text) <= width:
        return text
    head = max(0, width - len(_CUT)) // 2
    tail = max(0, width - len(_CUT) - head)
    return (text[:head] + _CUT + text[len(text) - tail :])[:width]


def compact(name: str) -> str:
    """Shorten a long C++ or Rust name by omitting template and function arguments: ``map<...>::at(...)``."""
    if len(name) <= _LONG_NAME:
        return name
    kept: list[str] = []
    closers: list[str] = []
    at = 0
    while at < len(name):
        if name.startswith(_ANONYMOUS, at) and not closers:
            kept.append(_ANONYMOUS)
            at += len(_ANONYMOUS)
            continue
        if name.startswith("operator", at) and not closers:
            # operator<, operator->, operator() and the like: their signs are not brackets.
            end = name.find("(", at + len("operator") + 1)
            end = len(name) if end < 0 else end
            kept.append(name[at:end])
            at = end
            continue
        sign = name[at]
        if sign in "<(":
            if not closers:
                kept.append(sign + _CUT if name[at + 1 : at + 2] != ")" else sign)
            closers.append(">" if sign == "<" else ")")
        elif closers and sign == closers[-1]:
            closers.pop()
            if not closers:
                kept.append(sign)
        elif not closers:
            kept.append(sign)
        at += 1
    return name if closers else "".join(kept)


def fit_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """Make a table in which the longest cells are cut, so that its lines fit the width."""
    cells = [titles, *(tuple(escape(cell) for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    room = MAX_WIDTH - _TABLE_GAP * (len(titles) - 1)
    most = max(room // len(titles), max(c for c in range(1, room + 1) if c == 1 or _total(widths, c) <= room))
    return Table(titles, tuple(tuple(cut(cell, most) for cell in row) for row in cells[1:]))


def _total(widths: Sequence[int], most: int) -> int:
    return sum(min(width, most) for width in widths)


def wrap(text: str, width: int, *, whole_words: bool = False) -> list[str]:
    """Break a text into lines; with ``whole_words`` a longer word is not broken."""
    text = escape(text)
    if len(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, width, break_long_words=not whole_words, break_on_hyphens=False)


def wrap_facts(rows: Sequence[tuple[str, str]], *, whole_words: bool = False) -> Facts:
    """Make facts whose second cells continue on the next lines if they are too long."""
    first = max((len(escape(row[0])) for row in rows), default=0)
    room = max(_CELL_ROOM, MAX_WIDTH - len(INDENT) - first - _FACTS_GAP)
    return Facts(
        tuple(
            (name if number == 0 else "", piece)
            for name, text in rows
            for number, piece in enumerate(wrap(text, room, whole_words=whole_words))
        )
    )
