"""What does Windows' loader know about the DLLs of a process?

Path: TEB -> PEB -> PEB_LDR_DATA -> three lists of LDR_DATA_TABLE_ENTRY, and since Windows 8 the graph of LDR_DDAG_NODE.
Which rules apply is decided by structure, not by version: the version that a process sees can be wrong (Wine reports
any).  A process of 32-bit code on 64-bit Windows has two loaders, each with its own lists.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from ...counts import quantity
from ...errors import CorruptError, DlwhyError, FaultError, LayoutError, UnsupportedError
from ...lists import Walk, follow_ring
from ...memory import Memory
from ...model import Evidence, Problem, Source, SourceKind
from ...paths import windows_base_name
from ...structs import Structure, StructView
from ..layouts.ntuser import LOADER_TYPES, NtLayouts, for_each_candidate
from ..model import LoaderRule, SystemVersion
from ..pe import find_export
from ..strings import MAX_BYTES, read_unicode_string
from ..target import LOADER_NAMES, WindowsTarget

#: A longer list is considered corrupt.
MAX_ENTRIES = 1 << 14
#: Why there is no PEB, in a target of one process.
NO_PEB = "not in memory: neither load counts nor pins are known, only the module list"
NOT_WINDOWS = "it is not a process of Windows: ask with dlstate or dlplan, in Python by state or plan"
#: Bytes of a base name: NAME_MAX of NTFS is 255 characters.
_MAX_NAME = 512
#: Costs of an entry, a node and an edge, in Memory's units, in addition to the bytes read.
_ENTRY_UNITS, _NODE_UNITS, _EDGE_UNITS = 2000, 1000, 64
#: Maximum number of records read from the graph: a damaged graph can be endless.
MAX_RECORDS = 500_000
#: In the low bits of an edge's ParentNode: a forwarder or a delay load made it.
_FORWARDER_LINK = 1
#: Ends the list of a node's edges; never an address.
_NO_RECORD = -1
#: How many entries decide whether a layout fits.
_SAMPLE = 8

#: Build number of Windows Vista.
FIRST_VISTA_BUILD = 6000

PINNED = 0xFFFFFFFF
PINNED_16 = 0xFFFF

# Flags of Windows 8 and later, unless the name says otherwise.
FLAG_MARKED_FOR_REMOVAL = 0x2
FLAG_STATIC_LINK_WIN7 = 0x2
FLAG_IMAGE_DLL = 0x4
FLAG_PROCESS_STATIC_IMPORT = 0x20
FLAG_SHIM_DLL = 0x100
FLAG_VERIFIER_PROVIDER = 0x400
#: A LoadLibrary of it has not returned; the same bit since XP, and in Wine.
FLAG_LOAD_IN_PROGRESS = 0x1000
FLAG_UNLOAD_IN_PROGRESS_WIN7 = 0x2000
FLAG_PROCESS_ATTACH_CALLED = 0x80000
FLAG_COR_IMAGE = 0x400000
FLAG_DONT_RESOLVE_WINE = 0x40000000

STATES = {
    -5: "Merged",
    -4: "InitError",
    -3: "SnapError",
    -2: "Unloaded",
    -1: "Unloading",
    0: "PlaceHolder",
    1: "Mapping",
    2: "Mapped",
    3: "WaitingForDependencies",
    4: "Snapping",
    5: "Snapped",
    6: "Condensed",
    7: "ReadyToInit",
    8: "Initializing",
    9: "ReadyToRun",
}
READY_TO_RUN, UNLOADING, UNLOADED = 9, -1, -2
#: DllMain returned FALSE; an import was not found.
INIT_ERROR, SNAP_ERROR = -4, -3
#: From Mapping to Initializing: a load that has not returned.
LOADING = range(1, READY_TO_RUN)

#: DLLs that the loader itself pins.
CORE_DLLS = frozenset({"ntdll.dll", "kernel32.dll", "kernelbase.dll"})

DYNAMIC_LOAD = 4
LOAD_REASONS = {
    -1: "unknown",
    0: "static-dependency",
    1: "static-forwarder",
    2: "dynamic-forwarder",
    3: "delay-load",
    4: "dynamic-load",
    5: "as-image",
    6: "as-data",
    7: "enclave-primary",
    8: "enclave-dependency",
    9: "patch-image",
}

#: _NT_TIB.Self, _TEB.ProcessEnvironmentBlock and _PEB.Ldr of 32-bit code; a 64-bit TEB points at the 32-bit one.
_TEB32_SELF, _TEB32_PEB, _PEB32_LDR = 0x18, 0x30, 0xC

#: Every process of 32-bit code on 64-bit Windows has loaded it, and no other.
_WOW64_DLL = "wow64.dll"

#: The three lists: the head of each, and the links in it.
LISTS = {
    "load": ("InLoadOrderModuleList", "InLoadOrderLinks"),
    "memory": ("InMemoryOrderModuleList", "InMemoryOrderLinks"),
    "initialization": ("InInitializationOrderModuleList", "InInitializationOrderLinks"),
}
#: Members of entries and nodes that are read if the version has them.
ENTRY_FIELDS = (
    "Flags",
    "LoadCount",
    "ObsoleteLoadCount",
    "TlsIndex",
    "LoadReason",
    "ReferenceCount",
)
NODE_FIELDS = ("LoadCount", "LoadWhileUnloadingCount", "State")
_SIGNED = frozenset({"State", "LoadReason"})


class Fit(enum.IntEnum):
    """Whether the nodes under a layout, or before Windows 8 the links in their place, point back at entries."""

    WRONG = 0
    UNREADABLE = 1
    RIGHT = 2


class DdagNode:
    """An LDR_DDAG_NODE: a module or the modules of an import cycle, with its imports and importers."""

    __slots__ = (
        "address",
        "children",
        "cut",
        "cut_edges",
        "forwarders",
        "knows_children",
        "knows_parents",
        "modules",
        "parents",
        "record",
    )

    def __init__(self, record: StructView) -> None:
        self.record = record
        self.address = record.address
        #: In the order of its ring, and why the ring could not be read completely.
        self.modules: Mapping[int, None] = {}
        self.cut: Optional[str] = None
        self.children: Optional[tuple[int, ...]] = None
        self.parents: Optional[tuple[int, ...]] = None
        #: Whether they are all of them.
        self.knows_children = self.knows_parents = False
        #: Those of the children whose edge was made by a forwarder or a delay load, and the lists that were cut.
        self.forwarders: set[int] = set()
        self.cut_edges: set[str] = set()

    @property
    def count(self) -> Optional[int]:
        """Return LoadCount."""
        return self.record.get("LoadCount")

    @property
    def state(self) -> Optional[int]:
        """Return State."""
        return self.record.get("State")


class LdrEntry:
    """An LDR_DATA_TABLE_ENTRY."""

    __slots__ = (
        "address",
        "base",
        "doubts",
        "entry_point",
        "image_base",
        "name",
        "node",
        "orders",
        "parent_base",
        "path",
        "record",
        "size",
        "timestamp",
    )

    def __init__(self, record: StructView) -> None:
        self.record = record
        self.address = record.address
        self.base = record.get("DllBase") or 0
        #: Where its image is: at another address than DllBase if what is mapped contradicts that.
        self.image_base = self.base
        self.size = record.get("SizeOfImage") or 0
        self.timestamp = record.get("TimeDateStamp")
        self.entry_point = record.get("EntryPoint") or 0
        self.parent_base = record.get("ParentDllBase")
        self.name = ""
        self.path = ""
        self.node: Optional[DdagNode] = None
        self.orders: dict[str, int] = {}
        #: What contradicts the entry or its node, in words.
        self.doubts: list[str] = []

    def doubt(self, record: StructView, member: str, text: str) -> None:
        """Record that a member of the entry or its node is contradicted."""
        field = record.layout.fields[member]
        self.doubts.append(
            f"{member} at {record.address + field.offset:#x} is {record.get(member) or 0:#x}, but {text}"
        )

    @property
    def label(self) -> str:
        """Return the DLL's name, or what stands for it: that of its file, else its address or its entry's."""
        at = f"{self.base:#x}" if self.base else f"entry {self.address:#x}"
        return self.name or windows_base_name(self.path) or at

    @property
    def flags(self) -> Optional[int]:
        """Return Flags."""
        return self.record.get("Flags")

    @property
    def count16(self) -> Optional[int]:
        """Return the 16-bit count: valid up to Windows 7, and in Wine."""
        name = "ObsoleteLoadCount" if "ObsoleteLoadCount" in self.record.layout.fields else "LoadCount"
        return self.record.get(name)

    @property
    def count_field(self) -> str:
        """Return the name of the member with the 16-bit count."""
        return "ObsoleteLoadCount" if "ObsoleteLoadCount" in self.record.layout.fields else "LoadCount"

    def has_flag(self, flag: int) -> bool:
        """Return True if a flag is set."""
        return bool((self.flags or 0) & flag)

    def node_evidence(self, name: str) -> tuple[Evidence, ...]:
        """Return a member of the node as evidence."""
        return self.node.record.evidence(name) if self.node else ()


class Loader:
    """One loader of the process: its DLLs by entry address, in load order up to the end or a break of that list."""

    def __init__(self, kind: str, memory: Memory, peb: int, layouts: NtLayouts) -> None:
        self.kind = kind
        self.memory = memory
        self.peb = peb
        self.layouts = layouts
        self.source = layouts.source
        self.pointer_size = layouts.require("_PEB_LDR_DATA").fields["InLoadOrderModuleList"].size // 2
        self._problems: dict[Problem, None] = {}
        self._structures: dict[str, Structure] = {}
        self.entries: dict[int, LdrEntry] = {}
        self.nodes: dict[int, DdagNode] = {}
        self.rule = LoaderRule.WIN8
        self.rule_reason = ""
        self.has_nodes = False
        self.shutdown: Optional[bool] = None
        self.main: Optional[LdrEntry] = None
        self.complete = True
        self.version = SystemVersion(0, 0, 0)
        # Each entry is in one ring.
        self._ring_budget = 4 * MAX_ENTRIES
        self.fit = Fit.UNREADABLE

    def view(self, type_name: str, address: int) -> StructView:
        """Read a structure of the loader's.

        :raises LayoutError: if this source of layouts lacks it.
        """
        structure = self._structures.get(type_name)
        if structure is None:
            structure = self._structures[type_name] = _structure(self.memory, self.layouts, type_name)
        return StructView(self.memory, address, structure, self.source)

    def pointer(self, address: int) -> int:
        """Read a pointer of this loader's code."""
        return self.memory.unsigned(address, self.pointer_size)

    @property
    def problems(self) -> Sequence[Problem]:
        """Return problems: unreadable or inconsistent data."""
        return tuple(self._problems)

    def _add_problem(self, where: str, message: str) -> None:
        prefix = "32-bit loader: " if self.kind == "wow64" else ""
        self._problems.setdefault(Problem(prefix + where, message))

    # -- the lists --------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Read the loader's state.

        :raises FaultError: if PEB_LDR_DATA is not in memory.
        :raises CorruptError: if there is no PEB_LDR_DATA.
        """
        ldr = self._ldr()
        heads = self.layouts.require("_PEB_LDR_DATA")
        self.pointer(ldr + heads.fields["InLoadOrderModuleList"].offset)
        record = self.view("_PEB_LDR_DATA", ldr)
        shutdown = record.get("ShutdownInProgress")
        self.shutdown = None if shutdown is None else bool(shutdown)
        for order, (head_name, links_name) in LISTS.items():
            for place, address in enumerate(self._walk(ldr, head_name, links_name, order)):
                entry = self.entries.get(address)
                if entry is None:
                    entry = self._read_entry(address)
                    self.entries[address] = entry
                entry.orders[order] = place
        self.main = self.find_main()
        if self.main is None and self.entries:
            self._add_problem("PEB", "no DLL of the loader's lies at its ImageBaseAddress: the program is not known")

    def find_main(self) -> Optional[LdrEntry]:
        """Find the entry of the program, whose image is at the PEB's ImageBaseAddress."""
        image_base = self.view("_PEB", self.peb).get("ImageBaseAddress")
        return next((each for each in self.entries.values() if each.image_base and each.image_base == image_base), None)

    @property
    def lock(self) -> Optional[StructView]:
        """Return the loader lock, None if the PEB names none."""
        if "_RTL_CRITICAL_SECTION" not in self.layouts.layouts:
            return None
        lock = self.view("_PEB", self.peb).get("LoaderLock")
        return self.view("_RTL_CRITICAL_SECTION", lock) if lock else None

    @property
    def lock_owner(self) -> Optional[int]:
        """Return the id of the thread that owns the loader lock, 0 if none does, None if it cannot be read."""
        lock = self.lock
        return lock.get("OwningThread") if lock else None

    def _ldr(self) -> int:
        field = self.layouts.require("_PEB").fields["Ldr"]
        ldr = self.pointer(self.peb + field.offset)
        if not ldr:
            raise CorruptError("PEB.Ldr is 0: the loader has not run yet", self.peb + field.offset)
        return ldr

    def _walk(self, ldr: int, head_name: str, links_name: str, order: str) -> list[int]:
        """Follow a list, also backwards if it breaks; return the addresses of the entries."""
        head = ldr + self.layouts.require("_PEB_LDR_DATA").fields[head_name].offset
        links = self.layouts.require("_LDR_DATA_TABLE_ENTRY").fields[links_name].offset
        walk = self._follow(head, links)
        found = list(walk.all())
        if not walk.is_complete:
            known = set(found)
            rest = [each for each in reversed(self._follow(head, links, backwards=True).all()) if each not in known]
            self.complete = False
            more = f"; {quantity(len(rest), 'more was', 'more were')} found from its end" if rest else ""
            self._add_problem(f"{order} order list", f"{walk.reason}{more}")
            found += rest
        return found

    def _follow(self, head: int, links: int, *, backwards: bool = False) -> Walk[int]:
        """Follow a list of entries, whose links have that offset."""
        return follow_ring(
            self.memory,
            head,
            lambda link: link - links,
            limit=MAX_ENTRIES,
            backwards=backwards,
            pointer_size=self.pointer_size,
        )

    def _read_entry(self, address: int) -> LdrEntry:
        layout = self.layouts.require("_LDR_DATA_TABLE_ENTRY")
        self.memory.spend(_ENTRY_UNITS, "the loader's entry", address)
        entry = LdrEntry(self.view("_LDR_DATA_TABLE_ENTRY", address))
        entry.path = self._name(address + layout.fields["FullDllName"].offset, MAX_BYTES)
        entry.name = self._name(address + layout.fields["BaseDllName"].offset, _MAX_NAME)
        return entry

    def _name(self, address: int, limit: int) -> str:
        """Read a name of at most ``limit`` bytes; empty if it is unreadable or implausible."""
        try:
            found = read_unicode_string(self.memory, address, self.pointer_size, limit)
        except FaultError:
            return ""  # the module list can have it; else a search for a name is incomplete
        return found.text or "" if found.length <= found.maximum_length else ""

    # -- the graph --------------------------------------------------------------------------------------------

    def read_graph(self) -> None:
        """Read the nodes and the edges between them, if this version has any."""
        if not self.layouts.has_graph or "_LDR_DDAG_NODE" not in self.layouts.layouts:
            return
        missing = []
        for entry in self.entries.values():
            address = entry.record.get("DdagNode")
            if address is None:
                continue
            node = self._node(entry, address) if address else None
            if node is not None and entry.address in node.modules:
                entry.node = node
                continue
            entry.node = self._find_node_by_ring(entry)
            if entry.node is not None:
                text = f"its NodeModuleLink is in the ring of the node at {entry.node.address:#x}"
                entry.doubt(entry.record, "DdagNode", text)
            elif node is None and address:
                missing.append(entry.label)
            elif node is not None:
                self._add_problem(entry.label, f"its node {address:#x} does not list it: the node is not used")
        used = {entry.node.address for entry in self.entries.values() if entry.node}
        self.nodes = {address: node for address, node in self.nodes.items() if address in used}
        self.has_nodes = bool(self.nodes)
        budget = MAX_RECORDS
        for node in self.nodes.values():
            for outgoing in (True, False):
                budget = self._read_edges(node, outgoing, budget)
        if missing and self.nodes:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            self._add_problem("LDR_DDAG_NODE", f"not in memory: the load counts of {names} are not known")

    def _node(self, entry: LdrEntry, address: int) -> Optional[DdagNode]:
        """Return the node at an address, which an entry names, None if it is not in memory."""
        node = self.nodes.get(address)
        if node is None:
            node = self.read_node(address)
            if node is not None:
                self.nodes[address] = node
                if node.cut:
                    self._add_problem(entry.label, f"{node.cut}: not all modules of its import cycle are known")
        return node

    def _find_node_by_ring(self, entry: LdrEntry) -> Optional[DdagNode]:
        """Find the node in whose ring of modules an entry is; None if the ring is damaged, too."""
        link = entry.address + self.layouts.require("_LDR_DATA_TABLE_ENTRY").fields["NodeModuleLink"].offset
        links = {each + link - entry.address for each in self.entries}
        ring = follow_ring(
            self.memory,
            link,
            lambda each: each,
            limit=4 * MAX_ENTRIES,
            taken=4 * MAX_ENTRIES - self._ring_budget,
            pointer_size=self.pointer_size,
        )
        for address in ring:
            self._ring_budget -= 1
            if address not in links:
                node = self._node(entry, address)
                return node if node is not None and entry.address in node.modules else None
        return None

    def read_node(self, address: int) -> Optional[DdagNode]:
        """Read a node, None if it is not in memory."""
        self.memory.spend(_NODE_UNITS, "the node", address)
        node = DdagNode(self.view("_LDR_DDAG_NODE", address))
        if node.count is None or node.state is None:
            return None
        links = self.layouts.require("_LDR_DATA_TABLE_ENTRY").fields["NodeModuleLink"].offset
        walk = self._follow_modules(address, links)
        node.modules = dict.fromkeys(walk.all())
        node.cut = walk.reason
        if node.cut is not None:
            rest = self._follow_modules(address, links, backwards=True).all()
            node.modules = dict.fromkeys((*node.modules, *reversed(rest)))
        self._ring_budget -= len(node.modules)
        return node

    def _follow_modules(self, address: int, links: int, *, backwards: bool = False) -> Walk[int]:
        """Follow the ring of a node's modules, whose links have that offset."""
        return follow_ring(
            self.memory,
            address,
            lambda link: link - links,
            limit=4 * MAX_ENTRIES,
            taken=4 * MAX_ENTRIES - self._ring_budget,
            backwards=backwards,
            pointer_size=self.pointer_size,
            subject="Modules of its node",
            noun="module",
        )

    def _read_edges(self, node: DdagNode, outgoing: bool, budget: int) -> int:
        """Read a circular LDRP_CSLIST of {Link, ChildNode, BackLink, ParentNode}; Tail is the last record.

        Source of the record: phnt of System Informer (ntldr.h); the low 3 bits of ParentNode are flags.
        """
        size = self.pointer_size
        name = "Dependencies" if outgoing else "IncomingDependencies"
        where = self._node_name(node)
        tail = node.record.get(name)
        shift = 0 if outgoing else 2 * size

        def read(link: int, _: int) -> tuple[int, int]:
            self.memory.spend(_EDGE_UNITS, f"{name} of {where}")
            raw = self.memory.read(link - shift, 4 * size)
            words = [int.from_bytes(raw[i * size : (i + 1) * size], "little") for i in range(4)]
            parent, child = words[3] & ~7, words[1]
            if (parent if outgoing else child) != node.address:
                raise CorruptError(f"{name} has a record at {link - shift:#x} of another node")
            following = words[0 if outgoing else 2]
            if outgoing and words[3] & _FORWARDER_LINK:
                node.forwarders.add(child)
            return child if outgoing else parent, _NO_RECORD if link == tail else following

        first = _NO_RECORD if tail == 0 else self.memory.try_unsigned(tail, size) if tail else None
        found: Sequence[int] = ()
        reason: Optional[str] = f"{name} cannot be read"
        if first is not None:
            taken = MAX_RECORDS - budget
            walk = Walk(first, read, limit=MAX_RECORDS, taken=taken, last=_NO_RECORD, subject=name, noun="record")
            found, reason = walk.all(), walk.reason
        if reason is not None and name in node.record.layout.fields:
            node.cut_edges.add(name)
            self._add_problem(where, f"{reason}: not all its edges are known")
        if outgoing:
            node.children, node.knows_children = tuple(found), reason is None
        else:
            node.parents, node.knows_parents = tuple(found), reason is None
        return budget - len(found)

    def _node_name(self, node: DdagNode) -> str:
        return next((self.entries[a].label for a in node.modules if a in self.entries), f"node {node.address:#x}")

    # -- the rules --------------------------------------------------------------------------------------------

    def decide_rule(self) -> None:
        """Decide by which rules the loader counts, and why."""
        build = self.version.build
        wine = self._exports_wine()
        if self.has_nodes:
            filled = [node for node in self.nodes.values() if node.count or node.state]
            most = 2 * len(filled) - len(self.nodes)
            # One node that is damaged does not make another loader of it.
            if most < 0 or (most == 0 and wine):
                which = "most of the nodes" if filled else "the nodes"
                self.rule, why = LoaderRule.WINE, f"{which} of its graph hold neither counts nor states"
                self.rule_reason = f"{why}{', and ntdll exports wine_get_version' if wine else ''}"
                for node in filled:
                    self._tell_filled(node)
            else:
                also = " (although ntdll exports wine_get_version)" if wine else ""
                self.rule, self.rule_reason = LoaderRule.WIN8, f"the nodes of its graph hold counts and states{also}"
            return
        if wine:
            self.rule, self.rule_reason = LoaderRule.WINE, "ntdll exports wine_get_version"
            return
        if self.layouts.has_graph:
            self.rule = LoaderRule.WIN8
            self.rule_reason = f"build {build}; the nodes of its graph are not in memory"
            return
        ldr = self.layouts.require("_PEB_LDR_DATA")
        if "ShutdownInProgress" not in ldr.fields:
            self.rule, self.rule_reason = LoaderRule.XP, "PEB_LDR_DATA has no ShutdownInProgress"
            return
        if self.fit is not Fit.RIGHT and 0 < build < FIRST_VISTA_BUILD:
            self.rule, self.rule_reason = LoaderRule.XP, f"build {build}, and its entries have no ForwarderLinks"
            return
        self.rule, self.rule_reason = LoaderRule.WIN7, "its entries point at no node of a graph"

    def _tell_filled(self, node: DdagNode) -> None:
        """Record that a node of Wine's holds a count or a state, which are not used."""
        for name in ("LoadCount", "State"):
            value, field = node.record.get(name), node.record.layout.fields[name]
            if value:
                where = f"{name} at {node.address + field.offset:#x} is {value:#x}"
                self._add_problem(self._node_name(node), f"{where}, but that of most nodes is 0: it is not used")

    def read_exit(self) -> None:
        """Decide for Wine whether the process is exiting: its ntdll sets no ShutdownInProgress.

        At exit Wine's loader clears ProcessAttachCalled just before each DLL_PROCESS_DETACH, and lowers no count; else
        only a DLL whose count is 0 is without that flag, or one that is being loaded.
        """
        if self.rule is not LoaderRule.WINE or self.shutdown:
            return
        flags = FLAG_PROCESS_ATTACH_CALLED | FLAG_LOAD_IN_PROGRESS | FLAG_DONT_RESOLVE_WINE
        if any(each.count16 and not (each.flags or flags) & flags for each in self.in_initialization_order()):
            owner = self.lock_owner
            self.shutdown = None if owner is None else bool(owner)

    def is_loading(self, entry: LdrEntry) -> bool:
        """Return True if a LoadLibrary of a DLL has not returned.

        Wine marks it only while its DllMain and those of its imports run, and before that by its absence from the
        initialisation order.
        """
        if self.rule is LoaderRule.WIN8:
            return entry.node is not None and entry.node.state in LOADING
        if entry.has_flag(FLAG_LOAD_IN_PROGRESS):
            return True
        flags = FLAG_PROCESS_ATTACH_CALLED | FLAG_DONT_RESOLVE_WINE
        is_unlinked = entry.flags is not None and not entry.flags & flags and "initialization" not in entry.orders
        return self.rule is LoaderRule.WINE and is_unlinked and entry is not self.main and bool(self.lock_owner)

    def _exports_wine(self) -> bool:
        ntdll = self.find_entry("ntdll.dll")
        return ntdll is not None and find_export(self.memory, ntdll.base, "wine_get_version") is not None

    def find_entry(self, name: str) -> Optional[LdrEntry]:
        """Find a DLL by its base name, whatever the case."""
        wanted = name.lower()
        return next((each for each in self.entries.values() if each.name.lower() == wanted), None)

    def in_load_order(self) -> list[LdrEntry]:
        """List the entries in load order, with entries missing from that list last."""
        return sorted(self.entries.values(), key=lambda e: (e.orders.get("load", MAX_ENTRIES), e.address))

    def in_initialization_order(self) -> list[LdrEntry]:
        """List the entries of the initialisation order, in that order."""
        listed = [each for each in self.entries.values() if "initialization" in each.orders]
        return sorted(listed, key=lambda each: each.orders["initialization"])


