"""Do damaged symbol files end in a name or in none, with the oldest and the newest pyelftools that may be installed?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dlwhy.tests.fuzz.damages import DAMAGE, damaged
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.hosts.glibcs import cached_tree
from dlwhy.tests.synth.process import compile_file
from hypothesis import given
from hypothesis import strategies as st

LIMIT_SECONDS = 20.0
ROOT = Path(__file__).resolve().parents[2]

#: The wheels' hashes; of those for Python 3.9 the newest is 0.32.
HASHES = {
    "0.29": "519f38cf412f073b2d7393aa4682b0190fa901f7c3fa0bff2b82d537690c7fc1",
    "0.32": "013df952a006db5e138b1edf6d8a68ecc50630adbd0d83a2d41e7f846163d738",
    "0.33": "f215ad5f47d3f1373a21496a6c9e0707c622840d0622f23ff7ce08678b020036",
}
VERSIONS = ("0.29", "0.33" if sys.version_info >= (3, 10) else "0.32")


def test_the_oldest_is_the_oldest_that_is_allowed() -> None:
    assert f'"pyelftools>={VERSIONS[0]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def install(version: str, folder: Path) -> None:
    """Install a version of pyelftools into a folder."""
    requirements = folder.with_suffix(".txt")
    requirements.write_text(f"pyelftools=={version} --hash=sha256:{HASHES[version]}\n")
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    subprocess.run([*words, "--target", str(folder), "-r", str(requirements)], check=True, cwd=folder.parent)


class Worker:
    """A process that reads symbol files with a version of pyelftools."""

    def __init__(self, version: str, library: Path) -> None:
        folder = cached_tree(f"pyelftools-{version}", partial(install, version))
        script = Path(__file__).with_name("elftools_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", str(script), str(folder), str(library)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the worker has ended with status {self._process.wait()}"
        return json.loads(line)

    def ask(self, path: Path) -> list[Any]:
        """Return name, value and seconds for a file."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        found: list[Any] = self._read()
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a library with local functions, and a compressed section."""
    folder = tmp_path_factory.mktemp("symbols")
    source = "static __attribute__((noinline)) int local(int x) { return x * 3; } int open_(int x) { return local(x); }"
    return compile_file(folder, "libnames.so", source, "-gz=zlib", language="c")


both = pytest.mark.parametrize("worker", VERSIONS, indirect=True)


@pytest.fixture(scope="module")
def worker(request: pytest.FixtureRequest, library: Path) -> Iterator[Worker]:
    """Return a worker for each version."""
    found = Worker(request.param, library)
    assert found.version == request.param
    yield found
    found.close()


@both
def test_the_undamaged_file(worker: Worker, library: Path) -> None:
    name, value, _ = worker.ask(library)
    assert name == "local"
    assert isinstance(value, int)


# The section headers decide most: a word of one of them, by number and place, and what it becomes.
HEADERS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(0, 7),
        st.sampled_from([0, 1, 2, 3, 11, 0x800, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
        | st.integers(0, 1 << 16),
    ),
    max_size=4,
)


@examples(150)
@given(damage=DAMAGE, headers=HEADERS, cut=st.floats(0, 1))
@both
def test_damaged_symbol_file(
    worker: Worker,
    library: Path,
    tmp_path_factory: pytest.TempPathFactory,
    damage: list[tuple[float, bytes]],
    headers: list[tuple[int, int, int]],
    cut: float,
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.so"
    whole = library.read_bytes()
    data = bytearray(damaged(whole, damage[: len(damage) // 3]))
    table, count = int.from_bytes(whole[40:48], "little"), int.from_bytes(whole[60:62], "little")
    for number, place, new in headers:
        at = table + 64 * (number % count) + 8 * place
        data[at : at + 8] = new.to_bytes(8, "little")
    path.write_bytes(data[: int(len(data) * cut)] if cut < 0.2 else data)
    name, value, seconds = worker.ask(path)
    assert name is None or isinstance(name, str)
    assert value is None or isinstance(value, int)
    assert seconds < LIMIT_SECONDS
