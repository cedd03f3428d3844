"""Give the tests of one session the runs that they share, and leave no core files behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dlwhy.tests.hosts.debuggers import Hosts
from dlwhy.tests.hosts.runs import Runs


def delete_cores(folder: Path) -> None:
    """Delete the core files in a folder: pytest keeps the folders of three sessions."""
    for pattern in ("*.core", "core", "core.[0-9]*"):
        for path in folder.rglob(pattern):
            if path.is_file():
                path.unlink()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Return what runs fixtures in gdb, each kind of run once."""
    folder = tmp_path_factory.mktemp("runs")
    yield Runs(folder)
    delete_cores(folder)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Return the hosts; the debuggers find libc6-dbg."""
    made = Hosts(tmp_path_factory.mktemp("hosts"))
    yield made
    made.close()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that keeps everything but core files."""
    yield tmp_path
    delete_cores(tmp_path)
