"""Where do other versions of glibc come from? From the distribution's packages, extracted and cached, not installed.

The mirror is the one that apt is configured with. Nothing is installed and root is not needed, but for compiling
against the oldest of them, which happens in an extracted tree with a compiler of its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Optional

from dlwhy.tests.hosts.build import Toolchain, cache_folder

RUNTIME = ("libc6", "libgcc-s1", "libstdc++6")
NEWEST = "sid"
REFRESH_SECONDS = 7 * 86400
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Suite:
    """A release of Debian that has the glibc in question."""

    name: str
    packages: tuple[str, ...] = RUNTIME
    compiler: bool = False


# A program linked on the system runs with a newer glibc, never with an older one: that one needs a compiler.
SUITES = {
    "2.31": Suite("bullseye", (*RUNTIME, "libc6-dev", "gcc", "g++", "coreutils"), compiler=True),
    "2.41": Suite("trixie"),
    "newest": Suite(NEWEST, (*RUNTIME, "libc-gconv-modules-extra")),
}


@dataclass(frozen=True)
class Glibc:
    """An extracted glibc."""

    name: str
    root: Path
    version: tuple[int, int]
    loader: Path
    libraries: tuple[Path, ...]
    compiler: bool

    @property
    def toolchain(self) -> Toolchain:
        """Return what makes programs that start with this glibc's loader."""
        return Toolchain(self.name, self.root if self.compiler else None, self.loader)

    def environment(self, run: dict[str, str]) -> dict[str, str]:
        """Return a run's environment with what this glibc needs to find its own files."""
        path = [run["LD_LIBRARY_PATH"]] if "LD_LIBRARY_PATH" in run else []
        path += [str(folder) for folder in self.libraries]
        gconv = [str(folder / "gconv") for folder in self.libraries if (folder / "gconv").is_dir()]
        return {**run, "LD_LIBRARY_PATH": ":".join(path), "GCONV_PATH": ":".join(gconv)}


@cache
def mirror() -> str:
    """Return the address of the archive that apt is configured with."""
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    codename = re.search(r"^VERSION_CODENAME=(\S+)", release, re.MULTILINE)
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listing.stdout.splitlines():
        address, suite, component, *origin = line.split(" ")
        if codename and suite == codename[1] and component == "main" and origin in (["Debian"], [""], []):
            return address
    raise RuntimeError("apt has no Debian archive configured, and the other glibcs come from there")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, against other test processes."""
    with path.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def apt(folder: Path, *words: str) -> None:
    """Run apt-get with everything it writes in that folder, and only the folder's sources.list."""
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Log": folder,
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    command = ["apt-get", "-q", "-y", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
    archives = folder / "cache" / "archives"
    run = subprocess.run([*command, *words], cwd=archives, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"apt-get {' '.join(words)}:\n{run.stdout}{run.stderr}")


def unpack(release: str, tree: Path, *words: str) -> None:
    """Download what the apt-get command ``words`` gets of a release of Debian, and unpack it into a tree."""
    with tempfile.TemporaryDirectory(prefix="dlwhy-apt-") as scratch:
        folder = Path(scratch)
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        source = f"deb {signed}{mirror()} {release} main\n"
        (folder / "sources.list").write_text(source, encoding="ascii")
        apt(folder, "update")
        apt(folder, *words)
        for package in sorted((folder / "cache" / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)


def cached_tree(name: str, make: Callable[[Path], None], *, refreshed: bool = False) -> Path:
    """Return a folder of the cache; made when it is not there, or too old and to be refreshed."""
    root = cache_folder() / name
    with locked(cache_folder() / f"{name}.lock"):
        stale = refreshed and root.is_dir() and time.time() - root.stat().st_mtime > REFRESH_SECONDS
        if stale or not root.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root.parent))
            try:
                make(scratch / "tree")
                if stale:
                    shutil.rmtree(root)
                (scratch / "tree").rename(root)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            os.utime(root)
    return root


def extract(suite: Suite, tree: Path) -> None:
    """Unpack a suite's packages and what they need into a tree."""
    tree.mkdir()
    unpack(suite.name, tree, "install", "--download-only", *suite.packages)
    (tree / "tmp").mkdir(exist_ok=True)
    shutil.rmtree(tree / "usr" / "share", ignore_errors=True)


def find_loader(root: Path) -> Optional[Path]:
    """Find the loader of an extracted tree."""
    found = sorted(path for path in root.glob("**/ld-linux-x86-64.so.2") if path.exists() and not path.is_symlink())
    links = sorted(path for path in root.glob("**/x86_64-linux-gnu/ld-linux-x86-64.so.2") if path.exists())
    return next(iter(links or found), None)


@cache
def get(name: str) -> Glibc:
    """Return an extracted glibc by its name in SUITES; made when it is not there or too old."""
    suite = SUITES[name]
    root = cached_tree(f"glibc-{suite.name}", partial(extract, suite), refreshed=suite.name == NEWEST)
    loader = find_loader(root)
    assert loader is not None, f"{root} has no loader"
    libraries = tuple(
        folder
        for folder in (root / "lib" / "x86_64-linux-gnu", root / "usr" / "lib" / "x86_64-linux-gnu")
        if folder.is_dir()
    )
    return Glibc(name, root, version_of(loader.with_name("libc.so.6")), loader, libraries, suite.compiler)


def version_of(libc: Path) -> tuple[int, int]:
    """Return the version that a libc.so.6 says it has."""
    data = libc.read_bytes()
    match = re.search(rb"stable release version (\d+)\.(\d+)|development release version (\d+)\.(\d+)", data)
    assert match is not None, f"{libc} does not say its version"
    major, minor = [group for group in match.groups() if group is not None]
    return int(major), int(minor)
