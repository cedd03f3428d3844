"""Renew the locks in `requirements/`: what pip installs, by version and hash, for each Python from 3.9 on.

`runtime.txt` has one version of each package: one that every debugger's Python can use. Needs uv and a network.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILE = ["uv", "--no-config", "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-build"]
COMPILE += ["--no-python-downloads", "--python-version=3.9", "--custom-compile-command=python3 tests/lock.py"]
LOCKS = {
    "runtime": ["pyproject.toml"],
    "test": ["pyproject.toml", "--extra=test", "--universal", "--constraint=requirements/runtime.txt"],
    "windows": [
        *("pyproject.toml", "requirements/windows.in", "--python-platform=x86_64-pc-windows-msvc"),
        "--constraint=requirements/runtime.txt",
    ],
}


def main() -> int:
    """Run uv for each lock and return 1 when one cannot be made."""
    commands = [[*COMPILE, *words, f"--output-file=requirements/{name}.txt"] for name, words in LOCKS.items()]
    return int(any(subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode for command in commands))


if __name__ == "__main__":
    sys.exit(main())
