"""What is the last part of a path, in each system's way of writing it?"""

from __future__ import annotations


def base_name(path: str) -> str:
    """Return the last part of a path of Linux; slashes at its end do not count, and the root is itself."""
    return path.rstrip("/").rsplit("/", 1)[-1] or path


def windows_base_name(path: str) -> str:
    """Return what follows the last backslash or slash of a path of Windows; empty if nothing does."""
    return path.replace("/", "\\").rsplit("\\", 1)[-1]
