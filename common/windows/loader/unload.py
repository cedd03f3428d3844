"""What does FreeLibrary do, under the rules of each of Windows' loaders?

XP to Windows 7 count every import edge of the closure at each load and each free; Windows 8 keeps a graph in which each
edge counts once; Wine has 16-bit counts along such a graph.  A plan copies the `ImportGraph` and frees the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ..model import LoaderRule
from ..pe import find_image
from .doubts import find_count_doubts
from .lists import (
    FLAG_DONT_RESOLVE_WINE,
    FLAG_IMAGE_DLL,
    FLAG_PROCESS_ATTACH_CALLED,
    FLAG_PROCESS_STATIC_IMPORT,
    PINNED,
    PINNED_16,
    UNLOADED,
    UNLOADING,
    LdrEntry,
    Loader,
)

#: Cost of a step along an edge, in Memory's units.
_STEP_UNITS = 6
#: The bits of two numbers that are joined in the time of a step, and those that are counted.
_BITS_JOINED, _BITS_COUNTED = 4096, 64
#: After this many import descriptors in total, no further module's are read; a real module has about ten.
MAX_IMPORTS = 500_000


class _TooLongError(Exception):
    """The command's budget is exhausted."""


class LoadUnit:
    """DLLs that are loaded and unloaded together: the modules of an LDR_DDAG_NODE, or a single entry.

    ``count`` is None if unknown; ``own`` is the part of it that LoadLibrary contributed.  ``children`` are the keys of
    the units that it imports, in import order; ``parents`` those of the units that import it, as far as known.  Both
    have a key for each edge.
    """

    __slots__ = ("children", "count", "entries", "is_doubted", "key", "own", "parents", "pinned")

    def __init__(self, key: int, entries: Sequence[LdrEntry], count: Optional[int], pinned: Optional[bool]) -> None:
        self.key = key
        self.entries = tuple(entries)
        #: Something contradicts the loader's own record: then nothing is taken from it.
        self.is_doubted = any(entry.doubts for entry in entries)
        self.count = None if self.is_doubted else count
        self.pinned = None if self.is_doubted else pinned
        self.own: Optional[int] = None
        self.children: list[int] = []
        self.parents: list[int] = []

    def copy(self) -> LoadUnit:
        """Return a copy."""
        other = LoadUnit(self.key, self.entries, self.count, self.pinned)
        other.own = self.own
        other.children = list(self.children)
        other.parents = list(self.parents)
        return other


def effective_count(unit: LoadUnit, rule: LoaderRule) -> Optional[int]:
    """Return the load count by which FreeLibrary decides; None if it is unknown, or marks a pinned DLL."""
    if unit.count == PINNED or (unit.count == PINNED_16 and rule is not LoaderRule.WIN8):
        return None
    return unit.count


class FreeResult(NamedTuple):
    """The effect of calls of FreeLibrary.

    ``dead`` are the unloaded DLLs in order of DLL_PROCESS_DETACH, and ``order`` is how the loader orders them, None if
    there are none.  ``refusal`` is why the last call did nothing, None if it had an effect; ``effective`` is how many
    calls had one.
    """

    dead: tuple[LdrEntry, ...]
    order: Optional[str]
    order_certain: bool
    refusal: Optional[str]
    effective: int


