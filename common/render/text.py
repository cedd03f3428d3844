"""How does a document look as plain text?

Text from a target can hold terminal escape codes, so nothing that is not printable leaves this module.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from .document import Document, Facts, Sentence, Table

MAX_WIDTH = 100
INDENT = "  "


def escape(text: str) -> str:
    """Replace every character that a terminal would act on, or cannot show, by its escape sequence."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def render(document: Document) -> str:
    """Lay a document out in at most 100 columns, paths and symbol names excepted: they are never cut."""
    lines: list[str] = []
    for part in document.parts:
        if isinstance(part, Sentence):
            lines += textwrap.wrap(escape(part.text), MAX_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
        elif isinstance(part, Facts):
            lines += [INDENT + line for line in _facts(part.rows)]
        else:
            lines += _table(part)
    return "\n".join(lines) + "\n"


def _facts(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    cells = [[escape(cell) for cell in row] for row in rows]
    columns = max(map(len, cells), default=0)
    widths = [max((len(r[i]) for r in cells if i < len(r) - 1), default=0) for i in range(columns)]
    for row in cells:
        yield "   ".join([*(c.ljust(widths[i]) for i, c in enumerate(row[:-1])), row[-1]])


def _table(table: Table) -> list[str]:
    rows = [[escape(cell) for cell in row] for row in table.rows]
    widths = [max(len(row[i]) for row in (table.titles, *rows)) for i in range(len(table.titles))]
    ruled = [table.titles, ["-" * width for width in widths], *rows]
    try:
        from tabulate import tabulate
    except ImportError:
        return ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in ruled]
    text = tabulate(ruled, tablefmt="plain", disable_numparse=True)
    return [line.rstrip() for line in str(text).splitlines()]
