"""What is the worst that a dump of Windows of 64 MB can ask of a reader?

Minidumps whose streams have as many entries as fit, processes whose loader has thousands of DLLs that need one another
in every way, and machines with as many VADs and handles as fit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from dlwhy.tests.synth.minidump import READY_FLAGS, WIDE, WIN7, WIN10, Form
from dlwhy.tests.synth.ntdump import PAGE, Machine
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import build

SIZE = 64 << 20

PEB, LDR, TEB, STACK = 0x2A6_0000_0000, 0x2A6_0000_1000, 0xCB_0000_0000, 0x2_0000_0000
ENTRIES, NODES, EDGES, NAMES = 0x2A7_0000_0000, 0x2A8_0000_0000, 0x2A9_0000_0000, 0x2AA_0000_0000
IMAGES, STRIDE = 0x7FF0_0000_0000, 0x20000
#: The longest that a UNICODE_STRING can be.
LONGEST = 32_766


class DumpFile:
    """A minidump that is written stream by stream; several ranges of memory can show the same bytes."""

    def __init__(self, form: Form = WIN10) -> None:
        self.data = bytearray(32 + 12 * 16)
        self._streams: list[tuple[int, int, int]] = []
        self._memory: list[tuple[int, int, int]] = []
        self.stream(7, struct.pack("<HHHBBIIIIIHH", 9, 6, 0, 8, 1, *form.version, 2, 0, 0, 0) + bytes(24))

    def put(self, data: bytes) -> int:
        """Add bytes; gives their offset."""
        self.data += bytes(-len(self.data) % 16)
        offset = len(self.data)
        self.data += data
        return offset

    def stream(self, kind: int, data: bytes) -> None:
        """Add a stream."""
        self._streams.append((kind, len(data), self.put(data)))

    def show(self, address: int, offset: int, size: int) -> None:
        """Show bytes of the file at an address."""
        self._memory.append((address, size, offset))

    def add(self, address: int, data: bytes) -> None:
        """Add memory."""
        self.show(address, self.put(data), len(data))

    def save(self, path: Path) -> Path:
        """Write it."""
        ranges = b"".join(struct.pack("<QII", *each) for each in self._memory)
        self.stream(5, struct.pack("<I", len(self._memory)) + ranges)
        struct.pack_into("<4sIIIIIQ", self.data, 0, b"MDMP", 0xA793, len(self._streams), 32, 0, 0, 2)
        for index, each in enumerate(self._streams):
            struct.pack_into("<III", self.data, 32 + 12 * index, *each)
        path.write_bytes(self.data)
        return path


def ranges(path: Path) -> Path:
    """Write four million ranges of memory, by falling address."""
    dump, count = DumpFile(), SIZE // 16
    entries = b"".join(struct.pack("<QQ", count - index << 12, 16) for index in range(count))
    dump.stream(9, struct.pack("<QQ", count, 0) + entries)
    return dump.save(path)


def threads(path: Path) -> Path:
    """Write as many threads as fit, each with a context of 4 KB and a name of 64 KB."""
    dump, count = DumpFile(), SIZE // 61
    text = dump.put(struct.pack("<I", 2 * LONGEST) + b"x\0" * LONGEST)
    entries = (struct.pack("<IIIIQQIIII", i, 0, 0, 0, TEB + i, i << 12, 16, 64, PAGE, 32) for i in range(count))
    dump.stream(3, struct.pack("<I", count) + b"".join(entries))
    dump.stream(24, struct.pack("<I", count) + b"".join(struct.pack("<IQ", index, text) for index in range(count)))
    return dump.save(path)


def modules(path: Path) -> Path:
    """Write as many modules as fit, each with a name of 64 KB."""
    dump, count = DumpFile(), SIZE // 109
    text = dump.put(struct.pack("<I", 2 * LONGEST) + b"x\0" * LONGEST)
    entries = (struct.pack("<QIIII84x", index << 16, 0x4000, 0, 0, text) for index in range(count))
    dump.stream(4, struct.pack("<I", count) + b"".join(entries))
    return dump.save(path)


def unloaded(path: Path) -> Path:
    """Write as many unloaded modules as fit, each with a name of 64 KB."""
    dump, count = DumpFile(), SIZE // 25
    text = dump.put(struct.pack("<I", 2 * LONGEST) + b"x\0" * LONGEST)
    entries = (struct.pack("<QIIII", 0x1000000 + (i << 12), 0x1000, 0, i, text) for i in range(count))
    dump.stream(14, struct.pack("<III", 12, 24, count) + b"".join(entries))
    return dump.save(path)


class DllCrowd:
    """A process of 64-bit code with as many DLLs as are asked for; the first two are the program and ntdll."""

    def __init__(self, form: Form, count: int, *, long_names: bool = False, load_count: int = 1) -> None:
        """Lay the loader's lists out; on Windows 10 each node counts ``load_count`` and its importers."""
        self.form = form
        self.count = count
        self.dump = DumpFile(form)
        self._load_count = load_count
        self._long_names = long_names
        self._texts = bytearray(b"n\0" * (LONGEST + 1000) if long_names else b"")
        self._size = 0x140 if form.graph else 0xE0
        peb, ldr = bytearray(PAGE), bytearray(PAGE)
        struct.pack_into("<Q", peb, WIDE.image_base, IMAGES)
        struct.pack_into("<Q", peb, WIDE.ldr, LDR)
        struct.pack_into("<IIH", peb, WIDE.os_major, *form.version)
        struct.pack_into("<IB", ldr, 0, 0x58, 1)
        for place in (0, 16, 32):
            last = ENTRIES + (count - 1) * self._size
            struct.pack_into("<QQ", ldr, WIDE.heads + place, ENTRIES + place, last + place)
        self.dump.add(PEB, bytes(peb))
        self.dump.add(LDR, bytes(ldr))
        self.dump.add(ENTRIES, b"".join(map(self._entry, range(count))))
        self.dump.add(NAMES, bytes(self._texts))
        teb = bytearray(0x2000)
        struct.pack_into("<QQ", teb, 8, STACK + (1 << 20), STACK)
        struct.pack_into("<Q", teb, 0x30, TEB)
        struct.pack_into("<Q", teb, 0x60, PEB)
        self.dump.add(TEB, bytes(teb))
        self.dump.stream(3, struct.pack("<IIIIIQQIIII", 1, 1, 0, 0, 0, TEB, STACK, 0, 0, 0, 0))

    def _entry(self, index: int) -> bytes:
        raw, size, node = bytearray(self._size), self._size, NODES + index * WIDE.node_size
        for place in (0, 16, 32):
            head = LDR + WIDE.heads + place
            following = ENTRIES + (index + 1) * size + place if index + 1 < self.count else head
            before = ENTRIES + (index - 1) * size + place if index else head
            struct.pack_into("<QQ", raw, place, following, before)
        struct.pack_into("<QQI", raw, WIDE.dll_base, IMAGES + index * STRIDE, IMAGES + index * STRIDE + 0x1000, 0x4000)
        text = ("prog.exe" if not index else "ntdll.dll" if index == 1 else f"d{index}.dll").encode("utf-16-le")
        start, length = NAMES + len(self._texts), len(text)
        if self._long_names:
            start, length = NAMES + 2 * (index % 1000), 2 * LONGEST
        else:
            self._texts += text
        for place in (WIDE.full_name, WIDE.base_name):
            struct.pack_into("<HH4xQ", raw, place, length, length, start)
        if self.form.graph:
            struct.pack_into("<IH", raw, WIDE.flags, READY_FLAGS, 6)
            struct.pack_into("<QQQ", raw, WIDE.ddag, node, node, node)
            struct.pack_into("<I", raw, WIDE.load_reason, 4)
        else:
            struct.pack_into("<IH", raw, WIDE.flags, 0x80004, self._load_count)
            for link in (0x88, 0x98, 0xA8):
                at = ENTRIES + index * size + link
                struct.pack_into("<QQ", raw, link, at, at)
        return bytes(raw)

    def link(self, edges: Iterable[tuple[int, int]], *, pinned: bool = False) -> None:
        """Write the graph: who imports whom."""
        records: list[tuple[int, int]] = list(edges)
        outgoing: dict[int, list[int]] = {}
        incoming: dict[int, list[int]] = {}
        raw = bytearray(32 * len(records) + 64)
        for number, (source, target) in enumerate(records):
            outgoing.setdefault(source, []).append(number)
            incoming.setdefault(target, []).append(number)
            size = WIDE.node_size
            struct.pack_into("<4Q", raw, 32 * number, 0, NODES + target * size, 0, NODES + source * size)
        nodes = bytearray(WIDE.node_size * self.count)
        for index in range(self.count):
            at, link = index * WIDE.node_size, ENTRIES + index * self._size + WIDE.module_link
            struct.pack_into("<QQ", nodes, at, link, link)
            count = 0xFFFFFFFF if pinned else self._load_count + len(incoming.get(index, ()))
            struct.pack_into("<I", nodes, at + WIDE.node_count, count)
            struct.pack_into("<I", nodes, at + WIDE.node_state, 9)
        for rings, place, head in ((outgoing, 0, WIDE.node_dependencies), (incoming, 16, WIDE.node_incoming)):
            for index, numbers in rings.items():
                for position, number in enumerate(numbers):
                    following = EDGES + 32 * numbers[(position + 1) % len(numbers)] + place
                    struct.pack_into("<Q", raw, 32 * number + place, following)
                struct.pack_into("<Q", nodes, index * WIDE.node_size + head, EDGES + 32 * numbers[-1] + place)
        self.dump.add(NODES, bytes(nodes))
        self.dump.add(EDGES, bytes(raw))

    def import_all(self, names: Iterable[str]) -> None:
        """Show at each base an image that imports these DLLs."""
        image = bytearray(STRIDE)
        image[:2] = b"MZ"
        struct.pack_into("<I", image, 60, 0x80)
        struct.pack_into("<4sHHIIIHH", image, 0x80, b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0)
        struct.pack_into("<H", image, 0x98, 0x20B)
        struct.pack_into("<III", image, 0x98 + 56, 0x4000, 0x400, 0)
        struct.pack_into("<I", image, 0x98 + 108, 16)
        struct.pack_into("<II", image, 0x98 + 112 + 8, 0x2000, 0x1000)
        text = 0x18000
        for number, name in enumerate(names):
            image[text : text + len(name) + 1] = name.encode() + b"\0"
            struct.pack_into("<5I", image, 0x2000 + 20 * number, 0x100, 0, 0, text, 0x100)
            text += len(name) + 1
        offset = self.dump.put(bytes(image))
        for index in range(self.count):
            self.dump.show(IMAGES + index * STRIDE, offset, STRIDE)


