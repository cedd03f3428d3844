"""How is text marked up for WinDbg, where words can be links (the debugger's markup language, DML)?

Links are found in the finished text, so the text is the same everywhere: WinDbg itself turns DML into plain text where
it cannot show it.
Source: "Customizing Debugger Output Using DML" in Microsoft's documentation of the debuggers.
"""

from __future__ import annotations

import re
from typing import Optional

#: The words before an address say what is there.
_TYPES = {"VAD": "nt!_MMVAD", "control area": "nt!_CONTROL_AREA", "file object": "nt!_FILE_OBJECT"}
_LINK = re.compile(
    rf"\b(?P<what>{'|'.join(_TYPES)})\s+(?P<address>(?:0x)?[0-9a-f`]{{8,18}})\b"
    r"|(?<![\w\\/.-])(?P<name>[\w.+-]+\.(?:dll|exe))\b",
    re.IGNORECASE,
)


# DML has no other entities: at an unknown one the engine drops the rest.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def to_dml(text: str, command: Optional[str] = None) -> str:
    """Mark text up: characters that mean something in DML are escaped, and addresses and names become links.

    The address of a kernel object links to a command that shows it, a DLL's name to ``command``, such as ``!dllstate``.
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
