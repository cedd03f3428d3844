"""Through which chains do roots of the mark phase keep a library?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from ...errors import DlwhyError
from ...graph import Search
from ...model import Problem
from ...paths import base_name
from ..loader.collector import Edge
from ..loader.maps import LinkMap
from ..model import PERMANENT, Hold, HoldKind, Root
from .evidence import read_evidence
from .mark_phase import ROOT_HOLDS, MarkPhase
from .naming import opened_by
from .process import GlibcProcess
from .symbols import TEXT_UNITS, demangled

#: At most this many libraries that keep another one are listed; the rest are counted.
MAX_DEPENDENCY_HOLDS = 16
MAX_SYMBOLS = 16
#: At most this many symbols by which one library points into another are demangled, to list the first ones.
MAX_DEMANGLED = 1024

#: A search for the roots of one library visits at most this many edges; how many roots there are is counted otherwise.
MAX_SEARCH_STEPS = 20_000
#: At most this many searches along direct dependencies are kept, each from one library.
MAX_KEPT_SEARCHES = 64

# Costs in Memory's units: a step of a search, and a reported hold in addition to its characters.
_STEP_UNITS = 4
_HOLD_UNITS = 720

# Subject and text of the problem that reports a truncated search for holds.
_REASONS = "reasons why libraries stay"
_CUT = "not all of the many libraries that keep one another are looked at: reasons can be missing"

_KINDS = {Edge.DEPENDENCY: HoldKind.DEPENDENCY, Edge.RELOCATION: HoldKind.RELOCATION}

#: The link maps from a root to the library that it keeps, by their addresses.
_Path = Sequence[int]


class HoldChains:
    """The holds that libraries have through others, after one mark phase."""

    def __init__(self, process: GlibcProcess, kept: MarkPhase, *, brief: bool) -> None:
        """Create the chains of one process after one mark phase.

        :param brief: leave out evidence and symbols, and of chains all but the ends.
        """
        self._process = process
        self._kept = kept
        self._brief = brief
        self._dependencies = _DependencyPaths(process)

    def holds(self, link_map: LinkMap) -> tuple[list[Hold], int]:
        """Find the roots that keep a link map, each by its shortest chain; a permanent one is always listed.

        Returns the holds, permanent ones first, and the number of holds left out.
        """
        paths, total = self._paths(link_map)
        holds: list[Hold] = []
        for path in paths:
            hold = self._hold(path, self._expand(path))
            texts = (*hold.chain, *hold.symbols)
            holds.append(hold)
            if not self._spend(_HOLD_UNITS * (1 + len(texts)) + TEXT_UNITS * sum(map(len, texts))):
                break
        holds.sort(key=lambda h: (not _is_permanent(h), len(h.chain), h.kind.value, h.chain))
        return holds, max(0, total - len(holds))

    def strongest(self, link_map: LinkMap) -> tuple[list[Hold], int]:
        """Find the hold that `holds` returns first, none if there is none, and the number of the others."""
        paths, total = self._paths(link_map)
        if not paths:
            return [], 0
        ranked = sorted((self._rank(path), path) for path in paths)
        first = [path for rank, path in ranked if rank == ranked[0][0]]
        if len(first) == 1:
            root, held = first[0][0], first[0][-1]
            return [self._hold(first[0], [root, self._before_last(first[0]), held])], max(0, total - 1)
        chosen = min((self._expand(path) for path in first), key=lambda chain: [*map(self._name, chain)])
        path = next(path for path in first if path[0] == chosen[0])
        return [self._hold(path, chosen)], max(0, total - 1)

    def count(self, link_map: LinkMap) -> int:
        """Return how many roots keep a link map through others; 0, and a problem, if there is no time to count."""
        counts = self._kept.root_counts
        return 0 if counts is None else counts.get(link_map.address, 0)

    def _paths(self, link_map: LinkMap) -> tuple[list[_Path], int]:
        """Return the paths of the nearest roots, and of a permanent one, and how many roots there are."""
        address = link_map.address
        if address not in self._kept.holders:
            return [], 0
        counts = self._kept.root_counts
        search = self._search(link_map, None if counts is None else counts.get(address, 0))
        roots = [each for each in search.before if each != address and self._kept.marks[each]]
        paths: list[_Path] = [search.path(root)[::-1] for root in roots[:MAX_DEPENDENCY_HOLDS]]
        if not any(self._kept.is_permanent(path[0]) for path in paths):
            path = self._permanent_path(link_map)
            if len(path) > 1:
                paths.append(path)
        total = len({*roots, *(path[0] for path in paths)}) if counts is None else counts.get(address, 0)
        return paths, total

    def _search(self, link_map: LinkMap, total: Optional[int]) -> Search[int]:
        """Search the holders of a link map, the nearest first, until all roots that are listed are found.

        A problem is recorded if the search is cut.

        :param total: the number of its roots, None if it is not known.
        """
        steps = 0
        wanted = None if total is None else min(total, MAX_DEPENDENCY_HOLDS)
        all_holders, marks = self._kept.holders, self._kept.marks
        roots: set[int] = set()

        def spend(count: int) -> bool:
            nonlocal steps
            steps += count
            return steps <= MAX_SEARCH_STEPS and self._spend(_STEP_UNITS * count)

        def holders(address: int) -> Sequence[int]:
            found = all_holders.get(address, ())
            if wanted is not None:
                roots.update(each for each in found if marks[each])
            return found

        search = Search([link_map.address], holders, spend)
        for _ in search:
            if wanted is not None and len(roots) - (link_map.address in roots) >= wanted:
                break
        if search.is_cut and steps > MAX_SEARCH_STEPS:
            self._process.note(Problem(_REASONS, _CUT))
        return search

    def _spend(self, units: int) -> bool:
        return self._process.memory.spend(units, _REASONS)

    def _permanent_path(self, link_map: LinkMap) -> _Path:
        """Return the path to a link map from the nearest permanent root; empty if there is none."""
        search = self._kept.from_permanent
        return search.path(link_map.address) if link_map.address in search.before else ()

    def _expand(self, path: _Path) -> list[int]:
        """Return a path with what lies between: a library that was opened lists its indirect dependencies, too."""
        chain = [path[0]]
        for holder, held in zip(path, path[1:]):
            is_needed = self._kept.edge(holder, held) is Edge.DEPENDENCY
            chain += self._dependencies.path(holder, held) if is_needed else [held]
        return chain

    def _rank(self, path: _Path) -> tuple[bool, int, str]:
        """Return what holds are sorted by before their chains are."""
        length, edge = 1, Edge.DEPENDENCY
        for holder, held in zip(path, path[1:]):
            edge = self._kept.edge(holder, held)
            length += self._dependencies.distance(holder, held) if edge is Edge.DEPENDENCY else 1
        return not self._kept.is_permanent(path[0]), length, _KINDS[edge].value

    def _before_last(self, path: _Path) -> int:
        """Return the last link map but one of a path that is expanded."""
        holder, held = path[-2:]
        if self._kept.edge(holder, held) is Edge.DEPENDENCY:
            return self._dependencies.before(holder, held)
        return holder

    def _name(self, address: int) -> str:
        return self._process.name(self._process.graph.by_address[address])

    def _hold(self, path: _Path, chain: Sequence[int]) -> Hold:
        """Describe how the first link map of a path, a root, holds the last one.

        :param chain: the path with what lies between, or its ends.
        """
        edge = self._kept.edge(path[-2], path[-1])
        maps = [self._process.graph.by_address[address] for address in chain]
        for link_map in maps:
            self._process.concern(link_map)
        member = "l_initfini" if edge is Edge.DEPENDENCY else "l_reldeps"
        symbols, unnamed = self._symbols(maps[-2], maps[-1]) if edge is Edge.RELOCATION else ((), 0)
        kinds = self._root_kinds(maps[0])
        return Hold(
            _KINDS[edge],
            () if self._brief else read_evidence(self._process.layouts, maps[-2], member),
            chain=tuple(self._process.name(m) for m in maps),
            root=Root(
                self._process.name(maps[0]),
                kinds,
                opened_by(maps[0].name) if HoldKind.OPEN_COUNT in kinds else None,
                self._kept.destructors_never_end(path[0]),
            ),
            symbols=symbols[:MAX_SYMBOLS],
            symbols_omitted=max(0, len(symbols) - MAX_SYMBOLS) + unnamed,
        )

    def _symbols(self, holder: LinkMap, held: LinkMap) -> tuple[tuple[str, ...], int]:
        """Return the symbols by which one library points into another, and how many more there are."""
        if self._brief:
            return (), 0
        names = self._process.bindings.symbols_into(holder, held)
        found = demangled(self._process.memory, names[:MAX_DEMANGLED])
        return tuple(sorted(found)), max(0, len(names) - MAX_DEMANGLED)

    def _root_kinds(self, root: LinkMap) -> tuple[HoldKind, ...]:
        kinds = [ROOT_HOLDS[kind] for kind in self._kept.marks[root.address]]
        if root.l_auditing:
            kinds = [HoldKind.AUDIT]
        elif HoldKind.NODELETE in kinds and HoldKind.OPEN_COUNT in kinds:
            kinds.remove(HoldKind.OPEN_COUNT)
        return tuple(kinds)


class _DependencyPaths:
    """The shortest paths along direct dependencies."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process
        self._known: dict[int, _DependencySearch] = {}

    def path(self, holder: int, held: int) -> list[int]:
        """Return the path below ``holder``, and only ``held`` itself if there is none."""
        search = self._search(holder, held)
        return search.path(held)[1:] if held in search.before else [held]

    def distance(self, holder: int, held: int) -> int:
        """Return the length of that path."""
        search = self._search(holder, held)
        return search.depth(held) if held in search.before else 1

    def before(self, holder: int, held: int) -> int:
        """Return the last link map but one of that path, which begins with ``holder``."""
        return self._search(holder, held).before.get(held, holder)

    def _search(self, holder: int, held: int) -> _DependencySearch:
        search = self._known.get(holder)
        if search is None:
            if len(self._known) >= MAX_KEPT_SEARCHES:
                del self._known[next(iter(self._known))]
            search = self._known[holder] = _DependencySearch(self._process, holder)
        search.go_on_to(held)
        return search


