"""Which libraries does a list of a document hold?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def names_of(libraries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of libraries, in their order."""
    return [library["name"] for library in libraries]
