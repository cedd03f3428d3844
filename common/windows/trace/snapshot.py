"""Which DLLs does a traced process have now, and how often is each loaded?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from ...trace.ledger import LibraryKey, LoadedNow
from ..loader.lists import CORE_DLLS, LdrEntry, Loader, find_entry_at
from ..loader.unload import ImportGraph, effective_count
from ..state import WindowsExamination
from ..target import LiveWindowsTarget
from .events import DllInstance


class DllSnapshot:
    """The latest snapshot of a process's DLLs.

    ``now`` has the DLLs that were loaded when counts were last recorded; ``complete`` is False if there can be more.
    """

    def __init__(self, target: LiveWindowsTarget) -> None:
        self.is_exiting = False
        self.now: Mapping[LibraryKey, LoadedNow] = {}
        self.complete = False
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

    def note_now(self) -> None:
        """Record the current load counts, unless the process is exiting and they mean nothing."""
        if self.is_exiting:
            return
        examined = self.refresh()
        self.now = {
            key_of(entry): LoadedNow(own_count(graph, entry), graph.unit_of(entry).pinned)
            for _, graph, entry in for_each_entry(examined)
        }
        self.complete = is_complete(examined)

    def begin_exit(self) -> None:
        """Record that the process is exiting."""
        self.note_now()
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


def is_complete(examined: WindowsExamination) -> bool:
    """Return True if the lists of all loaders could be read."""
    return bool(examined.loaders) and all(loader.complete for loader in examined.loaders)


def own_count(graph: ImportGraph, entry: LdrEntry) -> Optional[int]:
    """Return LoadLibrary's part of a load count, None if the DLL is pinned or the part is unknown."""
    unit = graph.unit_of(entry)
    return None if unit.pinned else unit.own


def instance_of(entry: LdrEntry) -> DllInstance:
    """Describe a DLL as it is loaded now."""
    path = entry.path or None
    return DllInstance(entry.label, path, entry.address, entry.base, entry.size, entry.timestamp)


def key_of(entry: LdrEntry) -> LibraryKey:
    """Return the key of a DLL's account."""
    return LibraryKey(entry.path or None, 0, entry.label)


def is_core(entry: Optional[LdrEntry]) -> bool:
    """Return True if a DLL is one of the core DLLs, through which all loads and frees pass."""
    return entry is not None and entry.name.lower() in CORE_DLLS
