"""How are the bytes of names decoded, and which text can be displayed?

Names in a target, and of files, are bytes.  As text they are UTF-8 in every host and locale, so that the same bytes are
the same text everywhere; a byte that is not UTF-8 is the lone surrogate U+DC80 to U+DCFF of PEP 383.
"""

from __future__ import annotations

import re
import sys
from typing import Union


def decode(raw: bytes) -> str:
    """Return bytes of a target as text."""
    return raw.decode("utf-8", "surrogateescape")


def from_native(text: str, encoding: str) -> str:
    """Convert text decoded in the locale's encoding, such as words of a command line, to what `decode` returns."""
    return text if is_utf8(encoding) else decode(text.encode(encoding, "surrogateescape"))


def own_path(path: str) -> str:
    """Convert a path that Python has decoded, such as a word of the command line, to what `decode` returns."""
    return from_native(path, sys.getfilesystemencoding())


def file_name(path: str) -> Union[str, bytes]:
    """Return a path as system calls take it in any locale: as bytes, on Windows as text.

    :raises ValueError: if no file can have this path.
    """
    return path if sys.platform == "win32" else path.encode("utf-8", "surrogateescape")


def escape_unencodable(text: str, encoding: str) -> str:
    r"""Return text with each character that an encoding lacks as ``\uNNNN``, in UTF-16 units as in JSON."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(character if _has(encoding, character) else _escaped(character) for character in text)
    return text


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    raw = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{raw[at : at + 2].hex()}" for at in range(0, len(raw), 2))


def unescaped(text: str) -> str:
    r"""Return text with the escapes by which answers show unwritable characters (``\xff``, ``\u00e4``) undone."""
    import re

    def character(match: re.Match[str]) -> str:
        byte = match[1] or ""
        return chr(int(byte or match[2], 16) + (0xDC00 if byte > "7f" else 0))

    return re.sub(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))", character, text)


def is_utf8(encoding: str) -> bool:
    """Return True if an encoding, by any of its names, is UTF-8."""
    return encoding.lower() in ("utf-8", "utf8")


def written_as_utf8(text: str, encoding: str) -> str:
    """Return text for a debugger that always writes UTF-8: as ASCII, unless the terminal's encoding is UTF-8."""
    return text if text.isascii() else escape_unencodable(text, "utf-8" if is_utf8(encoding) else "ascii")
