"""Does colour leave the text as it is?"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.render.colour import colourise
from dlwhy.common.render.text import render
from dlwhy.tests.synth.answers import HOLDS, library, state
from hypothesis import given
from hypothesis import strategies as st

CODES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("name", HOLDS)
@pytest.mark.parametrize("verbose", [False, True])
def test_without_its_codes_it_is_the_plain_text(name: str, verbose: bool) -> None:
    plain = render(state_view(state(library(HOLDS[name]), asked="libB.so"), verbose))
    coloured = colourise(plain)
    assert CODES.sub("", coloured) == plain
    assert coloured != plain


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",), blacklist_characters="\x1b")))
def test_any_text_survives(text: str) -> None:
    assert CODES.sub("", colourise(text)).rstrip("\n") == text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


@pytest.mark.parametrize(
    ("word", "other"), [("stays loaded", "can go"), ("can go", "not known"), ("not known", "stays")]
)
def test_verdicts_differ_in_colour(word: str, other: str) -> None:
    def codes(text: str) -> list[str]:
        return CODES.findall(colourise(text))

    assert codes(word)
    assert codes(word)[0] != codes(other)[0]
    assert codes("library") == []


def test_without_pygments_the_text_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygments", None)
    assert colourise("libB.so stays loaded\n") == "libB.so stays loaded\n"


@pytest.mark.parametrize("error", ["AttributeError('set_completer')", "SystemExit('too old')", "RuntimeError"])
def test_a_pygments_that_fails_in_any_way_costs_only_the_colour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str
) -> None:
    (tmp_path / "pygments").mkdir()
    (tmp_path / "pygments" / "__init__.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pygments"]:
        monkeypatch.delitem(sys.modules, name)
    assert colourise("libB.so stays loaded\n") == "libB.so stays loaded\n"


def test_a_use_of_pygments_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pygments.highlight", lambda *_: 1 / 0)
    assert colourise("libB.so stays loaded\n") == "libB.so stays loaded\n"
