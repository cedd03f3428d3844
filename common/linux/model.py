"""Which values describe the libraries of an ELF system?

Structure and field names are glibc's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Optional

from ..model import Evidence, LoaderInfo, Problem, TargetInfo, ThreadRef


class CodeSymbol(NamedTuple):
    """The symbol at an address: its demangled name and its library, each None if unknown."""

    address: int
    name: Optional[str]
    library: Optional[str]


class TlsDestructor(NamedTuple):
    """A pending ``__cxa_thread_atexit_impl`` registration."""

    thread: ThreadRef
    function: CodeSymbol
    object: int


class HoldKind(Enum):
    """Why a library cannot be unloaded, strongest first."""

    MAIN_PROGRAM = "main-program"
    STARTUP = "startup"
    NEVER_UNLOADS = "never-unloads"
    AUDIT = "audit"
    NODELETE = "nodelete"
    HALF_LOADED = "half-loaded"
    CLOSE_IN_PROGRESS = "close-in-progress"
    OPEN_COUNT = "open-count"
    TLS_DESTRUCTORS = "tls-destructors"
    DEPENDENCY = "dependency"
    RELOCATION = "relocation"


class Root(NamedTuple):
    """The root of a chain of holds: its library, its own holds, and who opened it (user or libc)."""

    library: str
    kinds: tuple[HoldKind, ...]
    opened_by: Optional[str] = None


class Hold(NamedTuple):
    """One reason why a library stays loaded.

    Which of the optional members are set depends on ``kind``: ``origin`` for start-up and NODELETE,
    ``total`` for open counts and destructors, ``chain`` (library names from the root to this one) and
    ``root`` for dependencies, ``symbols`` for unique symbols and relocations.
    """

    kind: HoldKind
    evidence: tuple[Evidence, ...] = ()
    origin: Optional[str] = None
    total: Optional[int] = None
    dlclose_returns_early: Optional[bool] = None
    symbols: tuple[str, ...] = ()
    symbols_omitted: int = 0
    destructors: tuple[TlsDestructor, ...] = ()
    chain: tuple[str, ...] = ()
    root: Optional[Root] = None


class Library(NamedTuple):
    """A loaded library and the verdict on it.

    ``held`` is None when it cannot be known.  ``fields`` are the loader's own, None where this version of
    the loader lacks one.
    """

    name: str
    path: str
    soname: Optional[str]
    build_id: Optional[str]
    base: int
    start: int
    end: int
    namespace: int
    link_map: int
    fields: Mapping[str, Optional[int]]
    held: Optional[bool]
    holds: tuple[Hold, ...] = ()
    holds_omitted: int = 0
    proxy: bool = False

    @property
    def is_going(self) -> bool:
        """Return True if a running close has condemned the library."""
        return any(hold.kind is HoldKind.CLOSE_IN_PROGRESS for hold in self.holds)


class State(NamedTuple):
    """The answer of ``dlstate``: libraries with their verdicts."""

    target: TargetInfo
    loader: LoaderInfo
    libraries: tuple[Library, ...]
    asked: Optional[str] = None
    problems: tuple[Problem, ...] = ()


def runs_wine(libraries: Sequence[Library]) -> bool:
    """Return True if the process runs Wine: its ntdll.so is the Unix side of Windows' loader."""
    return any(library.name == "ntdll.so" and "/wine/" in library.path for library in libraries)
