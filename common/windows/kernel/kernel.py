"""Where are the members of NT's structures in this kernel, and how are they read?

From the kernel's PDB if the target has it, else from our tables; either way the answer is checked against the list of
processes before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from ...errors import DlwhyError, FaultError, LayoutError
from ...memory import ALLOWANCE, Memory
from ...model import Field, Layout, Source, SourceKind
from ...structs import Structure
from ...target import KernelTarget
from ..layouts.nt_tables import for_each_nt_candidate, load_nt_table

#: Required for every answer.
REQUIRED_TYPES = (
    "_EPROCESS",
    "_KPROCESS",
    "_MMVAD",
    "_MMVAD_SHORT",
    "_MMVAD_FLAGS",
    "_CONTROL_AREA",
    "_MMSECTION_FLAGS",
    "_FILE_OBJECT",
    "_SECTION_OBJECT_POINTERS",
    "_HANDLE_TABLE",
    "_HANDLE_TABLE_ENTRY",
    "_OBJECT_HEADER",
)
#: Only in some versions.
OPTIONAL_TYPES = (
    "_EWOW64PROCESS",
    "_EX_FAST_REF",
    "_MMADDRESS_NODE",
    "_MMVAD_FLAGS1",
    "_MM_AVL_TABLE",
    "_RTL_AVL_TREE",
    "_RTL_BALANCED_NODE",
    "_SECTION",
    "_SECTION_OBJECT",
    "_SEGMENT",
    "_SUBSECTION",
)

# The budget for a machine of unknown memory size, and the bytes of a dump for each unit of the budget.
_LIVE_ALLOWANCE = 16 * ALLOWANCE
_BYTES_FOR_UNIT = 8
#: The process of the kernel itself.
SYSTEM_PID = 4
_CHECKED_PROCESSES = 8


class Nt:
    """The kernel of a target: its memory, layouts and globals."""

    def __init__(
        self,
        target: KernelTarget,
        layouts: Mapping[str, Layout],
        source: Source,
        symbols: Optional[Mapping[str, int]] = None,
    ) -> None:
        self.target = target
        # A larger machine has more structures to read; as they are in its memory, its size limits their number.
        size = target.size
        self.memory = Memory(target, _LIVE_ALLOWANCE if size is None else max(ALLOWANCE, size // _BYTES_FOR_UNIT))
        self.layouts = layouts
        self.source = source
        self.pointer_size = target.platform.pointer_size
        self._symbols = symbols or {}

    def has(self, type_name: str, member: str) -> bool:
        """Return True if a structure of this version has a member."""
        layout = self.layouts.get(type_name)
        return layout is not None and member in layout.fields

    def field(self, type_name: str, member: str) -> Field:
        """Return a member of a structure.

        :raises LayoutError: if this version lacks it.
        """
        layout = self.layouts.get(type_name)
        field = layout.fields.get(member) if layout else None
        if field is None:
            raise LayoutError(f"{type_name} has no member {member} in this kernel ({self.source.detail})")
        return field

    def offset(self, type_name: str, member: str) -> int:
        """Return the offset of a member.

        :raises LayoutError: if this version lacks it.
        """
        return self.field(type_name, member).offset

    def members(self, type_name: str, *names: str, optional: Sequence[str] = ()) -> Structure:
        """Prepare to read members of a structure.

        :param optional: members that are omitted if this version lacks them.
        :raises LayoutError: if this version lacks any of the others.
        """
        wanted = (*names, *(name for name in optional if self.has(type_name, name)))
        return self.structure(type_name, {name: self.field(type_name, name) for name in wanted})

    def structure(self, type_name: str, fields: Mapping[str, Field]) -> Structure:
        """Prepare to read members of a structure, given by their fields.

        :raises LayoutError: if any is not an integer.
        """
        return Structure(Layout(type_name, 0, fields), self.memory.struct_prefix).require(fields)

    def find_symbol(self, name: str) -> Optional[int]:
        """Find the address of a global of the kernel, None if unknown."""
        address = self.target.find_symbol(name)
        if address is None and name in self._symbols:
            return self.target.kernel.base + self._symbols[name]
        return address

    def is_kernel_address(self, address: int) -> bool:
        """Return True if an address is in kernel space, assuming the default split."""
        return address >= 1 << 63 if self.pointer_size == 8 else address >= 1 << 31


def find_nt(target: KernelTarget) -> Nt:
    """Find the kernel's layouts: from its PDB, else from our tables; whatever the source, they must fit the target.

    :raises LayoutError: if no layouts fit.
    """
    tried = []
    for nt in _for_each_candidate(target):
        problem = _misfit(nt)
        if problem is None:
            return nt
        tried.append(f"{nt.source.detail}: {problem}")
    kernel = target.kernel
    version = f"build {target.build_number}" if target.build_number is not None else "unknown build"
    pdb = f", PDB {kernel.build_id}" if kernel.build_id else ""
    if not tried:
        remedy = "open it in WinDbg with the symbols of ntkrnlmp, or add its layout to the tables"
        raise LayoutError(f"no layout is known for this Windows kernel ({version}{pdb}): {remedy}")
    failure = LayoutError(f"no layout fits this Windows kernel ({version}{pdb})", tried=tried)
    failure.add(target.problems())
    raise failure


def _for_each_candidate(target: KernelTarget) -> Iterator[Nt]:
    kernel = target.kernel
    from_pdb = _layouts_of_pdb(target)
    if from_pdb:
        detail = f"PDB {kernel.build_id}" if kernel.build_id else "the kernel's PDB"
        yield Nt(target, from_pdb, Source(SourceKind.DEBUG_INFO, detail))
    guid = kernel.build_id[:32].upper() if kernel.build_id else None
    for candidate in for_each_nt_candidate(load_nt_table(target.platform.arch), guid, target.build_number):
        yield Nt(target, candidate.layouts, candidate.source, candidate.symbols)


def _layouts_of_pdb(target: KernelTarget) -> dict[str, Layout]:
    found: dict[str, Layout] = {}
    for name in (*REQUIRED_TYPES, *OPTIONAL_TYPES):
        layout = target.find_layout(name, target.kernel)
        if layout is not None:
            found[name] = layout
        elif name in REQUIRED_TYPES:
            return {}
    return found


def _misfit(nt: Nt) -> Optional[str]:
    """Return why the layouts do not fit the kernel, None if the first processes make sense.

    Checked: the first process is System with id 4; in the next ones ids are multiples of 4, names are text, and page
    tables are at possible addresses.  If the list is truncated after System, the layout is not to blame.
    """
    try:
        head = nt.find_symbol("PsActiveProcessHead")
        if head is None:
            return "PsActiveProcessHead is not known"
        links = nt.offset("_EPROCESS", "ActiveProcessLinks")
        checker = _ProcessChecker(nt)
        entry = nt.memory.pointer(head)
        problem = checker.problem(entry - links, first=True)
        if problem is not None:
            return problem
    except (FaultError, LayoutError) as error:
        return str(error)
    try:
        for _ in range(_CHECKED_PROCESSES):
            entry = nt.memory.pointer(entry)
            problem = checker.problem(entry - links, first=False) if entry != head else None
            if entry == head or problem is not None:
                return problem
    except FaultError:
        return None  # whoever lists processes reports the end of the list
    return None


class _ProcessChecker:
    def __init__(self, nt: Nt) -> None:
        self._memory = nt.memory
        self._name = nt.field("_EPROCESS", "ImageFileName")
        self._members = nt.members("_EPROCESS", "UniqueProcessId")
        table_base = nt.field("_KPROCESS", "DirectoryTableBase")
        self._table_base = table_base._replace(offset=table_base.offset + nt.offset("_EPROCESS", "Pcb"))

    def problem(self, process: int, *, first: bool) -> Optional[str]:
        """Return why this address is not a process, None if it is.

        :raises FaultError: if it cannot be read.
        """
        pid = self._members.read(self._memory, process)["UniqueProcessId"]
        name = self._memory.read(process + self._name.offset, self._name.size).partition(b"\0")[0]
        base = self._memory.unsigned(process + self._table_base.offset, self._table_base.size)
        if first and (pid != SYSTEM_PID or name != b"System"):
            return f"the first process is not System with id 4 but {name!r} with {pid}"
        if pid % 4 or not name or any(byte < 0x20 for byte in name):
            return f"there is no process at {process:#x}"
        if base == 0 or base >> 52:
            return f"_KPROCESS.DirectoryTableBase of the process at {process:#x} is {base:#x}"
        return None


def rsds(read: Memory, base: int) -> Optional[str]:
    """Read the GUID and age of the PDB from an image in memory, as symbol servers file them; None if it has none.

    Source: Microsoft's PE/COFF specification, "Debug Directory"; the record is ``RSDS``, GUID, age, path.
    """
    try:
        header = base + read.unsigned(base + 0x3C, 4)
        if read.read(base, 2) != b"MZ" or read.read(header, 4) != b"PE\0\0":
            return None
        optional = header + 24
        directories = optional + (112 if read.unsigned(optional, 2) == 0x20B else 96)
        if read.unsigned(directories - 4, 4) < 7:
            return None
        table = base + read.unsigned(directories + 6 * 8, 4)
        count = min(read.unsigned(directories + 6 * 8 + 4, 4) // 28, 16)
        for number in range(count):
            kind, _, rva = struct.unpack("<III", read.read(table + 28 * number + 12, 12))
            record = read.try_read(base + rva, 24) if kind == 2 and rva else None
            if record and record.startswith(b"RSDS"):
                first, second, third = struct.unpack_from("<IHH", record, 4)
                age = int.from_bytes(record[20:24], "little")
                return f"{first:08X}{second:04X}{third:04X}{record[12:20].hex().upper()}{age:X}"
    except DlwhyError:
        return None  # the build then decides by its number alone, and the layout is checked
    return None
