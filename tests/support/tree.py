"""Which Python files does the package consist of?"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent.parent
ADAPTERS = {"gdb_ext": "gdb", "lldb_ext": "lldb", "windbg_ext": "pykd"}


def module_files() -> list[PurePosixPath]:
    """List the Python files of the package, relative to the root."""
    found = [ROOT / "__init__.py", *ROOT.glob("__main__.py")]
    for folder in ("common", *ADAPTERS):
        found += (ROOT / folder).rglob("*.py")
    return [PurePosixPath(path.relative_to(ROOT)) for path in sorted(found)]
