"""How does everything that CI runs run: the linters, the type checker, and pytest?"""

from __future__ import annotations

import subprocess

from dlwhy.common.setup.changes import Changes
from dlwhy.common.setup.folders import ROOT
from dlwhy.common.setup.report import say
from dlwhy.tests.environment import (
    prepare_debugger_dependencies,
    prepare_test_environment,
    prepare_test_packages,
)

#: Files of tests run side by side, since most of their time is a debugger's; each file in one process, because tests
#: of a file share what they have built, and in the order of tests/conftest.py.
SIDE_BY_SIDE = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]


def run_tests(changes: Changes, pytest_arguments: list[str], by_lock: bool) -> int:
    """Install what the tests need, then run the linters, the type checker and, last, pytest."""
    prepare_test_packages(changes)
    python = prepare_test_environment(changes, by_lock)
    prepare_debugger_dependencies(changes, by_lock)
    ruff = [str(python.parent / "ruff")]
    commands = {
        "ruff check": [*ruff, "check", "."],
        "ruff format": [*ruff, "format", "--check", "."],
        "mypy": [str(python), "tests/typecheck.py"],
        # Not "python -m pytest": that puts the checkout on sys.path.
        "pytest": [str(python), str(python.parent / "pytest"), *SIDE_BY_SIDE, *pytest_arguments],
    }
    failed: list[str] = []
    for name, command in commands.items():
        if failed and name == "pytest":
            say(f"FAILED so far: {', '.join(failed)}")
        changes.make(f"run {name}", run_check, name, command, failed)
    return int(bool(failed))


def run_check(name: str, command: list[str], failed: list[str]) -> None:
    """Run a check of the tree and note its name when it fails."""
    if subprocess.run(command, cwd=ROOT).returncode:
        failed.append(name)
