"""How do the docs undo what JSON makes of bytes that are no text?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dlwhy

PAGE = Path(dlwhy.__file__).parent / "docs" / "json.md"


def undo() -> Any:
    """Return the function that the docs give for this."""
    found = re.search(r"```python\n(import re\n.*?def undo.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names["undo"]


UNDO = undo()
