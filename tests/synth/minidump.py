"""Write minidumps of processes that never ran, with the loader's memory in the form of any Windows.

Nothing here is shared with the readers: the offsets are typed in from the public layouts of each form, and the counts
come from loading the modules one after another by the rules of that form, which is the other way round from what the
readers do.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

EXE, NTDLL, KERNEL32 = "prog.exe", "ntdll.dll", "KERNEL32.DLL"
PINNED = 0xFFFFFFFF

#: What the loader keeps of a module lies in so many bytes: its entry, and at an offset its node, if it has one.
SLOT, SLOT_NODE = 0x200, 0x180

# Flags of Windows 8 and later (phnt).
STATIC_IMPORT = 0x20
READY_FLAGS = 0xA2CC | 0x80000


class Form(NamedTuple):
    """A form of the loader: name, version, whether it has a graph, and whether it is Wine's."""

    name: str
    version: tuple[int, int, int]
    graph: bool
    wine: bool = False


XP = Form("xp", (5, 1, 2600), graph=False)
WIN7 = Form("win7", (6, 1, 7601), graph=False)
WIN81 = Form("win8.1", (6, 3, 9600), graph=True)
WIN10 = Form("win10", (10, 0, 19041), graph=True)
WIN11 = Form("win11", (10, 0, 22631), graph=True)
WINE = Form("wine", (6, 1, 7601), graph=True, wine=True)


class Offsets(NamedTuple):
    """Where members are: of the PEB, RTL_CRITICAL_SECTION, PEB_LDR_DATA, LDR_DATA_TABLE_ENTRY and LDR_DDAG_NODE."""

    image_base: int
    ldr: int
    os_major: int
    loader_lock: int
    lock_owner: int
    heads: int
    shutdown: Optional[int]
    links: tuple[int, int, int]
    dll_base: int
    entry_point: int
    size: int
    full_name: int
    base_name: int
    flags: int
    load_count: int
    timestamp: int
    ddag: int
    module_link: int
    parent_base: int
    load_reason: int
    reference_count: int
    entry_size: int
    node_count: int
    node_dependencies: int
    node_incoming: int
    node_state: int
    node_size: int


WIDE = Offsets(
    image_base=0x10,
    ldr=0x18,
    os_major=0x118,
    loader_lock=0x110,
    lock_owner=0x10,
    heads=0x10,
    shutdown=0x48,
    links=(0, 0x10, 0x20),
    dll_base=0x30,
    entry_point=0x38,
    size=0x40,
    full_name=0x48,
    base_name=0x58,
    flags=0x68,
    load_count=0x6C,
    timestamp=0x80,
    ddag=0x98,
    module_link=0xA0,
    parent_base=0xB8,
    load_reason=0x10C,
    reference_count=0x114,
    entry_size=0x138,
    node_count=0x18,
    node_dependencies=0x28,
    node_incoming=0x30,
    node_state=0x38,
    node_size=0x50,
)
NARROW = Offsets(
    image_base=8,
    ldr=0xC,
    os_major=0xA4,
    loader_lock=0xA0,
    lock_owner=0xC,
    heads=0xC,
    shutdown=0x28,
    links=(0, 8, 0x10),
    dll_base=0x18,
    entry_point=0x1C,
    size=0x20,
    full_name=0x24,
    base_name=0x2C,
    flags=0x34,
    load_count=0x38,
    timestamp=0x44,
    ddag=0x50,
    module_link=0x54,
    parent_base=0x60,
    load_reason=0x94,
    reference_count=0x9C,
    entry_size=0xA8,
    node_count=0xC,
    node_dependencies=0x18,
    node_incoming=0x1C,
    node_state=0x20,
    node_size=0x2C,
)


@dataclass(eq=False)
class Module:
    """A DLL that can be loaded: ``functions`` are what it imports by name besides one of each DLL."""

    name: str
    imports: Sequence[str] = ()
    functions: Sequence[str] = ()
    exports: dict[str, bytes] = field(default_factory=dict)
    timestamp: int = 0x5F000000
    folder: str = "C:\\app"
    base: int = 0
    size: int = 0x4000
    # What the loader knows of it.
    count: int = 0
    loads: int = 0
    flags: int = 0
    static: bool = False
    reason: int = 0
    state: int = 9
    children: list[Module] = field(default_factory=list)
    incoming: list[Module] = field(default_factory=list)
    merged: list[Module] = field(default_factory=list)
    entry: int = 0
    node: int = 0
    parent: Optional[Module] = None