def _structure(memory: Memory, layouts: NtLayouts, type_name: str) -> Structure:
    return Structure(layouts.require(type_name), memory.struct_prefix, signed=_SIGNED)


def find_loaders(
    memory: Memory, target: WindowsTarget, wow64_peb: Optional[int] = None, no_peb: str = NO_PEB
) -> tuple[list[Loader], list[Problem]]:
    """Find and read the loaders of a process, the native one first.

    Problems say why a loader, or all of them, could not be read.

    :param wow64_peb: the PEB of 32-bit code; if None, it is searched for through the threads.
    :param no_peb: why there is no PEB, if there is none.
    :raises UnsupportedError: if the target is not a Windows process.
    """
    if target.platform.os != "windows":
        raise UnsupportedError(NOT_WINDOWS)
    problems: list[Problem] = []
    loaders: list[Loader] = []
    peb = target.peb()
    if not peb:
        problems.append(Problem("PEB", no_peb))
    else:
        loader, problem = _open("native", memory, peb, target.platform.arch, target)
        if loader:
            loaders.append(loader)
        if problem:
            problems.append(problem)
    if target.platform.pointer_size == 8:
        small = wow64_peb or find_wow64_peb(memory, target)
        if small:
            loader, problem = _open("wow64", memory, small, "i386", target)
            if loader:
                loaders.append(loader)
            if problem:
                problems.append(problem)
        elif any(windows_base_name(image.path).lower() == _WOW64_DLL for image in target.images()):
            message = f"{_WOW64_DLL} is loaded, but no TEB of 32-bit code is in memory: its DLLs are not known"
            problems.append(Problem(LOADER_NAMES["wow64"], message))
    for loader in loaders:
        problems += loader.problems
    return loaders, problems


