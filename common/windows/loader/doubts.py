"""What does the loader note of a DLL that something else in the process contradicts?

The loader stores much of what it knows twice: an edge of the graph in the lists of both nodes, a pin and an unload in
the node and in the entry, a static import in Flags and in the edges from the program, the place of a DLL in its entry,
its headers and the list of mapped images, a DLL itself in three lists.  Before Windows 8 a pin extends to imports, and
a count of 0 needs an unload, which holds the loader lock.  Where the two differ, neither is believed: whether this DLL
stays is then not known.  An edge that only one of the two nodes has is taken as there.

Sources: as in `unload`; what ObsoleteLoadCount means since Windows 8 was seen in dumps of 17134 and 22000.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Optional

from ...graph import Search
from ...paths import windows_base_name
from ..model import ListedImage, LoaderRule
from ..pe import PeImage, find_image
from .lists import (
    CORE_DLLS,
    DYNAMIC_LOAD,
    FLAG_IMAGE_DLL,
    FLAG_MARKED_FOR_REMOVAL,
    FLAG_PROCESS_ATTACH_CALLED,
    FLAG_PROCESS_STATIC_IMPORT,
    FLAG_UNLOAD_IN_PROGRESS_WIN7,
    LISTS,
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
        _compare_lists(loader, entry)
    loader.main = loader.main or loader.find_main()
    _compare_edges(loader)
    if loader.rule is LoaderRule.WIN8:
        for node in loader.nodes.values():
            _compare_counts(loader, node)
        _compare_static_imports(loader)


def _compare_lists(loader: Loader, entry: LdrEntry) -> None:
    """Compare the three lists: a DLL that is not being unloaded is in those of load and memory order.

    Up to Windows 7 only what is in initialisation order is unloaded; the program, and DLLs still starting, are not.
    """
    if not loader.complete or _is_going(loader, entry):
        return
    missing = {"load", "memory"} - entry.orders.keys()
    rests_on_order = loader.rule in (LoaderRule.XP, LoaderRule.WIN7) and entry.count16 not in (PINNED_16, None)
    if rests_on_order and entry.has_flag(FLAG_PROCESS_ATTACH_CALLED) and entry is not loader.main:
        missing |= {"initialization"} - entry.orders.keys()
    fields = entry.record.layout.fields
    for order in sorted(missing):
        other = next(iter(entry.orders))
        member, there = LISTS[order][1], LISTS[other][1]
        place, elsewhere = entry.address + fields[member].offset, entry.address + fields[there].offset
        entry.doubts.append(
            f"{member} at {place:#x} are not in the list of {order} order, but {there} at {elsewhere:#x} are in that "
            f"of {other} order"
        )


def _is_going(loader: Loader, entry: LdrEntry) -> bool:
    """Return True if the loader says of a DLL that it is being unloaded, and so takes it out of its lists."""
    if loader.rule is not LoaderRule.WIN8:
        return entry.count16 == 0
    has_state = entry.node is not None and entry.node.state in (UNLOADING, UNLOADED)
    return has_state or entry.has_flag(FLAG_MARKED_FOR_REMOVAL)


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


# -- counts before Windows 8, and of Wine ---------------------------------------------------------------------


def find_count_doubts(loader: Loader, children: Mapping[int, Sequence[int]]) -> None:
    """Record in entries with 16-bit counts what contradicts those.

    :param children: what each entry imports, by their addresses.
    """
    for entry in loader.entries.values():
        _doubt_zero(loader, entry)
    roots = [address for address, entry in loader.entries.items() if entry is loader.main or _is_core(entry)]
    for address in roots:
        _doubt_free(loader, loader.entries[address], "it")
    if loader.rule is LoaderRule.WINE:
        return  # what its program imports can have counts, and a pin does not extend to imports
    static = _find_reachable(loader, roots, children)
    for address in static:
        if address not in roots:
            _doubt_free(loader, loader.entries[address], "what the program imports")
    parents: dict[int, list[int]] = {}
    for address, imported in children.items():
        for child in imported:
            parents.setdefault(child, []).append(address)
    for address, entry in loader.entries.items():
        if entry.count16 == PINNED_16 and address not in static and entry.has_flag(FLAG_IMAGE_DLL):
            inside = [loader.entries[each] for each in dict.fromkeys(children[address]) if each not in static]
            above = any(loader.entries[each].count16 == PINNED_16 for each in parents.get(address, ()))
            _compare_pins(entry, inside, is_confirmed=above)


def _compare_pins(entry: LdrEntry, imported: Sequence[LdrEntry], *, is_confirmed: bool) -> None:
    """Compare the count of a DLL that is pinned with those of its imports, to which a pin extends."""
    free = [each for each in imported if each.count16 not in (PINNED_16, None)]
    is_confirmed = is_confirmed or len(free) < len(imported)
    for each in free if is_confirmed or len(imported) == 1 else ():
        place = entry.record.address + entry.record.layout.fields[entry.count_field].offset
        text = f"{entry.label}, which imports it, is pinned: its own at {place:#x} is {PINNED_16:#x}"
        each.doubt(each.record, each.count_field, text)
    if free and not is_confirmed:
        text = f"a pin extends to imports, and that of {free[0].label} is {free[0].count16}"
        entry.doubt(entry.record, entry.count_field, text)


def _is_core(entry: LdrEntry) -> bool:
    return entry.name.lower() in CORE_DLLS


def _doubt_free(loader: Loader, entry: LdrEntry, what: str) -> None:
    """Record that a count is not that of a pin, which it has since the start."""
    if entry.count16 not in (PINNED_16, None) and not entry.doubts and not loader.is_loading(entry):
        text = f"the loader pins {what} at the start, with {PINNED_16:#x}"
        entry.doubt(entry.record, entry.count_field, text)


def _find_reachable(loader: Loader, roots: Sequence[int], children: Mapping[int, Sequence[int]]) -> Collection[int]:
    """Find entries and all that they import."""

    def spend(count: int) -> bool:
        return loader.memory.spend(_EDGE_UNITS * count, "imports of the program")

    return Search(roots, lambda address: children[address], spend).run().before


def _doubt_zero(loader: Loader, entry: LdrEntry) -> None:
    """Record that a count is 0, if nothing says that a FreeLibrary is at work, which holds the loader lock."""
    if entry.count16 != 0 or loader.is_loading(entry):
        return
    lock, owner = loader.lock, loader.lock_owner
    if lock is not None and owner == 0:
        place = lock.address + lock.layout.fields["OwningThread"].offset
        text = f"OwningThread of the loader lock at {place:#x} is 0: no FreeLibrary is at work"
    elif owner is None and not _is_marked_unloading(loader, entry):
        text = f"Flags are {entry.flags or 0:#x}, which do not say that it is being unloaded"
    else:
        return
    entry.doubt(entry.record, entry.count_field, text)


def _is_marked_unloading(loader: Loader, entry: LdrEntry) -> bool:
    """Return True if an entry without a count is what the loader makes of it before it calls DllMain."""
    if not entry.has_flag(FLAG_PROCESS_ATTACH_CALLED):
        return loader.rule is LoaderRule.WINE
    is_closure = loader.rule is not LoaderRule.WINE
    return is_closure and (entry.has_flag(FLAG_UNLOAD_IN_PROGRESS_WIN7) or "initialization" not in entry.orders)


# -- images ---------------------------------------------------------------------------------------------------


def _compare_with_image(loader: Loader, entry: LdrEntry, images: Mapping[int, ListedImage]) -> None:
    listed = images.get(entry.base)
    image = find_image(loader.memory, entry.base)
    is_another = image is not None and _is_another(entry, image, listed)
    elsewhere = _find_by_name(entry, images) if listed is None or is_another else None
    if elsewhere is not None:
        entry.image_base = elsewhere.base
    where = f"; {entry.name} is at {elsewhere.base:#x}" if elsewhere else ""
    if listed is None and images:
        entry.doubt(entry.record, "DllBase", f"no image is mapped there{where}")
    elif listed is None and entry.base % _GRANULARITY:
        entry.doubt(entry.record, "DllBase", "no image can be mapped there")
    elif image is not None and is_another:
        name = windows_base_name(listed.path) if listed else "another image"
        entry.doubt(entry.record, "DllBase", f"{name} is mapped there, of {image.size:#x} bytes{where}")


def _is_another(entry: LdrEntry, image: PeImage, listed: Optional[ListedImage]) -> bool:
    """Return True if an image is not an entry's: neither its name nor its headers are."""
    differs = image.size != entry.size or (entry.timestamp is not None and image.timestamp != entry.timestamp)
    name = windows_base_name(listed.path).lower() if listed else ""
    return differs and bool(name and entry.name) and name != entry.name.lower()


def _find_by_name(entry: LdrEntry, images: Mapping[int, ListedImage]) -> Optional[ListedImage]:
    if not entry.name:
        return None
    wanted = entry.name.lower()
    return next((each for each in images.values() if windows_base_name(each.path).lower() == wanted), None)