def many_dlls(path: Path) -> Path:
    """Write 60,000 DLLs."""
    crowd = DllCrowd(WIN10, 60_000)
    crowd.link(())
    return crowd.dump.save(path)


def long_dll_names(path: Path) -> Path:
    """Give each DLL a path of 64 KB."""
    crowd = DllCrowd(WIN10, 16_000, long_names=True)
    crowd.link(())
    return crowd.dump.save(path)


def hub(path: Path) -> Path:
    """Let all DLLs import one, which imports them all."""
    crowd = DllCrowd(WIN10, 16_000)
    others = [index for index in range(crowd.count) if index != 5]
    crowd.link([*((index, 5) for index in others), *((5, index) for index in others)])
    return crowd.dump.save(path)


def pinned_chain(path: Path) -> Path:
    """Let each DLL import the next one, all of them pinned."""
    crowd = DllCrowd(WIN10, 16_000)
    crowd.link(((index, index + 1) for index in range(crowd.count - 1)), pinned=True)
    return crowd.dump.save(path)


def repeated_edges(path: Path) -> Path:
    """Let one DLL import another 240,000 times, as do as many others."""
    crowd = DllCrowd(WIN10, 1000, load_count=0)
    crowd.link([*((6, 7) for _ in range(240_000)), *((index % 1000, 7) for index in range(240_000))])
    return crowd.dump.save(path)


