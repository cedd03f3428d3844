"""Which folders is code imported from?

Never from the current folder: LLDB 14 has ``.`` on ``sys.path``, and PYTHONPATH can have an empty entry.  A module that
our dependencies try to import may be missing elsewhere and present there: tabulate tries wcwidth, the standard
library's copy org.python.core.  Packages installed by install.py are found by the path of their folder, which is not on
``sys.path``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Optional

#: The folder of the package dlwhy.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: The packages that install.py puts into the private folder, by the names that are imported.
PACKAGES = frozenset({"elftools", "pygments", "rust_demangler", "tabulate"})


def private_folder() -> str:
    """Return the folder that install.py fills for this version of Python, empty if none is known."""
    if sys.platform == "win32":
        data = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~")
    else:
        data = os.environ.get("XDG_DATA_HOME", "")
        if not os.path.isabs(data):
            data = os.path.join(os.path.expanduser("~"), ".local", "share")
    folder = os.path.join(data, "dlwhy", "python{}.{}".format(*sys.version_info))
    return folder if os.path.isabs(folder) else ""


def package_folders() -> list[str]:
    """Return the folders searched first for packages: beside an installed dlwhy, then the private folder."""
    beside = os.path.dirname(ROOT)
    folders = [beside] if beside in sys.path and os.path.basename(ROOT) == "dlwhy" else []
    private = private_folder()
    return [*folders, private] if private else folders


class _Finder:
    """Finds our packages in the private folder."""

    @staticmethod
    def find_spec(
        name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if path is not None or name not in PACKAGES:
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, package_folders(), target)


class OwnImports:
    """A context in which imports ignore the current folder and find our packages in the private folder first."""

    def __enter__(self) -> None:
        """Remove relative entries from ``sys.path``."""
        self._finder = _Finder()
        self._left_out = [(index, entry) for index, entry in enumerate(sys.path) if _is_relative(entry)]
        if self._left_out:
            sys.path[:] = [entry for entry in sys.path if not _is_relative(entry)]
        sys.meta_path.insert(0, self._finder)

    def __exit__(self, *_: object) -> None:
        """Restore the relative entries of ``sys.path``."""
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for index, entry in self._left_out:
            sys.path.insert(index, entry)


if os.sep == "/":

    def _is_relative(entry: object) -> bool:
        # This runs at each breakpoint of a trace; isabs takes six times as long.
        return isinstance(entry, str) and entry[:1] != "/"

else:

    def _is_relative(entry: object) -> bool:
        return isinstance(entry, str) and not os.path.isabs(entry)
