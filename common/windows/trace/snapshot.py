"""Which DLLs does a traced process have now, and how often is each loaded?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from ...trace.ledger import LibraryKey
from ..loader.lists import LdrEntry, Loader, find_entry_at
from ..loader.unload import ImportGraph, effective_count
from ..state import CORE_DLLS, WindowsExamination
from ..target import LiveWindowsTarget
from .events import DllInstance


class DllSnapshot:
    """The latest snapshot of a process's DLLs.

    ``left`` are LoadLibrary's parts of the counts when last recorded, ``pinned`` the paths of pinned DLLs.
    """

    def __init__(self, target: LiveWindowsTarget) -> None:
        self.is_exiting = False
        self.left: Mapping[LibraryKey, int] = {}
        self.pinned: frozenset[str] = frozenset()
        self._target = target
        self._by_base: Mapping[int, LdrEntry] = {}

    def refresh(self) -> WindowsExamination:
        """Read the lists again."""
        examined = WindowsExamination(self._target)
        self._by_base = {each.base: each for loader in examined.loaders for each in loader.in_load_order()}
        return examined

    def find(self, base: int) -> Optional[LdrEntry]:
        """Return the DLL at a base, None if the loader lists none there."""
        return self._by_base.get(base)

    def find_holding(self, address: int) -> Optional[LdrEntry]:
        """Return the DLL whose image holds an address, None if the loader lists none."""
        return find_entry_at(tuple(self._by_base.values()), address)

    def note_left(self) -> None:
        """Record the current load counts, unless the process is exiting and they mean nothing."""
        if self.is_exiting:
            return
        examined = self.refresh()
        found = list(for_each_entry(examined))
        self.left = {LibraryKey(entry.path, 0): own_count(graph, entry) for _, graph, entry in found}
        self.pinned = frozenset(entry.path for _, graph, entry in found if graph.unit_of(entry).pinned)

    def begin_exit(self) -> None:
        """Record that the process is exiting."""
        self.note_left()
        self.is_exiting = True


def for_each_entry(examined: WindowsExamination) -> Sequence[tuple[Loader, ImportGraph, LdrEntry]]:
    """List the DLLs of all loaders in load order, each with its loader and the counts there."""
    loaders = zip(examined.loaders, examined.import_graphs)
    return [(loader, graph, entry) for loader, graph in loaders for entry in loader.in_load_order()]


def load_counts(examined: WindowsExamination) -> Mapping[int, Optional[int]]:
    """Return the load counts by base, None for an unknown one or a pinned DLL."""
    loaders = zip(examined.loaders, examined.import_graphs)
    return {
        entry.base: effective_count(graph.unit_of(entry), graph.rule)
        for loader, graph in loaders
        for entry in loader.entries.values()
    }


def own_count(graph: ImportGraph, entry: LdrEntry) -> int:
    """Return LoadLibrary's part of a count, all of it if the part is unknown."""
    unit = graph.unit_of(entry)
    return max(0, unit.own if unit.own is not None and not unit.pinned else unit.count or 0)


def instance_of(entry: LdrEntry) -> DllInstance:
    """Describe a DLL as it is loaded now."""
    return DllInstance(entry.name, entry.path, entry.address, entry.base, entry.size, entry.timestamp)


def is_core(entry: Optional[LdrEntry]) -> bool:
    """Return True if a DLL is one of the core DLLs, through which all loads and frees pass."""
    return entry is not None and entry.name.lower() in CORE_DLLS
