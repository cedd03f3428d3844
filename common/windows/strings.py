"""What does a UNICODE_STRING contain?"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..memory import Memory

#: UNICODE_STRING.Length has 16 bits, and counts bytes of two-byte characters.
MAX_BYTES = 0xFFFE


class UnicodeString(NamedTuple):
    """A ``UNICODE_STRING``: its lengths in bytes, the address of its characters, and the text.

    ``text`` is None if unreadable or implausible; ``Length`` is not compared with ``MaximumLength``.
    """

    length: int
    maximum_length: int
    buffer: int
    text: Optional[str]


def read_unicode_string(
    memory: Memory, address: int, pointer_size: int, limit: int = MAX_BYTES, errors: str = "replace"
) -> UnicodeString:
    """Read a ``UNICODE_STRING``, {Length, MaximumLength, Buffer}; its characters can be paged out.

    :param pointer_size: in bytes, of the code that owns the structure.
    :param limit: a string of more bytes is implausible.
    :param errors: how half a surrogate pair is decoded: an error handler of Python's codecs.
    :raises FaultError: if the structure itself cannot be read.
    """
    raw = memory.read(address, 2 * pointer_size)
    length, maximum = int.from_bytes(raw[:2], "little"), int.from_bytes(raw[2:4], "little")
    buffer = int.from_bytes(raw[pointer_size:], "little")
    data: Optional[bytes] = None
    if length % 2 == 0 and length <= limit:
        data = memory.try_read_text(buffer, length) if length else b""
    return UnicodeString(length, maximum, buffer, None if data is None else data.decode("utf-16-le", errors))
