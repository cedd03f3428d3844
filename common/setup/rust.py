"""Is there a working Rust compiler, and how is that found out without leaving files behind?

rustup's stand-in for rustc makes rustup's folder where there is none.  pip starts rustc too: it tells servers of what
version that is.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from .folders import home_folder
from .programs import find_program, folders_on_path, output_of


def find_rustc() -> Optional[str]:
    """Find the first rustc on PATH that works; rustup's stand-in without a toolchain does not."""
    with without_rustup_folder() as variables:
        for folder in folders_on_path():
            path = find_program(os.path.join(folder, "rustc"))
            if path and output_of([path, "--version"], **variables).startswith("rustc "):
                return path
    return None


@contextmanager
def without_rustup_folder() -> Iterator[Mapping[str, str]]:
    """Yield what programs need in the environment so that rustup, which they may start, makes no folder of its own.

    Where it has one already, that one counts: the toolchains are in it.
    """
    if (Path(os.environ.get("RUSTUP_HOME") or home_folder() / ".rustup")).exists():
        yield {}
        return
    folder = tempfile.mkdtemp(prefix="dlwhy-rustup-")
    try:
        yield {"RUSTUP_HOME": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
