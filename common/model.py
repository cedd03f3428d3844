"""Which facts are passed between the layers?

Everything here is a value: frozen, comparable, without a reference to a target.  Structure and field names
are glibc's own.
"""

from __future__ import annotations

from .lean import Enum, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Optional


class Platform(NamedTuple):
    """An instruction set with its data model; ``arch`` is the GNU name such as ``x86_64``."""

    arch: str
    pointer_size: int
    byteorder: str
    os: str = "linux"

    @property
    def address_mask(self) -> int:
        """Give the largest address."""
        return (1 << 8 * self.pointer_size) - 1


class Module(NamedTuple):
    """An image loaded into the target.

    ``base`` is where its ELF header lies in memory, ``build_id`` the one read there, None when unknown.
    """

    path: str
    base: int
    build_id: Optional[str] = None


class Symbol(NamedTuple):
    """A named address; ``size`` is 0 when unknown."""

    name: str
    address: int
    size: int = 0


class Thread(NamedTuple):
    """A thread of the target.

    ``number`` counts as the debugger does, ``lwp`` is the kernel's id, ``tid`` the id in the process's own pid
    namespace where that is another one.
    """

    number: int
    lwp: int
    name: Optional[str] = None
    tid: Optional[int] = None


class SourceKind(Enum):
    """Where an offset came from."""

    DEBUG_INFO = "debug-info"
    DESCRIPTOR = "descriptor"
    TABLE = "table"
    INFERRED = "inferred"


class Source(NamedTuple):
    """Where an offset came from, with a detail such as the package or the debug file's build-id."""

    kind: SourceKind
    detail: str


class Field(NamedTuple):
    """A member of a structure.

    ``offset`` and ``size`` in bytes; for a bit-field ``size`` is 1, ``offset`` the byte, ``bit_shift`` the
    distance from that byte's least significant bit in either byte order.  Of NT's bit-fields, which are wider,
    ``offset`` and ``size`` are those of the storage unit, and ``bit_shift`` counts from its lowest bit.
    """

    offset: int
    size: int
    bit_shift: int = 0
    bit_count: int = 0


class Layout(NamedTuple):
    """A C structure: size in bytes and members by name."""

    type_name: str
    size: int
    fields: Mapping[str, Field]


class Problem(NamedTuple):
    """A soft error: part of an answer could not be established."""

    where: str
    message: str


class Evidence(NamedTuple):
    """A member as it was read: address, C expression, value, offset in its structure, and the offset's source."""

    address: int
    expression: str
    value: int
    offset: int
    source: Source


class CodeSymbol(NamedTuple):
    """A code or data address put into words: demangled ``name`` and library, each None when unknown."""

    address: int
    name: Optional[str]
    library: Optional[str]


class ThreadRef(NamedTuple):
    """A thread as the user knows it."""

    number: int
    lwp: int
    name: Optional[str]


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
    """The library at which a chain of holds begins, why that one stays, and who opened it (user or libc)."""

    library: str
    kinds: tuple[HoldKind, ...]
    opened_by: Optional[str] = None


class Hold(NamedTuple):
    """One thing that keeps a library loaded.

    Which of the optional members are set depends on ``kind``: ``origin`` for start-up and NODELETE,
    ``total`` for open counts and destructors, ``chain`` (library names from the root to this one) and
    ``root`` for dependencies, ``symbols`` for unique symbols and relocations.
    """

    kind: HoldKind
    evidence: tuple[Evidence, ...] = ()
    origin: Optional[str] = None
    total: Optional[int] = None
    early_return: Optional[bool] = None
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
        """Tell whether a close that is running has condemned it."""
        return any(hold.kind is HoldKind.CLOSE_IN_PROGRESS for hold in self.holds)


class TargetInfo(NamedTuple):
    """What was examined."""

    kind: str
    os: str
    arch: str
    pid: Optional[int]
    description: str


class LoaderInfo(NamedTuple):
    """Which dynamic loader was found, and where its structure offsets came from."""

    kind: str
    version: Optional[str]
    layout: Optional[Source] = None


class State(NamedTuple):
    """The answer of ``dlstate``: libraries with their verdicts."""

    target: TargetInfo
    loader: LoaderInfo
    libraries: tuple[Library, ...]
    asked: Optional[str] = None
    problems: tuple[Problem, ...] = ()


class Outcome(Enum):
    """What happens to a library when it is closed.

    EARLY_RETURN: dlclose does not even lower the count.  DEFERRED: a close is running in which this one would be
    nested; that one collects again.  NOT_OPEN: the count is 0, dlclose fails.  UNKNOWN: not all could be read.
    """

    UNLOADS = "unloads"
    KEEPS = "keeps"
    EARLY_RETURN = "early-return"
    DEFERRED = "deferred"
    NOT_OPEN = "not-open"
    UNKNOWN = None


class Action(Enum):
    """What can make a library go: a close, one that only libc can do, threads that exit, any other close."""

    CLOSE = "close"
    LIBC_CLOSE = "libc-close"
    THREAD_EXIT = "thread-exit"
    COLLECT = "collect"


class Step(NamedTuple):
    """Something that must happen before a library can go.

    ``library`` is the base name of the one that is concerned, ``total`` how many closes it takes or how many
    destructors are pending, ``threads`` those that must exit, as far as they were found.
    """

    action: Action
    library: str
    link_map: int
    namespace: int
    total: int = 0
    threads: tuple[ThreadRef, ...] = ()


class Change(NamedTuple):
    """The least that must happen, besides the closes that were asked about, for a library to go.

    ``steps`` are in an order that works.  Where ``blocker`` is set, nothing helps: this library stays for good, by
    the holds that it has itself.
    """

    steps: tuple[Step, ...] = ()
    blocker: Optional[Library] = None


class Plan(NamedTuple):
    """What would be unloaded if ``library`` were closed ``closes`` times.

    ``open_count`` is that of now, ``unloads`` are in the order of their finalisers unless ``order`` (the name of
    the algorithm that sorts them) is None, ``keeps`` are those of its dependencies that stay, itself among them,
    with the holds that they have then.  ``at_least`` names those that could close more while they are unloaded.
    ``size`` is what the mappings of the unloaded take, in bytes.  ``change`` is None for a library that goes, or where
    it is not known.
    """

    library: Library
    open_count: Optional[int]
    closes: int
    outcome: Outcome
    unloads: tuple[Library, ...] = ()
    order: Optional[str] = None
    order_certain: bool = True
    keeps: tuple[Library, ...] = ()
    at_least: tuple[str, ...] = ()
    size: int = 0
    change: Optional[Change] = None

    @property
    def goes(self) -> bool:
        """Tell whether the closed library itself would go, so that a later dlopen would map it anew."""
        return self.is_dying or any(library.link_map == self.library.link_map for library in self.unloads)

    @property
    def is_dying(self) -> bool:
        """Tell whether a close that is running unloads the library already."""
        return any(library.link_map == self.library.link_map and library.is_going for library in self.keeps)


class Plans(NamedTuple):
    """The answer of ``dlplan``: one plan, or one for each open handle; ``garbage`` goes with any of them."""

    target: TargetInfo
    loader: LoaderInfo
    plans: tuple[Plan, ...]
    asked: Optional[str] = None
    garbage: tuple[Library, ...] = ()
    problems: tuple[Problem, ...] = ()