class ImportGraph:
    """The import edges and load counts of one loader's DLLs; `free` simulates FreeLibrary on them.

    :param spend: charges units to Memory's budget; returns False if not enough are left.
    """

    def __init__(
        self, rule: LoaderRule, units: dict[int, LoadUnit], by_entry: Mapping[int, int], spend: Callable[[int], bool]
    ) -> None:
        self.rule = rule
        self._spend = spend
        self.units = units
        self.by_entry = by_entry
        #: Before Windows 8: entries whose imports could not be read, and entries that import through API sets.
        self.unread: set[int] = set()
        self.api_sets: set[int] = set()
        #: Before Windows 8: units whose counts contradict those of their importers, each with the units of its import
        #: cycle, and what loads of importers account for.
        self.uneven: list[Sequence[int]] = []
        self.due: dict[int, int] = {}

    def unit_of(self, entry: LdrEntry) -> LoadUnit:
        """Return the unit of an entry."""
        return self.units[self.by_entry[entry.address]]

    def knows_imports(self, entry: LdrEntry) -> bool:
        """Return True if all imports of a DLL could be read."""
        if self.rule in (LoaderRule.WIN8, LoaderRule.WINE):
            return entry.node is not None and entry.node.knows_children
        return entry.address not in self.unread

    def knows_importers(self, entry: LdrEntry) -> bool:
        """Return True if all importers of a DLL are known."""
        if self.rule in (LoaderRule.WIN8, LoaderRule.WINE):
            return entry.node is not None and entry.node.knows_parents
        return not self.unread

    def children(self, key: int) -> Sequence[int]:
        """Return the keys of the units that a unit imports."""
        return [child for child in self.units[key].children if child in self.units]

    def parents(self, key: int) -> Sequence[int]:
        """Return the keys of the units that import a unit."""
        return [parent for parent in self.units[key].parents if parent in self.units]

    def copy(self) -> ImportGraph:
        """Return a copy of everything that a free changes."""
        units = {key: unit.copy() for key, unit in self.units.items()}
        other = ImportGraph(self.rule, units, self.by_entry, self._spend)
        other.unread, other.api_sets = self.unread, self.api_sets
        return other

    def step(self, count: int) -> None:
        """Charge steps along edges to the budget.

        :raises _TooLongError: if the command's budget is exhausted.
        """
        if not self._spend(_STEP_UNITS * count):
            raise _TooLongError

    def free(self, entry: LdrEntry, frees: int, shutdown: bool, initialization: Sequence[LdrEntry]) -> FreeResult:
        """Simulate ``frees`` calls of FreeLibrary on a DLL; the graph is left in the resulting state.

        Fewer are simulated if one does nothing, unloads the DLL or pins it; none at all in a process that exits
        (``shutdown``).  If the budget is exhausted, the result is unknown.
        """
        if shutdown:
            return FreeResult((), None, True, "process-exiting", 0)
        rule = {
            LoaderRule.XP: _ClosureRule,
            LoaderRule.WIN7: _ClosureRule,
            LoaderRule.WIN8: _GraphRule,
            LoaderRule.WINE: _WineRule,
        }[self.rule](self, initialization)
        dead: list[LdrEntry] = []
        refusal: Optional[str] = None
        effective = 0
        unit = self.unit_of(entry)
        try:
            while effective < frees:
                refusal = rule.free(entry)
                if refusal:
                    break
                effective += 1
                dead += rule.collect()
                if any(each is entry for each in dead) or unit.pinned:
                    break
        except _TooLongError:
            # The outcome is unknown.
            return FreeResult((), None, False, "unknown", 0)
        return FreeResult(tuple(dead), rule.order if dead else None, rule.certain, refusal, effective)


def build_import_graph(loader: Loader) -> ImportGraph:
    """Build the units of a loader with their counts and edges."""
    if loader.rule is LoaderRule.WIN8:
        return _build_from_nodes(loader)
    edges = _find_wine_edges(loader) if loader.rule is LoaderRule.WINE else _find_import_edges(loader)
    find_count_doubts(loader, edges.children)
    units: dict[int, LoadUnit] = {}
    for entry in loader.in_load_order():
        count = entry.count16
        pinned = None if count is None else count == PINNED_16
        unit = units[entry.address] = LoadUnit(entry.address, (entry,), count, pinned)
        unit.children, unit.parents = edges.children[entry.address], edges.parents[entry.address]
    graph = ImportGraph(loader.rule, units, {address: address for address in units}, _spender(loader))
    graph.unread, graph.api_sets = edges.unread, edges.api_sets
    _find_own_counts(graph)
    return graph


def _spender(loader: Loader) -> Callable[[int], bool]:
    return lambda units: loader.memory.spend(units, "the graph of imports")


