"""Type-check the checkout as the package dlwhy, tests included, whatever the checkout's folder is called.

`mypy .` does not do it: because of the root's `__init__.py` mypy takes the folder's name as the package's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Run mypy on a link named dlwhy and return its exit status; `arguments` are mypy's."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dlwhy").symlink_to(ROOT)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        command += ["--cache-dir", str(ROOT / ".mypy_cache"), "-p", "dlwhy", *arguments]
        return subprocess.run(command, cwd=folder, env={**os.environ, "MYPYPATH": folder}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
