"""What was written before, that changes are seen and read?"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "golden"


def golden(name: str, written: str) -> str:
    """Return what a golden file holds; with DLWHY_UPDATE_GOLDEN set it first becomes what is written now."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("DLWHY_UPDATE_GOLDEN"):
        path.write_text(written, encoding="utf-8")
    return path.read_text(encoding="utf-8")
