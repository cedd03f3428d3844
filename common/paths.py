"""What is the last part of a path, on each system?"""

from __future__ import annotations

#: What makes a name a pattern of fnmatch.
GLOB_CHARACTERS = frozenset("*?[")


def base_name(path: str) -> str:
    """Return the last part of a path of Linux; slashes at its end do not count, and the root is itself."""
    return path.rstrip("/").rsplit("/", 1)[-1] or path


def windows_base_name(path: str) -> str:
    """Return the part of a Windows path after the last backslash or slash; empty without one."""
    return path.replace("/", "\\").rsplit("\\", 1)[-1]
