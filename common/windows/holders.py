"""Whose are the LoadLibrary calls by which a DLL stays loaded?

The loader counts loads and records no caller.  What memory shows: a thread that began in the DLL and frees it by
FreeLibraryAndExitThread; COM's table of servers, in which handle, DllGetClassObject and DllCanUnloadNow lie side by
side; the handle in a delay-load descriptor; an interpreter, of whose extension modules it is one.  Hooks leave nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from ..errors import DlwhyError
from ..memory import Memory
from ..model import Problem, ThreadRef
from .loader.lists import LdrEntry, Loader
from .loader.unload import ImportGraph, LoadUnit
from .model import HolderKind, LoadHolder
from .pe import find_export, find_image
from .target import WindowsTarget

#: A DLL that imports it can undo its own load at the end of its thread.
_FREES_ITSELF = frozenset({"FreeLibraryAndExitThread"})
#: What has COM's table of servers: since Windows 8, and before.
_COM_DLLS = frozenset({"combase.dll", "ole32.dll"})
#: At most this many of each kind are listed.
MAX_HOLDERS = 16
#: The table of servers is searched in pieces of this size, of which each has the beginning of the next.
_PIECE = 1 << 18
#: Cost of a module whose delay-load descriptors are read, in Memory's units.
_MODULE_UNITS = 2000


class _Runtime(NamedTuple):
    """An interpreter: its name, how it calls the entry of an extension module, and an export of its own.

    ``entry`` may contain the module's name up to its first dot.
    """

    name: str
    entry: str
    export: str


_RUNTIMES = (
    _Runtime("python", "PyInit_{stem}", "Py_IsInitialized"),
    _Runtime("python", "init{stem}", "Py_IsInitialized"),
    _Runtime("node", "napi_register_module_v1", "napi_create_function"),
    _Runtime("jvm", "JNI_OnLoad", "JNI_CreateJavaVM"),
    _Runtime("lua", "luaopen_{stem}", "lua_newstate"),
    _Runtime("ruby", "Init_{stem}", "ruby_init"),
)


class HolderSearch:
    """Searches a process for holders of loads; each DLL's own is a `find`."""

    def __init__(self, target: WindowsTarget, loader: Loader, graph: ImportGraph) -> None:
        self._target = target
        self._loader = loader
        self._graph = graph
        self.problems: list[Problem] = []

    def find(self, entry: LdrEntry) -> tuple[LoadHolder, ...]:
        """Find the holders of a DLL's loads; ``problems`` says what could not be looked at."""
        unit = self._graph.unit_of(entry)
        found: list[LoadHolder] = []
        for each in unit.entries:
            found += [*self._threads(each), *self._com(each), *self._delay_loads(each, unit), *self._runtimes(each)]
        return tuple(found)

    def _threads(self, entry: LdrEntry) -> Iterator[LoadHolder]:
        """Yield the threads that began in a DLL."""
        frees_itself: Optional[bool] = None
        starts = self._target.thread_starts()
        known = [each for each in self._target.threads() if each.number in starts]
        threads = [each for each in known if _is_in(starts[each.number], entry)]
        image = find_image(self._loader.memory, entry.base) if threads else None
        if image is not None:
            try:
                frees_itself = image.imports_any(_FREES_ITSELF)
            except DlwhyError as error:
                self.problems.append(Problem(entry.label, f"its imports cannot be read: {error}"))
        for thread in threads[:MAX_HOLDERS]:
            who = ThreadRef(thread.number, thread.lwp, thread.name)
            address = starts[thread.number]
            yield LoadHolder(HolderKind.THREAD, address=address, thread=who, frees_itself=frees_itself)

    def _com(self, entry: LdrEntry) -> Iterator[LoadHolder]:
        """Yield COM, if its table of servers has a DLL."""
        memory, size = self._loader.memory, self._loader.pointer_size
        get_class = find_export(memory, entry.base, "DllGetClassObject")
        if get_class is None:
            return
        can_unload = find_export(memory, entry.base, "DllCanUnloadNow") or 0
        words = struct.pack("<3Q" if size == 8 else "<3I", entry.base, get_class, can_unload)
        address, is_complete = self._search(words)
        if address is not None:
            yield LoadHolder(HolderKind.COM, address=address, frees_itself=bool(can_unload))
        elif not is_complete and self._has_com():
            message = "whether COM has loaded it is not known: not all memory is in the target, or could be searched"
            self.problems.append(Problem(entry.label, message))

    def _has_com(self) -> bool:
        """Return True unless no DLL of COM's is loaded, so that it has loaded nothing."""
        names = {each.name.lower() for each in self._loader.entries.values()}
        return not self._loader.complete or "" in names or not names.isdisjoint(_COM_DLLS)

    def _search(self, words: bytes) -> tuple[Optional[int], bool]:
        """Search memory beyond images and stacks for words, aligned; return their address, and if all was searched."""
        ranges = self._target.memory_ranges()
        if ranges is None:
            return None, False
        size = self._loader.pointer_size
        memory, is_complete = Memory(self._target), True
        taken = sorted([*self._images(), *self._stacks(memory)])
        for start, end in _without(ranges, taken):
            for place in range(start, end, _PIECE):
                length = min(end, place + _PIECE + len(words)) - place
                data = memory.try_read(place, length)
                if not memory.spend(0, "COM's table"):
                    return None, False
                if data is None:
                    is_complete = False
                    continue
                at = data.find(words)
                while at >= 0:
                    if (place + at) % size == 0:
                        return place + at, True
                    at = data.find(words, at + 1)
        return None, is_complete

    def _images(self) -> list[tuple[int, int]]:
        listed = [(each.base, each.base + each.size) for each in self._loader.entries.values()]
        return [*listed, *((image.base, image.base + image.size) for image in self._target.images())]

    def _stacks(self, memory: Memory) -> Iterator[tuple[int, int]]:
        """Yield the stacks of the native code: arguments of calls that have returned lie there."""
        size = memory.pointer_size
        for thread in self._target.threads():
            teb = self._target.registers(thread).get("thread_pointer", 0)
            raw = memory.try_read(teb + size, 2 * size) if teb else None
            if raw is not None:
                yield int.from_bytes(raw[size:], "little"), int.from_bytes(raw[:size], "little")

    def _delay_loads(self, entry: LdrEntry, unit: LoadUnit) -> Iterator[LoadHolder]:
        """Yield the DLLs whose delay-load descriptor for a DLL has its handle.

        What ntdll itself delay-loads has an edge of the graph, so that it is not LoadLibrary's.
        """
        found = 0
        unread: list[str] = []
        for importer in self._loader.in_load_order():
            if self._graph.by_entry[importer.address] in (unit.key, *unit.parents):
                continue
            if not self._loader.memory.spend(_MODULE_UNITS, "delay-load descriptors"):
                return
            image = find_image(self._loader.memory, importer.base)
            try:
                slots = list(image.delay_loads()) if image else None
            except DlwhyError:
                slots = None
            if slots is None:
                unread.append(importer.name)
                continue
            for each in slots:
                if each.handle == entry.base and found < MAX_HOLDERS:
                    found += 1
                    yield LoadHolder(
                        HolderKind.DELAY_LOAD,
                        address=each.handle_address,
                        library=importer.name,
                        frees_itself=each.can_unload,
                    )
        if unread:
            more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
            names = ", ".join(unread[:3]) + more
            self.problems.append(Problem(entry.label, f"whether {names} delay-loaded it is not known: not in memory"))

    def _runtimes(self, entry: LdrEntry) -> Iterator[LoadHolder]:
        """Yield the interpreter whose extension module a DLL is."""
        memory = self._loader.memory
        stem = entry.name.partition(".")[0]
        for runtime in _RUNTIMES:
            address = find_export(memory, entry.base, runtime.entry.format(stem=stem))
            if address is None:
                continue
            for other in self._loader.in_load_order():
                if not memory.spend(_MODULE_UNITS, "exports of interpreters"):
                    return
                if other is not entry and find_export(memory, other.base, runtime.export) is not None:
                    yield LoadHolder(HolderKind.INTERPRETER, address, library=other.name, runtime=runtime.name)
                    return


def _is_in(address: int, entry: LdrEntry) -> bool:
    return entry.base <= address < entry.base + entry.size


def _without(ranges: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of sorted ranges that no sorted ``taken`` range covers."""
    index = 0
    for start, end in ranges:
        place = start
        while index and taken[index - 1][1] > start:
            index -= 1
        while index < len(taken) and taken[index][0] < end:
            if place < taken[index][0]:
                yield place, taken[index][0]
            place = max(place, taken[index][1])
            index += 1
        if place < end:
            yield place, end
