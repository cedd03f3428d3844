"""Can another user than root change what root reads, runs or writes?"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from ..errors import SetupError


def refuse_folders_of_others(paths: Iterable[Path]) -> None:
    """Raise SetupError as root if another user can change what is read, run or written at these paths.

    A user who may write to a folder can put links and programs into it at any moment, so checking the files themselves
    is not enough.

    :raises SetupError: if so.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    for path in paths:
        reason = find_foreign_writer(path)
        if reason:
            raise SetupError(
                f"root does not work in folders of others, and {reason}: "
                "run this as the user whose they are, or with a HOME and XDG folders of root's own (sudo -H)"
            )


def find_foreign_writer(path: Path) -> str:
    """Return what lets a user other than root change a path, empty if nothing does."""
    at, rest, links = Path("/"), list(path.parts[1:]), 0
    while rest:
        step = at / rest.pop(0)
        try:
            found = os.lstat(step)
        except (FileNotFoundError, NotADirectoryError):
            return f"others may write to {at}" if is_writable_by_others(os.lstat(at)) else ""
        if found.st_uid != 0:
            return f"{step} belongs to the user with the uid {found.st_uid}"
        if stat.S_ISLNK(found.st_mode):
            target, links = Path(os.readlink(step)), links + 1
            if links > 40:
                return f"{step} leads nowhere"
            at = Path("/") if target.is_absolute() else at
            rest[:0] = [part for part in target.parts if part != "/"]
            continue
        at = at.parent if step.name == ".." else step
        # In a sticky folder like /tmp others cannot replace root's files; a device stays what it is.
        if is_writable_by_others(found) and not found.st_mode & stat.S_ISVTX:
            return f"others may write to {step}"
    return ""


def is_writable_by_others(found: os.stat_result) -> bool:
    """Return True if others than root may write to a file or add to a folder."""
    mode = found.st_mode
    written = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return written and bool(mode & stat.S_IWOTH or (mode & stat.S_IWGRP and found.st_gid != 0))
