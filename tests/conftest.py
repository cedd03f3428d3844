"""Make `from dlwhy.common… import …` mean this checkout, and let no skip pass unseen in CI."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dlwhy.tests.lab.windows import Lab

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return a Windows with CPython 3.9, pykd and the debugger engine; put together when a test first asks for it."""
    from dlwhy.tests.lab import windows

    with windows.session() as found:
        yield found