class Unloaded(NamedTuple):
    """A module that was unloaded."""

    name: str
    base: int
    size: int = 0x5000
    timestamp: int = 0x5E000000
    checksum: int = 0x1234


class Raised(NamedTuple):
    """An exception of a thread: what was raised, and the registers where it was raised."""

    address: int
    registers: dict[str, int]
    code: int = 0xC0000005
    parameters: tuple[int, ...] = ()
    tid: int = 0x5BC


class Loader:
    """A loader that loads modules by the rules of a form."""

    def __init__(self, form: Form, wide: bool = True, base: int = 0) -> None:
        self.form = form
        self.wide = wide
        self.known: dict[str, Module] = {}
        self.loaded: list[Module] = []
        self.initialized: list[Module] = []
        self.unloaded: list[Unloaded] = []
        self.ring: Optional[list[Unloaded]] = None
        self.ring_slots = 16
        self.shutdown = False
        #: The thread that owns the loader lock, 0 if none does; None leaves the lock away.
        self.lock_owner: Optional[int] = None
        #: Whether its processor is an ARM64, whose structures are those of x64.
        self.arm64 = False
        #: Where the loader keeps what it knows of a module; one that comes again gets the same place.
        self.slots: dict[str, int] = {}
        self._next_base = base or (0x7FF8_0000_0000 if wide else 0x1000_0000)

    def define(self, *modules: Module) -> None:
        """Make modules known."""
        for module in modules:
            self.known[module.name.lower()] = module

    def start(self, program: Module) -> None:
        """Start the program: ntdll and kernel32, its closure, all pinned or static."""
        for name in (NTDLL, KERNEL32):
            if name.lower() not in self.known:
                self.define(Module(name, folder="C:\\Windows\\System32"))
        self.define(program)
        core = [self.known[NTDLL.lower()], self.known[KERNEL32.lower()]]
        self._map(program)
        for module in core:
            if module not in self.loaded:
                self._map(module)
                self.initialized.append(module)
        before = list(self.loaded)
        if self.form.graph and not self.form.wine:
            for module in (program, *core):
                module.count = PINNED
            self._link(program)
            self._merge(before)
            for module in self.loaded:
                if module not in (program, *core):
                    module.static = True
        else:
            self._link(program)
            for module in self.loaded:
                module.count = 0xFFFF
        self.initialized.remove(program)

    def load(self, name: str, times: int = 1) -> Module:
        """Call LoadLibrary."""
        for _ in range(times):
            module = self.known[name.lower()]
            module.loads += 1
            if module not in self.loaded:
                before = list(self.loaded)
                self._map(module, reason=4)
                self._link(module)
                if self.form.graph and not self.form.wine:
                    self._merge(before)
            node = self._owner(module)
            if self.form.graph:
                pinned = PINNED if not self.form.wine else 0xFFFF
                if node.count != pinned:
                    node.count += 1
            elif module.count != 0xFFFF:
                self._count_closure(module)
        return self.known[name.lower()]

    def free(self, name: str) -> list[Module]:
        """Call FreeLibrary: gives what goes, each before what it imports; that stays loaded until it is `dropped`."""
        module = self.known[name.lower()]
        pinned = PINNED if self.form.graph and not self.form.wine else 0xFFFF
        if module not in self.loaded or module.static or self._owner(module).count in (0, pinned):
            return []
        if not self.form.graph:
            for each in self._counted(module):
                each.count -= each.count != 0xFFFF
            return [each for each in self._closure(module) if each.count == 0]
        gone: list[Module] = []
        self._release(self._owner(module), gone)
        return gone

    def _release(self, owner: Module, gone: list[Module]) -> None:
        """Take one from the count of a node; without any left it goes, and takes one from each that it imports."""
        owner.count -= 1
        if owner.count:
            return
        members = owner.merged or [owner]
        gone += members
        imported = {id(self._owner(child)): self._owner(child) for each in members for child in each.children}
        for child in imported.values():
            if any(each in child.incoming for each in members):
                child.incoming = [each for each in child.incoming if each not in members]
                self._release(child, gone)

    def drop(self, module: Module) -> None:
        """Unmap a module and take it out of the lists."""
        self.loaded.remove(module)
        self.initialized.remove(module)
        module.children, module.incoming, module.merged, module.parent = [], [], [], None
        module.count = 0

    def pin(self, name: str) -> None:
        """Call GetModuleHandleEx with the flag that pins."""
        stack, seen = [self.known[name.lower()]], set()
        while stack:
            module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            self._owner(module).count = PINNED if self.form.graph and not self.form.wine else 0xFFFF
            if not self.form.wine:
                stack += module.children

    def _owner(self, module: Module) -> Module:
        return module.merged[0] if module.merged else module

    def _map(self, module: Module, reason: int = 0) -> None:
        if not module.base:
            module.base = self._next_base
            self._next_base += max(module.size, 0x10000)
        module.reason = reason
        self.loaded.append(module)

    def _link(self, module: Module) -> None:
        """Load what a module imports, depth first, and note the edges; initialise in the order of completion."""
        there, initialized = set(self.loaded), set(self.initialized)
        stack = [(module, iter(module.imports))]
        on_the_way = {module}
        while stack:
            current, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                on_the_way.discard(current)
                if current not in initialized:
                    initialized.add(current)
                    self.initialized.append(current)
                continue
            target = self.known[name.lower()]
            current.children.append(target)
            is_on_the_way = target in on_the_way
            if target not in there:
                there.add(target)
                self._map(target)
                target.parent = current
                stack.append((target, iter(target.imports)))
                on_the_way.add(target)
            if self.form.graph and target.count not in (PINNED, 0xFFFF) and target is not current:
                owner = self._owner(target)
                if current not in owner.incoming:
                    owner.incoming.append(current)
                    # Wine forgets what a DLL was counted up while it was being linked.
                    owner.count += not (self.form.wine and is_on_the_way)

    def _merge(self, before: list[Module]) -> None:
        """Give the modules of an import cycle among the newly loaded one node, and forget the edges inside."""
        there = set(before)
        new = [module for module in self.loaded if module not in there]
        for cycle in self._cycles(new):
            owner, inside = cycle[0], set(cycle)
            outside = dict.fromkeys(m for each in cycle for m in each.incoming if m not in inside)
            for each in cycle:
                each.merged = cycle
                each.incoming = []
                each.count = 0
            owner.incoming += outside
            owner.count = len(owner.incoming)

    @staticmethod
    def _cycles(modules: list[Module]) -> list[list[Module]]:
        """Find the modules that import one another, by Kosaraju's way: each group in the order of the modules."""
        within = set(modules)
        importers: dict[Module, list[Module]] = {module: [] for module in modules}
        for module in modules:
            for child in module.children:
                if child in within:
                    importers[child].append(module)
        done: dict[Module, None] = {}
        seen: set[Module] = set()
        for module in modules:
            stack = [(module, iter(module.children))] if module not in seen else []
            seen.add(module)
            while stack:
                current, children = stack[-1]
                for child in children:
                    if child in within and child not in seen:
                        seen.add(child)
                        stack.append((child, iter(child.children)))
                        break
                else:
                    done[current] = None
                    stack.pop()
        group: dict[Module, int] = {}
        for number, module in enumerate(reversed(done)):
            work = [module] if module not in group else []
            while work:
                current = work.pop()
                if current not in group:
                    group[current] = number
                    work += importers[current]
        groups: dict[int, list[Module]] = {}
        for module in modules:
            groups.setdefault(group[module], []).append(module)
        return [cycle for cycle in groups.values() if len(cycle) > 1]

    def _count_closure(self, module: Module) -> None:
        """Count as up to Windows 7: 1, and 1 for every import edge of the closure."""
        for each in self._counted(module):
            each.count += each.count != 0xFFFF

    def _counted(self, module: Module) -> list[Module]:
        """List what one load of a module counts, up to Windows 7: itself, and each import of its closure."""
        return [module, *(child for each in self._closure(module) for child in each.children)]

    @staticmethod
    def _closure(module: Module) -> list[Module]:
        """List a module and all that it imports, each before what it imports unless that is a cycle."""
        found = {module: None}
        queue = [module]
        for each in queue:
            new = [child for child in dict.fromkeys(each.children) if child not in found]
            found.update(dict.fromkeys(new))
            queue += new
        return queue


