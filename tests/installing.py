"""What do the tests of install.py do as a user: run it, look at what it left, and with which programs on PATH?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent


def run(
    environment: Mapping[str, str], *arguments: str, status: int = 0, root: Path = ROOT, cwd: Optional[Path] = None
) -> str:
    """Run install.py as a user does and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(root / "install.py"), *arguments],
        env=environment,
        cwd=cwd,
        timeout=300,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def content(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copy_of_checkout(folder: Path) -> Path:
    """Copy what install.py and gdb need to a folder of another name."""
    folder.mkdir()
    for name in ("__init__.py", "__main__.py", "install.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("common", "gdb_ext", "lldb_ext", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def tools_without_gdb(folder: Path, apt_get: Optional[str] = None) -> str:
    """Make a PATH with nothing but a shell and, if given, a stand-in for apt-get."""
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    if apt_get is not None:
        (folder / "apt-get").write_text(f"#!/bin/sh\n{apt_get}\n")
        (folder / "apt-get").chmod(0o755)
    return str(folder)


def only(folder: Path, *commands: str) -> str:
    """Make a PATH with these commands, the shell and Python."""
    folder.mkdir()
    for command in ("sh", "sleep", "python3", "dpkg-query", *commands):
        found = shutil.which(command, path=f"/usr/bin:/bin:{os.environ['PATH']}")
        assert found is not None, f"{command} is needed: python3 install.py test installs it"
        (folder / command).symlink_to(found)
    return str(folder)
