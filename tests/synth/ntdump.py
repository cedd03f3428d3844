r"""Write the dump of a Windows machine that never ran, from nothing but a layout of NT's structures.

It shares no code with the readers.  What it holds is what `dllshare` and its witnesses look at: page tables, the list
of processes, VAD trees, sections, file objects, handle tables, and what a debugger needs to open it at all (header,
KDDEBUGGER_DATA64, a processor's PRCB, the kernel's image).

    machine = Machine(windows("6.1.7601.17514"))
    python = machine.process(2296, "python.exe")
    file = machine.file("\\Program Files\\Python35\\python35.dll")
    image = file.image(file.open("R--", "r-d"), references=3)
    python.map(image, 0x66FB0000, 0x66FB0000 + 0x3E2000)
    machine.write(path)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from .ntimage import KernelImage
from .ntlayout import Structs, Windows

PAGE = 4096
#: The top-level entry by which x64 page tables map themselves, up to Windows 10 1511.
SELF_MAP = 0x1ED
PAGES_IN_RUN = 37  # then a hole follows, so that a dump has more than one run

IMAGE_SIZE = 0x10000
X64_IMAGE = 0xFFFFF80012000000
X86_IMAGE = 0x82800000
# What the image of a kernel without a compiler holds, by offset: names that debuggers know from a PDB.
GLOBALS = {
    "PsActiveProcessHead": 0x2000,
    "PsLoadedModuleList": 0x2010,
    "KdpDataList": 0x2020,
    "KeTimeIncrement": 0x2040,
    "MmPfnDatabase": 0x2048,
    "MmHighestUserAddress": 0x2050,
    "MmSystemRangeStart": 0x2058,
    "MmUserProbeAddress": 0x2060,
    "CmNtCSDVersion": 0x2068,
    "PspCidTable": 0x2070,
    "KiBugcheckData": 0x2080,
    "NtBuildLab": 0x20C0,
    "KiGdt": 0x2100,
    "MmProtectToValue": 0x2180,
    "KiProcessorBlock": 0x2200,
    "KdDebuggerDataBlock": 0x2400,
    "KiNtEntry": 0x2800,
    "KiNtNames": 0x2900,
    "KiInitialPCR": 0x3000,
    "KiStack": 0x8000,
    "KeBugCheckEx": 0x1000,
}

# Where the processor's control block keeps things: any place does, KDDEBUGGER_DATA64 says where.
PRCB_IN_PCR = 0x180
PRCB_SIZE = 0x2000
PRCB = {"Number": 0x4, "CurrentThread": 0x8, "IdleThread": 0x18, "MHz": 0x20, "CpuType": 0x24, "Vendor": 0x28}
PRCB.update({"Dpc": 0x38, "Special": 0x40, "Frame": 0x140, "Context": 0x640})

_VERSIONS = ((10240, (10, 0)), (9600, (6, 3)), (7600, (6, 1)), (2600, (5, 1)))

PROTECTIONS = {"READONLY": 1, "EXECUTE_READ": 3, "READWRITE": 4, "EXECUTE_WRITECOPY": 7}
VAD_IMAGE_MAP = 2


class FileObject(NamedTuple):
    """A file object that was written: its address, and that of the file's section object pointers."""

    address: int
    pointers: int


class Section(NamedTuple):
    """A section that was written."""

    control_area: int
    subsection: int
    prototypes: int
    file: Optional[FileObject]
    is_image: bool


class Node(NamedTuple):
    """A VAD that was written, before it is put into its tree."""

    start: int
    address: int


class File:
    """A file that is open or mapped somewhere."""

    def __init__(self, machine: Machine, name: str, where: str) -> None:
        self.machine = machine
        self.name = name
        self.where = where
        self.pointers = machine.allocate("_SECTION_OBJECT_POINTERS", b"MmSo")
        #: What the file system has of the file.
        self.context = machine.pool(0x20, b"Ntff")

    def open(
        self,
        access: str = "R--",
        sharing: str = "r-d",
        *,
        closed: bool = True,
        delete_pending: bool = False,
        where: Optional[str] = None,
    ) -> FileObject:
        """Open it; ``closed`` says that the last handle was closed since, as the loader does."""
        m = self.machine
        address = m.allocate("_FILE_OBJECT", b"File", before=m.body)

        def put(member: str, value: int) -> None:
            m.put(address, "_FILE_OBJECT", member, value)

        m.put(address - m.body, "_OBJECT_HEADER", "PointerCount", 1)
        put("Type", 5)
        put("Size", m.size("_FILE_OBJECT"))
        put("FsContext", self.context)
        put("SectionObjectPointer", self.pointers)
        for member, letter in (("ReadAccess", "R"), ("WriteAccess", "W"), ("DeleteAccess", "D")):
            put(member, letter in access)
        for member, letter in (("SharedRead", "r"), ("SharedWrite", "w"), ("SharedDelete", "d")):
            put(member, letter in sharing)
        put("DeletePending", delete_pending)
        put("Flags", 0x44042 if closed else 0x40042)
        text = self.name.encode("utf-16-le")
        buffer = m.text(text, where or self.where)
        name = address + m.field("_FILE_OBJECT", "FileName")[0]
        m.write(name, struct.pack("<HH", len(text), len(text) + 2))
        m.put(name, "_UNICODE_STRING", "Buffer", buffer)
        return FileObject(address, self.pointers)

    def image(self, file: FileObject, *, references: int = 1, sections: int = 0) -> Section:
        """Make the file's image section; ``references`` is the count in the fast reference."""
        section = self.machine.section(file, is_image=True, references=references, sections=sections)
        self.machine.put(self.pointers, "_SECTION_OBJECT_POINTERS", "ImageSectionObject", section.control_area)
        return section

    def data(
        self, file: FileObject, *, references: int = 1, sections: int = 0, users: int = 0, writable: int = 0
    ) -> Section:
        """Make the file's data section, with so many user references besides the views."""
        section = self.machine.section(
            file, is_image=False, references=references, sections=sections, users=users, writable=writable
        )
        self.machine.put(self.pointers, "_SECTION_OBJECT_POINTERS", "DataSectionObject", section.control_area)
        return section