class Memory:
    """Memory that is written as pieces."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytearray]] = []

    def add(self, address: int, size: int) -> bytearray:
        """Add a piece of zeros."""
        piece = bytearray(size)
        self.pieces.append((address, piece))
        return piece

    def find(self, address: int, size: int = 1) -> tuple[bytearray, int]:
        """Find the piece that holds an address, and where in it."""
        for start, piece in self.pieces:
            if start <= address and address + size <= start + len(piece):
                return piece, address - start
        raise KeyError(hex(address))

    def write(self, address: int, data: bytes) -> None:
        """Write bytes."""
        piece, offset = self.find(address, len(data))
        piece[offset : offset + len(data)] = data

    def number(self, address: int, size: int, value: int) -> None:
        """Write a number."""
        self.write(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def forget(self, address: int, size: int) -> None:
        """Cut a range out."""
        kept = []
        for start, piece in self.pieces:
            end = start + len(piece)
            if end <= address or start >= address + size:
                kept.append((start, piece))
                continue
            if start < address:
                kept.append((start, piece[: address - start]))
            if end > address + size:
                kept.append((address + size, piece[address + size - start :]))
        self.pieces = kept


class Heap:
    """Memory handed out from the bottom."""

    def __init__(self, memory: Memory, base: int, size: int) -> None:
        memory.add(base, size)
        self._next = base

    def take(self, size: int) -> int:
        """Take some."""
        found = self._next
        self._next += (size + 15) // 16 * 16 + 16
        return found


class Process:
    """A process whose loaders' memory is laid out; `dump` writes it as a minidump."""

    def __init__(
        self, loader: Loader, wow64: Optional[Loader] = None, images: bool = True, *, keeps_places: bool = False
    ) -> None:
        """Lay out; with ``keeps_places`` what is known of a module lies where it lay when that was done before."""
        self.loader = loader
        self.keeps_places = keeps_places
        self.memory = Memory()
        self.threads: list[tuple[int, int, dict[str, int]]] = []
        #: For each loader the address of its PEB_LDR_DATA, where members are, and the size of a word.
        self.heads: list[tuple[int, Offsets, int]] = []
        self.wow64 = wow64
        self.stack_base = 0x2_0000_0000 if loader.wide else 0x0020_0000
        self.teb = 0xCB_0000_0000 if loader.wide else 0x7FFD_E000
        self.memory.add(self.teb, 0x4000 if loader.wide else 0x1000)
        self.memory.add(self.stack_base - 0x2000, 0x2000)
        self.peb = self._lay_out(loader, 0x2A6_0000_0000 if loader.wide else 0x0030_0000, images)
        word = 8 if loader.wide else 4
        self._teb(self.teb, word, self.peb)
        self.memory.number(self.teb + word, word, self.stack_base)
        self.memory.number(self.teb + 2 * word, word, self.stack_base - 0x2000)
        if wow64 is not None:
            peb32 = self._lay_out(wow64, 0x0060_0000, images)
            teb32 = 0x00A0_2000
            self.memory.add(teb32, 0x1000)
            self._teb(teb32, 4, peb32)
            self.memory.number(self.teb, 8, teb32)
        self.registers = {"ip": 0, "sp": self.stack_base - 0x1000}

    def _teb(self, teb: int, word: int, peb: int) -> None:
        self.memory.number(teb + (0x30 if word == 8 else 0x18), word, teb)
        self.memory.number(teb + (0x60 if word == 8 else 0x30), word, peb)

    # -- the loader's memory ----------------------------------------------------------------------------------

    def _lay_out(self, loader: Loader, base: int, images: bool) -> int:
        form, wide, memory = loader.form, loader.wide, self.memory
        word, at = (8, WIDE) if wide else (4, NARROW)
        count = len(loader.loaded)
        if self.keeps_places:
            for module in loader.loaded:
                loader.slots.setdefault(module.name.lower(), len(loader.slots))
        heap = Heap(memory, base, 0x4000 + count * 0x900 + len(loader.slots) * SLOT)
        peb, ldr = heap.take(0x400), heap.take(0x60)
        memory.number(peb + at.image_base, word, loader.loaded[0].base)
        memory.number(peb + at.ldr, word, ldr)
        major, minor, build = form.version
        memory.number(peb + at.os_major, 4, major)
        memory.number(peb + at.os_major + 4, 4, minor)
        memory.number(peb + at.os_major + 8, 2, build)
        if loader.lock_owner is not None:
            lock = heap.take(0x28)
            memory.number(peb + at.loader_lock, word, lock)
            memory.number(lock + at.lock_owner, word, loader.lock_owner)
        memory.number(ldr, 4, 0x28 if form.name == "xp" else 0x58 if wide else 0x30)
        memory.number(ldr + 4, 1, 1)
        if form.name != "xp":
            memory.number(ldr + (at.shutdown or 0), 1, int(loader.shutdown))
        entry_size = {"xp": 0x50, "win7": 0xE0 if wide else 0x78}.get(form.name, at.entry_size)
        slots = heap.take(len(loader.slots) * SLOT) if self.keeps_places else 0
        for module in loader.loaded:
            slot = slots + loader.slots.get(module.name.lower(), 0) * SLOT
            module.entry = slot or heap.take(entry_size)
            if form.graph and (not module.merged or module is module.merged[0]):
                node = slot + SLOT_NODE if slot else heap.take(at.node_size)
                for each in module.merged or [module]:
                    each.node = node
        for place, order in enumerate((loader.loaded, loader.loaded, loader.initialized)):
            link = at.links[place]
            self._ring(ldr + at.heads + 2 * word * place, [m.entry + link for m in order], word)
        for module in loader.loaded:
            self._entry(loader, module, at, word, heap)
        if form.graph:
            self._graph(loader, at, word, heap)
        if images:
            self._images(loader, word, heap)
        self.heads.append((ldr, at, word))
        return peb

    def _ring(self, head: int, links: Sequence[int], word: int) -> None:
        ring = [head, *links]
        for index, link in enumerate(ring):
            self.memory.number(link, word, ring[(index + 1) % len(ring)])
            self.memory.number(link + word, word, ring[index - 1])

    def _string(self, address: int, text: str, word: int, heap: Heap) -> None:
        data = text.encode("utf-16-le")
        buffer = heap.take(len(data) + 2)
        self.memory.write(buffer, data + b"\0\0")
        self.memory.number(address, 2, len(data))
        self.memory.number(address + 2, 2, len(data) + 2)
        self.memory.number(address + word, word, buffer)

    def _entry(self, loader: Loader, module: Module, at: Offsets, word: int, heap: Heap) -> None:
        form, put, entry = loader.form, self.memory.number, module.entry
        put(entry + at.dll_base, word, module.base)
        put(entry + at.entry_point, word, module.base + 0x1000)
        put(entry + at.size, 4, module.size)
        self._string(entry + at.full_name, f"{module.folder}\\{module.name}", word, heap)
        self._string(entry + at.base_name, module.name, word, heap)
        put(entry + at.timestamp, 4, module.timestamp)
        if form.graph and not form.wine:
            owner = module.merged[0] if module.merged else module
            put(entry + at.flags, 4, module.flags | READY_FLAGS | (STATIC_IMPORT if module.static else 0))
            put(entry + at.load_count, 2, 0xFFFF if owner.count == PINNED else 6)
            put(entry + at.load_reason, 4, module.reason)
            put(entry + at.parent_base, word, module.parent.base if module.parent else 0)
            if form.version[0] >= 10:
                put(entry + at.reference_count, 4, 1)
        else:
            linked = 0x2 if module.parent and not form.graph else 0
            put(entry + at.flags, 4, module.flags | 0x80004 | linked)
            put(entry + at.load_count, 2, module.count)
            if form.name == "win7":
                for link in (at.ddag - 2 * word, at.ddag, at.ddag + 2 * word):
                    self._ring(entry + link, [], word)

    def _graph(self, loader: Loader, at: Offsets, word: int, heap: Heap) -> None:
        put = self.memory.number
        outgoing: dict[int, list[int]] = {}
        incoming: dict[int, list[int]] = {}
        for module in loader.loaded:
            put(module.entry + at.ddag, word, module.node)
            if not module.merged or module is module.merged[0]:
                members = module.merged or [module]
                self._ring(module.node, [each.entry + at.module_link for each in members], word)
                wine = loader.form.wine
                put(module.node + at.node_count, 4, 0 if wine else module.count)
                put(module.node + at.node_state, 4, 0 if wine else module.state)
        edges: dict[tuple[int, int], None] = {}
        for module in loader.loaded:
            for child in module.children:
                if module.node != child.node and self._has_edge(module, child):
                    edges[module.node, child.node] = None
        for source, target in edges:
            record = heap.take(4 * word)
            put(record + word, word, target)
            put(record + 3 * word, word, source)
            outgoing.setdefault(source, []).append(record)
            incoming.setdefault(target, []).append(record)
        for node, records in outgoing.items():
            for index, record in enumerate(records):
                put(record, word, records[(index + 1) % len(records)])
            put(node + at.node_dependencies, word, records[-1])
        for node, records in incoming.items():
            for index, record in enumerate(records):
                put(record + 2 * word, word, records[(index + 1) % len(records)] + 2 * word)
            put(node + at.node_incoming, word, records[-1] + 2 * word)

    @staticmethod
    def _has_edge(module: Module, child: Module) -> bool:
        owner = child.merged[0] if child.merged else child
        sources = module.merged or [module]
        return any(importer is source for importer in owner.incoming for source in sources)

    # -- images -----------------------------------------------------------------------------------------------

    def _images(self, loader: Loader, word: int, heap: Heap) -> None:
        exports = dict(loader.known[NTDLL.lower()].exports)
        if loader.form.wine:
            exports["wine_get_version"] = b"\xc3"
        if loader.ring is not None:
            exports["RtlGetUnloadEventTraceEx"] = b"\0" * 48
        loader.known[NTDLL.lower()].exports = exports
        for module in loader.loaded:
            image = self.memory.add(module.base, module.size)
            places = write_image(image, module, loader.wide)
            if loader.ring is not None and module.name == NTDLL:
                self._unload_ring(loader, module.base + places["RtlGetUnloadEventTraceEx"], word, heap)

    def _unload_ring(self, loader: Loader, code: int, word: int, heap: Heap) -> None:
        """Write the ring, its three variables, and the function that gives their addresses."""
        assert loader.ring is not None
        form_size = 0x60 if loader.form.wine else 0x68
        element = form_size if word == 8 else form_size - 12
        slots = loader.ring_slots
        array = 0x3_0000_0000 if word == 8 else 0x0080_0000
        self.memory.add(array, element * slots)
        image = next(m for m in loader.loaded if m.name == NTDLL)
        variables = image.base + image.size - 0x100
        self.memory.number(variables, 4, element)
        self.memory.number(variables + 4, 4, slots)
        self.memory.number(variables + 8, word, array if loader.ring else 0)
        for sequence, event in enumerate(loader.ring):
            at = array + sequence % slots * element
            self.memory.write(at, b"\0" * element)
            self.memory.number(at, word, event.base)
            self.memory.number(at + word, word, event.size)
            self.memory.number(at + 2 * word, 4, sequence)
            self.memory.number(at + 2 * word + 4, 4, event.timestamp)
            self.memory.number(at + 2 * word + 8, 4, event.checksum)
            self.memory.write(at + 2 * word + 12, event.name.encode("utf-16-le")[:64])
        if loader.arm64:
            text = _arm64_ring(code, variables)
        elif word == 8:
            text = b""
            for number, store in enumerate((b"\x48\x89\x01", b"\x48\x89\x02", b"\x49\x89\x00")):
                target = variables + 4 * number
                text += b"\x48\x8d\x05" + struct.pack("<i", target - (code + len(text) + 7)) + store
            text += b"\xc3"
        else:
            text = b"\x8b\xff\x55\x8b\xec"
            for number, load in enumerate((b"\x8b\x45\x08", b"\x8b\x45\x0c", b"\x8b\x45\x10")):
                text += load + b"\xc7\x00" + struct.pack("<I", variables + 4 * number)
            text += b"\x5d\xc2\x0c\x00"
        self.memory.write(code, text)

    # -- the file ---------------------------------------------------------------------------------------------

    def add_thread(self, tid: int, **registers: int) -> None:
        """Add a thread besides the first; it shares the first one's TEB."""
        self.threads.append((tid, self.teb, registers))

    def dump(
        self,
        full: bool = True,
        arch: Optional[int] = None,
        modules: bool = True,
        unloaded: Optional[Sequence[Unloaded]] = None,
        pid: int = 4711,
        raised: Optional[Raised] = None,
        platform: int = 2,
        starts: Optional[dict[int, int]] = None,
    ) -> bytes:
        """Write the minidump, with a Memory64List, or a MemoryList of the same.

        It has a list of unloaded modules, if need be an empty one, unless that is None; `platform` is 2 for Windows;
        `starts` are the addresses at which threads began, by their ids.
        """
        out = _File()
        wide = self.loader.wide
        major, minor, build = self.loader.form.version
        if arch is None:
            arch = 12 if self.loader.arm64 else 9 if wide else 0
        out.stream(
            7, struct.pack("<HHHBBIIIIIHH", arch, 6, 0, 8, 1, major, minor, build, platform, 0, 0, 0) + b"\0" * 24
        )
        out.stream(15, struct.pack("<III", 24, 1, pid) + b"\0" * 12)
        threads = [(0x5BC, self.teb, self.registers), *self.threads]
        kind = 12 if arch == 12 else 9 if wide else 0
        stack = (self.stack_base - 0x2000, 0x2000)
        piece, offset = self.memory.find(*stack)
        where = out.blob(bytes(piece[offset : offset + 0x2000]))
        body = struct.pack("<I", len(threads))
        for tid, teb, registers in threads:
            context = _context(kind, registers)
            places = where, len(context), out.blob(context)
            body += struct.pack("<IIIIQQIIII", tid, 0, 0, 0, teb, *stack, *places)
        out.stream(3, body)
        if modules:
            listed = [*self.loader.loaded, *(self.wow64.loaded if self.wow64 else ())]
            body = struct.pack("<I", len(listed))
            for module in listed:
                name = out.string(f"{module.folder}\\{module.name}")
                body += struct.pack("<QIIII", module.base, module.size, 0, module.timestamp, name) + b"\0" * 84
            out.stream(4, body)
        if raised is not None:
            context = _context(kind, raised.registers)
            body = struct.pack("<IIIIQQII", raised.tid, 0, raised.code, 0, 0, raised.address, len(raised.parameters), 0)
            body += struct.pack("<15Q", *raised.parameters, *[0] * (15 - len(raised.parameters)))
            out.stream(6, body + struct.pack("<II", len(context), out.blob(context)))
        if unloaded is not None:
            body = struct.pack("<III", 12, 24, len(unloaded))
            for event in unloaded:
                name = out.string(event.name)
                body += struct.pack("<QIIII", event.base, event.size, event.checksum, event.timestamp, name)
            out.stream(14, body)
        if starts:
            body = struct.pack("<III", 12, 64, len(starts))
            for tid, start in starts.items():
                body += struct.pack("<IIIIQQQQQQ", tid, 0, 0, 0x103, 0, 0, 0, 0, start, 3)
            out.stream(17, body)
        pieces = sorted(self.memory.pieces)
        if full:
            size = 16 + 16 * len(pieces)
            start = out.stream(9, b"\0" * size)
            first = out.end()
            data = struct.pack("<QQ", len(pieces), first)
            data += b"".join(struct.pack("<QQ", address, len(piece)) for address, piece in pieces)
            out.data[start : start + size] = data
            for _, piece in pieces:
                out.data += piece
        else:
            body = struct.pack("<I", len(pieces))
            for address, piece in pieces:
                body += struct.pack("<QII", address, len(piece), out.blob(bytes(piece)))
            out.stream(5, body)
        return out.finish()