def _open(
    kind: str, memory: Memory, peb: int, arch: str, target: WindowsTarget
) -> tuple[Optional[Loader], Optional[Problem]]:
    where = LOADER_NAMES[kind]
    try:
        loader = choose_layout(kind, memory, peb, arch, target)
        loader.read_graph()
        loader.version = find_version(loader, target)
        loader.decide_rule()
        loader.read_exit()
    except FaultError as error:
        message = f"its lists are not in the dump ({error}): neither load counts nor pins are known"
        return None, Problem(where, message)
    except DlwhyError as error:
        return None, Problem(where, str(error))
    return loader, None


def find_version(loader: Loader, target: WindowsTarget) -> SystemVersion:
    """Return the version of Windows: the PEB's, else what the target claims."""
    record = loader.view("_PEB", loader.peb)
    major, minor, build = (record.get(name) for name in ("OSMajorVersion", "OSMinorVersion", "OSBuildNumber"))
    return SystemVersion(major, minor or 0, build) if major and build else target.system


def find_wow64_peb(memory: Memory, target: WindowsTarget) -> Optional[int]:
    """Find the 32-bit PEB of a process of 32-bit code: ExceptionList of a 64-bit TEB points at the 32-bit TEB."""
    for thread in target.threads():
        teb = target.registers(thread).get("thread_pointer", 0)
        for candidate in for_each_wow64_teb(memory, teb):
            peb = _word(memory, candidate + _TEB32_PEB, 4)
            # Wine makes a 32-bit TEB and PEB for every process, but only in one of 32-bit code is there a loader.
            if peb and _word(memory, peb + _PEB32_LDR, 4):
                return peb
    return None


