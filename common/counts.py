"""How is a number of things written?"""

from __future__ import annotations


def quantity(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
