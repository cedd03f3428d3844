"""What is in the memory of a process under a glibc that nobody can run here?

Writes ELF images (header, program headers, dynamic symbols with a hash table, notes) and the loader's private state in
any layout. The layouts are typed in by the test; nothing here comes from common/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from dlwhy.common.model import Platform
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.synth.elfcore import Encoder

PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_PHDR, PT_TLS, PT_GNU_RELRO, PT_INTERP = 1, 2, 4, 6, 7, 0x6474E552, 3
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SONAME, DT_NEEDED = 4, 5, 6, 10, 14, 1
DT_DEBUG, DT_FLAGS_1, DT_GNU_HASH = 21, 0x6FFFFFFB, 0x6FFFFEF5
MACHINES = {"x86_64": 62, "i386": 3, "s390x": 22}

# Where the parts of an image lie.
NOTE, SYMBOLS, STRINGS, HASH, CONSTANTS, DYNAMIC, DATA, IMAGE_SIZE = (
    0x300,
    0x400,
    0x700,
    0xA00,
    0xC00,
    0x1000,
    0x2000,
    0x5000,
)


class Layout(NamedTuple):
    """Where the loader keeps what, in bytes; a pair is (byte, shift) of a bit-field. None: no such member."""

    opencount: int
    nodelete: Optional[int]
    type_shift: int
    relocated: tuple[int, int]
    is_global: tuple[int, int]
    map_used: Optional[tuple[int, int]]
    phdr: int
    entry: int
    phnum: int
    loader: int
    map_start: int
    initfini: int
    reldeps: int
    flags_1: int
    idx: int
    tls_blocksize: int
    tls_align: int
    tls_offset: int
    tls_modid: int
    dtor_count: Optional[int]
    relro: int
    size: int
    ns_stride: int
    unique_entries: int


@dataclass
class Library:
    """A library of the process, and what the loader has noted about it."""

    name: str
    type: int = 2
    opencount: int = 0
    nodelete: bool = False
    elf_nodelete: bool = False
    owed: int = 0
    needs: Sequence[str] = ()
    bound_to: Sequence[str] = ()
    symbols: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tls_size: int = 0
    dynamic: Sequence[tuple[int, int]] = ()
    data: Mapping[int, bytes] = field(default_factory=dict)
    constants: bytes = b""
    extra_flags_1: int = 0
    #: Put the map behind its dependencies in l_initfini, as a sorting of a cycle may.
    listed_last: bool = False


class Process:
    """A process: its libraries in list order, the main program first."""

    def __init__(
        self,
        platform: Platform,
        layout: Layout,
        libraries: Sequence[Library],
        *,
        rtld_global_size: int,
        version: tuple[int, int],
        exports_descriptors: bool,
        mangles: bool,
        unique: Sequence[tuple[str, str]] = (),
        sysv_hash: bool = False,
    ) -> None:
        """Describe a process; ``unique`` are (symbol, owner), destructors are owed by its one thread."""
        self.platform = platform
        self.layout = layout
        self.libraries = list(libraries)
        self.rtld_global_size = rtld_global_size
        self.version = version
        self.exports_descriptors = exports_descriptors
        self.mangles = mangles
        self.unique = unique
        self.sysv_hash = sysv_hash
        self.out = Encoder(8 * platform.pointer_size, platform.byteorder)
        self.word = platform.pointer_size
        high = platform.pointer_size == 8
        first = 0x7F00_0000_0000 if high else 0xB000_0000
        self.bases = {each.name: first + index * 0x10_0000 for index, each in enumerate(self.libraries)}
        self.heap = 0x5555_5000_0000 if high else 0x0900_0000
        self.tls = 0x7FFF_0000_1000 if high else 0xBF00_1000
        self.guard = 0x1122_3344_5566_7788 if high else 0x1122_3344
        self.maps = {each.name: self.heap + index * 0x1000 for index, each in enumerate(self.libraries)}
        self.blobs = self.heap + len(self.libraries) * 0x1000

    # -- images ------------------------------------------------------------------------------------------------

    def headers(self, library: Library) -> list[bytes]:
        """Write the program headers."""
        out = self.out
        headers = [
            (PT_PHDR, 0x40, 0x40, 0x200, 4, 8),
            (PT_LOAD, 0, 0, 0x1000, 5, 0x1000),
            (PT_LOAD, 0x1000, 0x1000, IMAGE_SIZE - 0x1000, 6, 0x1000),
            (PT_DYNAMIC, DYNAMIC, DYNAMIC, 0x200, 6, 8),
            (PT_NOTE, NOTE, NOTE, 0x24, 4, 4),
            (PT_GNU_RELRO, DYNAMIC, DYNAMIC, 0x800 + 0x10 * len(library.name), 4, 1),
        ]
        if library.type == 0:
            headers.append((PT_INTERP, CONSTANTS, CONSTANTS, 0x20, 4, 1))
        if library.tls_size:
            headers.append((PT_TLS, DATA, DATA, library.tls_size, 4, 16))
        return [
            out.program_header(kind, offset, address, size, size, flags, align)
            for kind, offset, address, size, flags, align in headers
        ]

    def image(self, library: Library) -> bytes:
        """Write an image as it is in memory."""
        out, base = self.out, self.bases[library.name]
        data = bytearray(IMAGE_SIZE)

        def put(place: int, content: bytes) -> None:
            data[place : place + len(content)] = content

        headers = self.headers(library)
        put(0, out.elf_header(3, MACHINES[self.platform.arch], entry=0x1234, phoff=0x40, phnum=len(headers)))
        put(0x40, b"".join(headers))
        identity = library.name.encode().ljust(20, b".")[:20]
        put(NOTE, out.note(b"GNU", 3, identity))
        strings = b"\0"
        symbols = bytes(24 if self.word == 8 else 16)
        for name, (value, size) in library.symbols.items():
            symbols += self.symbol(len(strings), value, size)
            strings += name.encode() + b"\0"
        dynamic = list(library.dynamic)
        for needed in library.needs:
            dynamic.append((DT_NEEDED, len(strings)))
            strings += needed.encode() + b"\0"
        dynamic.append((DT_SONAME, len(strings)))
        strings += library.name.encode() + b"\0"
        put(SYMBOLS, symbols)
        put(STRINGS, strings)
        put(CONSTANTS, library.constants)
        put(HASH, self.hash_table(list(library.symbols)))
        if library.elf_nodelete:
            dynamic.append((DT_FLAGS_1, 8))
        dynamic += [(DT_STRTAB, base + STRINGS), (DT_SYMTAB, base + SYMBOLS), (DT_STRSZ, len(strings))]
        dynamic.append((DT_HASH if self.sysv_hash else DT_GNU_HASH, base + HASH))
        put(DYNAMIC, out.words([word for pair in (*dynamic, (0, 0)) for word in pair]))
        for place, content in library.data.items():
            put(place, content)
        assert SYMBOLS + len(symbols) <= STRINGS
        assert STRINGS + len(strings) <= HASH
        return bytes(data)

    def symbol(self, name: int, value: int, size: int) -> bytes:
        """Write an Elf32_Sym or Elf64_Sym of a defined global object."""
        out = self.out
        kind, section = out.number(0x11, 1) + out.number(0, 1), out.number(9, 2)
        if self.word == 8:
            return out.number(name, 4) + kind + section + out.word(value) + out.word(size)
        return out.number(name, 4) + out.word(value) + out.word(size) + kind + section

    def hash_table(self, names: Sequence[str]) -> bytes:
        """Write a hash table of one bucket: the symbols in their order."""
        out = self.out
        if self.sysv_hash:
            count = len(names) + 1
            chain = [0, *range(2, count), 0][:count]
            return b"".join(out.number(each, 4) for each in (1, count, 1 if names else 0, *chain))
        hashes = []
        for name in names:
            value = 5381
            for byte in name.encode():
                value = value * 33 + byte & 0xFFFFFFFF
            hashes.append(value & ~1)
        if hashes:
            hashes[-1] |= 1
        head = b"".join(out.number(each, 4) for each in (1, 1, 1, 6))
        bucket = out.number(1 if names else 0, 4)
        return head + out.word((1 << 8 * self.word) - 1) + bucket + b"".join(out.number(each, 4) for each in hashes)

    # -- the loader's state ------------------------------------------------------------------------------------

    def blob(self, content: bytes) -> int:
        """Put bytes on the heap."""
        at = self.blobs + len(self.blob_data)
        self.blob_data += content + bytes(-len(content) % 16)
        return at

    def link_map(self, index: int) -> bytes:
        """Write a struct link_map."""
        library, layout, out, word = self.libraries[index], self.layout, self.out, self.word
        base = self.bases[library.name]
        data = bytearray(layout.size)

        def put(place: int, value: int, size: int = word) -> None:
            data[place : place + size] = out.number(value, size)

        def bit(place: tuple[int, int], value: int) -> None:
            data[place[0]] |= value << place[1]

        names = [each.name for each in self.libraries]
        address = self.maps[library.name]
        path = b"" if library.type == 0 else f"/usr/lib/{library.name}".encode()
        following = self.maps[names[index + 1]] if index + 1 < len(names) else 0
        before = self.maps[names[index - 1]] if index else 0
        for number, value in enumerate((base, self.blob(path + b"\0"), base + DYNAMIC, following, before, address, 0)):
            put(number * word, value)
        put(layout.opencount, library.opencount, 4)
        bit((layout.opencount + 4, layout.type_shift), library.type)
        bit(layout.relocated, 1)
        if layout.map_used:
            bit(layout.map_used, 1)
        flags_1 = library.extra_flags_1 | (8 if library.elf_nodelete else 0)
        if layout.nodelete is None:
            flags_1 |= 8 if library.nodelete else 0
        else:
            put(layout.nodelete, library.nodelete, 1)
        put(layout.flags_1, flags_1, 4)
        put(layout.idx, 0xFFFFFFFF, 4)
        headers = self.headers(library)
        put(layout.phdr, base + 0x40)
        put(layout.entry, base + 0x1234)
        put(layout.phnum, len(headers), 2)
        put(layout.loader, self.maps[names[0]] if index else 0)
        put(layout.map_start, base)
        put(layout.map_start + word, base + IMAGE_SIZE)
        needs = [self.maps[name] for name in library.needs]
        needs = [*needs, address] if library.listed_last else [address, *needs]
        put(layout.initfini, self.blob(out.words([*needs, 0])))
        if library.bound_to:
            count = out.number(len(library.bound_to), 4).ljust(word, b"\0")
            put(layout.reldeps, self.blob(count + out.words([self.maps[name] for name in library.bound_to])))
        put(layout.relro, DYNAMIC)
        put(layout.relro + word, 0x800 + 0x10 * len(library.name))
        if library.tls_size:
            put(layout.tls_blocksize, library.tls_size)
            put(layout.tls_align, 16)
            put(layout.tls_offset, 0x100)
            put(layout.tls_modid, index + 1)
        if library.owed:
            assert layout.dtor_count is not None
            put(layout.dtor_count, library.owed)
        return bytes(data)

    def rtld_global(self) -> bytes:
        """Write the loader's globals: 16 namespaces, of which one is in use, and their number."""
        out, word, layout = self.out, self.word, self.layout
        data = bytearray(self.rtld_global_size)
        namespace = out.word(self.maps[self.libraries[0].name]) + out.number(len(self.libraries), 4)
        data[: len(namespace)] = namespace
        entries = [
            each
            for symbol, owner in self.unique
            for each in (1, self.blob(symbol.encode() + b"\0"), 0x1000, self.maps[owner])
        ]
        # { uint32_t hashval; const char *name; ...}: the hash is the first 4 bytes of its word
        table = b"".join(
            (out.number(each, 4).ljust(word, b"\0") if number % 4 == 0 else out.word(each))
            for number, each in enumerate([*entries, *[0] * 4])
        )
        place = layout.unique_entries
        data[place : place + 2 * word] = out.word(self.blob(table)) + out.word(len(self.unique) + 1)
        count_at = 16 * layout.ns_stride
        data[count_at : count_at + word] = out.word(1)
        return bytes(data)

    def mangle(self, function: int) -> int:
        """Mangle a function pointer as PTR_MANGLE does on x86."""
        if not self.mangles:
            return function
        bits = 8 * self.word
        turn = 17 if self.word == 8 else 9
        value = function ^ self.guard
        return (value << turn | value >> bits - turn) & (1 << bits) - 1

    def thread_block(self) -> bytes:
        """Write 0x400 bytes of thread-local storage around the thread pointer, which is in the middle."""
        out, word = self.out, self.word
        head = 0
        for library in self.libraries:
            for number in range(library.owed):
                function = self.mangle(self.bases[library.name] + 0x1100)
                obj = self.bases[library.name] + DATA + 16 * number
                head = self.blob(out.words((function, obj, self.maps[library.name], head)))
        block = bytearray(0x400)
        block[0x200 - 0x100 + 7 * word : 0x200 - 0x100 + 8 * word] = out.word(head)
        self_at, guard_at = (0x10, 0x30) if word == 8 else (0x8, 0x18)
        block[0x200 + self_at : 0x200 + self_at + word] = out.word(self.tls)
        block[0x200 + guard_at : 0x200 + guard_at + word] = out.word(self.guard)
        return bytes(block)

    def target(self) -> FakeTarget:
        """Write everything."""
        out = self.out
        self.blob_data = b""
        main, libc, rtld = self.libraries[0], self.library("libc.so.6"), self.library("ld.so")
        r_debug = self.bases[rtld.name] + 0x4800
        rtld.symbols = {"_rtld_global": (DATA, self.rtld_global_size), "_rtld_global_ro": (0x4A00, 0x128)}
        rtld.data = {
            DATA: self.rtld_global(),
            0x4800: out.words((1, self.maps[main.name], 0, 0, self.bases[rtld.name])),
        }
        assert DATA + self.rtld_global_size <= 0x4800
        version = "{}.{}".format(*self.version)
        libc.constants = f"GNU C Library (Synthetic) stable release version {version}.\n".encode().ljust(0x80, b"\0")
        if self.exports_descriptors:
            libc.constants += version.encode().ljust(0x10, b"\0")
            libc.constants += b"".join(out.number(each, 4) for each in (8 * self.word, 1, self.layout.tls_modid))
            libc.symbols = {
                "__nptl_version": (CONSTANTS + 0x80, len(version) + 1),
                "_thread_db_link_map_l_tls_modid": (CONSTANTS + 0x90, 12),
            }
        main.dynamic = [(DT_DEBUG, r_debug)]
        main.constants = b"/lib/ld.so\0"
        segments = {}
        for index, library in enumerate(self.libraries):
            segments[self.maps[library.name]] = self.link_map(index).ljust(0x1000, b"\0")
        segments[self.tls - 0x200] = self.thread_block()
        for library in self.libraries:
            segments[self.bases[library.name]] = self.image(library)
        segments[self.blobs] = self.blob_data.ljust(-(-len(self.blob_data) // 0x1000) * 0x1000, b"\0")
        size = 56 if self.word == 8 else 32
        return FakeTarget(
            segments,
            self.platform,
            auxv={
                3: self.bases[main.name] + 0x40,
                4: size,
                5: len(self.headers(main)),
                7: self.bases[rtld.name],
            },
            threads={4711: self.tls},
        )

    def library(self, name: str) -> Library:
        """Find a library."""
        return next(each for each in self.libraries if each.name == name)
