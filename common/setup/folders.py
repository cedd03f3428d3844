"""Where are our files and the user's?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import SetupError
from .report import dotted

ROOT = Path(__file__).resolve().parent.parent.parent


def home_folder() -> Path:
    """Return the user's home folder."""
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise SetupError(f"the home folder is not known, it would be {home}: set HOME to its path")
    return Path(home)


def base_folder(variable: str, default: str) -> Path:
    """Return a folder of the XDG base directory specification, which ignores relative paths."""
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else home_folder() / default


def data_folder() -> Path:
    """Return the folder that holds the private folders, one for each debugger Python."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home_folder()) / "dlwhy"
    return base_folder("XDG_DATA_HOME", ".local/share") / "dlwhy"


def cache_folder() -> Path:
    """Return the folder that holds the tests' environment."""
    return base_folder("XDG_CACHE_HOME", ".cache") / "dlwhy"


def private_folder(python: tuple[int, ...]) -> Path:
    """Return the folder in which dlwhy finds its packages in a debugger with this Python."""
    return data_folder() / f"python{dotted(python)}"


def private_folders() -> list[Path]:
    """List the folders that were filled for the Pythons of debuggers."""
    try:
        names = os.listdir(data_folder())
    except OSError:
        return []
    return [data_folder() / name for name in sorted(names) if name.startswith("python3.")]