def write_image(image: bytearray, module: Module, wide: bool) -> dict[str, int]:
    """Write a PE image as it lies in memory; gives the RVAs of its exports."""
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 60, 0x80)
    struct.pack_into("<4sHHIIIHH", image, 0x80, b"PE\0\0", 0x8664 if wide else 0x14C, 1, module.timestamp, 0, 0, 240, 0)
    optional = 0x98
    struct.pack_into("<H", image, optional, 0x20B if wide else 0x10B)
    struct.pack_into("<III", image, optional + 56, module.size, 0x400, 0)
    directories = optional + (112 if wide else 96)
    struct.pack_into("<I", image, directories - 4, 16)
    word = 8 if wide else 4
    place = 0x1800
    names = {}

    def text(value: str) -> int:
        nonlocal place
        found = place
        raw = value.encode() + b"\0"
        image[place : place + len(raw)] = raw
        place += len(raw) + len(raw) % 2
        return found

    places: dict[str, int] = {}
    if module.exports:
        table = 0x1400
        names = {name: text(name) for name in sorted(module.exports)}
        count = len(names)
        struct.pack_into("<5I", image, table + 20, count, count, table + 40, table + 80, table + 120)
        for index, (name, where) in enumerate(names.items()):
            places[name] = 0x1000 + 0x40 * index
            code = module.exports[name]
            image[places[name] : places[name] + len(code)] = code
            struct.pack_into("<I", image, table + 40 + 4 * index, places[name])
            struct.pack_into("<I", image, table + 80 + 4 * index, where)
            struct.pack_into("<H", image, table + 120 + 2 * index, index)
        struct.pack_into("<II", image, directories, table, 0x200)
    if module.imports:
        table = 0x2000
        thunks = 0x2000 + 20 * (len(module.imports) + 1)
        thunks += -thunks % 16
        for index, name in enumerate(module.imports):
            wanted = [*(module.functions if not index else ()), f"from_{index}"]
            struct.pack_into("<5I", image, table + 20 * index, thunks, 0, 0, text(name), thunks)
            for function in wanted:
                hint = text("..")
                image[hint : hint + 2] = b"\0\0"
                place = hint + 2
                text(function)
                struct.pack_into("<Q" if wide else "<I", image, thunks, hint)
                thunks += word
            thunks += word
        struct.pack_into("<II", image, directories + 8, table, 20 * (len(module.imports) + 1))
    return places