class _DependencySearch(Search[int]):
    """A search along direct dependencies that goes on when more is asked."""

    def __init__(self, process: GlibcProcess, holder: int) -> None:
        by_address = process.graph.by_address
        super().__init__(
            [holder],
            lambda address: _direct_dependencies(process, by_address[address]),
            lambda count: process.memory.spend(_STEP_UNITS * (1 + count), "chains of dependencies"),
        )
        self._steps = iter(self)
        self._depths = {holder: 0}

    def go_on_to(self, node: int) -> None:
        """Search until a node is reached, or all that can be."""
        while node not in self.before and next(self._steps, None) is not None:
            pass

    def depth(self, node: int) -> int:
        """Return how far from the start a reached node is."""
        way = []
        while node not in self._depths:
            way.append(node)
            node = self.before[node]
        depth = self._depths[node]
        for each in reversed(way):
            depth += 1
            self._depths[each] = depth
        return depth


def _direct_dependencies(process: GlibcProcess, link_map: LinkMap) -> tuple[int, ...]:
    if link_map.direct is None:
        link_map.direct = tuple(_find_direct_dependencies(process, link_map))
    return link_map.direct


def _find_direct_dependencies(process: GlibcProcess, link_map: LinkMap) -> Iterator[int]:
    if link_map.field("l_searchlist.r_list") == 0:
        # Only _dl_map_object_deps of the library itself, which opens it, lists indirect ones (elf/dl-deps.c).
        yield from (address for address in link_map.needed if address in process.graph.by_address)
        return
    image = process.image(link_map)
    try:
        wanted = {base_name(name) for name in image.read_needed()} if image else set()
    except DlwhyError as error:
        message = f"what it needs itself cannot be read, so chains from it can lack links: {error}"
        process.note_trouble(link_map, message)
        return
    others = [process.graph.by_address[each] for each in link_map.needed if each in process.graph.by_address]
    named = {other.address: process.name(other) for other in others}
    lacking = wanted.difference(named.values())
    for other in others:
        if named[other.address] in wanted:
            yield other.address
        elif lacking:  # one is called otherwise than its file
            image = process.image(other)
            if image is not None and image.read_soname() in lacking:
                yield other.address


def _is_permanent(hold: Hold) -> bool:
    return hold.root is not None and (hold.root.never_ends or not PERMANENT.isdisjoint(hold.root.kinds))
