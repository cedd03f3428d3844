"""Is there a Rust compiler that works?"""

from __future__ import annotations

import os
from typing import Optional

from .programs import find_program, folders_on_path, output_of


def find_rustc() -> Optional[str]:
    """Find the first rustc on PATH that works; rustup's stand-in without a toolchain does not."""
    for folder in folders_on_path():
        path = find_program(os.path.join(folder, "rustc"))
        if path and output_of([path, "--version"]).startswith("rustc "):
            return path
    return None
