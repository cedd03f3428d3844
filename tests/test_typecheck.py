"""Does the type checker look at this tree alone, as the oldest and as this Python see it?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dlwhy.tests.installing import ROOT

NEWEST_SYNTAX = "def value(number: int) -> int:\n    match number:\n        case _:\n            return number\n"
USE = "from __future__ import annotations\n\nfrom outsider.inner import value\n\nRESULT = value(1)\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a checkout with one module, to be checked by the tree's own settings."""
    folder = tmp_path / "tree"
    (folder / "tests").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / "tests" / "typecheck.py", folder / "tests")
    (folder / "__init__.py").write_text("")
    (folder / "module.py").write_text(USE)
    return folder


def check(tree: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(tree / "tests" / "typecheck.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("inner", [NEWEST_SYNTAX, "this is no Python\n"], ids=["match", "error"])
def test_what_is_installed_is_not_read(tree: Path, tmp_path: Path, inner: str) -> None:
    """A package that says it has types, as pytest and packaging do."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    (site / "outsider").mkdir()
    for name, text in {"__init__.py": inner, "inner.py": inner, "py.typed": ""}.items():
        (site / "outsider" / name).write_text(text)
    status, said = check(tree, "--python-executable", str(tmp_path / "venv" / "bin" / "python"))
    assert status == 0, said


@pytest.mark.parametrize("version", [(3, 9), sys.version_info[:2]])
def test_types_are_those_of_each_version(tree: Path, version: tuple[int, int]) -> None:
    (tree / "module.py").write_text(
        "from __future__ import annotations\n\nimport sys\n\n"
        f"if sys.version_info >= {version} and sys.version_info < ({version[0]}, {version[1] + 1}):\n"
        '    NUMBER: int = "text"\n'
    )
    status, said = check(tree)
    assert status == 1, said
    assert "Incompatible types in assignment" in said