def _arm64_ring(code: int, variables: int) -> bytes:
    """Write BTI, for each variable ADRP, ADD and STR, and RET."""
    words = [0xD503245F]
    for number in range(3):
        target = variables + 4 * number
        pages = (target >> 12) - (code + 4 * len(words) >> 12)
        words.append(0x90000008 | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5)
        words.append(0x91000108 | (target & 0xFFF) << 10)
        words.append(0xF9000008 | number << 5)
    return struct.pack(f"<{len(words) + 1}I", *words, 0xD65F03C0)


def _context(kind: int, registers: dict[str, int]) -> bytes:
    sizes = {0: (716, 4), 9: (1232, 8), 12: (912, 8)}
    places = {
        0: {"sp": 0xC4, "ip": 0xB8, "a": 0xB0, "b": 0xA4, "c": 0xAC, "flags": 0},
        9: {"sp": 0x98, "ip": 0xF8, "a": 0x78, "b": 0x90, "c": 0x80, "flags": 0x30},
        12: {"sp": 0x100, "ip": 0x108, "a": 8, "b": 0x10, "lr": 0xF8, "flags": 0},
    }
    size, word = sizes[kind]
    raw = bytearray(size)
    for name, value in registers.items():
        struct.pack_into("<Q" if word == 8 else "<I", raw, places[kind][name], value)
    flags = {0: 0x10007, 9: 0x10000B, 12: 0x40000F}
    struct.pack_into("<I", raw, places[kind]["flags"], flags[kind])
    return bytes(raw)


class _File:
    def __init__(self) -> None:
        self.data = bytearray(32 + 12 * 16)
        self.streams: list[tuple[int, int, int]] = []

    def end(self) -> int:
        return len(self.data)

    def blob(self, data: bytes) -> int:
        self.data += b"\0" * (-len(self.data) % 8)
        where = len(self.data)
        self.data += data
        return where

    def string(self, text: str) -> int:
        raw = text.encode("utf-16-le")
        return self.blob(struct.pack("<I", len(raw)) + raw + b"\0\0")

    def stream(self, kind: int, data: bytes) -> int:
        where = self.blob(data)
        self.streams.append((kind, len(data), where))
        return where

    def finish(self) -> bytes:
        struct.pack_into("<4sIIIIIQ", self.data, 0, b"MDMP", 0xA793, len(self.streams), 32, 0, 0x60000000, 2)
        for index, each in enumerate(self.streams):
            struct.pack_into("<III", self.data, 32 + 12 * index, *each)
        return bytes(self.data)
