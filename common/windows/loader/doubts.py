"""What does the loader note of a DLL that something else in the process contradicts?

The loader stores much of what it knows twice: an edge of the graph in the lists of both nodes, a pin and an unload in
the node and in the entry, a static import in Flags and in the edges from the program, the place of a DLL in its entry,
its headers and the list of mapped images.  Where the two differ, neither is believed: whether this DLL stays is then
not known.  An edge that only one of the two nodes has is taken as there.

Sources: as in `unload`; what ObsoleteLoadCount means since Windows 8 was seen in dumps of 17134 and 22000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from ...graph import Search
from ...paths import windows_base_name
from ..model import ListedImage, LoaderRule
from ..pe import PeImage, find_image
from .lists import (
    DYNAMIC_LOAD,
    FLAG_MARKED_FOR_REMOVAL,
    FLAG_PROCESS_STATIC_IMPORT,
    PINNED,
    PINNED_16,
    STATES,
    UNLOADED,
    UNLOADING,
    DdagNode,
    LdrEntry,
    Loader,
)

#: A higher count is not plausible.
MAX_COUNT = 1 << 20
#: Images are mapped at multiples of this.
_GRANULARITY = 0x10000
#: Cost of comparing an edge, in Memory's units.
_EDGE_UNITS = 16


def find_doubts(loader: Loader, images: Mapping[int, ListedImage]) -> None:
    """Record in each entry what contradicts it, and complete the edges of each node by those of the others.

    :param images: the images that the target lists as mapped, by their bases; empty if it lists none.
    """
    for entry in loader.entries.values():
        _compare_with_image(loader, entry, images)
    _compare_edges(loader)
    if loader.rule is LoaderRule.WIN8:
        for node in loader.nodes.values():
            _compare_counts(loader, node)
        _compare_static_imports(loader)


def _entries(loader: Loader, node: DdagNode) -> Sequence[LdrEntry]:
    return [loader.entries[address] for address in node.modules if address in loader.entries]


def _doubt_node(loader: Loader, node: DdagNode, member: str, text: str) -> None:
    for entry in _entries(loader, node):
        entry.doubt(node.record, member, text)


# -- edges ----------------------------------------------------------------------------------------------------


def _compare_edges(loader: Loader) -> None:
    """Compare each node's list of imports with those of importers of the others."""
    missing = [
        *_find_missing(loader, {n.address: n.children or () for n in loader.nodes.values()}, "IncomingDependencies"),
        *_find_missing(loader, {n.address: n.parents or () for n in loader.nodes.values()}, "Dependencies"),
    ]
    for node, other, member in missing:
        known = node.parents if member == "IncomingDependencies" else node.children
        there = (*(known or ()), other.address)
        if member == "IncomingDependencies":
            node.parents = there
        else:
            node.children = there
        if member not in node.cut_edges:
            opposite = "Dependencies" if member == "IncomingDependencies" else "IncomingDependencies"
            text = f"it has no record of the node at {other.address:#x}, whose {opposite} has one of this node"
            _doubt_node(loader, node, member, text)


def _find_missing(
    loader: Loader, edges: Mapping[int, Sequence[int]], member: str
) -> Sequence[tuple[DdagNode, DdagNode, str]]:
    """Find the edges that the node at the other end lacks: that node, the one that has it, and the member."""
    nodes = loader.nodes
    opposite = {
        address: frozenset((node.parents if member == "IncomingDependencies" else node.children) or ())
        for address, node in nodes.items()
    }
    found = []
    for address, others in edges.items():
        if not loader.memory.spend(_EDGE_UNITS * len(others), "edges of the graph"):
            break
        found += [
            (nodes[other], nodes[address], member)
            for other in dict.fromkeys(others)
            if other in nodes and address not in opposite[other]
        ]
    return found


# -- counts and states ----------------------------------------------------------------------------------------


def _compare_counts(loader: Loader, node: DdagNode) -> None:
    entries = _entries(loader, node)
    count, state = node.count, node.state
    if not entries or count is None:
        return
    first = entries[0]
    obsolete = first.count16
    if state is not None and state not in STATES:
        _doubt_node(loader, node, "State", "there is no such state")
    both = f"LoadCount is {count:#x} and ObsoleteLoadCount {obsolete}"
    is_alive = bool(count) and bool(obsolete)
    if state in (UNLOADING, UNLOADED) and is_alive:
        _doubt_node(loader, node, "State", f"that is {STATES[state or 0]}, and {both}: an unload sets both to 0")
    for entry in entries:
        if entry.has_flag(FLAG_MARKED_FOR_REMOVAL) and is_alive and state not in (UNLOADING, UNLOADED):
            entry.doubt(entry.record, "Flags", f"that has MarkedForRemoval, and {both}: an unload sets both to 0")
    if count != PINNED and count > MAX_COUNT:
        _doubt_node(loader, node, "LoadCount", "that count is not plausible")
    elif count != PINNED and obsolete == PINNED_16:
        _doubt_node(loader, node, "LoadCount", f"ObsoleteLoadCount is {obsolete:#x}, which says that it is pinned")
    elif count == PINNED and obsolete not in (PINNED_16, None) and not _has_pinned_parent(loader, node):
        text = f"ObsoleteLoadCount is {obsolete}, which says that it is not pinned, and no importer is"
        _doubt_node(loader, node, "LoadCount", text)


