"""Does install.py ask apt for what the release has, and for no more, and name what cannot be had?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dlwhy.common.errors import SetupError
from dlwhy.common.setup import apt
from dlwhy.common.setup.changes import Changes
from dlwhy.common.setup.demo import DEMO_PACKAGES
from dlwhy.common.setup.gdb import INSTALL_PACKAGES
from dlwhy.tests.environment import TEST_PACKAGES
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.installing import tools_without_gdb

APT_CONFIG = """
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
"""
POLICY = r"""printf '%s:\n  Installed: (none)\n  Candidate: %s\n  Version table:\n' gdb 13.1 nothing '(none)'"""


GIT = "Package: git\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nMaintainer: -\nDescription: -\n"


def make_bare(folder: Path) -> None:
    """Make a folder that apt takes for a system on which it has not been run yet."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").write_text(GIT)
    (folder / "apt.conf").write_text(APT_CONFIG.format(folder=folder))


@pytest.fixture(scope="module")
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make apt see a bare machine of a release of Debian; return the release's name."""
    folder = tmp_path_factory.mktemp(request.param)
    make_bare(folder)
    signed = f"[signed-by={glibcs.KEYRING}] " if glibcs.KEYRING.exists() else ""
    (folder / "sources.list").write_text(f"deb {signed}{glibcs.mirror()} {request.param} main\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APT_CONFIG", str(folder / "apt.conf"))
        subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=True)
        yield request.param


MATRIX = [pytest.param(name, marks=pytest.mark.matrix) for name in ("bullseye", "bookworm", "sid")]


@pytest.mark.parametrize("release", ["trixie"], indirect=True)
def test_what_cannot_be_had_stops_nothing_else(release: str) -> None:
    wanted = ["no-such-package | make", "neither | nor", "exim4-daemon-light", "postfix"]
    names, refused = apt.choose_packages(wanted)
    assert names == ["make", "exim4-daemon-light"], release
    assert refused == ["neither | nor", "postfix"], "one is not known, the other would replace what is chosen already"


@pytest.mark.parametrize("release", ["trixie", *MATRIX], indirect=True)
def test_each_release_has_what_the_tests_need(release: str) -> None:
    wanted = [*TEST_PACKAGES, *INSTALL_PACKAGES, *DEMO_PACKAGES]
    names, refused = apt.choose_packages([*wanted, "lldb", "rustc", "python3-pip", "python3-venv"])
    assert refused == [], release
    assert ("imagemagick-6.q16" in names) == (release in ("bullseye", "bookworm"))
    assert ("imagemagick-7.q16" in names) != ("imagemagick-6.q16" in names)


def test_before_apt_has_lists_all_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bare(tmp_path)
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    assert apt.choose_packages(["g++", "a | b"]) == (["g++", "a"], [])


def apt_that_knows_gdb(folder: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put stand-ins for apt-get and apt-cache on PATH, and nothing else but a shell."""
    monkeypatch.setenv("PATH", tools_without_gdb(folder, f'echo "$@" >> {log}'))
    (folder / "apt-cache").write_text(f"#!/bin/sh\n{POLICY}\n")
    (folder / "apt-cache").chmod(0o755)


def test_root_installs_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    apt_that_knows_gdb(tmp_path / "bin", log, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    changes = Changes(dry_run=False)
    wanted = {"nothing": None, "other | gdb": "gdb", "more": "more"}
    monkeypatch.setattr(apt, "is_installed", lambda package, command: False)
    with pytest.raises(SetupError, match=r"^apt cannot install nothing, more$"):
        apt.require_packages(changes, wanted)
    asked = "install -y --no-install-recommends --no-remove"
    assert log.read_text().splitlines() == ["update -q", f"{asked} --simulate gdb", f"{asked} gdb"]
    with pytest.raises(SetupError):
        apt.require_packages(changes, wanted)
    assert log.read_text().count("update -q") == 1


@pytest.mark.parametrize("sudo", [True, False])
def test_others_are_told_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sudo: bool) -> None:
    apt_that_knows_gdb(tmp_path / "bin", tmp_path / "log", monkeypatch)
    if sudo:
        (tmp_path / "bin" / "sudo").symlink_to("/bin/true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SetupError) as failure:
        apt.require_packages(Changes(dry_run=False), {"gdb": "gdb", "more": "more"})
    command = "apt-get install -y --no-install-recommends --no-remove gdb; apt cannot install more"
    assert str(failure.value) == (
        f"run this first: sudo apt-get update && sudo {command}"
        if sudo
        else f"run this first, as root: apt-get update && {command}"
    )


def test_missing_packages_are_installed_by_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    apt_get = f'echo "$@" >> {log}; [ "$1" = update ] && exit 100; exit 0'
    monkeypatch.setenv("PATH", tools_without_gdb(tmp_path / "bin", apt_get))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    apt.require_packages(Changes(dry_run=False), {"gdb": "gdb", "sh": "sh"})
    assert log.read_text() == "update -q\ninstall -y --no-install-recommends --no-remove gdb\n"


def test_missing_packages_are_named_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", tools_without_gdb(tmp_path / "bin", "exit 1"))
    (tmp_path / "bin" / "sudo").symlink_to("/bin/true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SetupError) as failure:
        apt.require_packages(Changes(dry_run=False), {"gdb": "gdb", "make": "make"})
    assert str(failure.value) == (
        "run this first: sudo apt-get update && sudo apt-get install -y --no-install-recommends --no-remove gdb make"
    )


def test_nothing_is_asked_of_apt_when_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tools_without_gdb(tmp_path / "bin", f"touch {tmp_path}/called")
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    changes = Changes(dry_run=False)
    apt.require_packages(changes, DEMO_PACKAGES)
    assert changes.count == 0
    assert not (tmp_path / "called").exists()
