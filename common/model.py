"""Which values do all families share?

Everything here is a value: frozen, comparable, without a reference to a target.  Structure and field names
are glibc's own.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, Optional


class Platform(NamedTuple):
    """An instruction set with its data model; ``arch`` is the GNU name such as ``x86_64``."""

    arch: str
    pointer_size: int
    byteorder: str
    os: str = "linux"

    @property
    def address_mask(self) -> int:
        """Return the highest address."""
        return (1 << 8 * self.pointer_size) - 1


class Module(NamedTuple):
    """An image loaded into the target.

    ``base`` is the address of its ELF header in memory, ``build_id`` the one read there, None if unknown.
    """

    path: str
    base: int
    build_id: Optional[str] = None


class Symbol(NamedTuple):
    """A named address; ``size`` in bytes, 0 if unknown."""

    name: str
    address: int
    size: int = 0


class Thread(NamedTuple):
    """A thread of the target.

    ``number`` is the debugger's, ``lwp`` the kernel's id, ``tid`` the id in the process's own pid namespace if that is
    another one.
    """

    number: int
    lwp: int
    name: Optional[str] = None
    tid: Optional[int] = None


class SourceKind(Enum):
    """The kind of source of an offset.

    DEBUG_INFO: debug information of this very build.  TABLE: our own table, for this build or version.  INFERRED: the
    only known layout that fits this process.
    """

    DEBUG_INFO = "debug-info"
    TABLE = "table"
    INFERRED = "inferred"


class Source(NamedTuple):
    """The source of an offset, with a detail such as the package or the debug file's build-id."""

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
    """A soft error: a part of an answer could not be established.

    ``where`` says what it concerns: a library, thread, structure, or JSON key; ``message`` is free text.
    """

    where: str
    message: str


class Evidence(NamedTuple):
    """A member of a structure of the target, as read.

    ``address`` is where the member is, ``expression`` the C expression that shows it in a debugger, ``offset`` the
    member's in the structure, in bytes, ``source`` where that offset comes from, ``member`` the name in C.
    """

    address: int
    expression: str
    value: int
    offset: int
    source: Source
    member: str


class ThreadRef(NamedTuple):
    """A thread as the user knows it.

    ``number`` is the debugger's, ``tid`` the kernel's id (LWP in gdb and ps, TID on Windows); ``name`` is None if it
    has none, or the target does not record it.
    """

    number: int
    tid: int
    name: Optional[str]


class TargetInfo(NamedTuple):
    """The description of a target.

    ``kind`` is ``live``, ``remote``, ``core`` or ``dump``, ``os`` ``linux`` or ``windows``, ``arch`` the GNU name.
    ``pid`` is None if it is not recorded, or the target is a whole machine.
    """

    kind: str
    os: str
    arch: str
    pid: Optional[int]
    description: str


class LoaderInfo(NamedTuple):
    """The loader, and the source of its structure offsets.

    ``kind`` is ``glibc``, ``musl`` or ``nt`` (Windows' loader and Wine's), None if unknown, ``version`` that of the C
    library, or of Windows as major.minor.build, None if unknown; ``layout`` is None if no offsets are needed, or the
    loader could not be read.
    """

    kind: Optional[str]
    version: Optional[str]
    layout: Optional[Source] = None


class Outcome(Enum):
    """What a close does to a library.

    NO_EFFECT: dlclose does not even lower the count.  DEFERRED: this close would be nested in a running one, which then
    collects again.  NOT_OPEN: the count is 0, dlclose fails.  UNKNOWN: not everything could be read.
    """

    UNLOADS = "unloads"
    KEEPS = "keeps"
    NO_EFFECT = "no-effect"
    DEFERRED = "deferred"
    NOT_OPEN = "not-open"
    UNKNOWN = None
