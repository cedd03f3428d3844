"""How does our marked block get into a debugger's init file, and out of it to the byte?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Optional

from ..errors import SetupError, UnusableError
from .changes import Changes
from .files import read_file, rewrite
from .report import say

BLOCK_BEGIN = b"# >>> dlwhy >>> written by install.py, which also removes it: python3 install.py uninstall"
BLOCK_END = b"# <<< dlwhy <<<"
CREATED_FILE = b" (the file is ours)"
ADDED_LINE_END = b" (the line end above is ours)"
BLOCK = re.compile(
    b"^"
    + re.escape(BLOCK_BEGIN)
    + rb"(?P<note>[^\n]*)\n(?P<body>(?:[^\n]*\n)*?)"
    + re.escape(BLOCK_END)
    + rb"(?:\n|\Z)",
    re.MULTILINE,
)


def read_init(path: Path) -> bytes:
    """Read an init file; return b"" if it does not exist."""
    return read_file(path) or b""


def find_block(path: Path, content: bytes) -> Optional[re.Match[bytes]]:
    """Find our block.

    :raises SetupError: if it is damaged or occurs twice.
    """
    marks = [line for line in content.splitlines() if line.startswith((BLOCK_BEGIN, BLOCK_END))]
    found = BLOCK.search(content)
    if len(marks) != (2 if found else 0):
        raise SetupError(f"the dlwhy block in {path} is damaged: remove its lines by hand, then run this again")
    return found


def block(note: bytes, line: bytes) -> bytes:
    """Build our block; by ``note`` uninstall knows what else to remove."""
    return BLOCK_BEGIN + note + b"\n" + line + b"\n" + BLOCK_END + b"\n"


def with_block(path: Path, content: bytes, line: bytes) -> bytes:
    """Return the content with our block in it, up to date."""
    found = find_block(path, content)
    if found:
        return content[: found.start()] + block(found["note"], line) + content[found.end() :]
    if content and not content.endswith(b"\n"):
        return content + b"\n" + block(ADDED_LINE_END, line)
    return content + block(b"" if os.path.exists(path) else CREATED_FILE, line)


def without_block(path: Path, content: bytes) -> Optional[bytes]:
    """Return the content as it was before our block; None if the file is to be removed."""
    found = find_block(path, content)
    if found is None:
        return content
    before, after = content[: found.start()], content[found.end() :]
    if found["note"] == ADDED_LINE_END and not after:
        before = before[:-1]
    return None if found["note"] == CREATED_FILE and not before + after else before + after


def write_block(changes: Changes, path: Path, line: bytes) -> None:
    """Write our block with a command into an init file, unless it is there."""
    old = read_init(path)
    new = with_block(path, old, line)
    if new != old:
        changes.make(f"write the dlwhy block into {path}", rewrite, path, old, new)


def remove_block(changes: Changes, path: Path) -> None:
    """Remove our block from an init file, and the file itself if we created it."""
    try:
        old = read_init(path)
    except UnusableError as failure:
        say(f"note: {failure}")
        return
    new = without_block(path, old)
    if new is None:
        changes.make(f"remove {path}", path.resolve().unlink)
    elif new != old:
        changes.make(f"remove the dlwhy block from {path}", rewrite, path, old, new)
