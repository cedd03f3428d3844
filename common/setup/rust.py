"""Is there a working Rust compiler, and how is that found out without leaving files behind?

rustup's proxy for rustc creates rustup's folder if there is none.  pip starts rustc too, whose version it sends to
servers.
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
    """Find the first rustc on PATH that works; rustup's proxy does not without a toolchain."""
    with without_rustup_folder() as variables:
        for folder in folders_on_path():
            path = find_program(os.path.join(folder, "rustc"))
            if path and output_of([path, "--version"], **variables).startswith("rustc "):
                return path
    return None


@contextmanager
def without_rustup_folder() -> Iterator[Mapping[str, str]]:
    """Yield environment variables with which rustup, if a program starts it, creates no folder of its own.

    If its folder exists, that is used: the toolchains are in it.
    """
    if (Path(os.environ.get("RUSTUP_HOME") or home_folder() / ".rustup")).exists():
        yield {}
        return
    folder = tempfile.mkdtemp(prefix="dlwhy-rustup-")
    try:
        yield {"RUSTUP_HOME": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
