"""Give tests of traces the program that is traced."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.trace.debugging import HERE


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("safety")
    source = folder / "other.c"
    source.write_text("int other;\n")
    # It must need libc, else its namespace has no ld.so in it.
    shared = ["-shared", "-fPIC", "-Wl,--no-as-needed", "-lc"]
    subprocess.run(["gcc", "-g", "-o", folder / "libother.so", source, *shared], check=True)
    words = ["-g", "-O1", "-Wall", "-Wextra", "-o", str(folder / "safety"), str(HERE / "safety.c")]
    subprocess.run(["gcc", *words, "-ldl", "-lpthread"], check=True)
    return folder / "safety"
