"""Which values describe what must be built or opened otherwise for a library to go?"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Optional


class FixKind(Enum):
    """What must be built or opened otherwise, before the next start, for a library not to stay for good."""

    HIDE_SYMBOLS = "hide-symbols"
    LINK_WITHOUT_NODELETE = "link-without-nodelete"
    OPEN_WITHOUT_NODELETE = "open-without-nodelete"
    OPEN_LOCALLY = "open-locally"
    OPEN_LOCALLY_WITHOUT_NODELETE = "open-locally-without-nodelete"


class Hiding(Enum):
    """How symbols are kept out of a dynamic symbol table, or from being unique, so that nothing binds to them."""

    VERSION_SCRIPT = "version-script"
    NO_GNU_UNIQUE = "no-gnu-unique"
    VISIBILITY = "visibility"
    ATTRIBUTE = "attribute"


class Fix(NamedTuple):
    """One thing to build or open otherwise.

    ``library`` is the library that is built or opened otherwise.  For HIDE_SYMBOLS there are the ``symbols``
    (demangled), the libraries that are bound to them (none, if they are only unique), and the ``ways`` that work, each
    by itself: for all symbols.  ``some_unique`` says that some pin it by being unique, ``std`` that some are of
    templates of std::, which its headers make visible.
    """

    kind: FixKind
    library: str
    symbols: tuple[str, ...] = ()
    symbols_omitted: int = 0
    bound_by: tuple[str, ...] = ()
    ways: tuple[Hiding, ...] = ()
    some_unique: bool = False
    std: bool = False


class ObstacleKind(Enum):
    """Why a library stays for good whatever is built otherwise, or should."""

    MAIN_PROGRAM = "main-program"
    STARTUP = "startup"
    AUDIT = "audit"
    GO_RUNTIME = "go-runtime"
    ON_PURPOSE = "on-purpose"
    THREADS = "threads"
    SYSTEM = "system"
    TOO_MUCH = "too-much"
    UNREAD = "unread"


class Obstacle(NamedTuple):
    """The library that stays for good and keeps the one that was asked about, which can be itself."""

    kind: ObstacleKind
    library: str


class Rebuild(NamedTuple):
    """What would let a library go that stays for good in this process: everything that is needed, or why nothing helps.

    Without the ``fixes`` the mark phase does not keep the library, but for opens and destructors; if there is an
    ``obstacle``, it would all the same.
    """

    fixes: tuple[Fix, ...] = ()
    obstacle: Optional[Obstacle] = None
