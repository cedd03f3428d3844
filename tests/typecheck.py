"""Type-check the checkout as the package dlwhy, tests included, whatever the checkout's folder is called.

`mypy .` does not do it: because of the root's `__init__.py` mypy takes the folder's name as the package's. It is
checked twice, as the oldest Python sees it and as the one that runs here does; mypy keeps a cache for each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = "3.9"


def main(arguments: list[str]) -> int:
    """Run mypy on a link named dlwhy for each version and return the worst exit status; `arguments` are mypy's."""
    versions = sorted({OLDEST, f"{sys.version_info.major}.{sys.version_info.minor}"})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dlwhy").symlink_to(ROOT)
        return max(check(folder, ["--python-version", version, *arguments]) for version in versions)


def check(folder: str, arguments: list[str]) -> int:
    """Run mypy on the package that is in a folder and return its exit status."""
    command = [sys.executable, "-I", "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "-p", "dlwhy", *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, "MYPYPATH": folder}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
