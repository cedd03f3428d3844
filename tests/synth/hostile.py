"""What is the worst that a core of 64 MB can ask of a reader?

Headers, notes, lists and tables are as many as fit, and in a process every library has everything at once: bytes that
several segments show are in the file once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Optional

from dlwhy.tests.fakes import X86_64
from dlwhy.tests.synth.elfcore import NT_FILE, NT_PRSTATUS, PT_LOAD, PT_NOTE, Encoder
from dlwhy.tests.synth.glibc import DATA, DYNAMIC, IMAGE_SIZE, NOTE, Layout, Library, Process

SIZE = 64 << 20
PAGE = 4096
HEADER, ENTRY = 64, 56

#: ld.so of Debian trixie's glibc 2.41: of a known build the lists are believed as far as they go.
BUILD_ID = bytes.fromhex("86f7eb4ff495ed3f2831c6d3d662e4321762a2a3")
RTLD_GLOBAL_SIZE = 2888

# Members of struct link_map that never moved, and how far apart libraries with images of their own lie.
L_ADDR, L_NAME, L_LD, L_NEXT, L_PREV, L_REAL = 0, 8, 16, 24, 32, 40
MAPS, IMAGES, STRIDE = 0x6000_0000_0000, 0x6800_0000_0000, 0x100_0000

PT_TLS, DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_SONAME, DT_RELA, DT_RELASZ, DT_RELAENT = 7, 1, 5, 10, 14, 7, 8, 9

Words = Mapping[int, int]


class CoreFile:
    """A core that is written piece by piece; the program headers come last."""

    def __init__(self) -> None:
        self.data = bytearray(HEADER)
        self.headers: list[bytes] = []
        self.out = Encoder()

    def put(self, data: bytes, align: int = PAGE) -> int:
        """Add bytes to the file; gives their offset."""
        self.data += bytes(-len(self.data) % align)
        offset = len(self.data)
        self.data += data
        return offset

    def show(self, address: int, offset: int, size: int) -> None:
        """Show bytes of the file at an address."""
        self.headers.append(self.out.program_header(PT_LOAD, offset, address, size, size))

    def note(self, offset: int, size: int) -> None:
        """Add a segment of notes."""
        self.headers.append(self.out.program_header(PT_NOTE, offset, 0, size, 0))

    def save(self, path: Path) -> Path:
        """Write it."""
        table = self.put(b"".join(self.headers))
        count = len(self.headers)
        sections = self.put(self.out.section_header_zero(count)) if count >= 0xFFFF else 0
        self.data[:HEADER] = self.out.elf_header(
            4, 62, phoff=table, shoff=sections, phnum=min(count, 0xFFFF), shnum=bool(sections)
        )
        path.write_bytes(self.data)
        return path


def zero_notes(path: Path) -> Path:
    """Write a segment of five million empty notes."""
    core = CoreFile()
    core.note(core.put(bytes(SIZE)), SIZE)
    return core.save(path)


def notes_again(path: Path) -> Path:
    """Write 2000 segments of notes that are the same megabyte."""
    core = CoreFile()
    offset = core.put(bytes(1 << 20))
    for _ in range(2000):
        core.note(offset, 1 << 20)
    return core.save(path)


def thread_notes(path: Path) -> Path:
    """Write notes of 190,000 threads."""
    core = CoreFile()
    threads = (core.out.note(b"CORE", NT_PRSTATUS, struct.pack("<32xI300x", number)) for number in range(190_000))
    notes = b"".join(threads)
    core.note(core.put(notes), len(notes))
    return core.save(path)


def segments(path: Path) -> Path:
    """Write as many program headers as fit, by falling address."""
    core = CoreFile()
    count = SIZE // ENTRY
    core.headers = [core.out.program_header(PT_LOAD, 0, (count - index) * PAGE, PAGE, PAGE) for index in range(count)]
    return core.save(path)


def mapped_files(path: Path) -> Path:
    """Write an NT_FILE of as many files as fit."""
    core = CoreFile()
    count = SIZE // 26
    table = b"".join(struct.pack("<3Q", index * PAGE, (index + 1) * PAGE, 0) for index in range(count))
    note = core.out.note(b"CORE", NT_FILE, struct.pack("<2Q", count, PAGE) + table + b"x\0" * count)
    core.note(core.put(note), len(note))
    return core.save(path)


class Crowd:
    """A process of glibc 2.41 with as many libraries as are asked for, all of which look like one."""

    def __init__(self, layout: Layout, count: int) -> None:
        """Make a process; ``count`` libraries follow the four that it has anyway."""
        self.layout = layout
        self.count = count
        self.made = Process(
            X86_64,
            layout,
            [
                Library("main", type=0, needs=["libc.so.6"]),
                Library("libc.so.6", type=1, tls_size=0x90),
                Library("ld.so", type=1),
                Library("libx.so", opencount=1),
            ],
            rtld_global_size=RTLD_GLOBAL_SIZE,
            version=(2, 41),
            exports_descriptors=True,
            mangles=True,
        )
        self.target = self.made.target()
        self.memory = {start: bytearray(data) for start, data in self.target._segments}
        self.prototype = self.made.maps["libx.so"]
        self.image = self.made.bases["libx.so"]
        self.rtld_global = self.made.bases["ld.so"] + DATA
        self.core = CoreFile()
        self._next = 0x6100_0000_0000
        self.write(self.made.bases["ld.so"] + NOTE + 16, BUILD_ID)
        own = b"".join(struct.pack("<2Q", self.address(index), 0) for index in range(count))
        self.alone = self.new(own)

    def _find(self, address: int) -> tuple[bytearray, int]:
        start = max(each for each in self.memory if each <= address)
        return self.memory[start], address - start

    def write(self, address: int, data: bytes) -> None:
        """Overwrite memory."""
        piece, at = self._find(address)
        piece[at : at + len(data)] = data

    def words(self, address: int, *values: int) -> None:
        """Overwrite words."""
        self.write(address, struct.pack(f"<{len(values)}Q", *values))

    def word(self, address: int) -> int:
        """Read a word."""
        piece, at = self._find(address)
        return int.from_bytes(piece[at : at + 8], "little")

    def new(self, data: bytes) -> int:
        """Add memory; gives its address."""
        address = self._next
        self.core.show(address, self.core.put(data), len(data))
        self._next += -(-len(data) // PAGE) * PAGE + PAGE
        return address

    def address(self, index: int) -> int:
        """Give the address of a library's link_map."""
        return MAPS + index * self.layout.size

    def all_addresses(self) -> bytes:
        """Write a list of all libraries."""
        return struct.pack(f"<{self.count}Q", *map(self.address, range(self.count)))

    def kind(self, *, startup: bool, nodelete: bool = False) -> Words:
        """Give the word that says whether a library was loaded at start, and is NODELETE."""
        place = self.layout.opencount
        raw = bytearray(struct.pack("<Q", self.word(self.prototype + place)))
        raw[4] = raw[4] & ~3 | (1 if startup else 2)
        assert self.layout.nodelete is not None
        raw[self.layout.nodelete - place] = nodelete
        return {place: int.from_bytes(raw, "little")}

    def alone_words(self, index: int) -> Words:
        """Give the word by which a library needs itself only."""
        return {self.layout.initfini: self.alone + 16 * index}

    def own_image(self, index: int) -> Words:
        """Give the words by which a library has an image of its own."""
        base = IMAGES + index * STRIDE
        place = self.layout.map_start
        return {
            L_ADDR: base,
            L_LD: base + DYNAMIC,
            place: base,
            place + 8: base + IMAGE_SIZE,
            self.layout.entry: base + 0x1234,
        }

    def set_dynamic(self, *entries: tuple[int, int]) -> None:
        """Put entries at the head of the dynamic section of the image that all have."""
        raw, at = self._find(self.image + DYNAMIC)
        old = raw[at : at + 0x800]
        new = b"".join(struct.pack("<2Q", *entry) for entry in entries)
        raw[at : at + 0x800] = (new + old)[:0x800]

    def grow_image(self, size: int) -> None:
        """Let the image's second segment reach further."""
        self.words(self.image + HEADER + 2 * ENTRY + 40, size)

    def start_with(self, indexes: Iterable[int]) -> None:
        """Add libraries to those that the main program has started with."""
        main = self.made.maps["main"]
        listed = struct.pack("<2Q", main, self.made.maps["libc.so.6"])
        added = b"".join(struct.pack("<Q", self.address(index)) for index in indexes)
        self.words(main + self.layout.initfini, self.new(listed + added + bytes(8)))

    def save(self, path: Path, change: Optional[Callable[[int], Words]] = None) -> Path:
        """Write the core; ``change`` gives for each library words of its link_map that differ from the others'."""
        size, put = self.layout.size, struct.Struct("<Q").pack_into
        raw, at = self._find(self.prototype)
        template = bytes(raw[at : at + size])
        maps = bytearray()
        for index in range(self.count):
            each, address = bytearray(template), self.address(index)
            put(each, L_NEXT, address + size if index + 1 < self.count else 0)
            put(each, L_PREV, address - size if index else self.prototype)
            put(each, L_REAL, address)
            words = {**self.alone_words(index), **(change(index) if change else {})}
            for offset, value in words.items():
                put(each, offset, value)
            maps += each
        self.core.show(MAPS, self.core.put(bytes(maps)), len(maps))
        self.words(self.prototype + L_NEXT, MAPS)
        self.write(self.rtld_global + 8, struct.pack("<I", len(self.made.libraries) + self.count))
        out = self.core.out
        for start, data in self.memory.items():
            self.core.show(start, self.core.put(bytes(data)), len(data))
        status = struct.pack("<32xI244xQ48x", 4711, self.made.tls)
        notes = out.note(b"CORE", NT_PRSTATUS, status) + out.auxv(self.target.auxv())
        self.core.note(self.core.put(notes), len(notes))
        return self.core.save(path)


