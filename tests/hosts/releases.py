"""What is a newcomer's Debian? A release with Python alone, on which a copy of this checkout does what its README says.

A release is made anew, so that install.py has all to install; the one that CI looks at is a cached tree that has the
debuggers already. pip gets the packages from a folder of wheels, which is filled by pip here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Optional

from dlwhy.common.setup import pip, programs
from dlwhy.common.setup.report import dotted
from dlwhy.tests.hosts import chroots, glibcs
from dlwhy.tests.hosts.gdbrun import ROOT

NEWCOMERS = ("ca-certificates", "git", "python3")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_COPIED = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis", "build", "*.egg-info")
SOURCE = Path(__file__).resolve().with_name("release.cpp")
LIBRARIES = ("libleak", "libunique", "libclean", "libowed")
TIMEOUT = 600


@dataclass(frozen=True)
class Release:
    """A release of Debian, and the Python that its debuggers embed, or a later one where the release still changes."""

    name: str
    suite: str
    python: tuple[int, int]
    is_cached: bool = False

    @property
    def is_final(self) -> bool:
        """Tell whether the release keeps its versions."""
        return self.suite != glibcs.NEWEST


SAMPLE = Release("13-sample", chroots.SAMPLE, (3, 13), is_cached=True)
RELEASES = (
    Release("11", "bullseye", (3, 9)),
    Release("12", "bookworm", (3, 11)),
    Release("13", "trixie", (3, 13)),
    Release("sid", glibcs.NEWEST, (3, 14)),
)


@dataclass
class Machine:
    """A tree, and a folder of ours in it with the checkout, the user's home and the program that is asked about.

    ``said`` is what the commands of install.py printed, ``lldb`` what LLDB needs in its environment, ``beside`` the
    process in whose namespaces commands run: LLDB 14 attaches to none in another mount namespace.
    """

    release: Release
    tree: Path
    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    lldb: Mapping[str, str] = field(default_factory=dict)
    beside: Optional[int] = None

    @property
    def home(self) -> Path:
        """Return the user's home."""
        return self.folder / "home"

    @property
    def program(self) -> Path:
        """Return the program that is asked about."""
        return self.folder / "main"

    def words(self, command: Sequence[str]) -> list[str]:
        """Return what runs a command in the tree, as the same process."""
        if self.beside is not None:
            user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
            return ["nsenter", "--target", str(self.beside), *user, "--mount", "--root", "--wd", "--", *command]
        return chroots.enter(self.tree, [self.folder, wheels(self.release.python)], command)

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a user who has set nothing; what leads to the network is this machine's."""
        network = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels(self.release.python))}
        own = {"PATH": PATH, "HOME": str(self.home), "LANG": "C.UTF-8", "TERM": "dumb"}
        return {**network, **pip, **own, **variables}

    def run(self, *command: str, **variables: str) -> str:
        """Run a command in the tree and return what it prints, errors included.

        :raises AssertionError: if it fails.
        """
        run = subprocess.run(
            self.words(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self.folder,
            env=self.environment(**variables),
            timeout=TIMEOUT,
            check=False,
        )
        assert run.returncode == 0, f"{self.release.name}: {shlex.join(command)}:\n{run.stdout}"
        return run.stdout

    def install_py(self, command: str) -> None:
        """Run a command of install.py and keep what it says."""
        self.said[command] = self.run("/usr/bin/python3", str(self.folder / "dlwhy" / "install.py"), command)

    @contextmanager
    def running(self) -> Iterator[int]:
        """Run the program to its stop, other commands beside it, and end it afterwards."""
        process = subprocess.Popen(
            self.words([str(self.program), "wait"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment(),
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            self.beside = process.pid
            yield process.pid
        finally:
            self.beside = None
            process.kill()
            process.communicate()


@cache
def wheels(python: tuple[int, int]) -> Path:
    """Return a folder of the wheels that install.py wants for a debugger's Python, fetched by this machine's pip."""
    wanted = pip.read_lock("runtime")
    digest = hashlib.sha256(wanted.stamp.encode()).hexdigest()[:12]

    def download(folder: Path) -> None:
        words = ["download", *pip.pure_wheels(python), "--dest", str(folder), *wanted.words]
        pip.run_pip(programs.isolated("-m", "pip"), *words)

    return glibcs.cached_tree(f"wheels-{dotted(python)}-{digest}", download)


@contextmanager
def machine(release: Release, scratch: Path) -> Iterator[Machine]:
    """Give a machine on which dlwhy is installed as its README says; what it needs is there or is installed by it."""
    tree = chroots.tree_of(release.suite) if release.is_cached else scratch / "tree"
    found = Machine(release, tree, scratch / "user")
    found.home.mkdir(parents=True)
    shutil.copytree(ROOT, found.folder / "dlwhy", ignore=NOT_COPIED)
    try:
        if not release.is_cached:
            chroots.bootstrap(release.suite, tree, "minbase", NEWCOMERS)
            shutil.copy("/etc/resolv.conf", tree / "etc" / "resolv.conf")
        found.install_py("demo")
        if not release.is_cached:
            found.run("apt-get", "install", "-y", "--no-install-recommends", "lldb", DEBIAN_FRONTEND="noninteractive")
        found.install_py("install")
        advice = re.search(r"start it as: (\w+)=(\S+) lldb", found.said["install"])
        found.lldb = {advice[1]: advice[2]} if advice else {}
        found.install_py("doctor")
        build(found)
        yield found
    finally:
        if not release.is_cached:
            shutil.rmtree(tree, ignore_errors=True)


def build(found: Machine) -> None:
    """Compile the program and its libraries in the tree."""
    shutil.copy(SOURCE, found.folder)
    gxx = ("g++", "-g", "-O1", "-Wall", "-Wextra", "-std=c++17", SOURCE.name, "-o")
    for name in LIBRARIES:
        found.run(*gxx, f"{name}.so", "-fPIC", "-shared", f"-DBUILD_{name}")
    found.run(*gxx, "main", "-pthread", "-ldl")


def version(text: str, pattern: str) -> Optional[str]:
    """Find a version in what a program says of itself."""
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else None