def for_each_wow64_teb(memory: Memory, teb: int) -> Iterator[int]:
    """Yield possible addresses of a thread's 32-bit TEB, given its 64-bit one."""
    for candidate in (_word(memory, teb, 8), teb + 0x2000) if teb else ():
        if candidate and candidate >> 32 == 0 and _word(memory, candidate + _TEB32_SELF, 4) == candidate:
            yield candidate


def _word(memory: Memory, address: int, size: int) -> Optional[int]:
    raw = memory.try_read(address, size)
    return None if raw is None else int.from_bytes(raw, "little")


def choose_layout(kind: str, memory: Memory, peb: int, arch: str, target: WindowsTarget) -> Loader:
    """Read a loader by the first layout that fits: debug information, then tables by build, then all others.

    :raises LayoutError: if none fits.
    :raises FaultError: if PEB_LDR_DATA is not in memory.
    """
    tried: list[str] = []
    best: Optional[tuple[tuple[int, int], Loader]] = None
    for rank, layouts in enumerate(_candidates(kind, memory, peb, arch, target)):
        loader = Loader(kind, memory, peb, layouts)
        loader.read()
        failure = validate(loader)
        if failure:
            tried.append(f"{layouts.source.detail}: {failure}")
            continue
        fit = loader.fit = _graph_fit(loader)
        if fit is Fit.RIGHT:
            return loader
        # Among equal fits the order of the candidates decides: best match for the version first.
        if best is None or (-int(fit), rank) < best[0]:
            best = ((-int(fit), rank), loader)
    if best is None:
        raise LayoutError("no known layout of the loader's structures fits", tried)
    return best[1]


