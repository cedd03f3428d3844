"""Why does glibc's collector begin its marking at a library?"""

from __future__ import annotations

from enum import Enum


class RootKind(Enum):
    """Why the collector begins its marking at a map."""

    EXECUTABLE = "main-program"
    LIBRARY = "startup"
    NODELETE = "nodelete"
    OPEN_COUNT = "open-count"
    TLS_DESTRUCTORS = "tls-destructors"


# enum l_type of include/link.h
LT_EXECUTABLE = 0
LT_LIBRARY = 1
LT_LOADED = 2