def _build_from_nodes(loader: Loader) -> ImportGraph:
    units: dict[int, LoadUnit] = {}
    by_entry: dict[int, int] = {}
    for entry in loader.in_load_order():
        node = entry.node
        if node is None:
            static = None if entry.flags is None else bool(entry.flags & FLAG_PROCESS_STATIC_IMPORT)
            count = entry.count16
            pinned = True if static or count == PINNED_16 else None
            units[entry.address] = LoadUnit(entry.address, (entry,), None, pinned)
            by_entry[entry.address] = entry.address
            continue
        by_entry[entry.address] = node.address
        if node.address in units:
            continue
        modules = [loader.entries[address] for address in node.modules if address in loader.entries]
        first = modules[0]
        pinned = node.count == PINNED or first.has_flag(FLAG_PROCESS_STATIC_IMPORT)
        unit = LoadUnit(node.address, modules, node.count, pinned)
        unit.children = [child for child in node.children or () if child in loader.nodes]
        unit.parents = [parent for parent in node.parents or () if parent in loader.nodes]
        units[node.address] = unit
    for unit in units.values():
        unit.children = [child for child in unit.children if child in units]
        unit.parents = [parent for parent in unit.parents if parent in units]
    graph = ImportGraph(loader.rule, units, by_entry, _spender(loader))
    _find_own_counts(graph)
    return graph


class _Edges:
    """The edges between entries, in both directions, and the entries whose imports are not, or not all, known."""

    def __init__(self, loader: Loader) -> None:
        self.children: dict[int, list[int]] = {address: [] for address in loader.entries}
        self.parents: dict[int, list[int]] = {address: [] for address in loader.entries}
        self.unread: set[int] = set()
        self.api_sets: set[int] = set()


def _find_wine_edges(loader: Loader) -> _Edges:
    edges = _Edges(loader)
    by_node = {entry.node.address: entry.address for entry in loader.entries.values() if entry.node}
    for address, entry in loader.entries.items():
        if entry.node is None:
            edges.unread.add(address)
            continue
        edges.children[address] = [by_node[child] for child in entry.node.children or () if child in by_node]
        edges.parents[address] = [by_node[parent] for parent in entry.node.parents or () if parent in by_node]
    return edges


def _find_import_edges(loader: Loader) -> _Edges:
    """Find the edges of the import tables.

    A descriptor whose first IAT slot is 0 was not bound and is skipped, as are API sets and DLLs that are not loaded.
    """
    edges = _Edges(loader)
    by_name: dict[str, int] = {}
    for entry in loader.in_load_order():
        by_name.setdefault(entry.name.lower(), entry.address)
    budget = MAX_IMPORTS
    for entry in loader.in_load_order():
        image = find_image(loader.memory, entry.image_base) if budget > 0 else None
        if image is None:
            edges.unread.add(entry.address)
            continue
        try:
            for imported in image.imports():
                budget -= 1
                name = imported.name.lower()
                if name.startswith(("api-ms-win-", "ext-ms-")):
                    edges.api_sets.add(entry.address)
                    continue
                target = by_name.get(name) or by_name.get(name + ".dll")
                if target is not None and not imported.skipped:
                    edges.children[entry.address].append(target)
                    edges.parents[target].append(entry.address)
        except DlwhyError:
            # What is unread is a problem, and the importers are then not all known.
            edges.unread.add(entry.address)
    return edges


def _find_own_counts(graph: ImportGraph) -> None:
    """Compute the part of each count that LoadLibrary contributed."""
    if graph.rule not in (LoaderRule.WIN8, LoaderRule.WINE):
        _solve_closures(graph)
        return
    lost = _lost_in_wine(graph) if graph.rule is LoaderRule.WINE else {}
    for unit in graph.units.values():
        if not unit.pinned and unit.count is not None:
            unit.own = unit.count - len(unit.parents) + lost.get(unit.key, 0)