def _candidates(kind: str, memory: Memory, peb: int, arch: str, target: WindowsTarget) -> Iterator[NtLayouts]:
    """Yield candidate layouts; the build is the PEB's own, which has had one offset per architecture since XP."""
    first = next(for_each_candidate(arch, 0))
    structure = _structure(memory, first, "_PEB")
    build = structure.read_member(memory, peb, "OSBuildNumber") or target.system.build
    if kind == "native":
        found = _debug_layouts(target, arch, build)
        if found is not None:
            yield found
    yield from for_each_candidate(arch, build)


def _debug_layouts(target: WindowsTarget, arch: str, build: int) -> Optional[NtLayouts]:
    """Return the layouts in ntdll's PDB, completed from the tables; None without _LDR_DATA_TABLE_ENTRY."""
    ntdll = next((m for m in target.modules() if windows_base_name(m.path).lower() in ("ntdll.dll", "ntdll")), None)
    if ntdll is None:
        return None
    found = {name: target.find_layout(name, ntdll) for name in LOADER_TYPES}
    present = {name: layout for name, layout in found.items() if layout is not None}
    if "_LDR_DATA_TABLE_ENTRY" not in present:
        return None
    tables = next(for_each_candidate(arch, build))
    return NtLayouts({**tables.layouts, **present}, Source(SourceKind.DEBUG_INFO, f"types of {ntdll.path}"))


