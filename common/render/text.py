"""How is a document formatted as plain text?

Text from a target can hold terminal escape codes, so nothing that is not printable leaves this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..guards import try_optional
from .document import Document, Facts, Sentence, Table

MAX_WIDTH = 100
INDENT = "  "

#: Wider cells do not widen the others: a table of a thousand rows would grow a thousand times as much.
MAX_PADDING = 256


def escape(text: str) -> str:
    """Replace every character that a terminal would act on, or cannot show, by its escape sequence."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    r"""Write a character; non-ASCII below 0x100 by its code point, for ``\xff`` is a byte that is not UTF-8."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) & 0xFF:02x}"
    if "\x80" <= character <= "\xff":
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode()


def render(document: Document) -> str:
    """Format a document in at most 100 columns; paths and symbol names are never cut."""
    lines: list[str] = []
    for part in document.parts:
        if isinstance(part, Sentence):
            lines += _wrap(escape(part.text))
        elif isinstance(part, Facts):
            lines += [INDENT + line for line in _facts(part.rows)]
        else:
            lines += _table(part)
    return "\n".join(lines) + "\n"


def _wrap(text: str) -> list[str]:
    if len(text) <= MAX_WIDTH:
        return [text]
    import textwrap

    return textwrap.wrap(text, MAX_WIDTH, break_long_words=False, break_on_hyphens=False)


def _facts(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    cells = [[escape(cell) for cell in row] for row in rows]
    columns = max(map(len, cells), default=0)
    widths = [max((len(r[i]) for r in cells if i < len(r) - 1), default=0) for i in range(columns)]
    for row in cells:
        yield "   ".join([*(c.ljust(widths[i]) for i, c in enumerate(row[:-1])), row[-1]])


def _table(table: Table) -> list[str]:
    """Format a table with tabulate, or by our own code if tabulate is absent or would pad without bound."""
    rows = [[escape(cell) for cell in row] for row in table.rows]
    widths = [max(len(row[i]) for row in (table.titles, *rows)) for i in range(len(table.titles))]
    is_bounded = max(widths, default=0) <= MAX_PADDING
    widths = [min(width, MAX_PADDING) for width in widths]
    # The rule comes first: tabulate strips a cell of many lines, and a title can be empty.
    ruled = [["-" * width for width in widths], table.titles, *rows]
    rule, titles, *lines = (is_bounded and _tabulated(ruled)) or [
        "  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in ruled
    ]
    return [titles, rule, *lines]


def _tabulated(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a table with tabulate; return an empty text if it is not installed or would drop rows."""

    def use() -> list[str]:
        from tabulate import tabulate

        # One row of many-line cells: tabulate infers the type of each cell, which takes four times as long by rows.
        columns = ["\n".join(column) for column in zip(*rows)]
        text = tabulate([columns], tablefmt="plain", disable_numparse=True)
        lines = [line.rstrip() for line in str(text).splitlines()]
        return lines if len(lines) == len(rows) else []  # tabulate drops empty lines at the end

    return try_optional(use, [])
