"""Do strict parsers read every document, and does the regular expression of the docs give the very string back?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from dlwhy.common.charset import decode
from dlwhy.common.render.jsontext import dumps, to_strict
from dlwhy.tests.support.undo import UNDO
from hypothesis import example, given
from hypothesis import strategies as st

#: Characters of which sequences consist, beside all others.
TRICKY = st.text(alphabet=st.sampled_from("\\xu05cdfFD8\udc80\udcff\udc5c\ud83d\ude00ü\U0001f600\0\n"), max_size=12)
STRINGS = TRICKY | st.text(alphabet=st.characters(exclude_categories=())) | st.binary().map(decode)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | STRINGS,
    lambda each: st.lists(each) | st.dictionaries(STRINGS, each),
    max_leaves=10,
)


@given(STRINGS)
@example("\\x5c")
@example("\\\\x41\\u0041")
@example("C:\\x86\\x64\\ua")
@example("\\\udcff")
@example("\\x\udcff")
def test_one_regular_expression_undoes_it(text: str) -> None:
    written = to_strict(text)
    written.encode("utf-8", "strict")
    assert UNDO(written) == text


@given(DOCUMENTS)
def test_every_document_is_strict_json(document: Any) -> None:
    for indent in (None, 2):
        text = dumps(document, indent)
        assert text.isascii()
        parsed = json.loads(text)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8", "strict")
        assert parsed == to_strict(document)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("libä.so", "libä.so"),
        ("lib\udcff.so", "lib\\xff.so"),
        ("lib\ud83d.dll", "lib\\ud83d.dll"),
        ("lib\U0001f600.so", "lib\U0001f600.so"),
        ("a\\b", "a\\b"),
        ("lib\\xff.so", "lib\\x5cxff.so"),
        ("lib\\u00e4.so", "lib\\x5cu00e4.so"),
    ],
)
def test_as_documented(text: str, expected: str) -> None:
    assert to_strict(text) == expected
    assert json.loads(dumps({text: [text]})) == {expected: [expected]}
