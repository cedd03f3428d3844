"""Which facts about mapped files of a Windows machine are passed between the layers?

Values as in `model`: frozen, comparable, without a reference to a target.  Names are NT's own.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Optional

from ..model import Evidence, LoaderInfo, Problem, TargetInfo


class View(NamedTuple):
    """A view of a file in a process: ``base`` to ``end``, the last byte; ``image`` as code, else as data.

    ``commit`` counts pages, None where none are charged; ``wow64`` says that the process runs 32-bit code on x64.
    """

    pid: int
    process: str
    base: int
    end: int
    vad: int
    image: bool
    protection: str
    commit: Optional[int] = None
    wow64: bool = False


class OpenFile(NamedTuple):
    """A file object of the file: how it was opened, and whether that still binds others.

    ``access`` and ``sharing`` are in the notation ``RWD`` and ``rwd``.  ``open`` says that a handle is open, so that
    the sharing is enforced.  ``fast_ref`` is the count that was masked off the section's pointer to it, None where the
    file object was found another way, or where this Windows keeps a plain pointer.
    """

    address: int
    access: str
    sharing: str
    open: bool
    delete_pending: bool
    fast_ref: Optional[int] = None


class Opener(NamedTuple):
    """An open handle of the file."""

    pid: int
    process: str
    handle: int
    granted_access: int
    file: OpenFile


class SectionUse(NamedTuple):
    """A section of the file, image or data, and what still needs it.

    ``live`` says that it stands in the way; an image section without views and section references, and a data section
    without user references, are only cached.
    """

    control_area: int
    image: bool
    section_references: int
    mapped_views: int
    user_references: int
    writable_references: Optional[int]
    live: bool


class Possible(enum.Enum):
    """Can it be done?  PROBABLY: nothing seen stands in the way, but not all is known."""

    YES = "yes"
    NO = "no"
    PROBABLY = "probably"
    DEPENDS = "depends"


class Status(NamedTuple):
    """How an operation fails: NTSTATUS and Win32 error, with their names."""

    ntstatus: int
    name: str
    win32: int
    win32_name: str


class Operation(NamedTuple):
    """What would happen to an operation on the file; ``status`` where it fails, ``why`` in one sentence."""

    name: str
    possible: Possible
    status: Optional[Status]
    why: str


class MappedFile(NamedTuple):
    """A file that processes map, and what can be done to it meanwhile.

    ``name`` is that of the file object, relative to its volume, None where it cannot be read (then ``name_address``
    says where it would be); ``device`` is the address of the volume's _DEVICE_OBJECT.  ``file`` is the file object of
    the section, ``sections`` one or both of image and data.  ``evidence`` are the members that the verdicts rest on.
    """

    name: Optional[str]
    name_address: int
    device: int
    file: OpenFile
    sections: tuple[SectionUse, ...]
    mappings: tuple[View, ...]
    openers: tuple[Opener, ...]
    operations: tuple[Operation, ...]
    evidence: tuple[Evidence, ...] = ()

    @property
    def base_name(self) -> str:
        """Give the last part of the name."""
        return (self.name or "").rpartition("\\")[2]


class Share(NamedTuple):
    """The answer of ``dllshare``: ``handles_complete`` says that every handle table could be read."""

    target: TargetInfo
    loader: LoaderInfo
    files: tuple[MappedFile, ...]
    asked: Optional[str] = None
    handles_complete: bool = True
    problems: tuple[Problem, ...] = ()
