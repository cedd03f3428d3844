r"""How are strings written that JSON cannot represent?

A name in a target can be any bytes, JSON's strings are Unicode.  So a byte that is not UTF-8 is written ``\xff``, half
a surrogate pair ``\ud800``, and a backslash before text that looks like such a sequence ``\x5c``, all before JSON's own
escaping.  One regular expression undoes it: see docs/json.md.
"""

from __future__ import annotations

import json
import re
from typing import Any, Optional

_UNCLEAR = re.compile(r"\\(?=x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})|[\ud800-\udfff]")
_FIRST_OF_BYTES, _LAST_OF_BYTES = 0xDC80, 0xDCFF


def dumps(document: Any, indent: Optional[int] = None) -> str:
    """Write a document as JSON, in ASCII, keys in the order in which they were built."""
    text = json.dumps(document, indent=indent)
    # Hardly any document has such strings; Windows paths have backslashes.
    return json.dumps(to_strict(document), indent=indent) if "\\\\" in text or "\\ud" in text else text


def to_strict(value: Any) -> Any:
    """Return a document whose strings are Unicode, fit for every parser."""
    if isinstance(value, str):
        return _UNCLEAR.sub(_written, value)
    if isinstance(value, dict):
        return {to_strict(key): to_strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_strict(item) for item in value]
    return value


def _written(match: re.Match[str]) -> str:
    code = ord(match[0])
    if _FIRST_OF_BYTES <= code <= _LAST_OF_BYTES:
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code > 0xFF else "\\x5c"
