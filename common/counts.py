"""How is a number of things written?"""

from __future__ import annotations


def quantity(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun; a plural that ends neither in -s nor, as those in -y do, in -ies is given."""
    regular = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural or regular}"