def validate(loader: Loader) -> str:
    """Return what is wrong with the entries under this layout; empty if they are plausible."""
    sample = loader.in_load_order()[:_SAMPLE]
    if not sample:
        return "the lists are empty, or cannot be read"
    sound = 0
    for entry in sample:
        if entry.base and entry.base % 0x1000 == 0 and 0 < entry.size < 1 << 32 and entry.size % 0x1000 == 0:
            path, name = entry.path.lower(), entry.name.lower()
            sound += not path or not name or path.endswith(name) or not path.isprintable()
    if 2 * sound <= len(sample):
        return "the first entries have no sensible DllBase, SizeOfImage and names"
    return ""


def _graph_fit(loader: Loader) -> Fit:
    if not loader.layouts.has_graph:
        return _links_fit(loader)
    fits = []
    for entry in loader.in_load_order()[:_SAMPLE]:
        address = entry.record.get("DdagNode")
        node = loader.read_node(address) if address else None
        if node is not None:
            fits.append(entry.address in node.modules and (node.state or 0) in STATES)
    return _most(fits)


def _links_fit(loader: Loader) -> Fit:
    """Return how well entries fit Vista and 7, which have list links at the offset of Windows 8's DdagNode."""
    place = 0x98 if loader.pointer_size == 8 else 0x50
    fits = []
    for entry in loader.in_load_order()[:_SAMPLE]:
        if entry.record.layout.size <= place:
            return Fit.UNREADABLE
        try:
            link = loader.pointer(entry.address + place)
            back = loader.pointer(link + loader.pointer_size)
        except FaultError:
            continue  # it counts for neither; if all are unreadable, so is the fit
        fits.append(back == entry.address + place)
    return _most(fits)


def _most(fits: Sequence[bool]) -> Fit:
    """Return the fit of most of the entries that could be read."""
    if not fits:
        return Fit.UNREADABLE
    return Fit.RIGHT if 2 * sum(fits) > len(fits) else Fit.WRONG


def find_entry_at(entries: Sequence[LdrEntry], address: int) -> Optional[LdrEntry]:
    """Find the DLL whose image covers an address."""
    return next((each for each in entries if each.base <= address < each.base + each.size), None)
