"""Is a UNICODE_STRING read as far as it makes sense, whosever code it is of?"""

from __future__ import annotations

import struct
from typing import Optional

import pytest
from dlwhy.common.errors import FaultError
from dlwhy.common.memory import Memory
from dlwhy.common.windows.strings import read_unicode_string
from dlwhy.tests.fakes import FakeTarget

ADDRESS, BUFFER = 0x10000, 0x20000
TEXT = "b.dll".encode("utf-16-le")


def memory(length: int, buffer: int = BUFFER, size: int = 8, text: bytes = TEXT) -> Memory:
    form = "<HH4xQ" if size == 8 else "<HHI"
    return Memory(FakeTarget({ADDRESS: struct.pack(form, length, 12, buffer), BUFFER: text}))


@pytest.mark.parametrize("size", [8, 4])
@pytest.mark.parametrize(
    ("length", "buffer", "text"),
    [(10, BUFFER, "b.dll"), (4, BUFFER, "b."), (0, 0, ""), (10, 0x5000, None), (9, BUFFER, None), (12, BUFFER, None)],
)
def test_strings(size: int, length: int, buffer: int, text: Optional[str]) -> None:
    found = read_unicode_string(memory(length, buffer, size), ADDRESS, size)
    assert found == (length, 12, buffer, text)


def test_a_string_that_is_longer_than_it_may_be() -> None:
    assert read_unicode_string(memory(10), ADDRESS, 8, limit=8).text is None


def test_half_a_surrogate_pair() -> None:
    for errors, text in (("replace", "\ufffd"), ("surrogatepass", "\ud800")):
        assert read_unicode_string(memory(2, text=b"\0\xd8"), ADDRESS, 8, errors=errors).text == text


def test_the_structure_itself_cannot_be_read() -> None:
    with pytest.raises(FaultError):
        read_unicode_string(memory(10), 0x5000, 8)
