"""What several tests of Windows share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dlwhy.tests.lab.graphs import STORY, build


@pytest.fixture(scope="session")
def built_story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the DLLs of the story and their driver, once."""
    folder = tmp_path_factory.mktemp("built-story")
    build(folder, STORY)
    return folder


@pytest.fixture(scope="module")
def story(built_story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the DLLs of the story, and nothing that another test has left there."""
    folder = tmp_path_factory.mktemp("story")
    for pattern in ("*.dll", "*.exe"):
        for path in built_story.glob(pattern):
            shutil.copy(path, folder)
    return folder
