"""Which file is behind a section, and how was it opened?

A mapped range leads through ``_SUBSECTION`` to the ``_CONTROL_AREA`` of the section, that through ``FilePointer`` to a
``_FILE_OBJECT``.  All file objects of one file share ``_SECTION_OBJECT_POINTERS``, which hold its image section and its
data section, so that structure identifies the file.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

from ...errors import CorruptError, FaultError
from ...lists import Walk, follow_ring
from ..strings import UnicodeString, read_unicode_string
from .kernel import Nt

#: FILE_OBJECT.Type of every file object (IO_TYPE_FILE of wdm.h).
IO_TYPE_FILE = 5
#: FILE_OBJECT.Flags: the last handle is closed, so IoRemoveShareAccess has run (wdm.h).
FO_CLEANUP_COMPLETE = 0x4000

MAX_VIEWS = 1 << 16
#: Members of _FILE_OBJECT that are 0 or 1.
_BOOLEANS = (
    *("DeletePending", "ReadAccess", "WriteAccess", "DeleteAccess"),
    *("SharedRead", "SharedWrite", "SharedDelete"),
)
# The low bits of _MMVAD.VadsProcess are flags; an _EPROCESS is aligned to more.
_OWNER_FLAGS = 7


class ControlArea(NamedTuple):
    """A section's control area.

    ``file_object`` is 0 if the section is backed by the page file; ``fast_ref`` is the count that was masked off the
    pointer, None if this version keeps a plain pointer.  ``writable_references`` is None if not recorded: for an image,
    or in this version.
    """

    address: int
    image: bool
    section_references: int
    mapped_views: int
    user_references: int
    writable_references: Optional[int]
    file_object: int
    fast_ref: Optional[int]


class FileObject(NamedTuple):
    """A file object: one open of a file.

    ``device`` is the address of its ``_DEVICE_OBJECT``, which identifies the volume; ``context`` is the file system's
    own, one of each file.  ``cleaned_up`` says that no handle of it is open any more.  ``doubts`` are its members that
    have no sense, in words: what they say is left out.
    """

    address: int
    device: int
    context: int
    name: UnicodeString
    section_object_pointer: int
    delete_pending: bool
    read: bool
    write: bool
    delete: bool
    shared_read: bool
    shared_write: bool
    shared_delete: bool
    cleaned_up: bool
    doubts: tuple[str, ...]

    @property
    def access(self) -> str:
        """Return the access it was opened with, such as ``R--``."""
        return _letters("RWD", (self.read, self.write, self.delete))

    @property
    def sharing(self) -> str:
        """Return the access it shares with others, such as ``r-d``."""
        return _letters("rwd", (self.shared_read, self.shared_write, self.shared_delete))


class ControlAreaView(NamedTuple):
    """An entry of a control area's list of views: the addresses of the ``_MMVAD`` and of its process."""

    vad: int
    eprocess: int


class SectionPointers(NamedTuple):
    """The control areas in ``_SECTION_OBJECT_POINTERS``, 0 for none."""

    data: int
    image: int


def _letters(letters: str, present: tuple[bool, bool, bool]) -> str:
    return "".join(letter if there else "-" for letter, there in zip(letters, present))