def many_maps(layout: Layout, path: Path) -> Path:
    """Write as many libraries as fit."""
    return Crowd(layout, 50_000).save(path)


def ranked(layout: Layout, path: Path) -> Path:
    """Write so many libraries that could be closed, each of which unloads the other ones that nothing keeps."""
    crowd = Crowd(layout, 16_000)
    closed = crowd.kind(startup=False)[layout.opencount] & ~0xFFFF_FFFF
    return crowd.save(path, lambda index: {layout.opencount: closed} if index % 2 else {})


def long_names(layout: Layout, path: Path) -> Path:
    """Give each library a name of 4 KB."""
    crowd = Crowd(layout, 16_000)
    names = crowd.new(b"/\xff" * 10_240 + b"\0")
    return crowd.save(path, lambda index: {L_NAME: names + 16_384 + 1 + 2 * (index % 2000)})


def needs_all(layout: Layout, path: Path) -> Path:
    """Let every library need all others."""
    crowd = Crowd(layout, 16_000)
    everything = crowd.new(crowd.all_addresses() + bytes(8))
    return crowd.save(path, lambda index: {layout.initfini: everything})


def bound_to_all(layout: Layout, path: Path) -> Path:
    """Let every library be bound to all others."""
    crowd = Crowd(layout, 16_000)
    everything = crowd.new(struct.pack("<Q", crowd.count) + crowd.all_addresses())
    return crowd.save(path, lambda index: {layout.reldeps: everything})


