"""Where do other versions of gdb come from? From the distribution's packages, extracted and cached, not installed.

A tree is entered by chroot in a mount namespace of its own, in which our folders stand at their own paths: nothing has
to be unmounted, and a `gdb` that comes first on PATH makes everything that runs gdb run that one. The programs under
test start with the tree's own glibc.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Optional

from dlwhy.common.setup import pip
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.hosts.build import Toolchain, build, cache_folder
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment
from dlwhy.tests.hosts.scenario import fixtures
from dlwhy.tests.support.namespaces import own_mounts

#: The release on which CI does what README says; with what install.py would install there.
SAMPLE = "trixie"
SUITES = {"10": "bullseye", "16": SAMPLE, "newest": glibcs.NEWEST}
PACKAGES = ("base-files", "coreutils", "dash", "gdb", "gdbserver", "libc-bin")
SAMPLE_PACKAGES = ("g++", "libc6-dev", "lldb", "python3", "python3-pip")
NOT_NEEDED = ("doc", "info", "locale", "man", "perl5", "zoneinfo")
SYSTEM = "system"

ENTER = """
set -e
tree=$1 folders=$2
shift 2
for folder in $folders; do
    mkdir -p "$tree$folder"
    mount --rbind "$folder" "$tree$folder"
done
exec chroot "$tree" /usr/bin/env -C "$PWD" "$@"
"""


@dataclass(frozen=True)
class Debugger:
    """A gdb, and the programs that it debugs; without a tree it is the system's."""

    name: str
    tree: Optional[Path]
    commands: Optional[Path]
    version: tuple[int, int]
    python: tuple[int, int]
    glibc: tuple[int, int]

    def build(self, name: str) -> Path:
        """Build a fixture for this gdb's glibc: in a tree, all run what is linked against the oldest."""
        if self.tree is None:
            return build(fixtures()[name])
        return build(fixtures()[name], Toolchain("chroot", glibcs.get("2.31").root))

    def words(self, *command: str) -> list[str]:
        """Return what runs a command beside this gdb."""
        return list(command) if self.tree is None else enter(self.tree, self.folders(), command)

    def folders(self) -> list[Path]:
        """List what is to be seen inside of the tree."""
        return [] if self.commands is None else [ROOT, cache_folder(), self.commands.parent]

    def variables(self) -> dict[str, str]:
        """Return what is set in the environment, so that `gdb` is this one and it finds our dependencies."""
        variables = {"XDG_DATA_HOME": str(packages(self.python))}
        if self.commands is not None:
            variables |= {"PATH": f"{self.commands}:{os.environ['PATH']}", "SHELL": "/bin/sh"}
        return variables

    def environment(self, **extra: str) -> dict[str, str]:
        """Return a clean environment with these variables."""
        return clean_environment({**self.variables(), **extra})


def enter(tree: Path, folders: Sequence[Path], command: Sequence[str]) -> list[str]:
    """Return a command line that runs a command in a tree, at the current folder, as the same process."""
    seen = [Path("/proc"), Path("/dev"), *folders]
    assert not any(re.search(r"\s", str(folder)) for folder in seen), f"a space in one of {seen}"
    return [*own_mounts(), "/bin/sh", "-c", ENTER, "sh", str(tree), " ".join(map(str, seen)), *command]


def bootstrap(suite: str, tree: Path, variant: str, packages: Sequence[str]) -> None:
    """Download packages and what they need, and make a tree of them by a variant of mmdebstrap."""
    signed = f"[signed-by={glibcs.KEYRING}] " if glibcs.KEYRING.exists() else ""
    words = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={','.join(packages)}"]
    words += ["--aptopt=Acquire::Check-Valid-Until false", "--aptopt=APT::Install-Recommends false"]
    words += [suite, str(tree), f"deb {signed}{glibcs.mirror()} {suite} main"]
    run = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"mmdebstrap {suite}:\n{run.stdout}{run.stderr}")


def extract(suite: str, tree: Path) -> None:
    """Unpack gdb and what it needs into a tree, for the sample also what else install.py would install there."""
    bootstrap(suite, tree, "extract", [*PACKAGES, *(SAMPLE_PACKAGES if suite == SAMPLE else ())])
    for name in NOT_NEEDED:
        shutil.rmtree(tree / "usr" / "share" / name, ignore_errors=True)
    # By its account nothing is installed, as nothing was configured; without it install.py takes all for installed.
    (tree / "usr" / "bin" / "dpkg-query").unlink(missing_ok=True)
    # pip wants the file that ca-certificates would have composed.
    authorities = sorted((tree / "usr" / "share" / "ca-certificates").rglob("*.crt"))
    if authorities:
        (tree / "etc" / "ssl" / "certs").mkdir(parents=True, exist_ok=True)
        bundle = tree / "etc" / "ssl" / "certs" / "ca-certificates.crt"
        bundle.write_bytes(b"".join(path.read_bytes() for path in authorities))


@cache
def tree_of(suite: str) -> Path:
    """Return the tree of a suite; made when it is not there or too old."""
    name = f"debian-{suite}" if suite == SAMPLE else f"gdb-{suite}"
    return glibcs.cached_tree(name, partial(extract, suite), refreshed=suite == glibcs.NEWEST)


@cache
def packages(python: tuple[int, int]) -> Path:
    """Return the folder that holds our dependencies for an embedded Python as install.py puts them there."""
    wanted = pip.read_lock("runtime")
    base = cache_folder() / "packages"
    folder = base / "dlwhy" / f"python{python[0]}.{python[1]}"
    with glibcs.locked(cache_folder() / "packages.lock"):
        if not pip.is_filled(folder, wanted.stamp):
            pip.fill_folder(folder, python, wanted)
    return base


@cache
def get(name: str, commands: Path) -> Debugger:
    """Return a gdb by its name in SUITES, or the system's; its `gdb` command is written to a folder."""
    if name == SYSTEM:
        path = shutil.which("gdb")
        assert path is not None, "gdb is needed: python3 install.py test installs it"
        return Debugger(name, None, None, *versions([path]), glibcs.version_of(system_libc()))
    tree = tree_of(SUITES[name])
    command = enter(tree, [ROOT, cache_folder(), commands.parent], ["/usr/bin/gdb"])
    commands.mkdir(parents=True, exist_ok=True)
    script = commands / "gdb"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    loader = glibcs.find_loader(tree)
    assert loader is not None, f"{tree} has no loader"
    return Debugger(name, tree, commands, *versions([str(script)]), glibcs.version_of(loader.with_name("libc.so.6")))


def versions(gdb: list[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Ask a gdb for its version and that of its Python."""
    code = "python import sys; print('versions', gdb.VERSION, *sys.version_info[:2])"
    command = [*gdb, "-nx", "-batch", "-ex", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment({}), cwd=ROOT)
    match = re.search(r"versions \D*(\d+)\.(\d+)\S* (\d+) (\d+)", run.stdout)
    assert match is not None, f"{gdb} does not say its versions: {run.stdout}{run.stderr}"
    one, two, three, four = map(int, match.groups())
    return (one, two), (three, four)


def system_libc() -> Path:
    """Return the system's libc."""
    run = subprocess.run(["gcc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True)
    return Path(run.stdout.strip())