def _has_pinned_parent(loader: Loader, node: DdagNode) -> bool:
    """Return True if an importer is pinned: a pin extends to all imports."""
    parents = (loader.nodes.get(parent) for parent in node.parents or ())
    return any(parent is not None and parent.count == PINNED for parent in parents)


def _compare_static_imports(loader: Loader) -> None:
    """Compare ProcessStaticImport with the edges from the program, those of forwarders left out."""
    main = loader.main.node if loader.main else None
    if main is None:
        return

    def imports(address: int) -> Sequence[int]:
        node = loader.nodes[address]
        return [each for each in node.children or () if each in loader.nodes and each not in node.forwarders]

    def spend(count: int) -> bool:
        return loader.memory.spend(_EDGE_UNITS * count, "edges of the graph")

    closure = Search([main.address], imports, spend).run()
    # To a node that is pinned already no edge is made.
    pinned = [node.address for node in loader.nodes.values() if _is_pinned_at_start(loader, node)]
    reachable = Search([main.address, *pinned], imports, spend).run()
    if closure.is_cut or reachable.is_cut:
        return
    is_whole = loader.complete and not any(node.cut_edges for node in loader.nodes.values())
    for node in loader.nodes.values():
        entries = _entries(loader, node)
        if not entries or entries[0].flags is None or node is main:
            continue
        is_static = entries[0].has_flag(FLAG_PROCESS_STATIC_IMPORT)
        if is_static and is_whole and node.address not in reachable.before:
            text = "that has ProcessStaticImport, and no edges lead from the program to it"
            entries[0].doubt(entries[0].record, "Flags", text)
        elif is_static and node.count == PINNED and entries[0].record.get("LoadReason") == DYNAMIC_LOAD:
            text = "that has ProcessStaticImport, and LoadReason says that a LoadLibrary loaded it first"
            entries[0].doubt(entries[0].record, "Flags", text)
        elif not is_static and node.address in closure.before and node.count != PINNED:
            text = f"that lacks ProcessStaticImport, and edges lead from the program to its node at {node.address:#x}"
            entries[0].doubt(entries[0].record, "Flags", text)


def _is_pinned_at_start(loader: Loader, node: DdagNode) -> bool:
    """Return True if a node can be pinned since the start: no importer explains the pin, no LoadLibrary the load."""
    reasons = {entry.record.get("LoadReason") for entry in _entries(loader, node)}
    return node.count == PINNED and not node.parents and DYNAMIC_LOAD not in reasons


# -- images ---------------------------------------------------------------------------------------------------


def _compare_with_image(loader: Loader, entry: LdrEntry, images: Mapping[int, ListedImage]) -> None:
    listed = images.get(entry.base)
    image = find_image(loader.memory, entry.base)
    elsewhere = _find_by_name(entry, images)
    where = f"; {entry.name} is at {elsewhere.base:#x}" if elsewhere else ""
    if listed is None and images:
        entry.doubt(entry.record, "DllBase", f"no image is mapped there{where}")
    elif listed is None and entry.base % _GRANULARITY:
        entry.doubt(entry.record, "DllBase", "no image can be mapped there")
    elif image is not None and _is_another(entry, image, listed):
        name = windows_base_name(listed.path) if listed else "another image"
        entry.doubt(entry.record, "DllBase", f"{name} is mapped there, of {image.size:#x} bytes{where}")


def _is_another(entry: LdrEntry, image: PeImage, listed: Optional[ListedImage]) -> bool:
    """Return True if an image is not an entry's: neither its name nor its headers are."""
    differs = image.size != entry.size or (entry.timestamp is not None and image.timestamp != entry.timestamp)
    name = windows_base_name(listed.path).lower() if listed else ""
    return differs and bool(name and entry.name) and name != entry.name.lower()


def _find_by_name(entry: LdrEntry, images: Mapping[int, ListedImage]) -> Optional[ListedImage]:
    if not entry.name or entry.base in images:
        return None
    wanted = entry.name.lower()
    return next((each for each in images.values() if windows_base_name(each.path).lower() == wanted), None)
