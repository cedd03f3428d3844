"""Which control area is behind a section object?

Most handles are of other objects, whose types are not read: an address is a section's only if what it leads to is a
control area, whose segment leads back.
"""

from __future__ import annotations

from typing import Optional

from ...errors import CorruptError, FaultError
from .files import ControlArea, FileReader
from .kernel import Nt

#: The low bits of _SECTION.u1, which say that it is a file object of another machine's.
_REMOTE = 3


class SectionReader:
    """Read section objects: ``_SECTION`` since Windows 8, ``_SECTION_OBJECT`` before."""

    def __init__(self, nt: Nt, files: FileReader) -> None:
        self._nt = nt
        self._files = files
        self._control_area: Optional[int] = None
        self._segment: Optional[int] = None
        if nt.has("_SECTION", "u1.ControlArea"):
            self._control_area = nt.offset("_SECTION", "u1.ControlArea")
        elif nt.has("_SECTION_OBJECT", "Segment") and nt.has("_SEGMENT", "ControlArea"):
            self._segment = nt.offset("_SECTION_OBJECT", "Segment")

    @property
    def is_known(self) -> bool:
        """Return False if the layout of section objects is not known."""
        return self._control_area is not None or self._segment is not None

    def find_control_area(self, address: int) -> Optional[ControlArea]:
        """Find the control area of the section object at an address, None if there is no section object."""
        memory = self._nt.memory
        try:
            if self._control_area is not None:
                area = memory.pointer(address + self._control_area)
                if area & _REMOTE:
                    return None
            elif self._segment is not None:
                segment = memory.pointer(address + self._segment)
                if not self._nt.is_kernel_address(segment):
                    return None
                area = memory.pointer(segment + self._nt.offset("_SEGMENT", "ControlArea"))
            else:
                return None
            return self._files.control_area(area) if self._nt.is_kernel_address(area) else None
        except (FaultError, CorruptError):
            # What is at the address is another object, as with most handles.  A section whose own memory is missing is
            # not found; that it is there is seen by its file's control area, where that can be read.
            return None
