"""Through which chains do roots of the mark phase keep a library?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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

#: If every library needs every other, the search for all holders of all libraries would be cubic.
MAX_SEARCH_STEPS = 20_000

# Costs in Memory's units: a step of that search, and a reported hold in addition to its characters.
_STEP_UNITS = 4
_HOLD_UNITS = 600

# Subject and text of the problem that reports a truncated search for holds.
_REASONS = "reasons why libraries stay"
_CUT = "not all of the many libraries that keep one another are looked at: reasons can be missing, and are not counted"


class HoldChains:
    """The holds that libraries have through others, after one mark phase."""

    def __init__(self, process: GlibcProcess, kept: MarkPhase, *, brief: bool) -> None:
        """Create the chains of one process after one mark phase.

        :param brief: leave out evidence and symbols.
        """
        self._process = process
        self._kept = kept
        self._brief = brief

    def holds(self, link_map: LinkMap) -> tuple[list[Hold], int]:
        """Find the roots that keep a link map, each by its shortest chain; a permanent one is always listed.

        Returns the holds, permanent ones first, and the number of holds left out.
        """
        search = self._search(link_map)
        roots = [each for each in search.before if each != link_map.address and self._kept.marks[each]]
        listed: list[int] = []
        holds: list[Hold] = []
        for root in roots[:MAX_DEPENDENCY_HOLDS]:
            hold = self._hold(search.path(root)[::-1])
            texts = (*hold.chain, *hold.symbols)
            is_paid = self._spend(_HOLD_UNITS * (1 + len(texts)) + TEXT_UNITS * sum(map(len, texts)))
            listed.append(root)
            holds.append(hold)
            if not is_paid:
                break
        if not any(_is_permanent(hold) for hold in holds):
            path = self._permanent_path(link_map)
            if len(path) > 1:
                listed.append(path[0])
                holds.append(self._hold(path))
        holds.sort(key=lambda h: (not _is_permanent(h), len(h.chain), h.kind.value, h.chain))
        return holds, max(0, len({*roots, *listed}) - len(holds))

    def _search(self, link_map: LinkMap) -> Search[int]:
        """Search the holders of a link map, the nearest first; record a problem if the search was cut."""
        steps = 0

        def spend(count: int) -> bool:
            nonlocal steps
            steps += count
            return steps <= MAX_SEARCH_STEPS and self._spend(_STEP_UNITS * count)

        holders = self._kept.holders
        search = Search([link_map.address], lambda address: holders.get(address, ()), spend).run()
        if search.is_cut and steps > MAX_SEARCH_STEPS:
            self._process.note(Problem(_REASONS, _CUT))
        return search

    def _spend(self, units: int) -> bool:
        return self._process.memory.spend(units, _REASONS)

    def _permanent_path(self, link_map: LinkMap) -> Sequence[int]:
        """Return the path to a link map from the nearest permanent root; empty if there is none."""
        search = self._kept.from_permanent
        return search.path(link_map.address) if link_map.address in search.before else ()

    def _hold(self, path: Sequence[int]) -> Hold:
        """Describe how the first link map of a path, a root, holds the last one."""
        chain = [path[0]]
        edge = Edge.DEPENDENCY
        for following in path[1:]:
            edge = self._kept.edge(chain[-1], following)
            between = _dependency_path(self._process, chain[-1], following) if edge is Edge.DEPENDENCY else [following]
            chain += between
        maps = [self._process.graph.by_address[address] for address in chain]
        for link_map in maps:
            self._process.concern(link_map)
        member = "l_initfini" if edge is Edge.DEPENDENCY else "l_reldeps"
        symbols, unnamed = self._symbols(maps[-2], maps[-1]) if edge is Edge.RELOCATION else ((), 0)
        kinds = self._root_kinds(maps[0])
        return Hold(
            HoldKind.DEPENDENCY if edge is Edge.DEPENDENCY else HoldKind.RELOCATION,
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


def _dependency_path(process: GlibcProcess, holder: int, held: int) -> list[int]:
    """Return the path below ``holder``: l_initfini of a dlopened library lists its indirect dependencies too."""
    search = Search(
        [holder],
        lambda address: _direct_dependencies(process, process.graph.by_address[address]),
        lambda count: process.memory.spend(_STEP_UNITS * (1 + count), "chains of dependencies"),
    )
    for _ in search:
        if held in search.before:
            break
    return search.path(held)[1:] if held in search.before else [held]


def _direct_dependencies(process: GlibcProcess, link_map: LinkMap) -> tuple[int, ...]:
    if link_map.direct is None:
        link_map.direct = tuple(_find_direct_dependencies(process, link_map))
    return link_map.direct


def _find_direct_dependencies(process: GlibcProcess, link_map: LinkMap) -> Iterator[int]:
    image = process.image(link_map)
    try:
        wanted = {base_name(name) for name in image.read_needed()} if image else set()
    except DlwhyError as error:
        message = f"what it needs itself cannot be read, so chains from it can lack links: {error}"
        process.note_trouble(link_map, message)
        return
    for address in link_map.needed:
        other = process.graph.by_address.get(address)
        if other is None:
            continue
        if process.name(other) in wanted:
            yield address
            continue
        other_image = process.image(other)
        if other_image is not None and other_image.read_soname() in wanted:
            yield address


def _is_permanent(hold: Hold) -> bool:
    return hold.root is not None and (hold.root.never_ends or not PERMANENT.isdisjoint(hold.root.kinds))
