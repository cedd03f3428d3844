"""Give the fuzz targets the core of a real process, and how long to run."""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.tests.synth import rich


@pytest.fixture(scope="session")
def rich_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the core of a process with a library for nearly every reason."""
    return rich.core(tmp_path_factory.mktemp("rich"))