def _lost_in_wine(graph: ImportGraph) -> dict[int, int]:
    """Count for each unit the import edges that Wine did not count: those met while the unit itself was being linked.

    They lead back to a unit on the path from the loaded DLL; Wine links DLLs depth first, in load order.
    """
    lost = dict.fromkeys(graph.units, 0)
    seen: set[int] = set()
    for start in graph.units:
        if start in seen:
            continue
        seen.add(start)
        on_way = {start}
        stack = [(start, iter(graph.children(start)))]
        while stack:
            key, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                on_way.discard(key)
            elif child in on_way:
                lost[child] += 1
            elif child not in seen:
                seen.add(child)
                on_way.add(child)
                stack.append((child, iter(graph.children(child))))
    return lost


def _solve_closures(graph: ImportGraph) -> None:
    """Compute how often each DLL was loaded, before Windows 8: counts result from loads, importers first.

    A load of R adds 1 to R, and 1 to T for each importer of T in R's closure.  The members of an import cycle share
    their closure, so with L loads of them in total, member i has its own loads and L for each importer in the cycle.
    Members whose counts do not add up, and everything that they import, remain unknown.
    """
    if graph.unread:
        return
    with suppress(_TooLongError):
        _compute_shares(graph)


def _compute_shares(graph: ImportGraph) -> None:
    """Compute the part of each count that LoadLibrary contributed, importers first.

    A unit's share is the part of its count that results from loads of its importers outside of its import cycle: for
    each importer, the loads of all units from whose closures that one is.

    :raises _TooLongError: if the command's budget is exhausted; what is not computed by then remains unknown.
    """
    loads_above = _LoadsAbove(graph)
    tainted: set[int] = set()
    for component in reversed(list(components(graph, graph.units))):
        members = [graph.units[key] for key in component]
        inside = set(component)
        outer = [[key for key in unit.parents if key not in inside] for unit in members]
        inner = [len(unit.parents) - len(each) for unit, each in zip(members, outer)]
        is_tainted = not all(map(tainted.isdisjoint, outer))
        above = loads_above.record(component, dict.fromkeys(key for each in outer for key in each))
        if all(unit.pinned for unit in members):
            if is_tainted:
                tainted.update(component)
            continue
        share = [sum(map(loads_above.of, each)) + above * count for each, count in zip(outer, inner)]
        counts = [unit.count - each if unit.count is not None else -1 for unit, each in zip(members, share)]
        loads, rest = divmod(sum(counts), 1 + sum(inner))
        own = [count - loads * each for count, each in zip(counts, inner)]
        is_odd = rest or min(own) < 0 or any(unit.pinned for unit in members)
        if is_odd and not is_tainted and not any(unit.is_doubted or unit.count is None for unit in members):
            graph.uneven.append(component)
            graph.due.update(zip(component, share))
        if is_odd or is_tainted:
            tainted.update(component)
            continue
        for unit, each in zip(members, own):
            unit.own = each
        loads_above.add(component, loads)


