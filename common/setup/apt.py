"""Which system packages are missing, and how does apt install them?"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from typing import Optional

from ..errors import SetupError
from .changes import Changes
from .folders import ROOT
from .programs import find_program, output_of

APT_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "--no-remove")


def alternatives(text: str) -> list[str]:
    """List the names in ``a | b``."""
    return text.split(" | ")


def is_installed(package: str, command: Optional[str]) -> bool:
    """Return True if a system package is installed, by its command or dpkg; if neither knows, assume that it is."""
    if command is not None and any(map(find_program, alternatives(command))):
        return True
    if find_program("dpkg-query") is None:
        return command is None
    asked = ["dpkg-query", "-W", "-f", "${db:Status-Status} ", *alternatives(package)]
    return "installed" in output_of(asked).split()


def require_packages(changes: Changes, packages: Mapping[str, Optional[str]]) -> None:
    """Install the Debian packages that are missing.

    Releases differ: of ``a | b`` the first one that apt has is installed.

    :param packages: for each package a command (or ``a | b``) that shows that it is installed, None if only dpkg knows.
    :raises SetupError: if that is impossible; says the command for it, and which packages are not available.
    """
    missing = [package for package, command in packages.items() if not is_installed(package, command)]
    if not missing:
        return
    if find_program("apt-get") is None:
        raise SetupError(f"install with your package manager what Debian calls: {', '.join(missing)}")
    is_root = os.geteuid() == 0
    if is_root:
        changes.make("update apt's lists of packages", apt, "update", "-q")
    names, refused = choose_packages(missing)
    texts = [f"apt cannot install {', '.join(refused)}"] if refused else []
    if names and is_root:
        changes.make(f"install the system packages {' '.join(names)}", apt_install, names)
    elif names:
        sudo, who = ("sudo ", "") if find_program("sudo") else ("", ", as root")
        texts[:0] = [f"run this first{who}: {sudo}apt-get update && {sudo}{' '.join([*APT_INSTALL, *names])}"]
    if texts:
        raise SetupError("; ".join(texts))


def choose_packages(wanted: list[str]) -> tuple[list[str], list[str]]:
    """Return the packages that apt can install together, one of each ``a | b``, and the ones that it cannot."""
    known = candidates([name for package in wanted for name in alternatives(package)])
    if not known:  # there are no lists yet
        return [alternatives(package)[0] for package in wanted], []
    names = [next((name for name in alternatives(package) if name in known), "") for package in wanted]
    refused = [package for package, name in zip(wanted, names) if not name]
    names = [name for name in names if name]
    if can_install(names):
        return names, refused
    together: list[str] = []
    for name in names:
        (together if can_install([*together, name]) else refused).append(name)
    return together, refused


def candidates(names: list[str]) -> set[str]:
    """Return which packages apt can install, by its lists."""
    # apt takes an unknown name as a pattern: g++ then also finds git.
    policy = output_of(["apt-cache", "policy", *names], LC_ALL="C")
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)", policy, re.MULTILINE)
    return {name for name, version in found if version != "(none)" and name in names}


def can_install(names: list[str]) -> bool:
    """Try in a simulation whether apt can install packages together, without removing others."""
    return apt(*APT_INSTALL[1:], "--simulate", *names, quiet=True) == 0


def apt(*words: str, quiet: bool = False) -> int:
    """Run apt-get and return its status."""
    return subprocess.run(
        [find_program("apt-get") or "apt-get", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.DEVNULL if quiet else None,
        cwd=ROOT,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    ).returncode


def apt_install(names: list[str]) -> None:
    """Install packages, even if the update of apt's lists fails: the old ones may do."""
    # Packages of different versions of LLDB exclude one another: the user's own stays.
    if apt(*APT_INSTALL[1:], *names):
        raise SetupError(f"this command failed: {' '.join([*APT_INSTALL, *names])}")
