"""Where do two generations of LLDB come from? One is installed; the other's packages are extracted and cached.

Debian's LLDB packages exclude one another, and its LLDB 14 looks for its own Python modules where they are not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dlwhy.tests.hosts.glibcs import cached_tree

OLD, NEW = "14", "19"
NEW_PACKAGES = ("lldb-19", "python3-lldb-19", "liblldb-19", "libllvm19", "libclang-cpp19")


@dataclass(frozen=True)
class Lldb:
    """An LLDB: the command that starts it, and what its environment must say."""

    version: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@cache
def get(version: str) -> Lldb:
    """Find or fetch an LLDB by its major version."""
    return _installed() if version == OLD else _extracted()


def _installed() -> Lldb:
    path = shutil.which(f"lldb-{OLD}")
    if path is None:
        raise FileNotFoundError(f"lldb-{OLD} is needed: python3 install.py test installs it")
    found = Path(os.path.realpath(path)).parent.parent.glob("lib/python3*/dist-packages/lldb/embedded_interpreter.py")
    modules = [each.parent.parent for each in sorted(found)]
    return Lldb(OLD, (path,), {**_system_python(), **({"PYTHONPATH": str(modules[0])} if modules else {})})


def _system_python() -> dict[str, str]:
    """Put the system's python3 first: LLDB takes its packages' folders from the python3 on PATH, such as a venv's."""
    return {"PATH": f"/usr/bin{os.pathsep}{os.environ['PATH']}"}


def _extracted() -> Lldb:
    root = cached_tree(f"lldb-{NEW}", _extract)
    llvm = root / "usr" / "lib" / f"llvm-{NEW}"
    libraries = sorted((root / "usr" / "lib").glob("*-linux-gnu"))
    path = ":".join(map(str, [*libraries, llvm / "lib"]))
    return Lldb(NEW, (str(llvm / "bin" / "lldb"),), {**_system_python(), "LD_LIBRARY_PATH": path})


def _extract(tree: Path) -> None:
    """Download the packages beside a tree and unpack them there; the mirror is the one that apt is configured with."""
    folder = tree.parent
    words = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *NEW_PACKAGES]
    run = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}:\n{run.stdout}{run.stderr}")
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
