"""Which values describe the libraries of an ELF system?

Structure and field names are glibc's own.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Optional

from ..model import Evidence, LoaderInfo, Problem, TargetInfo, ThreadRef

if TYPE_CHECKING:
    from .rebuild_model import Rebuild


class CodeSymbol(NamedTuple):
    """The symbol at an ``address`` in the target: its demangled name, and its library's name; each None if unknown."""

    address: int
    name: Optional[str]
    library: Optional[str]


class TlsDestructor(NamedTuple):
    """A pending ``__cxa_thread_atexit_impl`` registration.

    ``object`` is the address that is passed to the function.  ``thread`` is None if the thread does not exist: the
    process was forked from one that has it, or it ended by a system call.  Then the function is never called.
    ``variable`` is the demangled name of the thread-local variable that the object is; None if it is none, or has no
    symbol that can be read.
    """

    thread: Optional[ThreadRef]
    function: CodeSymbol
    object: int
    variable: Optional[str] = None


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


#: Holds that nothing in this process can lift.
PERMANENT = frozenset(
    {HoldKind.MAIN_PROGRAM, HoldKind.STARTUP, HoldKind.NEVER_UNLOADS, HoldKind.AUDIT, HoldKind.NODELETE}
)


class Root(NamedTuple):
    """The root of a chain of holds: its library's name, its own holds, and who opened it (user or libc).

    ``never_ends`` is True if it is owed a TLS destructor by a thread that does not exist.
    """

    library: str
    kinds: tuple[HoldKind, ...]
    opened_by: Optional[str] = None
    never_ends: bool = False


class Hold(NamedTuple):
    """One reason why a library stays loaded.

    Which of the optional members are set depends on ``kind``: ``origin`` for start-up, NODELETE and open
    counts, ``total`` (a number of opens or destructors) for open counts and destructors, ``chain`` (library names from
    the root to this one) and ``root`` for dependencies, ``symbols`` (demangled) for unique symbols and relocations.
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

    @property
    def never_ends(self) -> bool:
        """Return True if a thread that does not exist owes a TLS destructor, to the library or to the chain's root."""
        if self.root is not None:
            return self.root.never_ends
        return any(destructor.thread is None for destructor in self.destructors)

    @property
    def has_unseen_debtors(self) -> bool:
        """Return True if more TLS destructors are owed than were found: by threads not seen, or that do not exist."""
        return self.kind is HoldKind.TLS_DESTRUCTORS and len(self.destructors) < (self.total or 0)


class Library(NamedTuple):
    """A loaded library and the verdict on it.

    ``path`` is None if unknown, or if the loader has none; then ``name``, else its base name, is a substitute.
    ``load_bias`` is ``l_addr``, ``[start, end)`` the address range of the mappings, each None if unknown, ``link_map``
    the address of the ``struct link_map``, which is also dlopen's handle, 0 if unknown; ``namespace`` is an
    ``Lmid_t``.  ``fields`` are the loader's own members, each None if this version of the loader lacks it.  ``held`` is
    None if unknown.  ``proxy`` is True for the link map that another namespace has for ld.so.  ``rebuild`` is there for
    a library that was asked about and that something keeps for good.  ``file_state`` is how its file has changed since
    it was loaded: ``deleted``, ``replaced``, ``truncated`` or ``written``, None for nothing, or if that is not known.
    """

    name: str
    path: Optional[str]
    soname: Optional[str]
    build_id: Optional[str]
    load_bias: Optional[int]
    start: Optional[int]
    end: Optional[int]
    namespace: int
    link_map: int
    fields: Mapping[str, Optional[int]]
    held: Optional[bool]
    holds: tuple[Hold, ...] = ()
    holds_omitted: int = 0
    proxy: bool = False
    rebuild: Optional["Rebuild"] = None
    file_state: Optional[str] = None

    @property
    def base(self) -> Optional[int]:
        """Return the lowest address of the mappings, None if unknown."""
        return self.start

    def contains(self, address: int) -> bool:
        """Return True if an address is within the range of the mappings."""
        return self.start is not None and self.end is not None and self.start <= address < self.end

    @property
    def is_being_unloaded(self) -> bool:
        """Return True if a running close has condemned the library."""
        return any(hold.kind is HoldKind.CLOSE_IN_PROGRESS for hold in self.holds)


class StaticTls(NamedTuple):
    """What is left of the static TLS block for libraries that dlopen loads, in bytes.

    Of ``size`` bytes ``free`` can still be handed out.  ``held`` has the base names of the loaded libraries with a
    piece, and its size; ``lost`` bytes belong to no loaded library, and no later one gets them.
    """

    size: int
    free: int
    held: tuple[tuple[str, int], ...]
    lost: int


class State(NamedTuple):
    """The answer of ``dlstate``: libraries with their verdicts.

    ``static_tls`` is None in an answer about single libraries, or if it is unknown.
    """

    target: TargetInfo
    loader: LoaderInfo
    libraries: tuple[Library, ...]
    asked: Optional[str] = None
    problems: tuple[Problem, ...] = ()
    static_tls: Optional[StaticTls] = None


def runs_wine(libraries: Sequence[Library]) -> bool:
    """Return True if the process runs Wine: its ntdll.so is the Unix side of Windows' loader."""
    return any(library.name == "ntdll.so" and "/wine/" in (library.path or "") for library in libraries)
