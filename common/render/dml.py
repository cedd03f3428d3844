"""How is text marked up for WinDbg, where words can be links (the debugger's markup language, DML)?

Links are found in the finished text, so the text is the same everywhere: WinDbg itself makes plain text of DML where it
cannot show it.
Source: "Customizing Debugger Output Using DML" in Microsoft's documentation of the debuggers.
"""

from __future__ import annotations

import re
from typing import Optional

#: What the words before an address say of what lies there.
_TYPES = {"VAD": "nt!_MMVAD", "control area": "nt!_CONTROL_AREA", "file object": "nt!_FILE_OBJECT"}
_LINK = re.compile(
    rf"\b(?P<what>{'|'.join(_TYPES)})\s+(?P<address>(?:0x)?[0-9a-f`]{{8,18}})\b"
    r"|(?<![\w\\/.-])(?P<name>[\w.+-]+\.(?:dll|exe))\b",
    re.IGNORECASE,
)


# DML has no other entities: at one that it does not know, the engine drops the rest.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def to_dml(text: str, command: Optional[str] = None) -> str:
    """Mark text up: characters that mean something in DML are escaped, and what can be looked at becomes a link.

    An address of a kernel's object is a link that shows it; a DLL's name is one to ``command``, such as ``!dllstate``.
    """
    parts = []
    position = 0
    for match in _LINK.finditer(text):
        shown = "name" if match["name"] else "address"
        if match["name"]:
            typed = command and f"{command} {match['name']}"
        else:
            typed = f"dt {_TYPES[match['what']]} {match['address'].replace('`', '')}"
        if not typed:
            continue
        parts.append(text[position : match.start(shown)].translate(_ENTITIES))
        parts.append(f'<link cmd="{typed}">{match[shown]}</link>')
        position = match.end()
    parts.append(text[position:].translate(_ENTITIES))
    return "".join(parts)
