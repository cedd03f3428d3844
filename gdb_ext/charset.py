"""How is text exchanged with gdb?

gdb decodes names by its host charset and the output of commands as UTF-8, and raises an exception for other bytes.  It
writes UTF-8 whatever the charset is.  gdb 10 to 18.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Optional

import gdb

from ..common.charset import decode, from_native, written_as_utf8


def host_charset() -> str:
    """Return the name of gdb's host charset."""
    if hasattr(gdb, "host_charset"):
        return str(gdb.host_charset())  # new in gdb 12
    match = re.search(r'"(?:auto; currently )?([^"]*)"', gdb.execute("show host-charset", to_string=True))
    return match[1] if match else "ASCII"


def text_of(get: Callable[[], Optional[str]]) -> Optional[str]:
    """Return a string that gdb decodes by its host charset as our text, whatever its bytes are; None for None."""
    try:
        text = get()
    except UnicodeDecodeError as error:
        return decode(bytes(error.object))
    return text if text is None or text.isascii() else from_native(text, host_charset())


def output_of(command: str) -> str:
    """Return a command's output as our text; gdb decodes it as UTF-8, in some versions by the charset."""
    try:
        text = gdb.execute(command, to_string=True)
    except UnicodeDecodeError as error:
        return decode(bytes(error.object))
    if text.isascii() or gdb.execute("echo \u00e4", to_string=True) == "\u00e4":
        return text
    return from_native(text, host_charset())


def shown(text: str) -> str:
    """Return text that gdb can write: with escape sequences if its host charset is not the UTF-8 that it writes."""
    return written_as_utf8(text, host_charset())
