"""Do all targets together get as many inputs as a long run asks for?"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from dlwhy.tests.fuzz.examples import USUAL_TOTAL


def usual_inputs() -> Iterator[int]:
    """Yield how many inputs each target usually gets, for each of its parameters."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"dlwhy.tests.fuzz.{path.stem}")
        for test in vars(module).values():
            usually = getattr(test, "usually", 0)
            for mark in getattr(test, "pytestmark", ()):
                usually *= len(mark.args[1]) if mark.name == "parametrize" else 1
            yield usually


def test_the_total_of_a_short_run() -> None:
    assert sum(usual_inputs()) == USUAL_TOTAL
