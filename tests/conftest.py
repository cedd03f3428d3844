"""Make `from dlwhy.common… import …` mean this checkout, and let no skip pass unseen in CI."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dlwhy.tests.lab.windows import Lab

ROOT = Path(__file__).resolve().parent.parent
#: Folders of tests, those first whose files take longest; what lies beside them is before all.
FOLDERS = ("", "lab", "hosts", "trace", "plan", "fuzz", "unit")


def register_package() -> None:
    """Register the package dlwhy from this checkout, whatever its folder's name; sys.path is left alone."""
    spec = importlib.util.spec_from_file_location("dlwhy", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dlwhy"] = module
    spec.loader.exec_module(module)


register_package()


def forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure in CI: there everything that the tests need can be had."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"in CI nothing may be skipped. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at the outcome of a test."""
    report = yield
    forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Look at the outcome of collecting a file."""
    report = yield
    forbid_skip(report)
    return report


def begin_order(path: Path, tests: int) -> tuple[int, int, str]:
    """Return the sort key of a file with so many tests: those of debuggers take longest, and many quick ones are last.

    So the processes that share all files end at about the same time.
    """
    folder = path.relative_to(ROOT / "tests").parts[0]
    return FOLDERS.index(folder) if folder in FOLDERS else 0, tests, str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files, where several processes share them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        counts = Counter(item.path for item in items)
        items.sort(key=lambda item: begin_order(item.path, counts[item.path]))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return a Windows with CPython 3.9, pykd and the debugger engine; put together when a test first asks for it."""
    from dlwhy.tests.lab import windows

    with windows.session() as found:
        yield found


@pytest.fixture(scope="session")
def wheels() -> Path:
    """Return the folder of the wheels in requirements/runtime.txt: pip needs no network, and takes no others."""
    folder = Path(sys.prefix, "wheels")
    assert folder.is_dir(), f"{folder} is needed: python3 install.py test makes it"
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make an empty home folder; its name holds a space."""
    folder = tmp_path / "a home"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(home: Path, wheels: Path) -> dict[str, str]:
    """Give the environment of a user who has nothing but an empty home folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PIP_"))}
    return {**kept, "HOME": str(home), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri()}
