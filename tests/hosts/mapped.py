"""Which files does the kernel say are mapped, and which ones does an answer list?"""

from __future__ import annotations

import os

from dlwhy.tests.hosts.scenario import Json


def mapped_files(maps: str) -> set[str]:
    """Return the files that are mapped with code in them."""
    found = set()
    for line in maps.splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith("/") and "x" in words[1]:
            found.add(words[5].replace("\\012", "\n"))
    return found


def listed_files(document: Json) -> set[str]:
    """Return the files that a document lists, by their real paths."""
    return {os.path.realpath(library["path"]) for library in document["libraries"] if "/" in library["path"]}
