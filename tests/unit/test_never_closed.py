"""Is the one that opened and never closed blamed, and nobody whose opens and closes balance?"""

from __future__ import annotations

from typing import Optional

import pytest
from dlwhy.common.render.document import Document
from dlwhy.common.render.text import render
from dlwhy.common.render.trace_words import never_closed
from dlwhy.common.trace.events import Calls, LibraryTotals, Site


def calls(text: str) -> tuple[Calls, ...]:
    """Return calls written as ``library:function:line*count``, separated by spaces."""
    found = []
    for number, word in enumerate(text.split(), 1):
        place, _, count = word.partition("*")
        library, function, line = (part or None for part in place.split(":"))
        site = Site(0x1000 + number, library, function, line and f"{line}.c:{number}")
        found.append(Calls(site if library else None, "user", int(count or 1)))
    return tuple(found)


def says(opens: str, closes: str, *, opened: str = "opened", closed: str = "closed", now: int = 1) -> Optional[str]:
    """Return who is blamed."""
    account = LibraryTotals("x.so", "/x.so", 0, 0, calls(opens), calls(closes), 0, now, True)
    parts = tuple(never_closed([account], opened, closed, verbose=False))
    text = " ".join(render(Document(parts)).split()) if parts else ""
    return text.partition(" more than ")[2].partition(", ")[2].rstrip(".") or None


@pytest.mark.parametrize(
    ("opens", "closes", "expected"),
    [
        # A balanced host, and a plugin that opens itself (cases/neverclosed).
        ("host:main: plug.so:keep:", "host:main:", "by keep in plug.so"),
        ("plug.so:keep: host:main:", "host:main:", "by keep in plug.so"),
        # The most frequent opener balances.
        ("host:main:*100 plug.so:keep:", "host:main:*100", "by keep in plug.so"),
        # It closes in another function of its own.
        ("host:start: plug.so:keep:", "host:stop:", "by keep in plug.so"),
        ("host:start:*9 host:keep:*2", "host:start:*9", "by keep in host"),
        # Two places of one function: which of them is unknown, so no line is named.
        ("host:main:a host:main:b", "host:main:c", "by main in host"),
        # One place only: its line is named.
        ("host:main:a", "", "by main (a.c:1) in host"),
        # All of several.
        ("host:main:*2 plug.so:keep:", "", "2 times by main in host, once by keep in plug.so"),
        # Who of several cannot be said.
        ("host:start: host:again:", "host:stop:", "by start in host or by again in host"),
        ("host:main: plug.so:keep:", "third.so:close:", "by main in host or by keep in plug.so"),
        ("host:main: ::", "host:main:", "by a caller not known"),
        # Nobody.
        ("host:main:*2", "host:main:*2", None),
        ("host:main:", "third.so:close:", None),
    ],
)
def test_who_is_blamed(opens: str, closes: str, expected: Optional[str]) -> None:
    assert says(opens, closes) == expected
    assert says(opens, closes, opened="loaded", closed="freed") == expected


def test_what_is_gone_is_no_leak() -> None:
    assert says("host:main:*2", "host:main:", now=0) is None