class FileReader:
    """Read control areas and file objects; each only once."""

    def __init__(self, nt: Nt) -> None:
        self._nt = nt
        self._direct = nt.has("_MMVAD", "ControlArea")
        rings = [name for name in ("ListHead", "ViewList") if nt.has("_CONTROL_AREA", name)]
        self._ring = rings[0] if rings and nt.has("_MMVAD", "VadsProcess") else None
        self._control_area = 0 if self._direct else nt.offset("_SUBSECTION", "ControlArea")
        self._members = nt.members(
            "_CONTROL_AREA",
            "NumberOfSectionReferences",
            "NumberOfMappedViews",
            "NumberOfUserReferences",
            "FilePointer",
            optional=("u2.e2.WritableUserReferences",),
        )
        flags = "u.Flags" if nt.has("_CONTROL_AREA", "u.Flags") else "u.LongFlags"
        self._flags_offset = nt.offset("_CONTROL_AREA", flags)
        self._flags = nt.members("_MMSECTION_FLAGS", "Image", optional=("File", "FilePointerNull"))
        self._segment = nt.offset("_CONTROL_AREA", "Segment")
        reference = nt.layouts.get("_EX_FAST_REF")
        count = reference.fields["RefCnt"].bit_count if reference and "RefCnt" in reference.fields else 0
        self._reference_mask = (1 << count) - 1
        self._file_members = nt.members(
            "_FILE_OBJECT",
            "Type",
            "Size",
            "DeviceObject",
            "FsContext",
            "SectionObjectPointer",
            *_BOOLEANS,
            "Flags",
        )
        self._file_size = nt.layouts["_FILE_OBJECT"].size
        self._name = nt.offset("_FILE_OBJECT", "FileName")
        self._pointers = nt.members("_SECTION_OBJECT_POINTERS", "DataSectionObject", "ImageSectionObject")
        self._areas: dict[int, ControlArea] = {}
        self._files: dict[int, FileObject] = {}

    def control_area_of(self, section: int) -> int:
        """Return the address of the control area that a VAD's section pointer leads to.

        :raises FaultError: if it cannot be read.
        """
        return section if self._direct else self._nt.memory.pointer(section + self._control_area)

    def control_area(self, address: int) -> ControlArea:
        """Read a control area.

        :raises FaultError: if it cannot be read.
        :raises CorruptError: if there is no control area at the address.
        """
        if address not in self._areas:
            self._areas[address] = self._read_control_area(address)
        return self._areas[address]

    def _read_control_area(self, address: int) -> ControlArea:
        nt = self._nt
        if address % (2 * nt.pointer_size):
            raise CorruptError("no allocation of pool begins there, and so no control area", address)
        values = self._members.read(nt.memory, address)
        flags = self._flags.read(nt.memory, address + self._flags_offset)
        segment = nt.memory.pointer(address + self._segment)
        if "_SEGMENT" in nt.layouts:
            back = nt.memory.pointer(segment + nt.offset("_SEGMENT", "ControlArea"))
            if segment == address or back != address:
                raise CorruptError("_SEGMENT.ControlArea does not lead back: no control area", address)
        pointer = values["FilePointer"]
        mask = 0 if self._direct else self._reference_mask
        image = bool(flags["Image"])
        if not pointer & ~mask and (image or flags.get("File")) and not flags.get("FilePointerNull"):
            raise CorruptError(f"FilePointer is {pointer:#x}, but by u.Flags it is a section of a file", address)
        return ControlArea(
            address=address,
            image=image,
            section_references=values["NumberOfSectionReferences"],
            mapped_views=values["NumberOfMappedViews"],
            user_references=values["NumberOfUserReferences"],
            writable_references=None if image else values.get("u2.e2.WritableUserReferences"),
            file_object=pointer & ~mask,
            fast_ref=None if self._direct else pointer & mask,
        )

    def views(self, area: ControlArea) -> Optional[Walk[ControlAreaView]]:
        """Return a walk along the views of a section by its own ring, None if this version keeps no ring."""
        nt = self._nt
        if self._ring is None or area.mapped_views == 0:
            return None  # without views its links serve another list
        head = area.address + nt.offset("_CONTROL_AREA", self._ring)
        links = nt.offset("_MMVAD", "ViewLinks")
        owner = nt.offset("_MMVAD", "VadsProcess")

        def read(entry: int) -> ControlAreaView:
            return ControlAreaView(entry - links, nt.memory.pointer(entry - links + owner) & ~_OWNER_FLAGS)

        return follow_ring(nt.memory, head, read, limit=MAX_VIEWS, subject="its list of views", noun="view")

    def find_file(self, address: int) -> Optional[FileObject]:
        """Read the file object at an address, None if there is none."""
        if address not in self._files:
            found = self._read_file(address)
            if found is None:
                return None
            self._files[address] = found
        return self._files[address]

    def _read_file(self, address: int) -> Optional[FileObject]:
        try:
            values = self._file_members.read(self._nt.memory, address)
            if values["Type"] != IO_TYPE_FILE or values["Size"] != self._file_size:
                return None
            name = self._read_name(address + self._name)
        except FaultError:
            return None  # `can_be_file` says whether it is another object
        return FileObject(
            address=address,
            device=values["DeviceObject"],
            context=values["FsContext"],
            name=name,
            section_object_pointer=values["SectionObjectPointer"],
            delete_pending=values["DeletePending"] == 1,
            read=values["ReadAccess"] == 1,
            write=values["WriteAccess"] == 1,
            delete=values["DeleteAccess"] == 1,
            shared_read=bool(values["SharedRead"]),
            shared_write=bool(values["SharedWrite"]),
            shared_delete=bool(values["SharedDelete"]),
            cleaned_up=bool(values["Flags"] & FO_CLEANUP_COMPLETE),
            doubts=tuple(self._doubt(address, name, values[name]) for name in _BOOLEANS if values[name] > 1),
        )

    def _doubt(self, address: int, name: str, value: int) -> str:
        place = address + self._nt.offset("_FILE_OBJECT", name)
        return f"{name} at {place:#x} is {value:#x}, which is neither 0 nor 1"

    def can_be_file(self, address: int) -> bool:
        """Return True if what is at an address is not known to be another object than a file's.

        For an address at which `find_file` finds none: the object, or what follows its type and size, is unreadable.
        """
        head = self._nt.memory.try_read(address, 4)
        return head is None or head == struct.pack("<HH", IO_TYPE_FILE, self._file_size)

    def pointers_of(self, address: int) -> Optional[int]:
        """Return what would be the section object pointers if there were a file object; None if unreadable."""
        place = address + self._nt.offset("_FILE_OBJECT", "SectionObjectPointer")
        return self._nt.memory.try_unsigned(place, self._nt.pointer_size)

    def _read_name(self, address: int) -> UnicodeString:
        found = read_unicode_string(self._nt.memory, address, self._nt.pointer_size, errors="surrogatepass")
        # A length of 0 with a buffer: the name is not empty but unknown.
        return found if found.length or not found.buffer else found._replace(text=None)

    def section_pointers(self, address: int) -> Optional[SectionPointers]:
        """Read the section object pointers of a file, None if unreadable."""
        try:
            values = self._pointers.read(self._nt.memory, address)
        except FaultError:
            return None  # the caller reports that sections can be missing
        return SectionPointers(values["DataSectionObject"], values["ImageSectionObject"])
