"""Which images has the kernel loaded: itself, drivers, and their DLLs?"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ...errors import FaultError
from ...lists import Walk, follow_ring
from ..strings import read_unicode_string
from .kernel import Nt

MAX_MODULES = 4096
#: Cost of a module, in Memory's units.
_MODULE_UNITS = 2000


class _Offsets(NamedTuple):
    """Offsets in KLDR_DATA_TABLE_ENTRY, which have not moved since Windows XP (its PDB type is in few versions)."""

    base: int
    size: int
    name: int
    section: int


_OFFSETS = {8: _Offsets(0x30, 0x40, 0x48, 0x70), 4: _Offsets(0x18, 0x20, 0x24, 0x3C)}


class KernelModule(NamedTuple):
    """An image of the kernel's: its entry in the list, path, range, and SectionPointer.

    ``path`` is None if unreadable; ``section`` is 0 if the boot loader has loaded it.
    """

    entry: int
    path: Optional[str]
    base: int
    size: int
    section: int


def list_modules(nt: Nt) -> Optional[Walk[KernelModule]]:
    """Return a walk along ``PsLoadedModuleList``; None if its head is not known."""
    head = nt.find_symbol("PsLoadedModuleList")
    if not head:
        return None
    memory, size = nt.memory, nt.pointer_size
    at = _OFFSETS[size]

    def read(entry: int) -> KernelModule:
        memory.spend(_MODULE_UNITS, "PsLoadedModuleList")
        base, length = memory.pointer(entry + at.base), memory.unsigned(entry + at.size, 4)
        return KernelModule(entry, _name(nt, entry + at.name), base, length, memory.pointer(entry + at.section))

    return follow_ring(memory, head, read, limit=MAX_MODULES, subject="the list of the kernel's modules", noun="module")


def _name(nt: Nt, address: int) -> Optional[str]:
    try:
        return read_unicode_string(nt.memory, address, nt.pointer_size).text
    except FaultError:
        return None  # the caller reports modules without a name