def chain(layout: Layout, path: Path) -> Path:
    """Let every library need the next one."""
    crowd = Crowd(layout, 16_000)
    pairs = ((crowd.address(i), crowd.address(min(i + 1, crowd.count - 1)), 0) for i in range(crowd.count))
    lists = crowd.new(b"".join(struct.pack("<3Q", *pair) for pair in pairs))
    return crowd.save(path, lambda index: {layout.initfini: lists + 24 * index})


def pinned_by_startup(layout: Layout, path: Path) -> Path:
    """Let half of the libraries be NODELETE, and half be loaded at start, which may be why."""
    crowd = Crowd(layout, 16_000)
    kinds = crowd.kind(startup=True), crowd.kind(startup=False, nodelete=True)
    crowd.start_with(range(0, crowd.count, 2))
    return crowd.save(path, lambda index: kinds[index % 2])


def relocations(layout: Layout, path: Path) -> Path:
    """Give all of these 40 MB of relocations."""
    crowd = Crowd(layout, 2000)
    end = {layout.map_start + 8: crowd.image + PAGE + SIZE}
    kinds = {**crowd.kind(startup=True), **end}, {**crowd.kind(startup=False, nodelete=True), **end}
    crowd.start_with(range(0, crowd.count, 2))
    count = (40 << 20) // 24
    table = (struct.pack("<3Q", DATA + 8 * (i % 1024), 1 + i % 100_000 << 32 | 6, 0) for i in range(count))
    crowd.core.show(crowd.image + 0x100_000, crowd.core.put(b"".join(table)), count * 24)
    crowd.grow_image(SIZE)
    crowd.set_dynamic((DT_RELA, crowd.image + 0x100_000), (DT_RELASZ, count * 24), (DT_RELAENT, 24))
    return crowd.save(path, lambda index: kinds[index % 2])


