"""Is a document laid out so that a terminal can show it, with tabulate and without?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dlwhy.common.render.document import Document, Facts, Sentence, Table
from dlwhy.common.render.text import MAX_WIDTH, escape, render
from hypothesis import given
from hypothesis import strategies as st


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    assert escape(text).isprintable()


@given(st.text(alphabet=st.characters(blacklist_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"))))
def test_what_is_printable_stays(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("libA.so", "libA.so"),
        ("a b → ü", "a b → ü"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("\u202elib", "\\u202elib"),
        ("\x9b2J", "\\u009b2J"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_sentences_are_wrapped_and_words_never_cut() -> None:
    long = "x" * 150
    lines = render(Document((Sentence("word " * 60), Sentence(f"before {long} after"), Sentence("")))).split("\n")
    assert all(len(line) <= MAX_WIDTH or line == long for line in lines)
    assert long in lines
    assert lines[-1] == ""


def test_facts_are_aligned_among_themselves() -> None:
    text = render(Document((Facts((("a", "bb", "c"), ("aaa", "b", "cc"), ("lonely",))), Facts((("x", "y"),)))))
    assert text == "  a     bb   c\n  aaa   b    cc\n  lonely\n  x   y\n"


TABLE = Table(("library", "base"), (("libA.so", "0x1000"), ("b\x1b", "1e5")))


def test_table() -> None:
    assert render(Document((TABLE,))) == "library  base\n-------  ------\nlibA.so  0x1000\nb\\x1b    1e5\n"


def test_an_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Document((Table(("library", "base"), ()),))
    assert render(empty).startswith("library")
    monkeypatch.setitem(sys.modules, "tabulate", None)
    assert render(empty).startswith("library")


@pytest.mark.parametrize(
    "table",
    [
        Table(("library", "ns", "because"), (("libA.so", "0", "opened once"), ("x", "11", ""), ("", "", "y" * 30))),
        Table(("", "base"), (("goes", "0x1"), ("", ""))),
        Table(("",), (("  ",), ("",))),
        Table(("a", ""), ((" x", "1e5"), ("-5", ""))),
    ],
)
def test_with_and_without_tabulate_it_looks_the_same(monkeypatch: pytest.MonkeyPatch, table: Table) -> None:
    rich = render(Document((table,)))
    monkeypatch.setitem(sys.modules, "tabulate", None)
    assert render(Document((table,))) == rich


@pytest.mark.parametrize(
    "error", ["AttributeError('set_completer')", "SystemExit('too old')", "RuntimeError", "MemoryError"]
)
@pytest.mark.parametrize("when", ["import", "use"])
def test_a_tabulate_that_fails_in_any_way_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str, when: str
) -> None:
    expected = render(Document((TABLE,)))
    body = f"raise {error}" if when == "import" else f"def tabulate(*_, **__):\n    raise {error}"
    (tmp_path / "tabulate.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tabulate", raising=False)
    assert render(Document((TABLE,))) == expected
    monkeypatch.delitem(sys.modules, "tabulate", raising=False)
