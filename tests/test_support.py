"""Does every test module stand alone, so that it can be changed without a look at the others?

What several modules need is a helper: in ``tests/support`` or ``tests/synth``, or, where only one folder needs it, in a
module of that folder whose name does not begin with ``test_``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def find_borrowings(source: str) -> list[str]:
    """Find the imports from test modules, each with its line."""
    return [
        f"{line}: {name}"
        for line, name in imported(source)
        if any(part.startswith("test_") for part in name.split("."))
    ]


def test_no_test_module_is_a_library_of_another() -> None:
    found = {}
    for path in sorted(HERE.rglob("*.py")):
        borrowed = find_borrowings(path.read_text(encoding="utf-8"))
        if borrowed:
            found[str(path.relative_to(HERE))] = borrowed
    assert found == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from dlwhy.tests.trace.test_story import debug", ["1: dlwhy.tests.trace.test_story.debug"]),
        ("from dlwhy.tests.trace import test_story", ["1: dlwhy.tests.trace.test_story"]),
        ("import dlwhy.tests.trace.test_story", ["1: dlwhy.tests.trace.test_story"]),
        ("import os\nfrom ..trace.test_story import debug", ["2: trace.test_story.debug"]),
        ("def f():\n    from . import test_story", ["2: .test_story"]),
        ("from dlwhy.tests.trace.debugging import debug", []),
        ("from dlwhy.tests.support import many", []),
        ("from test.support import x", []),
    ],
)
def test_a_borrowing_is_found(source: str, expected: list[str]) -> None:
    assert find_borrowings(source) == expected
