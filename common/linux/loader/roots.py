"""Which libraries are roots of the collector's mark phase, and why?"""

from __future__ import annotations

from enum import Enum


class RootKind(Enum):
    """Why a link map is a root of the collector's mark phase."""

    EXECUTABLE = "main-program"
    LIBRARY = "startup"
    NODELETE = "nodelete"
    OPEN_COUNT = "open-count"
    TLS_DESTRUCTORS = "tls-destructors"


# enum l_type of include/link.h
LT_EXECUTABLE = 0
LT_LIBRARY = 1
LT_LOADED = 2