class _LoadsAbove:
    """Counts for each unit the loads of all units that it is in the closure of.

    Each import cycle with loads has a bit; for a unit the bits are kept of those that lead to it, for a number of loads
    the bits of those with that number.
    """

    def __init__(self, graph: ImportGraph) -> None:
        self._graph = graph
        self._bits = 0
        self._leading: dict[int, int] = {}
        self._with_loads: dict[int, int] = {}
        self._known: dict[int, int] = {}

    def record(self, component: Sequence[int], importers: Iterable[int]) -> int:
        """Record the units of an import cycle, after all that import them; return the loads above.

        :raises _TooLongError: if the command's budget is exhausted.
        """
        leading = 0
        for importer in importers:
            self._graph.step(1 + self._bits // _BITS_JOINED)
            leading |= self._leading[importer]
        above = self._count(leading)
        for key in component:
            self._leading[key], self._known[key] = leading, above
        return above

    def _count(self, leading: int) -> int:
        self._graph.step(len(self._with_loads) * (1 + self._bits // _BITS_COUNTED))
        return sum(loads * bin(leading & bits).count("1") for loads, bits in self._with_loads.items())

    def add(self, component: Sequence[int], loads: int) -> None:
        """Add the loads of an import cycle that was recorded last."""
        if loads:
            bit = 1 << self._bits
            self._bits += 1
            self._with_loads[loads] = self._with_loads.get(loads, 0) | bit
            for key in component:
                self._leading[key] |= bit
                self._known[key] += loads

    def of(self, key: int) -> int:
        """Return the loads of a recorded unit, and of those above it."""
        return self._known[key]


def components(graph: ImportGraph, starts: Iterable[int]) -> Iterator[list[int]]:
    """Yield the strongly connected components below some units, imported ones first (Tarjan's algorithm).

    Each begins with the unit through which it was entered.
    """
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    path: list[int] = []
    on_path: set[int] = set()
    for start in starts:
        if start in index:
            continue
        stack = [_enter(graph, start, index, low, path, on_path)]
        while stack:
            key, children = stack[-1]
            child = next(children, None)
            if child is not None:
                if child not in index and child in graph.units:
                    stack.append(_enter(graph, child, index, low, path, on_path))
                elif child in on_path:
                    low[key] = min(low[key], index[child])
                continue
            stack.pop()
            if stack:
                low[stack[-1][0]] = min(low[stack[-1][0]], low[key])
            if low[key] == index[key]:
                component = [path.pop()]
                while component[-1] != key:
                    component.append(path.pop())
                component.reverse()
                on_path.difference_update(component)
                yield component


def _enter(
    graph: ImportGraph, key: int, index: dict[int, int], low: dict[int, int], path: list[int], on_path: set[int]
) -> tuple[int, Iterator[int]]:
    index[key] = low[key] = len(index)
    path.append(key)
    on_path.add(key)
    return key, iter(graph.units[key].children)


class _Rule:
    """How one loader frees: ``free`` returns why it does nothing, ``collect`` what it unloads."""

    order: str
    certain = True

    def __init__(self, graph: ImportGraph, initialization: Sequence[LdrEntry]) -> None:
        self.graph = graph
        self.initialization = tuple(initialization)

    def free(self, entry: LdrEntry) -> Optional[str]:
        """Lower the count of a DLL as FreeLibrary does."""
        raise NotImplementedError

    def collect(self) -> list[LdrEntry]:
        """Return the DLLs that the last free unloads, in order of detach."""
        raise NotImplementedError


class _GraphRule(_Rule):
    """Windows 8 to 11: depth first, parents before children, siblings in import order."""

    order = "import-order"

    def __init__(self, graph: ImportGraph, initialization: Sequence[LdrEntry]) -> None:
        super().__init__(graph, initialization)
        self._dead: list[LdrEntry] = []

    def _decrement(self, unit: LoadUnit) -> Optional[str]:
        if unit.pinned:
            return "pinned"
        if unit.count is None:
            return "unknown"
        if unit.count < (2 if unit.parents else 1):
            return "importers-only"
        unit.count -= 1
        if unit.own is not None:
            unit.own = unit.count - len(unit.parents)
        return None

    def free(self, entry: LdrEntry) -> Optional[str]:
        unit = self.graph.unit_of(entry)
        if any((each.node.state if each.node else None) in (UNLOADING, UNLOADED) for each in unit.entries):
            return "unloading"
        refusal = self._decrement(unit)
        if refusal or unit.count:
            return refusal
        stack = [self._unload(unit)]
        while stack:
            child = next(stack[-1], None)
            if child is None:
                stack.pop()
            else:
                stack.append(self._unload(child))
        return None

    def _unload(self, unit: LoadUnit) -> Iterator[LoadUnit]:
        """Unload a unit; yield each import that reaches 0, to be unloaded before the next is processed."""
        self._dead += unit.entries
        children, unit.children = unit.children, []
        dying = 0
        for key in children:
            child = self.graph.units[key]
            self.graph.step(1 + len(child.parents))
            if unit.key in child.parents:
                child.parents.remove(unit.key)
            if self._decrement(child) is None and not child.count:
                dying += 1
                if dying > 1:
                    self.certain = False
                yield child

    def collect(self) -> list[LdrEntry]:
        dead, self._dead = self._dead, []
        return dead


class _CountingRule(_Rule):
    """Wine, and XP to Windows 7: 16-bit counts; DLLs at 0 are detached in reverse order of initialisation."""

    order = "reverse-initialization"

    def free(self, entry: LdrEntry) -> Optional[str]:
        unit = self.graph.unit_of(entry)
        if unit.pinned:
            return "pinned"
        if unit.count is None:
            return "unknown"
        if not unit.count:
            return "unloading"
        if unit.own is not None:
            unit.own -= 1
        self._lower(unit)
        return None

    def _lower(self, unit: LoadUnit) -> None:
        raise NotImplementedError

    def collect(self) -> list[LdrEntry]:
        self.graph.step(len(self.initialization))
        dead = self._find_dead()
        units = self.graph.units
        for entry in dead:
            unit = units.pop(entry.address)
            for child in unit.children:
                if child in units:
                    self.graph.step(1 + len(units[child].parents))
                if child in units and entry.address in units[child].parents:
                    units[child].parents.remove(entry.address)
            for parent in unit.parents:
                if parent in units:
                    self.graph.step(1 + len(units[parent].children))
                    units[parent].children = [key for key in units[parent].children if key != entry.address]
        return dead

    def _find_dead(self) -> list[LdrEntry]:
        return [each for each in reversed(self.initialization) if self._is_dead(each)]

    def _is_dead(self, entry: LdrEntry) -> bool:
        unit = self.graph.units.get(entry.address)
        return unit is not None and unit.count == 0


class _WineRule(_CountingRule):
    """Wine: a unit whose count becomes 0 lowers the counts of its imports."""

    def _lower(self, unit: LoadUnit) -> None:
        in_progress: set[int] = set()
        stack: list[tuple[LoadUnit, Iterator[int]]] = []
        self._lower_one(unit, in_progress, stack)
        while stack:
            current, children = stack[-1]
            key = next(children, None)
            if key is None:
                in_progress.discard(current.key)
                stack.pop()
            else:
                self.graph.step(1)
                self._lower_one(self.graph.units[key], in_progress, stack)

    def _lower_one(self, unit: LoadUnit, in_progress: set[int], stack: list[tuple[LoadUnit, Iterator[int]]]) -> None:
        if unit.key in in_progress or unit.pinned or not unit.count:
            return
        unit.count -= 1
        if not unit.count:
            in_progress.add(unit.key)
            stack.append((unit, iter(unit.children)))

    def _find_dead(self) -> list[LdrEntry]:
        listed = {each.address for each in self.initialization}
        others = [unit.entries[0] for key, unit in self.graph.units.items() if key not in listed]
        return [*super()._find_dead(), *filter(self._is_dead, others)]


class _ClosureRule(_CountingRule):
    """XP to Windows 7: every import edge of the closure lowers a count; all DLLs at 0 are unloaded."""

    def _lower(self, unit: LoadUnit) -> None:
        assert unit.count is not None
        unit.count = unit.count - 1 & 0xFFFF
        if not unit.entries[0].has_flag(FLAG_IMAGE_DLL):
            return
        visited = {unit.key}
        stack = [iter(unit.children)]
        while stack:
            key = next(stack[-1], None)
            if key is None:
                stack.pop()
                continue
            self.graph.step(1)
            child = self.graph.units[key]
            if child.count is not None and child.count != PINNED_16:
                child.count = child.count - 1 & 0xFFFF
                child.pinned = child.count == PINNED_16
            if key not in visited:
                visited.add(key)
                stack.append(iter(child.children))


def gets_detached(rule: LoaderRule, entry: LdrEntry) -> bool:
    """Return True if DllMain is called with DLL_PROCESS_DETACH."""
    if not entry.entry_point or (rule is LoaderRule.WINE and entry.has_flag(FLAG_DONT_RESOLVE_WINE)):
        return False
    return entry.has_flag(FLAG_PROCESS_ATTACH_CALLED)
