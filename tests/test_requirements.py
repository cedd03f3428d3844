"""Do the locks give every Python what pyproject.toml asks for, by hash, and is what is installed here what they say?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dlwhy.common.setup import pip
from dlwhy.common.setup.changes import Changes
from dlwhy.tests.environment import prepare_test_environment
from dlwhy.tests.installing import ROOT, copy_of_checkout
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ("runtime", "test", "windows")
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def read(name: str) -> list[Requirement]:
    """Read a lock; every line of it is a version, its hashes or a comment."""
    found = []
    for line in (ROOT / "requirements" / f"{name}.txt").read_text(encoding="ascii").split("\n"):
        words = line.strip().removesuffix("\\").strip()
        if not words or words.startswith("#") or HASH.fullmatch(words):
            continue
        assert re.match(r"[\w.-]+==[\w.+!]+( ; |$)", words), line
        found.append(Requirement(words))
    return found


def chosen(name: str, python: str) -> dict[str, str]:
    """List what a lock gives a Python of Linux."""
    # Of each release the newest: packages drop a Python's early ones.
    about = {"python_version": python, "python_full_version": f"{python}.30", "sys_platform": "linux"}
    found: dict[str, str] = {}
    for each in read(name):
        if each.marker is None or each.marker.evaluate(about):
            assert canonicalize_name(each.name) not in found
            found[canonicalize_name(each.name)] = next(iter(each.specifier)).version
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_has_hashes_and_nothing_else_is_said(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="ascii")
    versions = re.split(r"\n(?=\w)", text)[1:]
    assert len(versions) == len(read(name)) > 3
    assert [version for version in versions if not HASH.search(version)] == []
    for word in ("://", "index-url", "find-links", "/home", "/tmp", "/root", " @ "):
        assert word not in text


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_gets_what_is_asked_for(python: str) -> None:
    run, test = chosen("runtime", python), chosen("test", python)
    dependencies = list(map(Requirement, pip.listed("dependencies")))
    for wanted, given in ((dependencies, run), ([*dependencies, *map(Requirement, pip.listed("test"))], test)):
        for each in wanted:
            if each.marker is not None and not each.marker.evaluate({"python_version": python}):
                assert canonicalize_name(each.name) not in given
                continue
            assert each.specifier.contains(given[canonicalize_name(each.name)]), each
    assert run.keys() == {canonicalize_name(each.name) for each in dependencies}
    assert run.items() <= test.items(), "the tests run with what users get"


def test_no_debuggers_python_needs_a_version_of_its_own() -> None:
    """Pip judges markers by the Python that runs it, not by the one that it installs for."""
    assert [str(each) for each in read("runtime") if each.marker] == []
    assert [str(each) for each in read("windows") if each.marker] == []
    assert chosen("runtime", "3.9").items() <= chosen("windows", "3.9").items()


def test_what_is_installed_agrees() -> None:
    done = subprocess.run([sys.executable, "-I", "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_another_lock_makes_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = copy_of_checkout(tmp_path / "checkout")
    monkeypatch.setattr(pip, "ROOT", checkout)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def is_made(by_lock: bool = True) -> bool:
        changes = Changes(dry_run=True)
        prepare_test_environment(changes, by_lock)
        return bool(changes.count)

    folder = tmp_path / "dlwhy" / f"test-venv-{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    stamp = folder / "dlwhy-requirements.txt"
    stamp.write_text("\n".join(pip.listed("dependencies") + pip.listed("test")) + "\n")
    assert is_made(), "an environment of before there were locks"
    stamp.write_text(pip.read_lock("test").stamp + pip.read_lock("runtime").stamp)
    assert not is_made()
    assert is_made(by_lock=False)
    for name in ("test", "runtime"):
        lock = checkout / "requirements" / f"{name}.txt"
        before = lock.read_text()
        lock.write_text(before.replace("sha256:", "sha256:0", 1))
        assert is_made()
        lock.write_text(before)
    assert not is_made()


def test_unlocked_means_what_pyproject_asks_for() -> None:
    assert pip.read_ranges("dependencies", "test").words == pip.listed("dependencies") + pip.listed("test")
