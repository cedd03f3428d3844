"""How are files read, written and removed if anything, or nothing, can be at their paths?"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Optional

from ..errors import UnusableError


def open_regular(path: Path, flags: int) -> int:
    """Open a file without waiting for anything and return the descriptor.

    :raises UnusableError: if it is not a regular file.
    """
    irregular = UnusableError(f"{path}: not a regular file: left alone")
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise irregular from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise irregular
    return descriptor


def read_file(path: Path) -> Optional[bytes]:
    """Read a regular file; return None if it does not exist."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def is_readable(path: Path) -> bool:
    """Return True if a file can be read or does not exist."""
    try:
        read_file(path)
    except (OSError, UnusableError):
        return False
    return True


def remove(path: Path) -> None:
    """Remove a folder and its contents, or whatever else is there, without following symbolic links."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Change a file's content from ``old`` to ``new`` in place; their common prefix is not written."""
    differing = (at for at, (one, other) in enumerate(zip(old, new)) if one != other)
    start = next(differing, min(len(old), len(new)))
    with os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        file.seek(start)
        file.write(new[start:])
        file.truncate()


def write_text(path: Path, text: str) -> None:
    """Write a file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def write_command(path: Path, text: str) -> None:
    """Write the command so that it is never there incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dlwhy-", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
        fresh.chmod(0o755)
        fresh.replace(path)