class Process:
    """A process of the machine."""

    hidden = False

    def __init__(self, machine: Machine, pid: int, name: str, *, wow64: bool, exited: bool) -> None:
        self.machine = machine
        self.pid = pid
        self.root = machine.new_root()
        self.vads: list[Node] = []
        self.handles: list[tuple[int, int]] = []
        m = machine
        self.eprocess = m.allocate("_EPROCESS", b"Proc", before=m.body)

        def put(member: str, value: int) -> None:
            m.put(self.eprocess, "_EPROCESS", member, value)

        put("UniqueProcessId", pid)
        put("CreateTime", 0x1D4F8386FE97488)
        put("ExitTime", 0x1D4F8386FE97999 if exited else 0)
        put("ActiveThreads", 0 if exited else 3)
        at, size = m.field("_EPROCESS", "ImageFileName")[:2]
        m.write(self.eprocess + at, name.encode()[: size - 1].ljust(size, b"\0"))
        pcb = self.eprocess + m.field("_EPROCESS", "Pcb")[0]
        m.put(pcb, "_KPROCESS", "DirectoryTableBase", self.root | (1 if m.layout.build > 16000 else 0))
        put("InheritedFromUniqueProcessId", 4)
        self.exited = exited
        if wow64:
            put("Wow64Process" if m.has("_EPROCESS", "Wow64Process") else "WoW64Process", m.pool(0x40, b"WowP"))

    def map(
        self,
        section: Section,
        start: int,
        end: int,
        *,
        protection: str = "",
        commit: int = 0,
    ) -> int:
        """Map a section at ``start`` to ``end``, exclusive; gives the address of the VAD."""
        m = self.machine
        tag = b"Vadm" if section.is_image else b"Vad "
        vad = m.allocate("_MMVAD", tag)
        short = vad + (m.field("_MMVAD", "Core")[0] if m.has("_MMVAD", "Core") else 0)
        default = "EXECUTE_WRITECOPY" if section.is_image else "READONLY"
        kind = VAD_IMAGE_MAP if section.is_image else 0
        self._fill(short, start, end, kind, protection or default, commit, private=False)
        if m.has("_MMVAD", "ControlArea"):
            m.put(vad, "_MMVAD", "ControlArea", section.control_area)
        else:
            m.put(vad, "_MMVAD", "Subsection", section.subsection)
        m.put(vad, "_MMVAD", "FirstPrototypePte", section.prototypes)
        m.add(section.control_area, "_CONTROL_AREA", "NumberOfMappedViews")
        m.add(section.control_area, "_CONTROL_AREA", "NumberOfUserReferences")
        if m.has("_MMVAD", "ViewLinks"):
            ring = "ListHead" if m.has("_CONTROL_AREA", "ListHead") else "ViewList"
            head = section.control_area + m.field("_CONTROL_AREA", ring)[0]
            m.link_tail(head, vad + m.field("_MMVAD", "ViewLinks")[0])
            m.put(vad, "_MMVAD", "VadsProcess", self.eprocess | 1)
        self.vads.append(Node(start, short))
        return vad

    def private(self, start: int, end: int) -> int:
        """Reserve private memory: a short VAD, with something that is no pointer behind it."""
        m = self.machine
        vad = m.allocate("_MMVAD_SHORT", b"VadS")
        self._fill(vad, start, end, 0, "READWRITE", (end - start) // PAGE, private=True)
        self.vads.append(Node(start, vad))
        return vad

    def _fill(self, vad: int, start: int, end: int, kind: int, protection: str, commit: int, *, private: bool) -> None:
        m = self.machine
        for member, value in (("StartingVpn", start // PAGE), ("EndingVpn", end // PAGE - 1)):
            bits = 8 * m.field("_MMVAD_SHORT", member)[1]
            m.put(vad, "_MMVAD_SHORT", member, value & ((1 << bits) - 1))
            if m.has("_MMVAD_SHORT", member + "High"):
                m.put(vad, "_MMVAD_SHORT", member + "High", value >> bits)
            else:
                assert value >> bits == 0
        flags = vad + m.field("_MMVAD_SHORT", "u.VadFlags")[0]
        if m.has("_MMVAD_FLAGS", "VadType"):
            m.put(flags, "_MMVAD_FLAGS", "VadType", kind)
        else:
            m.put(flags, "_MMVAD_FLAGS", "ImageMap", kind == VAD_IMAGE_MAP)
        m.put(flags, "_MMVAD_FLAGS", "Protection", PROTECTIONS[protection])
        m.put(flags, "_MMVAD_FLAGS", "PrivateMemory", private)
        if m.has("_MMVAD_FLAGS", "CommitCharge"):
            m.put(flags, "_MMVAD_FLAGS", "CommitCharge", commit)
        else:
            m.put(vad + m.field("_MMVAD_SHORT", "u1.VadFlags1")[0], "_MMVAD_FLAGS1", "CommitCharge", commit)

    def open(self, file: FileObject, access: int = 0x120089) -> int:
        """Open a handle; gives its value."""
        self.handles.append((file.address, access))
        return 4 * len(self.handles)

    def open_section(self, section: Section, access: int = 0xF001F) -> int:
        """Open a handle of a section; gives its value."""
        self.handles.append((self.machine.section_object(section), access))
        return 4 * len(self.handles)

    def lose_vads(self) -> None:
        """Lead the tree of VADs nowhere, once it is written."""
        m = self.machine
        root = self.eprocess + m.field("_EPROCESS", "VadRoot")[0]
        if m.has("_MM_AVL_TABLE", "BalancedRoot"):
            root += m.field("_MM_AVL_TABLE", "BalancedRoot")[0] + m.field("_MMADDRESS_NODE", "RightChild")[0]
        m.put_pointer(root, m.nowhere)

    def write_user(self, address: int, data: bytes) -> None:
        """Put bytes into the process's own memory."""
        for start in range(address - address % PAGE, address + len(data), PAGE):
            if self.machine.translate(self.root, start) is None:
                self.machine.map_page(self.root, start, self.machine.new_frame(), user=True)
        self.machine.write(address, data, root=self.root)


class Machine:
    """A machine: physical pages, kernel space, and processes."""

    def __init__(
        self, layout: Windows, *, image: Optional[KernelImage] = None, pae: bool = True, lab: str = ""
    ) -> None:
        """Begin; ``image`` is one with a PDB, in place of the plain one.  On x86, ``pae`` chooses the page tables."""
        self.layout = layout
        self.pointer_size = layout.pointer_size
        self.pae = pae
        self.pages: dict[int, bytearray] = {}
        self._next_frame = 0x101
        self._in_run = 0
        self._pool = 0xFFFFFA8000000000 if self.pointer_size == 8 else 0x85000000
        self._pool_end = self._pool
        self.base = X64_IMAGE if self.pointer_size == 8 else X86_IMAGE
        content = plain_image(layout, self.base)
        self.symbols = dict(GLOBALS)
        if image is not None:
            self.base, self.symbols, content = image.base, image.symbols, image.content
        self.image_size = len(content)
        self.body = self.structs["_OBJECT_HEADER"]["fields"]["Body"][0]
        self.lab = lab or f"{layout.build}.1.synth"
        self.roots: list[int] = []
        #: The structures that were allocated, and those of handles, with the objects that these are of.
        self.written: list[tuple[str, int]] = []
        self.targets: dict[int, int] = {}
        self.kernel_root = self.new_root()
        self.processes: list[Process] = []
        self.drivers: list[int] = []
        for offset in range(0, self.image_size, PAGE):
            self.map_page(self.kernel_root, self.base + offset, self.new_frame())
        self.write(self.base, content)
        self._grow_pool(PAGE)
        self._share_user_data()
        self.process(4, "System")

    def _share_user_data(self) -> None:
        """Map KUSER_SHARED_DATA with the version of Windows, by which volatility3 knows page tables."""
        address = 0xFFFFF78000000000 if self.pointer_size == 8 else 0xFFDF0000
        self.map_page(self.kernel_root, address, self.new_frame())
        version = next(v for build, v in _VERSIONS if self.layout.build >= build)
        self.write(address + 0x26C, struct.pack("<II", *version))

    # -- what tests build with --------------------------------------------------------------------------------

    def process(
        self, pid: int, name: str, *, wow64: bool = False, exited: bool = False, hidden: bool = False
    ) -> Process:
        """Start a process; a hidden one is in no list."""
        process = Process(self, pid, name, wow64=wow64, exited=exited)
        process.hidden = hidden
        self.processes.append(process)
        return process

    def file(self, name: str, *, where: str = "resident") -> File:
        """Make a file; ``where`` is where its name lies: resident, transition, prototype or pagefile."""
        return File(self, name, where)

    def section(
        self,
        file: Optional[FileObject],
        *,
        is_image: bool,
        references: int = 0,
        sections: int = 0,
        users: int = 0,
        writable: int = 0,
    ) -> Section:
        """Make a section: of a file, or backed by the page file."""
        area = self.allocate("_CONTROL_AREA", b"MmCa")
        segment = self.allocate("_SEGMENT", b"MmSm")
        subsection = self.allocate("_SUBSECTION", b"MmCi")
        prototypes = self.pool(0x40, b"MmSt")
        self.put(segment, "_SEGMENT", "ControlArea", area)
        self.put(subsection, "_SUBSECTION", "ControlArea", area)
        self.put(area, "_CONTROL_AREA", "Segment", segment)
        self.put(area, "_CONTROL_AREA", "NumberOfSectionReferences", sections)
        self.put(area, "_CONTROL_AREA", "NumberOfUserReferences", users + sections)
        if not is_image and self.has("_CONTROL_AREA", "u2.e2.WritableUserReferences"):
            self.put(area, "_CONTROL_AREA", "u2.e2.WritableUserReferences", writable)
        if self.has("_MMVAD", "ControlArea"):
            references = 0  # XP keeps a plain pointer
        self.put(area, "_CONTROL_AREA", "FilePointer", (file.address | references) if file else 0)
        flags = area + self.field("_CONTROL_AREA", "u.Flags")[0]
        self.put(flags, "_MMSECTION_FLAGS", "Image", is_image)
        self.put(flags, "_MMSECTION_FLAGS", "File", file is not None)
        for ring in ("ListHead", "ViewList"):
            if self.has("_CONTROL_AREA", ring):
                self.empty_list(area + self.field("_CONTROL_AREA", ring)[0])
        return Section(area, subsection, prototypes, file, is_image)

    def section_object(self, section: Section) -> int:
        """Make a section object, which a handle can be of."""
        name = "_SECTION" if "_SECTION" in self.structs else "_SECTION_OBJECT"
        address = self.allocate(name, b"Sect", before=self.body)
        if name == "_SECTION":
            self.put(address, name, "u1.ControlArea", section.control_area)
        else:
            self.put(address, name, "Segment", self.get(section.control_area, "_CONTROL_AREA", "Segment"))
        return address

    def driver(
        self, path: str, base: int, size: int, section: Optional[Section] = None, where: str = "resident"
    ) -> int:
        """Load a driver; without a section the boot loader has done so.  Gives its entry in the list of modules."""
        wide = self.pointer_size == 8
        entry = self.pool(0xA0 if wide else 0x5C, b"MmLd")
        at_base, at_name, at_section = (0x30, 0x48, 0x70) if wide else (0x18, 0x24, 0x3C)
        self.put_pointer(entry + at_base, base)
        self.write(entry + at_base + 2 * self.pointer_size, struct.pack("<I", size))
        data = path.encode("utf-16-le")
        self.write(entry + at_name, struct.pack("<HH", len(data), len(data) + 2))
        self.put_pointer(entry + at_name + self.pointer_size, self.text(data, where))
        self.put_pointer(entry + at_section, self.section_object(section) if section else 0)
        self.drivers.append(entry)
        return entry

    def cut_processes(self, process: Process) -> None:
        """Lead the list of processes nowhere at this one, in both directions, once it is written."""
        links = process.eprocess + self.field("_EPROCESS", "ActiveProcessLinks")[0]
        self.put_pointer(links, self.nowhere)
        self.put_pointer(links + self.pointer_size, self.nowhere)

    @property
    def nowhere(self) -> int:
        """Give an address in kernel space at which there is nothing."""
        return 0xFFFFFA80_7FFF0000 if self.pointer_size == 8 else 0x9FFF0000

    def event(self) -> FileObject:
        """Make an object that is no file: the type of a semaphore is 5 too, as that of a file object."""
        address = self.pool(0x20 + self.body, b"Sema") + self.body
        self.write(address, b"\x05\x00\x08\x00")
        return FileObject(address, 0)

    # -- structures -------------------------------------------------------------------------------------------

    @property
    def structs(self) -> Structs:
        return self.layout.structs

    def has(self, name: str, member: str) -> bool:
        return name in self.layout.structs and member in self.layout.structs[name]["fields"]

    def field(self, name: str, member: str) -> list[int]:
        found: list[int] = self.layout.structs[name]["fields"][member]
        return found

    def size(self, name: str) -> int:
        found: int = self.layout.structs[name]["size"]
        return found

    def put(self, address: int, name: str, member: str, value: int) -> None:
        offset, size, *bits = self.field(name, member)
        if bits:
            shift, count = bits
            old = int.from_bytes(self.read(address + offset, size), "little")
            mask = ((1 << count) - 1) << shift
            value = old & ~mask | (int(value) << shift) & mask
        self.write(address + offset, int(value).to_bytes(size, "little"))

    def get(self, address: int, name: str, member: str) -> int:
        offset, size = self.field(name, member)[:2]
        return int.from_bytes(self.read(address + offset, size), "little")

    def add(self, address: int, name: str, member: str) -> None:
        self.put(address, name, member, self.get(address, name, member) + 1)

    def pointer(self, address: int) -> int:
        return int.from_bytes(self.read(address, self.pointer_size), "little")

    def put_pointer(self, address: int, value: int) -> None:
        self.write(address, value.to_bytes(self.pointer_size, "little"))

    def empty_list(self, head: int) -> None:
        self.put_pointer(head, head)
        self.put_pointer(head + self.pointer_size, head)

    def link_tail(self, head: int, entry: int) -> None:
        last = self.pointer(head + self.pointer_size)
        self.put_pointer(last, entry)
        self.put_pointer(entry, head)
        self.put_pointer(entry + self.pointer_size, last)
        self.put_pointer(head + self.pointer_size, entry)

    # -- memory -----------------------------------------------------------------------------------------------

    def allocate(self, name: str, tag: bytes, before: int = 0) -> int:
        """Allocate a structure in pool, with so much before it."""
        address = self.pool(self.size(name) + before, tag) + before
        self.written.append((name, address))
        return address

    def pool(self, size: int, tag: bytes) -> int:
        """Allocate in pool; what follows an allocation is never zero."""
        header = 16 if self.pointer_size == 8 else 8
        total = header + -(-size // header) * header + header
        if total < PAGE and self._pool % PAGE + total > PAGE:
            self._pool += PAGE - self._pool % PAGE
        self._grow_pool(self._pool + total)
        address = self._pool + header
        self.write(self._pool + 4, tag)
        self.write(address + total - 2 * header, b"\x5a" * header)
        self._pool += total
        return address

    def page(self) -> int:
        """Allocate a page of its own."""
        self._pool += -self._pool % PAGE
        address = self._pool
        self._grow_pool(address + PAGE)
        self._pool += PAGE
        return address

    def _grow_pool(self, end: int) -> None:
        while self._pool_end < end:
            self.map_page(self.kernel_root, self._pool_end, self.new_frame())
            self._pool_end += PAGE

    def text(self, data: bytes, where: str) -> int:
        """Put a string into pool whose page is resident, in transition, behind a prototype PTE, or paged out."""
        if where == "resident":
            address = self.pool(len(data) + 2, b"IoNm")
            self.write(address, data)
            return address
        address = self.page()
        self.write(address, data)
        frame = self.translate(self.kernel_root, address)
        assert frame is not None
        high = 1 << 45 if self.pointer_size == 8 and self.layout.build > 17000 else 0
        if where == "transition":
            entry = frame | high | 0x880
        elif where == "prototype":
            prototype = self.pool(8, b"MmSt")
            self.write(prototype, (frame | 0x121).to_bytes(8, "little"))
            entry = (prototype << 16 | 0x400) & (1 << 64) - 1 if self.pointer_size == 8 else prototype << 32 | 0x400
        else:
            entry = 0x1234_0000_0000_00C0 if self.entry_size == 8 else 0x00012345 & ~1 & ~0xC00
        self.set_entry(self.kernel_root, address, entry)
        return address

    def new_frame(self) -> int:
        """Take a page of physical memory; after some there is a hole."""
        if self._in_run == PAGES_IN_RUN:
            self._next_frame += 11
            self._in_run = 0
        frame = self._next_frame
        self._next_frame += 1
        self._in_run += 1
        self.pages[frame] = bytearray(PAGE)
        return frame

    @property
    def entry_size(self) -> int:
        return 4 if self.pointer_size == 4 and not self.pae else 8

    @property
    def shifts(self) -> tuple[tuple[int, int], ...]:
        """Give shift and number of entries of each level of tables."""
        if self.pointer_size == 8:
            return ((39, 512), (30, 512), (21, 512), (12, 512))
        return ((30, 4), (21, 512), (12, 512)) if self.pae else ((22, 1024), (12, 1024))

    def new_root(self) -> int:
        """Make page tables; kernel space is shared by all, as far as its top level exists by then."""
        root = self.new_frame() * PAGE
        if self.pointer_size == 4 and self.pae:
            for index in range(4):
                self.set_word(root + 8 * index, self.new_frame() * PAGE | 1)
        if self.pointer_size == 8:
            self.set_word(root + 8 * SELF_MAP, root | 0x63)
        if not self.roots:
            self.roots.append(root)
            for start in (0xFFFFF78000000000, 0xFFFFF80000000000, 0xFFFFFA8000000000) if self.pointer_size == 8 else ():
                self._table(root, start, 1)
            return root
        self.roots.append(root)
        first = self.roots[0]
        if self.pointer_size == 4 and self.pae:
            for index in (2, 3):
                self.set_word(root + 8 * index, self.word(first + 8 * index))
        else:
            half = PAGE // 2
            self.pages[root // PAGE][half:] = self.pages[first // PAGE][half:]
            if self.pointer_size == 8:
                self.set_word(root + 8 * SELF_MAP, root | 0x63)
        return root

    def word(self, physical: int) -> int:
        page = self.pages[physical // PAGE]
        return int.from_bytes(page[physical % PAGE : physical % PAGE + self.entry_size], "little")

    def set_word(self, physical: int, value: int) -> None:
        at = physical % PAGE
        self.pages[physical // PAGE][at : at + self.entry_size] = value.to_bytes(self.entry_size, "little")

    def _table(self, root: int, address: int, depth: int) -> int:
        """Give the table of a level for an address, making those on the way."""
        table = root
        for number, (shift, entries) in enumerate(self.shifts[:depth]):
            at = table + (address >> shift & entries - 1) * self.entry_size
            if not self.word(at) & 1:
                flags = 1 if self.pointer_size == 4 and self.pae and number == 0 else 7
                self.set_word(at, self.new_frame() * PAGE | flags)
                if number == 0 and self.pointer_size == 4 and not self.pae and address >= 1 << 31:
                    for other in self.roots:
                        self.set_word(other + at % PAGE, self.word(at))
            table = self.word(at) & 0xFFFFFFFFFF000
        return table

    def set_entry(self, root: int, address: int, entry: int) -> None:
        table = self._table(root, address, len(self.shifts) - 1)
        shift, entries = self.shifts[-1]
        self.set_word(table + (address >> shift & entries - 1) * self.entry_size, entry)

    def map_page(self, root: int, address: int, frame: int, *, user: bool = False) -> None:
        self.set_entry(root, address, frame * PAGE | (0x67 if user else 0x63))

    def read_table(self, root: int, address: int) -> int:
        """Give the table of the second level for an address."""
        return self._table(root, address, 1)

    def map_large(self, root: int, address: int, frame: int) -> None:
        """Map a large page, 2 MiB or, with two-level tables, 4 MiB."""
        depth = len(self.shifts) - 2
        table = self._table(root, address, depth)
        shift, entries = self.shifts[depth]
        self.set_word(table + (address >> shift & entries - 1) * self.entry_size, frame * PAGE | 0xE3)

    def translate(self, root: int, address: int) -> Optional[int]:
        table = root
        for shift, entries in self.shifts:
            entry = self.word(table + (address >> shift & entries - 1) * self.entry_size)
            if not entry & 1:
                return None
            table = entry & 0xFFFFFFFFFF000
        return table

    def _pieces(self, address: int, size: int, root: Optional[int]) -> Iterator[tuple[bytearray, int, int]]:
        end = address + size
        while address < end:
            step = min(PAGE - address % PAGE, end - address)
            physical = self.translate(root or self.kernel_root, address)
            assert physical is not None, hex(address)
            yield self.pages[physical // PAGE], address % PAGE, step
            address += step

    def read(self, address: int, size: int) -> bytes:
        return b"".join(bytes(page[at : at + step]) for page, at, step in self._pieces(address, size, None))

    def write(self, address: int, data: bytes, root: Optional[int] = None) -> None:
        done = 0
        for page, at, step in self._pieces(address, len(data), root):
            page[at : at + step] = data[done : done + step]
            done += step

    # -- what only the finished machine has -------------------------------------------------------------------

    def symbol(self, name: str) -> int:
        return self.base + self.symbols[name]

    def finish(self) -> None:
        """Link processes, balance VAD trees, write handle tables and what debuggers want; once.

        `save` does it; call it before to damage the result.
        """
        if self._finished:
            return
        self._finished = True
        head = self.symbol("PsActiveProcessHead")
        self.empty_list(head)
        for process in self.processes:
            if not process.hidden:
                self.link_tail(head, process.eprocess + self.field("_EPROCESS", "ActiveProcessLinks")[0])
            self._plant(process)
            self._write_handles(process)
        self._write_debugger_data()

    _finished = False

    def _plant(self, process: Process) -> None:
        nodes = [node.address for node in sorted(process.vads)]
        field = process.eprocess + self.field("_EPROCESS", "VadRoot")[0]
        if self.has("_MMVAD_SHORT", "VadNode"):
            at = self.field("_MMVAD_SHORT", "VadNode")[0]
            left, right, parent = (
                at + self.field("_RTL_BALANCED_NODE", name)[0] for name in ("Left", "Right", "ParentValue")
            )
            self.put_pointer(field + self.field("_RTL_AVL_TREE", "Root")[0], 0)
            root = self._grow_tree(nodes, left, right, parent, 0, at)
            if root:
                self.put_pointer(field + self.field("_RTL_AVL_TREE", "Root")[0], root + at)
            return
        left, right = (self.field("_MMVAD_SHORT", name)[0] for name in ("LeftChild", "RightChild"))
        parent = self.field("_MMVAD_SHORT", "u1.Parent" if self.has("_MMVAD_SHORT", "u1.Parent") else "Parent")[0]
        if not self.has("_MM_AVL_TABLE", "BalancedRoot"):
            self.put_pointer(field, self._grow_tree(nodes, left, right, parent, 0, 0))
            return
        sentinel = field + self.field("_MM_AVL_TABLE", "BalancedRoot")[0]
        root = self._grow_tree(nodes, left, right, parent, sentinel, 0)
        self.put_pointer(sentinel + self.field("_MMADDRESS_NODE", "RightChild")[0], root)
        self.put_pointer(sentinel + self.field("_MMADDRESS_NODE", "u1.Parent")[0], sentinel)
        self.put(field, "_MM_AVL_TABLE", "NumberGenericTableElements", len(nodes))

    def _grow_tree(self, nodes: Sequence[int], left: int, right: int, parent: int, above: int, at: int) -> int:
        """Link nodes into a balanced tree; gives its root.  Links lead to ``at`` inside a node."""
        if not nodes:
            return 0
        middle = len(nodes) // 2
        node = nodes[middle]
        for link, part in ((left, nodes[:middle]), (right, nodes[middle + 1 :])):
            child = self._grow_tree(part, left, right, parent, node + at, at)
            self.put_pointer(node + link, child + at if child else 0)
        # Of so many nodes in two halves the left one is never lower: -1 in two bits.
        balance = 3 if middle.bit_length() != (len(nodes) - 1 - middle).bit_length() else 0
        balance = balance if self.has("_MMVAD_SHORT", "VadNode") or self.has("_MM_AVL_TABLE", "BalancedRoot") else 0
        self.put_pointer(node + parent, above | balance)
        return node

    def _write_handles(self, process: Process) -> None:
        if process.exited:
            return
        table = self.allocate("_HANDLE_TABLE", b"Obtb")
        size = self.size("_HANDLE_TABLE_ENTRY")
        per_page = PAGE // size
        pages: list[int] = []
        entries = list(process.handles)
        while entries or not pages:
            page = self.page()
            pages.append(page)
            for index in range(1, per_page):
                if not entries:
                    break
                self._write_handle(page + index * size, *entries.pop(0))
        code = pages[0]
        if len(pages) > 1:
            middle = self.page()
            for index, page in enumerate(pages):
                self.put_pointer(middle + index * self.pointer_size, page)
            code = middle | 1
        self.put(table, "_HANDLE_TABLE", "TableCode", code)
        if self.has("_HANDLE_TABLE", "HandleCount"):
            self.put(table, "_HANDLE_TABLE", "HandleCount", len(process.handles))
        if self.has("_HANDLE_TABLE", "UniqueProcessId"):
            self.put(table, "_HANDLE_TABLE", "UniqueProcessId", process.pid)
        self.put(process.eprocess, "_EPROCESS", "ObjectTable", table)

    def _write_handle(self, entry: int, target: int, access: int) -> None:
        header = target - self.body
        self.written.append(("_HANDLE_TABLE_ENTRY", entry))
        self.targets[entry] = target
        if self.translate(self.kernel_root, header):
            for member in ("PointerCount", "HandleCount"):
                self.add(header, "_OBJECT_HEADER", member)
        if self.has("_HANDLE_TABLE_ENTRY", "ObjectPointerBits"):
            bits = 4 if self.pointer_size == 8 else 3
            width = self.field("_HANDLE_TABLE_ENTRY", "ObjectPointerBits")[3]
            self.put(entry, "_HANDLE_TABLE_ENTRY", "ObjectPointerBits", header >> bits & (1 << width) - 1)
            self.put(entry, "_HANDLE_TABLE_ENTRY", "GrantedAccessBits", access)
            self.put(entry, "_HANDLE_TABLE_ENTRY", "Unlocked", 1)
        else:
            self.put(entry, "_HANDLE_TABLE_ENTRY", "Object", header | 1)
            self.put(entry, "_HANDLE_TABLE_ENTRY", "GrantedAccess", access)

    def _write_debugger_data(self) -> None:
        """Write what a debugger needs: KDDEBUGGER_DATA64, a PRCB with the processor's state, the module list."""
        write = self.write
        wide = self.pointer_size == 8
        system = self.processes[0]
        thread = self.allocate("_KTHREAD", b"Thre")
        apc = self.field("_KTHREAD", "ApcState")[0] + self.field("_KAPC_STATE", "Process")[0]
        self.put_pointer(thread + apc, (self.current or system).eprocess)
        pcr = self.symbol("KiInitialPCR")
        prcb = pcr + PRCB_IN_PCR
        self.put_pointer(prcb + PRCB["CurrentThread"], thread)
        self.put_pointer(prcb + PRCB["IdleThread"], thread)
        write(prcb + PRCB["MHz"], struct.pack("<II", 3000, 6))
        write(prcb + PRCB["Vendor"], b"GenuineIntel")
        context = self.context()
        write(prcb + PRCB["Frame"], context)
        self.put_pointer(prcb + PRCB["Context"], prcb + PRCB["Frame"])
        if wide:
            write(prcb + PRCB["Special"], struct.pack("<4Q", 0x80050033, 0, self.kernel_root, 0x6F8))
            write(prcb + PRCB["Special"] + 0x56, struct.pack("<HQ", 16 * 8 - 1, self.symbol("KiGdt")))
            code, data, user_code, user_data = (0x00CF9B000000FFFF | ring << 45 for ring in (0, 0, 3, 3))
            wide_code = 0x00209B0000000000
            gdt = (0, 0, wide_code, data & ~(8 << 40), user_code, user_data & ~(8 << 40), wide_code | 3 << 45)
            self.put_pointer(pcr + 0x18, pcr)
            self.put_pointer(pcr + 0x20, prcb)
        else:
            # _KPROCESSOR_STATE begins with the CONTEXT here; KDDEBUGGER_DATA64's offset of the registers is not asked.
            special = prcb + PRCB["Frame"] + len(context)
            write(special, struct.pack("<4I", 0x80010031, 0, self.kernel_root, 0x6F8))
            write(special + 0x2A, struct.pack("<HI", 16 * 8 - 1, self.symbol("KiGdt")))
            code, data, user_code, user_data = (0x00CF9B000000FFFF | ring << 45 for ring in (0, 0, 3, 3))
            in_pcr = (pcr >> 24) << 56 | 0x0040930000003748 | (pcr & 0xFFFFFF) << 16
            gdt = (0, code, data & ~(8 << 40), user_code, user_data & ~(8 << 40), 0, in_pcr)
            self.put_pointer(pcr + 0x1C, pcr)
            self.put_pointer(pcr + 0x20, prcb)
        write(self.symbol("KiGdt"), struct.pack("<7Q", *gdt))
        write(self.symbol("KiProcessorBlock"), prcb.to_bytes(self.pointer_size, "little"))
        write(self.symbol("NtBuildLab"), self.lab.encode()[:63] + b"\0")
        write(self.symbol("KeTimeIncrement"), struct.pack("<I", 156250))
        highest = (0x7FFFFFEFFFF, 0xFFFF080000000000, 0x7FFFFFF0000) if wide else (0x7FFEFFFF, 0x80000000, 0x7FFF0000)
        for name, value in zip(("MmHighestUserAddress", "MmSystemRangeStart", "MmUserProbeAddress"), highest):
            self.put_pointer(self.symbol(name), value)
        # PAGE_NOACCESS to PAGE_EXECUTE_WRITECOPY (winnt.h), by MMVAD_FLAGS.Protection.
        protections = struct.pack("<8I", 0x01, 0x02, 0x10, 0x20, 0x04, 0x08, 0x40, 0x80)
        write(self.symbol("MmProtectToValue"), protections * 4)
        self._write_modules()
        write(self.symbol("KdDebuggerDataBlock"), self.debugger_data(apc))

    current: Optional[Process] = None
    encoded = False

    def _write_modules(self) -> None:
        size = self.pointer_size
        entry, head, names = (self.symbol(name) for name in ("KiNtEntry", "PsLoadedModuleList", "KiNtNames"))
        self.empty_list(head)
        self.link_tail(head, entry)
        base, full = (0x30, 0x48) if size == 8 else (0x18, 0x24)
        for driver in self.drivers:
            self.link_tail(head, driver)
        self.put_pointer(entry + base, self.base)
        self.put_pointer(entry + base + size, self.symbol("KeBugCheckEx"))
        self.write(entry + base + 2 * size, struct.pack("<I", self.image_size))
        for at, text in ((0, "\\SystemRoot\\system32\\ntoskrnl.exe"), (1, "ntoskrnl.exe")):
            data = text.encode("utf-16-le")
            self.write(names, data + b"\0\0")
            string = entry + full + at * 2 * size
            self.write(string, struct.pack("<HH", len(data), len(data) + 2))
            self.put_pointer(string + size, names)
            names += 0x60
        self.write(entry + full + 4 * size, struct.pack("<IH", 0x4004, 99))

    def context(self) -> bytes:
        if self.pointer_size == 4:
            context = bytearray(0x2CC)
            struct.pack_into("<I", context, 0, 0x10007)
            struct.pack_into("<4I", context, 0x8C, 0, 0x30, 0x23, 0x23)
            stack = self.symbol("KiStack") + 0x1F00
            struct.pack_into("<6I", context, 0xB4, stack, self.symbol("KeBugCheckEx"), 8, 0x202, stack, 0x10)
            return bytes(context)
        context = bytearray(0x4D0)
        struct.pack_into("<II", context, 0x30, 0x10000F, 0x1F80)
        struct.pack_into("<HHHHHHI", context, 0x38, 0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18, 0x202)
        struct.pack_into("<Q", context, 0x98, self.symbol("KiStack") + 0x1F00)
        struct.pack_into("<Q", context, 0xF8, self.symbol("KeBugCheckEx"))
        struct.pack_into("<I", context, 0x118, 0x1F80)
        return bytes(context)

    def debugger_data(self, apc: int) -> bytes:
        """Make struct _KDDEBUGGER_DATA64 (wdbgexts.h)."""
        data = bytearray(0x360)

        def pointer(offset: int, value: int) -> None:
            if self.pointer_size == 4 and value >> 31:
                value |= 0xFFFFFFFF00000000
            struct.pack_into("<Q", data, offset, value)

        def short(offset: int, *values: int) -> None:
            struct.pack_into(f"<{len(values)}H", data, offset, *(value & 0xFFFF for value in values))

        pointer(0, self.symbol("KdpDataList"))
        pointer(8, self.symbol("KdpDataList"))
        struct.pack_into("<4sI", data, 0x10, b"\xa7\x3c\x11\x90" if self.encoded else b"KDBG", 0x360)
        pointer(0x18, self.base)
        short(0x36, int(self.pae or self.pointer_size == 8))
        for offset, name in (
            (0x48, "PsLoadedModuleList"),
            (0x50, "PsActiveProcessHead"),
            (0x58, "PspCidTable"),
            (0x78, "KeTimeIncrement"),
            (0x88, "KiBugcheckData"),
            (0xC0, "MmPfnDatabase"),
            (0x1C8, "MmHighestUserAddress"),
            (0x1D0, "MmSystemRangeStart"),
            (0x1D8, "MmUserProbeAddress"),
            (0x208, "NtBuildLab"),
            (0x218, "KiProcessorBlock"),
            (0x268, "CmNtCSDVersion"),
        ):
            pointer(offset, self.symbol(name))
        struct.pack_into("<Q", data, 0x138, PAGE)

        def kthread(member: str) -> int:
            return self.field("_KTHREAD", member)[0]

        def eprocess(member: str) -> int:
            return self.field("_EPROCESS", member)[0]

        table = eprocess("Pcb") + self.field("_KPROCESS", "DirectoryTableBase")[0]
        short(0x298, 0, kthread("Teb"), 0, 0, apc, kthread("State"), 0, 0)
        short(0x2A8, self.size("_EPROCESS"), eprocess("Peb"), eprocess("InheritedFromUniqueProcessId"), table)
        short(0x2B0, PRCB_SIZE, PRCB["Dpc"], PRCB["CurrentThread"], PRCB["MHz"], PRCB["CpuType"], PRCB["Vendor"])
        short(0x2BC, PRCB["Frame"], PRCB["Number"], self.size("_KTHREAD"))
        self_pcr = 0x18 if self.pointer_size == 8 else 0x1C
        short(0x2E0, PRCB_IN_PCR + PRCB_SIZE, self_pcr, 0x20, PRCB_IN_PCR, 0, 0, 0, 0, 0, PRCB["Special"])
        if self.pointer_size == 8:
            short(0x2F4, 0x10, 0x18, 0x20, 0x30, 0x28, 0x50, 0, 0x40, 0x20, 0x50)
        else:
            short(0x2F4, 0x8, 0x10, 0x30, 0x18, 0x20, 0x38, 0, 0x28, 0, 0)
        short(0x338, PRCB["Context"])
        return bytes(data)

    # -- the file ---------------------------------------------------------------------------------------------

    def runs(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for frame in sorted(self.pages):
            if found and sum(found[-1]) == frame:
                found[-1] = (found[-1][0], found[-1][1] + 1)
            else:
                found.append((frame, 1))
        return found

    def save(self, path: Path, form: str = "complete") -> Path:
        """Write the dump: complete, kernel, bitmap, or ranges; triage, of x64, has no pages."""
        self.finish()
        self.new_frame()  # of a dump with a bitmap Microsoft's engine does not show the last page
        wide = self.pointer_size == 8
        kind = {"complete": 1, "kernel": 2, "bitmap": 5, "ranges": 8, "triage": 4}[form]
        header = self._header_64(kind) if wide else self._header_32(kind)
        if form == "triage":
            path.write_bytes(header + self._triage(len(header)))
            return path
        contents = b"".join(bytes(self.pages[frame]) for frame in sorted(self.pages))
        between = _BETWEEN[form](self, len(header))
        path.write_bytes(header + between + contents)
        return path

    def _triage(self, start: int) -> bytes:
        """Make a TRIAGE_DUMP64 (ntiodump.h) and what follows: a process, a thread and a stack."""
        assert self.pointer_size == 8
        pieces = bytearray()
        first = start + 0x80

        def add(data: bytes) -> int:
            nonlocal pieces
            pieces += b"\0" * (-len(pieces) % 16)
            pieces += data
            return first + len(pieces) - len(data)

        stack = self.symbol("KiStack") + 0x1F00
        process = self.processes[0].eprocess
        debugger = add(self.read(self.symbol("KdDebuggerDataBlock"), 0x360))
        prcb = add(self.read(self.symbol("KiInitialPCR") + PRCB_IN_PCR, PRCB_SIZE))
        owner = add(self.read(process, self.size("_EPROCESS")))
        thread = add(self.read(self.pointer(self.symbol("KiInitialPCR") + PRCB_IN_PCR + PRCB["CurrentThread"]), 0x400))
        words = add(self.read(stack, 0x100))
        valid = add(b"TRGD")
        head = struct.pack("<12I", 0, valid + 4, valid, 0x348, 0xF00, 0, 0, prcb, owner, thread, words, 0x100)
        head += struct.pack("<6I", 0, 0, 0, 0, 0, 0x41) + struct.pack("<QQQQII", stack, 0, 0, 0, 0, 0)
        return head + struct.pack("<IIII", debugger, 0x360, 0, 0) + bytes(pieces)

    def _header_64(self, kind: int) -> bytes:
        header = bytearray(b"PAGE" * 0x800)
        put = struct.pack_into
        put("<4s4sII4Q", header, 0, b"PAGE", b"DU64", 15, self.layout.build, self.kernel_root, 0, 0, 0)
        put("<QQQ", header, 0x18, self.symbol("MmPfnDatabase"), *self.heads())
        put("<III", header, 0x30, 0x8664, 1, 0xE2)
        put("<4Q", header, 0x40, 1, 2, 3, 4)
        header[0x60:0x80] = bytes(32)
        put("<Q", header, 0x80, self.symbol("KdDebuggerDataBlock"))
        runs = self.runs()
        room = (0x348 - 0x98) // 16
        if kind in (1, 2):
            assert len(runs) <= room, "more runs than a header holds: write another form"
            put("<IIQ", header, 0x88, len(runs), 0, len(self.pages))
            for number, run in enumerate(runs):
                put("<QQ", header, 0x98 + 16 * number, *run)
        header[0x348 : 0x348 + 3000] = self.context().ljust(3000, b"\0")
        header[0xF00:0xF98] = struct.pack("<IIQQI", 0x80000003, 0, 0, self.symbol("KeBugCheckEx"), 0).ljust(0x98, b"\0")
        put("<II", header, 0xF98, kind, 0)
        put("<QQ", header, 0xFA0, 0x2000 + PAGE * len(self.pages), 0x1D4F8386FE97488)
        header[0xFB0:0x1030] = bytes(128)
        put("<QIIIIII", header, 0x1030, 600000000, 0, 0, 1, 0x110, 1, 0)
        return bytes(header)

    def heads(self) -> tuple[int, int]:
        return self.symbol("PsLoadedModuleList"), self.symbol("PsActiveProcessHead")

    def _header_32(self, kind: int) -> bytes:
        header = bytearray(b"PAGE" * 0x400)
        put = struct.pack_into
        put("<4s4sII", header, 0, b"PAGE", b"DUMP", 15, self.layout.build)
        put("<4I", header, 0x10, self.kernel_root, self.symbol("MmPfnDatabase"), *self.heads())
        put("<3I4I", header, 0x20, 0x14C, 1, 0xE2, 1, 2, 3, 4)
        header[0x3C:0x5C] = bytes(32)
        put("<BBH", header, 0x5C, int(self.pae), 0, 0)
        put("<I", header, 0x60, self.symbol("KdDebuggerDataBlock"))
        runs = self.runs()
        if kind in (1, 2):
            assert 8 + 8 * len(runs) <= 700
            put("<II", header, 0x64, len(runs), len(self.pages))
            for number, run in enumerate(runs):
                put("<II", header, 0x6C + 8 * number, *run)
        header[0x320 : 0x320 + 1200] = self.context().ljust(1200, b"\0")
        # pykd copies as many parameters as the exception says that it has.
        header[0x7D0:0x820] = struct.pack("<5I", 0x80000003, 0, 0, self.symbol("KeBugCheckEx"), 0).ljust(0x50, b"\0")
        header[0x820:0x8A0] = bytes(128)
        put("<I", header, 0xF88, kind)
        put("<Q", header, 0xFA0, 0x1000 + PAGE * len(self.pages))
        return bytes(header)


def _bitmap(machine: Machine) -> bytes:
    bits = -(-(max(machine.pages) + 1) // 64) * 64
    bitmap = bytearray(bits // 8)
    for frame in machine.pages:
        bitmap[frame // 8] |= 1 << frame % 8
    return bytes(bitmap)


def _after_bitmap(start: int, head: int, bitmap: bytes) -> int:
    return -(-(start + head + len(bitmap)) // PAGE) * PAGE


def _kernel_form(machine: Machine, start: int) -> bytes:
    """SUMMARY_DUMP32 or 64, as Windows XP to 7 write it."""
    bitmap = _bitmap(machine)
    head = 0x28 if machine.pointer_size == 8 else 0x20
    first = _after_bitmap(start, head, bitmap)
    summary = struct.pack("<4s4sIIII", b"SDMP", b"DUMP", 0, first, 8 * len(bitmap), len(machine.pages))
    summary += struct.pack("<I", 8 * len(bitmap))
    return (summary.ljust(head, b"\0") + bitmap).ljust(first - start, b"\0")


def _bitmap_form(machine: Machine, start: int) -> bytes:
    bitmap = _bitmap(machine)
    first = _after_bitmap(start, 0x38, bitmap)
    head = b"FDMPDUMP".ljust(0x20, b"\0") + struct.pack("<QQQ", first, len(machine.pages), 8 * len(bitmap))
    return (head + bitmap).ljust(first - start, b"\0")


def _ranges_form(machine: Machine, start: int) -> bytes:
    ranges = b"".join(struct.pack("<QQ", *run) for run in machine.runs())
    first = start + 0x30 + len(ranges) + 16
    head = struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, first - start - 0x20, first)
    return (head.ljust(0x30, b"\0") + ranges).ljust(first - start, b"\0")


_BETWEEN: dict[str, Callable[[Machine, int], bytes]] = {
    "complete": lambda machine, start: b"",
    "kernel": _kernel_form,
    "bitmap": _bitmap_form,
    "ranges": _ranges_form,
}


def plain_image(layout: Windows, base: int) -> bytes:
    """Make a kernel's image with a debug directory that names its PDB, and nothing else."""
    wide = layout.pointer_size == 8
    image = bytearray(IMAGE_SIZE)
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 0x80)
    struct.pack_into("<4sHHIIIHH", image, 0x80, b"PE\0\0", 0x8664 if wide else 0x14C, 1, 0, 0, 0, 0xF0, 0x22)
    optional = 0x98
    struct.pack_into("<H", image, optional, 0x20B if wide else 0x10B)
    struct.pack_into("<Q" if wide else "<I", image, optional + (24 if wide else 28), base)
    struct.pack_into("<II", image, optional + 32, 0x1000, 0x1000)
    struct.pack_into("<II", image, optional + 56, IMAGE_SIZE, 0x400)
    directories = optional + (112 if wide else 96)
    struct.pack_into("<I", image, directories - 4, 16)
    struct.pack_into("<II", image, directories + 6 * 8, 0x600, 28)
    guid = bytes.fromhex(layout.guid)
    record = b"RSDS" + guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:] + struct.pack("<I", layout.age)
    record += b"ntkrnlmp.pdb\0"
    struct.pack_into("<IIHHIIII", image, 0x600, 0, 0, 0, 0, 2, len(record), 0x640, 0x640)
    image[0x640 : 0x640 + len(record)] = record
    image[0x1000] = 0xF4  # hlt
    return bytes(image)
