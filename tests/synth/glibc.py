"""What is in the memory of a process under a glibc that nobody can run here?

Writes ELF images (header, program headers, dynamic symbols with a hash table, relocations, call frame information,
notes) and the loader's private state in any layout. The layouts are typed in by the test; nothing here comes from
common/. What has not changed is written to the same place again, so a process can go on between two readings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from dlwhy.common.model import Layout as StructLayout
from dlwhy.common.model import Platform
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.synth.elfcore import Encoder

PT_LOAD, PT_DYNAMIC, PT_NOTE, PT_PHDR, PT_TLS, PT_GNU_RELRO, PT_INTERP = 1, 2, 4, 6, 7, 0x6474E552, 3
PT_GNU_EH_FRAME = 0x6474E550
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SONAME, DT_NEEDED = 4, 5, 6, 10, 14, 1
DT_DEBUG, DT_FLAGS_1, DT_GNU_HASH = 21, 0x6FFFFFFB, 0x6FFFFEF5
DT_RELA, DT_RELASZ = 7, 8
R_GLOB_DAT = 6
MACHINES = {"x86_64": 62, "i386": 3, "s390x": 22}

# Where the parts of an image lie.
NOTE, SYMBOLS, STRINGS, HASH, CONSTANTS, CODE, FRAMES, DYNAMIC, DATA, RELOCATIONS, SLOTS, IMAGE_SIZE = (
    0x300,
    0x400,
    0x700,
    0xA00,
    0xC00,
    0xCA0,
    0xDA0,
    0x1000,
    0x2000,
    0x3000,
    0x3800,
    0x5000,
)
#: Where ld.so keeps its constants, and struct r_debug.
RTLD_GLOBAL_RO, R_DEBUG, DL_ARGV = 0x4A00, 0x4800, 0x4900
#: Where libc's variable lies among those of a thread.
DLERROR_RESULT = 0x40
#: Each function has so many bytes of code.
FUNCTION_SIZE = 0x10
#: Where a library's own lists lie behind its map, and what all share.
LISTS, SHARED = 0x600, 0x100_0000


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
    nodelete_pending: Optional[int] = None
    init_called: Optional[tuple[int, int]] = None
    removed: Optional[tuple[int, int]] = None
    auditing: Optional[tuple[int, int]] = None
    #: In _rtld_global: the mutex _dl_load_lock.
    load_lock: Optional[int] = None
    #: What number the library had when it was loaded, l_serial.
    serial: Optional[int] = None
    #: In _rtld_global: _dl_load_adds, the number of link maps that were ever put into a list.
    load_adds: Optional[int] = None
    #: In _rtld_global_ro: the pointers to _dl_open and _dl_close.
    open_close: Optional[tuple[int, int]] = None


@dataclass
class Library:
    """A library of the process, and what the loader has noted about it.

    Others name it in its own namespace by its name.
    """

    name: str
    type: int = 2
    opencount: int = 0
    nodelete: bool = False
    elf_nodelete: bool = False
    owed: int = 0
    serial: int = 0
    needs: Sequence[str] = ()
    #: What its file says that it needs, if that is not what the loader has noted.
    needed_names: Optional[Sequence[str]] = None
    bound_to: Sequence[str] = ()
    symbols: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tls_size: int = 0
    dynamic: Sequence[tuple[int, int]] = ()
    data: Mapping[int, bytes] = field(default_factory=dict)
    constants: bytes = b""
    extra_flags_1: int = 0
    #: Put the map behind its dependencies in l_initfini, as a sorting of a cycle may.
    listed_last: bool = False
    namespace: int = 0
    #: The map is ld.so's in another namespace than the first: l_real is that of the first one.
    is_proxy: bool = False
    nodelete_pending: bool = False
    init_called: bool = False
    #: What the collector notes while it works: l_removed, l_map_used, l_idx.
    removed: bool = False
    map_used: bool = True
    idx: int = -1
    #: Exported functions, and the bytes that each one's frame has behind its first instruction.
    functions: Mapping[str, int] = field(default_factory=dict)
    code: Mapping[str, bytes] = field(default_factory=dict)
    #: Symbols of others that it uses, and who defines each; None: nobody as yet.
    imports: Mapping[str, Optional[str]] = field(default_factory=dict)
    is_global: bool = False
    auditing: bool = False
    #: What its file calls it, if it is not the name, and where that is.
    soname: Optional[str] = None
    path: Optional[str] = None
    #: The names by which the loader has found it: l_libname.
    names: Sequence[str] = ()
    relocated: bool = True
    #: It names the function that registers TLS destructors: such a library can outlast its last close.
    registers_destructors: bool = True

    @property
    def key(self) -> str:
        """Name it among those of all namespaces."""
        return f"{self.name}@{self.namespace}" if self.namespace else self.name

    def function(self, name: str) -> int:
        """Give where a function begins in the image."""
        return CODE + FUNCTION_SIZE * list(self.functions).index(name)


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
        self.first = first
        self.heap = 0x5555_5000_0000 if high else 0x0900_0000
        self.tls = 0x7FFF_0000_1000 if high else 0xBF00_1000
        self.guard = 0x1122_3344_5566_7788 if high else 0x1122_3344
        #: What the one thread's struct pthread has for its id, until it ends.
        self.tid = 4711
        #: The thread that holds _dl_load_lock, and how often; by its number for the kernel.
        self.lock = (0, 0)
        #: How many libraries were ever loaded.
        self.load_adds = len(self.libraries)
        #: The program's arguments and its environment; None: ld.so does not export where they are.
        self.started_with: Optional[tuple[Sequence[bytes], Sequence[bytes]]] = None
        #: What the thread's __libc_dlerror_result is; None: libc has none.
        self.dlerror_result: Optional[int] = None
        #: The highest namespace that was ever in use: _dl_nns never goes down.
        self.last_namespace = 0
        self.bases: dict[str, int] = {}
        self.maps: dict[str, int] = {}
        for each in self.libraries:
            self.place(each)

    def place(self, library: Library, *, anew: bool = False) -> None:
        """Decide where a library and its map lie: where they lay before, unless that is not meant."""
        if library.key in self.maps and not anew:
            return
        if library.is_proxy:
            self.bases[library.key] = self.bases[library.name]
        else:
            self.bases[library.key] = self.first + len(self.bases) * 0x10_0000 + anew * 0x1000_0000
        self.maps.setdefault(library.key, self.heap + len(self.maps) * 0x1000)

    def base(self, library: Library) -> int:
        """Give where a library lies."""
        return self.bases[library.key]

    def map_of(self, name: str, namespace: int = 0) -> int:
        """Give the address of a library's map."""
        return self.maps[Library(name, namespace=namespace).key]

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
        if library.functions:
            frames = len(self.frames(library))
            headers.append((PT_GNU_EH_FRAME, FRAMES, FRAMES, frames, 4, 4))
        if library.tls_size:
            headers.append((PT_TLS, DATA, DATA, library.tls_size, 4, 16))
        return [
            out.program_header(kind, offset, address, size, size, flags, align)
            for kind, offset, address, size, flags, align in headers
        ]

    def image(self, library: Library) -> bytes:
        """Write an image as it is in memory."""
        out, base = self.out, self.base(library)
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
        exported = {**library.symbols, **{name: (library.function(name), FUNCTION_SIZE) for name in library.functions}}
        for name, (value, size) in [*((name, (0, 0)) for name in library.imports), *exported.items()]:
            symbols += self.symbol(len(strings), value, size)
            strings += name.encode() + b"\0"
        dynamic = list(library.dynamic)
        for needed in library.needs if library.needed_names is None else library.needed_names:
            dynamic.append((DT_NEEDED, len(strings)))
            strings += needed.encode() + b"\0"
        dynamic.append((DT_SONAME, len(strings)))
        strings += (library.soname or library.name).encode() + b"\0"
        if library.registers_destructors:
            strings += b"__cxa_thread_atexit\0"
        put(SYMBOLS, symbols)
        put(STRINGS, strings)
        put(CONSTANTS, library.constants)
        put(HASH, self.hash_table(list(exported), 1 + len(library.imports)))
        if library.functions:
            put(FRAMES, self.frames(library))
        for name, code in library.code.items():
            put(library.function(name), code)
        if library.imports:
            dynamic += [(DT_RELA, base + RELOCATIONS), (DT_RELASZ, 3 * self.word * len(library.imports))]
            put(RELOCATIONS, self.relocations(library))
            put(SLOTS, out.words(self.find_symbol(library, name) for name in library.imports))
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
        """Write an Elf32_Sym or Elf64_Sym of a global object; without a size it is not defined here."""
        out = self.out
        kind, section = out.number(0x11, 1) + out.number(0, 1), out.number(9 if size else 0, 2)
        if self.word == 8:
            return out.number(name, 4) + kind + section + out.word(value) + out.word(size)
        return out.number(name, 4) + out.word(value) + out.word(size) + kind + section

    def hash_table(self, names: Sequence[str], first: int = 1) -> bytes:
        """Write a hash table of one bucket: the symbols in their order, from this one on."""
        out = self.out
        if self.sysv_hash:
            count = len(names) + 1
            assert first == 1
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
        head = b"".join(out.number(each, 4) for each in (1, first, 1, 6))
        bucket = out.number(first if names else 0, 4)
        return head + out.word((1 << 8 * self.word) - 1) + bucket + b"".join(out.number(each, 4) for each in hashes)

    def relocations(self, library: Library) -> bytes:
        """Write an Elf64_Rela for each symbol that a library uses."""
        out = self.out
        assert self.word == 8
        return b"".join(
            out.words((SLOTS + 8 * index, index + 1 << 32 | R_GLOB_DAT, 0)) for index in range(len(library.imports))
        )

    def find_symbol(self, library: Library, name: str) -> int:
        """Find where a symbol is that a library uses; 0: not bound."""
        definer = library.imports[name]
        if definer is None:
            return 0
        other = self.library(definer, library.namespace)
        value = other.function(name) if name in other.functions else other.symbols[name][0]
        return self.base(other) + value

    def frames(self, library: Library) -> bytes:
        """Write .eh_frame_hdr and .eh_frame: each function's frame is complete behind its first byte.

        The register of the stack pointer is 7 and that of the return address 16, as on x86-64.
        """
        out, count = self.out, len(library.functions)
        head = 12 + 8 * count
        # Length, 0, version 1, "zR", factors 1 and -8, register 16, PC-relative pointers of 4 bytes; CFA is rsp + 8.
        common = out.number(20, 4) + out.number(0, 4) + b"\1zR\0\1\x78\x10\1\x1b\x0c\7\x08\x90\1" + bytes(2)
        table, records = b"", common
        for index, (name, frame) in enumerate(library.functions.items()):
            at = FRAMES + head + len(records)
            start = CODE + FUNCTION_SIZE * index
            body = out.number(at + 4 - (FRAMES + head), 4) + out.number(start - (at + 8), 4)
            # DW_CFA_advance_loc 1, DW_CFA_def_cfa_offset.
            body += out.number(FUNCTION_SIZE, 4) + b"\0" + (b"\x41\x0e" + bytes([frame + 8]) if frame else bytes(3))
            assert frame + 8 < 0x80, name
            records += out.number(len(body), 4) + body
            table += out.number(start - FRAMES, 4) + out.number(at - FRAMES, 4)
        # Version 1; the pointer to .eh_frame and the count of 4 bytes; the table relative to this header.
        return b"\1\x1b\x03\x3b" + out.number(head - 4, 4) + out.number(count, 4) + table + records

    def needs(self, library: Library) -> list[str]:
        """List what the loader has noted that a library needs: of the program it is all that was loaded at start."""
        if library is not self.libraries[0]:
            return list(library.needs)
        startup = (each.name for each in self.namespace(0) if each.type == 1)
        return list(dict.fromkeys((*library.needs, *startup)))

    # -- the loader's state ------------------------------------------------------------------------------------

    def blob(self, content: bytes, owner: Optional[Library] = None) -> int:
        """Put bytes on the heap: behind the map of their owner, or where all share them."""
        data = self.blobs.setdefault(self.maps[owner.key] + LISTS if owner else self.heap + SHARED, bytearray())
        at = next(start for start, each in self.blobs.items() if each is data) + len(data)
        data += content + bytes(-len(content) % 16)
        assert owner is None or len(data) <= 0x1000 - LISTS
        return at

    def link_map(self, index: int) -> bytes:
        """Write a struct link_map."""
        library, layout, out, word = self.libraries[index], self.layout, self.out, self.word
        base = self.base(library)
        data = bytearray(layout.size)

        def put(place: int, value: int, size: int = word) -> None:
            data[place : place + size] = out.number(value, size)

        def bit(place: tuple[int, int], value: int) -> None:
            data[place[0]] |= value << place[1]

        address = self.maps[library.key]
        number = library.namespace
        neighbours = [self.maps[each.key] for each in self.namespace(number)]
        place = neighbours.index(address)
        plain = "" if library.type == 0 else f"/usr/lib/{library.name}"
        path = (plain if library.path is None else library.path).encode()
        following = [*neighbours, 0][place + 1]
        before = [0, *neighbours][place]
        real = self.maps[library.name] if library.is_proxy else address
        name = self.blob(path + b"\0", library)
        names = 0
        for each in library.names:
            names = self.blob(out.words([self.blob(each.encode() + b"\0", library), names]), library)
        for index, value in enumerate((base, name, base + DYNAMIC, following, before, real, number, names)):
            put(index * word, value)
        put(layout.opencount, library.opencount, 4)
        bit((layout.opencount + 4, layout.type_shift), library.type)
        bit(layout.relocated, library.relocated)
        if layout.map_used:
            bit(layout.map_used, library.map_used)
        if layout.init_called:
            bit(layout.init_called, library.init_called)
        if layout.removed:
            bit(layout.removed, library.removed)
        bit(layout.is_global, library.is_global)
        if layout.auditing:
            bit(layout.auditing, library.auditing)
        if layout.nodelete_pending is not None:
            put(layout.nodelete_pending, library.nodelete_pending, 1)
        if layout.serial is not None:
            put(layout.serial, library.serial, 8)
        flags_1 = library.extra_flags_1 | (8 if library.elf_nodelete else 0)
        if layout.nodelete is None:
            flags_1 |= 8 if library.nodelete else 0
        else:
            put(layout.nodelete, library.nodelete, 1)
        put(layout.flags_1, flags_1, 4)
        put(layout.idx, library.idx, 4)
        headers = self.headers(library)
        put(layout.phdr, base + 0x40)
        put(layout.entry, base + 0x1234)
        put(layout.phnum, len(headers), 2)
        put(layout.loader, neighbours[0] if place else 0)
        put(layout.map_start, base)
        put(layout.map_start + word, base + IMAGE_SIZE)
        needs = [self.map_of(name, number) for name in self.needs(library)]
        needs = [*needs, address] if library.listed_last else [address, *needs]
        listed = self.blob(out.words([*needs, 0]), library)
        put(layout.initfini, listed)
        if library.opencount:
            # l_searchlist and l_symbolic_searchlist, two words each, are before l_loader.
            put(layout.loader - 4 * word, listed)
            put(layout.loader - 3 * word, len(needs), 4)
        if library.bound_to:
            count = out.number(len(library.bound_to), 4).ljust(word, b"\0")
            bound = [self.map_of(name, number) for name in library.bound_to]
            put(layout.reldeps, self.blob(count + out.words(bound), library))
        put(layout.relro, DYNAMIC)
        put(layout.relro + word, 0x800 + 0x10 * len(library.name))
        if library.tls_size:
            put(layout.tls_blocksize, library.tls_size)
            put(layout.tls_align, 16)
            put(layout.tls_offset, 0x100)
            put(layout.tls_modid, 1 + list(self.maps).index(library.key))
        if library.owed:
            assert layout.dtor_count is not None
            put(layout.dtor_count, library.owed)
        return bytes(data)

    def rtld_global(self) -> bytes:
        """Write the loader's globals: 16 namespaces, some of them in use, their number, and the lock."""
        out, word, layout = self.out, self.word, self.layout
        data = bytearray(self.rtld_global_size)
        in_use = 1 + max(self.last_namespace, *(each.namespace for each in self.libraries))
        for number in range(in_use):
            maps = [self.maps[each.key] for each in self.namespace(number)]
            head = out.word(maps[0] if maps else 0) + out.number(len(maps), 4)
            data[number * layout.ns_stride : number * layout.ns_stride + len(head)] = head
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
        data[count_at : count_at + word] = out.word(in_use)
        if layout.load_lock is not None:
            owner, depth = self.lock
            mutex = b"".join(out.number(each, 4) for each in (bool(owner), depth, owner))
            data[layout.load_lock : layout.load_lock + len(mutex)] = mutex
        if layout.load_adds is not None:
            data[layout.load_adds : layout.load_adds + word] = out.word(self.load_adds)
        return bytes(data)

    def rtld_global_ro(self) -> bytes:
        """Write the loader's constants: the pointers by which libc opens and closes."""
        data = bytearray(0x580)
        rtld = self.library("ld.so")
        for place, name in zip(self.layout.open_close or (), ("_dl_open", "_dl_close")):
            if name in rtld.functions:
                data[place : place + self.word] = self.out.word(self.base(rtld) + rtld.function(name))
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
        """Write the memory around the thread pointer, which is 0x200 bytes behind its start."""
        out, word = self.out, self.word
        head = 0
        for library in self.libraries:
            for number in range(library.owed):
                function = self.mangle(self.base(library) + 0x1100)
                obj = self.base(library) + DATA + 16 * number
                head = self.blob(out.words((function, obj, self.maps[library.key], head)))
        block = bytearray(0x600)
        block[0x200 - 0x100 + 7 * word : 0x200 - 0x100 + 8 * word] = out.word(head)
        if self.dlerror_result is not None:
            place = 0x200 - 0x100 + DLERROR_RESULT
            block[place : place + word] = out.word(self.dlerror_result)
        self_at, guard_at = (0x10, 0x30) if word == 8 else (0x8, 0x18)
        block[0x200 + self_at : 0x200 + self_at + word] = out.word(self.tls)
        if word == 8:
            block[0x200 + 0x2D0 : 0x200 + 0x2D4] = out.number(self.tid, 4)
        block[0x200 + guard_at : 0x200 + guard_at + word] = out.word(self.guard)
        return bytes(block)

    def segments(self) -> dict[int, bytes]:
        """Write everything: bytes by address."""
        out = self.out
        self.blobs: dict[int, bytearray] = {}
        main, libc, rtld = self.libraries[0], self.library("libc.so.6"), self.library("ld.so")
        r_debug = self.base(rtld) + R_DEBUG
        rtld.symbols = {"_rtld_global": (DATA, self.rtld_global_size), "_rtld_global_ro": (RTLD_GLOBAL_RO, 0x128)}
        rtld.data = {
            DATA: self.rtld_global(),
            R_DEBUG: out.words((1, self.maps[main.key], 0, 0, self.base(rtld))),
            RTLD_GLOBAL_RO: self.rtld_global_ro(),
        }
        assert DATA + self.rtld_global_size <= R_DEBUG
        if self.started_with is not None:
            words = [[self.blob(each + b"\0") for each in several] for several in self.started_with]
            rtld.symbols = {**rtld.symbols, "_dl_argv": (DL_ARGV, self.word)}
            rtld.data = {**rtld.data, DL_ARGV: out.word(self.blob(out.words([*words[0], 0, *words[1], 0])))}
        version = "{}.{}".format(*self.version)
        libc.constants = f"GNU C Library (Synthetic) stable release version {version}.\n".encode().ljust(0x80, b"\0")
        if self.exports_descriptors:
            libc.constants += version.encode().ljust(0x10, b"\0")
            libc.constants += b"".join(out.number(each, 4) for each in (8 * self.word, 1, self.layout.tls_modid))
            libc.symbols = {
                "__nptl_version": (CONSTANTS + 0x80, len(version) + 1),
                "_thread_db_link_map_l_tls_modid": (CONSTANTS + 0x90, 12),
            }
        if self.dlerror_result is not None:
            libc.symbols = {**libc.symbols, "__libc_dlerror_result": (DLERROR_RESULT, self.word)}
        main.dynamic = [(DT_DEBUG, r_debug)]
        main.constants = b"/lib/ld.so\0"
        segments = {}
        maps = {self.maps[library.key]: self.link_map(index) for index, library in enumerate(self.libraries)}
        segments[self.tls - 0x200] = self.thread_block()
        for library in self.libraries:
            if not library.is_proxy:
                segments[self.base(library)] = self.image(library)
        for address, content in maps.items():
            lists = bytes(self.blobs.pop(address + LISTS, b""))
            segments[address] = (content.ljust(LISTS, b"\0") + lists).ljust(0x1000, b"\0")
        for address, data in self.blobs.items():
            segments[address] = bytes(data).ljust(-(-len(data) // 0x1000) * 0x1000, b"\0")
        return segments

    def auxv(self) -> dict[int, int]:
        """Give the auxiliary vector: AT_PHDR, AT_PHENT, AT_PHNUM, AT_BASE."""
        main = self.libraries[0]
        entry_size = 56 if self.word == 8 else 32
        phdr, base = self.base(main) + 0x40, self.base(self.library("ld.so"))
        return {3: phdr, 4: entry_size, 5: len(self.headers(main)), 7: base}

    def target(self, layouts: Optional[Mapping[str, StructLayout]] = None) -> FakeTarget:
        """Give the process as a target; ``layouts`` are what the debugger knows of its structures."""
        threads = {4711: self.tls}
        return FakeTarget(self.segments(), self.platform, auxv=self.auxv(), threads=threads, layouts=layouts)

    def namespace(self, number: int) -> list[Library]:
        """List the libraries of a namespace."""
        return [each for each in self.libraries if each.namespace == number]

    def library(self, name: str, namespace: int = 0) -> Library:
        """Find a library."""
        return next(each for each in self.libraries if (each.name, each.namespace) == (name, namespace))