def own_images(layout: Layout, path: Path) -> Path:
    """Give each library an image with 1024 program headers, and 1000 names of 4 KB that it needs."""
    crowd = Crowd(layout, 8000)
    place, strings, count = 0x20_000, 0x32_000, 1024
    raw, at = crowd._find(crowd.image)
    image = bytearray(raw[at : at + IMAGE_SIZE]).ljust(0x40_000, b"\0")
    image[place : place + 6 * ENTRY] = image[HEADER : HEADER + 6 * ENTRY]
    struct.pack_into("<Q", image, 32, place)
    struct.pack_into("<H", image, 56, count)
    image[strings : strings + 4095] = b"n" * 4095
    entries = [(DT_NEEDED, index) for index in range(1000)]
    entries += [(DT_SONAME, 5), (DT_STRTAB, strings), (DT_STRSZ, 4096), (0, 0)]
    for index, entry in enumerate(entries):
        struct.pack_into("<2Q", image, DYNAMIC + 16 * index, *entry)
    offset = crowd.core.put(bytes(image))
    for index in range(crowd.count):
        crowd.core.show(IMAGES + index * STRIDE, offset, len(image))
    kind = crowd.kind(startup=True)
    return crowd.save(path, lambda index: {**crowd.own_image(index), **kind, layout.phnum: count})


def unique_symbols(layout: Layout, path: Path) -> Path:
    """Write a million unique symbols with names of up to 4 KB."""
    crowd = Crowd(layout, 10)
    count = 1 << 20
    names = crowd.new(b"_Z" + b"x" * 4000 + bytes(8))
    table = crowd.new(b"".join(struct.pack("<4Q", 1, names + i % 4000, 0, crowd.prototype) for i in range(count)))
    crowd.words(crowd.rtld_global + layout.unique_entries, table, count)
    assert layout.nodelete is not None
    crowd.write(crowd.prototype + layout.nodelete, b"\1")
    return crowd.save(path)


def destructors(layout: Layout, path: Path) -> Path:
    """Let a thread owe 60,000 destructors, each another function, where all libraries claim so many."""
    crowd = Crowd(layout, 16_000)
    count = 60_000
    first = crowd._next
    nodes = (
        (crowd.made.mangle(crowd.image + 0x1000 + i % 0x3000), i, crowd.prototype, first + 32 * (i + 1))
        for i in range(count)
    )
    assert crowd.new(b"".join(struct.pack("<4Q", *node) for node in nodes)[:-8] + bytes(8)) == first
    crowd.words(crowd.made.tls - 0x100 + 7 * 8, first)
    assert layout.dtor_count is not None
    crowd.words(crowd.prototype + layout.dtor_count, count)
    return crowd.save(path)
