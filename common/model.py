"""Which values do all families share?

Everything here is a value: frozen, comparable, without a reference to a target.  Structure and field names
are glibc's own.
"""

from __future__ import annotations

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
    """The kind of source of an offset."""

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
    """A soft error: a part of an answer could not be established."""

    where: str
    message: str


class Evidence(NamedTuple):
    """A member as read: address, C expression, value, offset, source of the offset, name."""

    address: int
    expression: str
    value: int
    offset: int
    source: Source
    member: str


class ThreadRef(NamedTuple):
    """A thread as the user knows it."""

    number: int
    tid: int
    name: Optional[str]


class TargetInfo(NamedTuple):
    """The description of a target."""

    kind: str
    os: str
    arch: str
    pid: Optional[int]
    description: str


class LoaderInfo(NamedTuple):
    """The loader, and the source of its structure offsets."""

    kind: str
    version: Optional[str]
    layout: Optional[Source] = None


class Outcome(Enum):
    """What a close does to a library.

    NO_EFFECT: dlclose does not even lower the count.  DEFERRED: a close is running in which this one would be
    nested; that one collects again.  NOT_OPEN: the count is 0, dlclose fails.  UNKNOWN: not all could be read.
    """

    UNLOADS = "unloads"
    KEEPS = "keeps"
    NO_EFFECT = "no-effect"
    DEFERRED = "deferred"
    NOT_OPEN = "not-open"
    UNKNOWN = None
