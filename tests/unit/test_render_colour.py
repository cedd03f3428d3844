"""Does colour leave the text as it is?"""

from __future__ import annotations

import re
import sys

import pytest
from dlwhy.common.render.colour import colourise
from dlwhy.common.render.text import render
from dlwhy.common.views import state_view
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
