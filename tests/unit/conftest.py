"""Give unit tests the cores of real processes, each made once in a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dlwhy.tests.synth import rich


@pytest.fixture(scope="session")
def rich_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the core of a process with a library for nearly every reason; on Windows it was made beforehand."""
    if "DLWHY_RICH_CORE" in os.environ:
        return Path(os.environ["DLWHY_RICH_CORE"])
    return rich.core(tmp_path_factory.mktemp("rich"))
