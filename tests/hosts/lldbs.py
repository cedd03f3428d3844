"""Where do two generations of LLDB come from? The release's own is installed; the other is extracted and cached.

Debian's LLDB packages exclude one another, and its LLDB 14 looks for its own Python modules where they are not.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from dlwhy.common.setup.lldb import lldb_paths
from dlwhy.tests.hosts.glibcs import cached_tree

PACKAGES = ("lldb-{}", "python3-lldb-{}", "liblldb-{}", "libllvm{}", "libclang-cpp{}")
OLDEST = "14"


def installed() -> tuple[str, str]:
    """Return the command and the major version of the LLDB that is installed."""
    for path in lldb_paths():
        run = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        found = re.search(r"version (\d+)", run.stdout)
        assert found is not None, f"{path} does not say its version: {run.stdout}"
        return path, found[1]
    raise FileNotFoundError("lldb is needed: python3 install.py test installs it")


def versions() -> tuple[str, str]:
    """Return the older and the newer of two LLDBs: the release's own, and another one that its archive has."""
    try:
        _, own = installed()
    except FileNotFoundError:
        own = OLDEST
    return (own, "19") if int(own) < 19 else ("18", own)


OLD, NEW = versions()


@dataclass(frozen=True)
class Lldb:
    """An LLDB: the command that starts it, and what its environment must say."""

    version: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@cache
def get(version: str) -> Lldb:
    """Find or fetch an LLDB by its major version."""
    path, own = installed()
    return _installed(path, own) if version == own else _extracted(version)


def _installed(path: str, version: str) -> Lldb:
    """Return the LLDB that is installed; Debian's 14 must be told where its modules are."""
    found = Path(os.path.realpath(path)).parent.parent.glob("lib/python3*/dist-packages/lldb/embedded_interpreter.py")
    modules = [each.parent.parent for each in sorted(found)]
    return Lldb(version, (path,), {**_system_python(), **({"PYTHONPATH": str(modules[0])} if modules else {})})


def _system_python() -> dict[str, str]:
    """Put the system's python3 first: LLDB takes its packages' folders from the python3 on PATH, such as a venv's."""
    return {"PATH": f"/usr/bin{os.pathsep}{os.environ['PATH']}"}


def _extracted(version: str) -> Lldb:
    root = cached_tree(f"lldb-{version}", partial(_extract, version))
    llvm = root / "usr" / "lib" / f"llvm-{version}"
    libraries = sorted((root / "usr" / "lib").glob("*-linux-gnu"))
    path = ":".join(map(str, [*libraries, llvm / "lib"]))
    return Lldb(version, (str(llvm / "bin" / "lldb"),), {**_system_python(), "LD_LIBRARY_PATH": path})


def _extract(version: str, tree: Path) -> None:
    extract_packages(tree, *(pattern.format(version) for pattern in PACKAGES))


def extract_packages(tree: Path, *packages: str) -> None:
    """Download packages beside a tree and unpack them there; the mirror is the one that apt is configured with."""
    folder = tree.parent
    words = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
    run = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}:\n{run.stdout}{run.stderr}")
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
