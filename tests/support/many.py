"""How does a process run that has loaded a thousand libraries?"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlwhy.tests.support.children import running

#: Programs that open many libraries.
SOURCES = Path(__file__).resolve().parents[1] / "bench"


def build(name: str, folder: Path) -> Path:
    """Build a program and a thousand libraries beside it."""
    source = folder / "lib.c"
    source.write_text("static int calls; int f(void) { return ++calls; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "lib.so", source], check=True)
    subprocess.run(["gcc", "-pthread", "-o", folder / name, SOURCES / f"{name}.c"], check=True)
    for index in range(1000):
        shutil.copy(folder / "lib.so", folder / f"lib{index}.so")
    return folder / name


@contextmanager
def loaded_program(program: Path, libraries: int) -> Iterator[int]:
    """Run the program until it has loaded so many libraries; gives its process id."""
    with running([program, program.parent, str(libraries)]) as process:
        yield process.pid
