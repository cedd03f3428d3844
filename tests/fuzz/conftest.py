"""Give the fuzz targets the core of a real process, and how long to run."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.tests.synth import rich
from dlwhy.tests.synth.damage import Patient


@pytest.fixture(scope="session")
def rich_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the core of a process with a library for nearly every reason."""
    return rich.core(tmp_path_factory.mktemp("rich"))


@pytest.fixture(scope="module")
def patient(rich_core: Path) -> Patient:
    """Return that process, to be damaged."""
    return Patient(rich_core)