def imports(path: Path) -> Path:
    """Let each DLL of Windows 7 import 30 others, loaded 60,000 times."""
    crowd = DllCrowd(WIN7, 16_000, load_count=60_000)
    crowd.import_all(f"d{7 * number + 6}.dll" for number in range(30))
    return crowd.dump.save(path)


def _machine() -> Machine:
    machine = build(windows("10.0.19041.3570"))
    machine.finish()
    return machine


def _add(machine: Machine, data: bytes) -> None:
    """Add pages with these bytes."""
    for start in range(0, len(data), PAGE):
        machine.write(machine.page(), data[start : start + PAGE])


def _next_page(machine: Machine) -> int:
    return machine._pool + -machine._pool % PAGE


def vads(path: Path) -> Path:
    """Write a tree of 350,000 VADs of one image, which all processes have."""
    machine = _machine()
    core = machine.field("_MMVAD", "Core")[0]
    images = (node.address for node in sorted(machine.processes[1].vads))
    short = next(address for address in images if machine.read(address - core - 12, 4) == b"Vadm")
    size = machine.size("_MMVAD") + 16 + -machine.size("_MMVAD") % 16
    template = machine.read(short - core - 16, size)
    node = 16 + core + machine.field("_MMVAD_SHORT", "VadNode")[0]
    left, right = (node + machine.field("_RTL_BALANCED_NODE", name)[0] for name in ("Left", "Right"))
    first, count, raw = _next_page(machine), 350_000, bytearray()
    for index in range(count):
        each = bytearray(template)
        struct.pack_into("<Q", each, left, 0)
        struct.pack_into("<Q", each, right, first + (index + 1) * size + node if index + 1 < count else 0)
        for member in ("StartingVpn", "EndingVpn"):
            place = 16 + core + machine.field("_MMVAD_SHORT", member)[0]
            struct.pack_into("<I", each, place, 0x10000 + index)
        raw += each
    _add(machine, bytes(raw))
    root = machine.field("_EPROCESS", "VadRoot")[0] + machine.field("_RTL_AVL_TREE", "Root")[0]
    for process in machine.processes[1:]:
        machine.put_pointer(process.eprocess + root, first + node)
    return machine.save(path, "bitmap")


