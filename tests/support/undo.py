"""How does README undo what JSON makes of bytes that are no text?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dlwhy

README = Path(dlwhy.__file__).parent / "README.md"


def undo() -> Any:
    """Return the function that README gives for this."""
    found = re.search(r"```python\n(import re\n.*?def undo.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names["undo"]


UNDO = undo()
