"""Which examples and tables are in docs/scripts.md?"""

from __future__ import annotations

import re
from pathlib import Path

import dlwhy

ROOT = Path(dlwhy.__file__).parent
SCRIPTS = ROOT / "docs" / "scripts.md"


def text() -> str:
    """Read the page."""
    return SCRIPTS.read_text(encoding="utf-8")


def examples() -> list[tuple[str, str]]:
    """List the scripts, each with what it prints as the page says, empty where it does not say."""
    pattern = r"^```python\n((?:import contextlib\n\n)?import dlwhy\n.*?)^```\n\n((?:    [^\n]*\n)*)"
    found = re.findall(pattern, text(), re.DOTALL | re.MULTILINE)
    return [(script, re.sub(r"^    ", "", printed, flags=re.MULTILINE)) for script, printed in found]


def example(*words: str) -> str:
    """Return the one script that has all of these words."""
    (found,) = (script for script, _ in examples() if all(word in script for word in words))
    return found


def statuses(page: Path) -> dict[int, str]:
    """Return the table of exit statuses of a page."""
    found = page.read_text(encoding="utf-8").partition("| exit status |")[2].partition("\n\n")[0]
    return {int(row[0]): row[1] for row in re.findall(r"^\| (\d+) \| (.*) \|$", found, re.MULTILINE)}
