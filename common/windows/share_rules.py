"""Which operations does Windows refuse on a file that is mapped, and how?

Sources: Microsoft's fastfat sample (microsoft/Windows-driver-samples, filesys/fastfat: create.c, fileinfo.c,
cleanup.c); the driver documentation of MmFlushImageSection, MmCanFileBeTruncated, IoRemoveShareAccess and
FILE_DISPOSITION_INFORMATION_EX; the test suite of maharmstone/btrfs (mmap.cpp, delete.cpp, rename.cpp), which states
the statuses that NTFS returns; bpo-14597.  Anything that they leave open is "probably", never "yes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from .model import Allowed, FileOperation, OpenFile, SectionUse, Status

#: FILE_DISPOSITION_POSIX_SEMANTICS: since Windows 10 1607.
POSIX_DELETE_BUILD = 14393

ACCESS_DENIED = 5
CANNOT_DELETE = Status(0xC0000121, "STATUS_CANNOT_DELETE", ACCESS_DENIED, "ERROR_ACCESS_DENIED")
DELETE_PENDING = Status(0xC0000056, "STATUS_DELETE_PENDING", ACCESS_DENIED, "ERROR_ACCESS_DENIED")
SHARING_VIOLATION = Status(0xC0000043, "STATUS_SHARING_VIOLATION", 32, "ERROR_SHARING_VIOLATION")
USER_MAPPED_FILE = Status(0xC0000243, "STATUS_USER_MAPPED_FILE", 1224, "ERROR_USER_MAPPED_FILE")
INVALID_INFO_CLASS = Status(0xC0000003, "STATUS_INVALID_INFO_CLASS", 87, "ERROR_INVALID_PARAMETER")

_PENDING = "it is being deleted, so every new open of it fails"
_IMAGE = "the image is mapped"
_DATA = "a data section of it is in use"
_LINKS = "; only a name among several hard links can go (NTFS)"
_OLDER_HANDLE = "; this is for a handle that was opened for writing before, which can make it longer"
_ANY_HANDLE = "; this is for every handle that is open for writing, old or new, which can make it longer"
_OPENING_FAILS = "whoever opens it for writing now gets ERROR_SHARING_VIOLATION (32)"
_UNSEEN = "; not all handle tables could be read, so another opener can object"


_UNSEEN_SECTION = "; not all its sections are known, so one can be in use"
_DOUBTED = "; what is known of it is contradicted"


class FileUsage(NamedTuple):
    """The known sections and opens of a file, whether these are all, and whether something contradicts them."""

    sections: Sequence[SectionUse]
    opens: Sequence[OpenFile]
    handles_complete: bool
    build: Optional[int]
    sections_complete: bool = True
    is_doubted: bool = False

    def section_in_use(self, image: bool) -> Optional[SectionUse]:
        """Return the image or data section if it is in use."""
        return next((section for section in self.sections if section.image == image and section.in_use), None)

    def opens_refusing(self, letter: str) -> list[OpenFile]:
        """List the opens that deny others ``r``, ``w`` or ``d``: a handle is open that does not share it."""
        return [each for each in self.opens if each.open and each.access != "---" and letter not in each.sharing]

    @property
    def delete_pending(self) -> bool:
        """Return True if a delete is pending."""
        return any(each.delete_pending for each in self.opens)


def check_operations(usage: FileUsage) -> tuple[FileOperation, ...]:
    """Return for each operation whether it is possible now.

    Only sections and sharing are checked, not permissions, the read-only attribute or filter drivers.
    """
    if usage.delete_pending:
        names = ("rename", "delete", "posix-delete", "overwrite", "truncate")
        return tuple(FileOperation(name, Allowed.NO, DELETE_PENDING, _PENDING) for name in names)
    return (
        _rename(usage),
        _delete(usage, "delete"),
        _posix_delete(usage),
        _overwrite(usage),
        _truncate(usage),
    )


def _withheld(name: str, usage: FileUsage, letter: str) -> Optional[FileOperation]:
    """Return the refusal by an open handle that does not share the needed access, None if none refuses."""
    holders = usage.opens_refusing(letter)
    if not holders:
        return None
    right = {"w": "writing", "d": "deleting"}[letter]
    count = "an open handle does" if len(holders) == 1 else f"{len(holders)} opens do"
    return FileOperation(name, Allowed.NO, SHARING_VIOLATION, f"{count} not share {right}")


def _allowed(name: str, usage: FileUsage, why: str, possible: Allowed = Allowed.YES) -> FileOperation:
    """Return a permission, weakened if there may be unseen openers or sections, or what was seen is contradicted."""
    unseen = "" if usage.handles_complete else _UNSEEN
    unseen += "" if usage.sections_complete else _UNSEEN_SECTION
    unseen += _DOUBTED if usage.is_doubted else ""
    if unseen:
        return FileOperation(name, Allowed.PROBABLY if possible is Allowed.YES else possible, None, why + unseen)
    return FileOperation(name, possible, None, why)


def _rename(usage: FileUsage) -> FileOperation:
    refused = _withheld("rename", usage, "d")
    if refused:
        return refused
    if usage.section_in_use(image=True):
        return _allowed("rename", usage, "a mapped image can be renamed on its volume, and no open handle objects")
    if usage.section_in_use(image=False):
        why = "no open handle objects, but sources disagree on files that are mapped as data only"
        return _allowed("rename", usage, why, Allowed.PROBABLY)
    return _allowed("rename", usage, "no open handle objects")


def _delete(usage: FileUsage, name: str) -> FileOperation:
    refused = _withheld(name, usage, "d")
    if refused:
        return refused
    if usage.section_in_use(image=True):
        return FileOperation(name, Allowed.NO, CANNOT_DELETE, _IMAGE + _LINKS)
    if usage.section_in_use(image=False):
        return FileOperation(name, Allowed.NO, CANNOT_DELETE, _DATA + _LINKS)
    return _allowed(name, usage, "no section of it is in use, and no open handle objects")


def _posix_delete(usage: FileUsage) -> FileOperation:
    if usage.build is not None and usage.build < POSIX_DELETE_BUILD:
        why = "this Windows has no POSIX delete (since Windows 10 1607)"
        return FileOperation("posix-delete", Allowed.NO, INVALID_INFO_CLASS, why)
    return _delete(usage, "posix-delete")


def _overwrite(usage: FileUsage) -> FileOperation:
    refused = _withheld("overwrite", usage, "w")
    if usage.section_in_use(image=True):
        return FileOperation("overwrite", Allowed.NO, SHARING_VIOLATION, _IMAGE)
    if refused:
        return refused
    data = usage.section_in_use(image=False)
    if data is None:
        return _allowed("overwrite", usage, "no section of it is in use, and no open handle objects")
    if data.writable_references == 0:
        why = "opening it for writing succeeds; a data section of it is in use, so cutting it shorter fails"
        return _allowed("overwrite", usage, why)
    why = "opening it for writing succeeds if the opener shares writing, because a data section can be writable"
    return FileOperation("overwrite", Allowed.DEPENDS, None, why)


def _truncate(usage: FileUsage) -> FileOperation:
    """Return whether a file can be cut shorter; a handle that was opened before the section was made fares otherwise.

    Opening for writing comes first, so whoever has no handle yet meets its refusal.
    """
    refused = _withheld("truncate", usage, "w")
    if usage.section_in_use(image=True):
        return FileOperation("truncate", Allowed.NO, USER_MAPPED_FILE, f"{_IMAGE}{_OLDER_HANDLE}; {_OPENING_FAILS}")
    if usage.section_in_use(image=False):
        whose = f"{_OLDER_HANDLE}; {_OPENING_FAILS}" if refused else _ANY_HANDLE
        return FileOperation("truncate", Allowed.NO, USER_MAPPED_FILE, f"{_DATA}{whose}")
    if refused:
        return refused
    return _allowed("truncate", usage, "no section of it is in use, and no open handle objects")