def processes(path: Path, count: int = 20_000, handle_pages: Optional[int] = None) -> Path:
    """Write processes that are all alike; with ``handle_pages`` all have one table of handles of one file."""
    machine = _machine()
    python = machine.processes[1]
    size = machine.size("_EPROCESS") + -machine.size("_EPROCESS") % 16
    links = machine.field("_EPROCESS", "ActiveProcessLinks")[0]
    template = machine.read(python.eprocess, machine.size("_EPROCESS")).ljust(size, b"\0")
    head = machine.symbol("PsActiveProcessHead")
    last, first, raw = machine.pointer(head + 8), _next_page(machine), bytearray()
    for index in range(count):
        each, at = bytearray(template), first + index * size + links
        following = at + size if index + 1 < count else head
        struct.pack_into("<QQ", each, links, following, at - size if index else last)
        struct.pack_into("<Q", each, machine.field("_EPROCESS", "UniqueProcessId")[0], 0x10000 + 4 * index)
        raw += each
    _add(machine, bytes(raw))
    machine.put_pointer(last, first + links)
    machine.put_pointer(head + 8, first + (count - 1) * size + links)
    if handle_pages:
        table = machine.get(python.eprocess, "_EPROCESS", "ObjectTable")
        entry = machine.read(machine.get(table, "_HANDLE_TABLE", "TableCode") & ~3, 32)[16:]
        pages, start = bytes(16) + entry * 255, _next_page(machine)
        _add(machine, pages * handle_pages)
        middle = _next_page(machine)
        _add(machine, b"".join(struct.pack("<Q", start + PAGE * number) for number in range(handle_pages)))
        machine.put(table, "_HANDLE_TABLE", "TableCode", middle | 1)
    return machine.save(path, "bitmap")


def handles(path: Path) -> Path:
    """Write 300 processes that share a table of 130,000 handles of one file."""
    return processes(path, 300, 512)


def bitmap(path: Path) -> Path:
    """Write a bitmap of 62 MB in which all pages are marked."""
    _machine().save(path, "bitmap")
    head, size = bytearray(path.read_bytes()[:0x2038]), 62 << 20
    struct.pack_into("<QQQ", head, 0x2020, 0x2038 + size, 0, 8 * size)
    path.write_bytes(bytes(head) + b"\xff" * size + bytes(PAGE))
    return path
