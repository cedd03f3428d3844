"""How does text look in WinDbg, where words can be links (the debugger's markup language, DML)?

Links are found in the finished text, so the text is the same everywhere: WinDbg itself makes plain text of DML where it
cannot show it.
Source: "Customizing Debugger Output Using DML" in Microsoft's documentation of the debuggers.
"""

from __future__ import annotations

import re
from html import escape as escape_markup

#: What the words before an address say of what lies there.
_TYPES = {"VAD": "nt!_MMVAD", "control area": "nt!_CONTROL_AREA", "file object": "nt!_FILE_OBJECT"}
_ADDRESS = re.compile(rf"\b(?P<what>{'|'.join(_TYPES)})(?P<gap>\s+)(?P<address>(?:0x)?[0-9a-f`]{{8,18}})\b")


def to_dml(text: str) -> str:
    """Mark text up: characters that mean something in DML are escaped, addresses of kernel objects show them."""
    parts = []
    position = 0
    for match in _ADDRESS.finditer(text):
        command = f"dt {_TYPES[match['what']]} {match['address'].replace('`', '')}"
        parts.append(escape_markup(text[position : match.start("address")]))
        parts.append(f'<link cmd="{command}">{match["address"]}</link>')
        position = match.end()
    parts.append(escape_markup(text[position:]))
    return "".join(parts)
