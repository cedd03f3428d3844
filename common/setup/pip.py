"""How are dlwhy's Python packages installed into a private folder for a debugger's Python?"""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

from ..errors import SetupError, UnusableError
from .apt import require_packages
from .changes import Changes
from .files import read_file, remove
from .folders import ROOT, private_folder
from .programs import isolated, output_of, run_or_fail, this_python
from .report import dotted
from .rust import without_rustup_folder

OLDEST_PYTHON = (3, 9)


def listed(key: str) -> list[str]:
    """Read a list of strings, one on each line, from pyproject.toml; Python 3.9 and 3.10 have no tomllib."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{key} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SetupError(f"pyproject.toml has no list {key!r}")
    return re.findall(r'^ *"([^"]+)"', found[1], re.MULTILINE)


def package_name(requirement: str) -> str:
    """Return the name in a requirement."""
    return re.split(r"[^\w.-]", requirement)[0]


class Requirements(NamedTuple):
    """What pip installs: its arguments, and the stamp of a folder filled by them; no stamp for newest versions."""

    words: list[str]
    stamp: str


def read_lock(name: str) -> Requirements:
    """Return the contents of a lock: a version of each package, and the hashes of its files."""
    lock = ROOT / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    return Requirements(["--no-deps", "--require-hashes", "-r", str(lock)], f"{lock.name} sha256:{digest}\n")


def read_ranges(*keys: str) -> Requirements:
    """Return the requirements in pyproject.toml, which allow newer versions than a filled folder holds."""
    return Requirements([requirement for key in keys for requirement in listed(key)], "")


def is_filled(folder: Path, stamp: str) -> bool:
    """Return True if a folder was filled to the end with the requirements ``stamp``."""
    try:
        return read_file(folder / "dlwhy-requirements.txt") == stamp.encode()
    except (OSError, UnusableError):
        return False


def prepare_dependencies(changes: Changes, python: tuple[int, ...], wanted: Optional[Requirements] = None) -> None:
    """Fill the private folder of a debugger's Python, unless it has the ``wanted`` packages (default: the lock's)."""
    wanted = wanted or read_lock("runtime")
    folder = private_folder(python)
    if wanted.stamp and is_filled(folder, wanted.stamp):
        return
    require_pip(changes)
    names = ", ".join(map(package_name, listed("dependencies")))
    changes.make(f"install {names} into {folder}", fill_folder, folder, python, wanted)


def require_pip(changes: Changes) -> None:
    """Make sure that this Python has pip."""
    if has_pip():
        return
    require_packages(changes, {"python3-pip": None})
    if not changes.dry_run and not has_pip():
        python = this_python()
        raise SetupError(f"{python} has no pip: run {python} -m ensurepip, or use another python3")


def has_pip() -> bool:
    """Return True if this Python has pip in its own folders."""
    return re.search(r"^pip \d", output_of(isolated("-m", "pip", "--version")), re.MULTILINE) is not None


def run_pip(pip: list[str], *words: str) -> None:
    """Run pip so that it leaves behind only what it is asked to install.

    :param pip: the command that starts pip.
    :param words: its arguments.
    :raises SetupError: if it fails.
    """
    with without_rustup_folder() as variables:
        run_or_fail([*pip, *words], f"pip {words[0]}", variables)


def pure_wheels(python: tuple[int, ...]) -> list[str]:
    """List the options that make pip choose wheels without compiled code for a version of Python."""
    options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--python-version", dotted(python)]
    return [*options, "--implementation", "py", "--abi", "none", "--platform", "any"]


def fill_folder(folder: Path, python: tuple[int, ...], wanted: Requirements) -> None:
    """Install pure-Python wheels for ``python`` beside ``folder`` and put them in its place when complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=folder.parent) as name:
        fresh = Path(name) / folder.name
        # Byte code would be for the Python that runs pip.
        words = ["install", *pure_wheels(python), "--no-compile", "--target", str(fresh), *wanted.words]
        run_pip(isolated("-m", "pip"), *words)
        (fresh / "dlwhy-requirements.txt").write_bytes(wanted.stamp.encode())
        remove(folder)
        fresh.rename(folder)
