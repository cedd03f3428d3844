"""What will a close unload, and which of its dependencies will stay, and why?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Optional

from ...model import Outcome
from ..elf.bindings import Bindings
from ..loader.collector import mark
from ..loader.maps import Graph, LinkMap, is_same_library
from ..loader.roots import LT_LOADED
from ..model import PERMANENT, HoldKind, Library
from ..plan import Planner
from ..state.process import GlibcProcess
from ..state.verdict import GlibcExamination
from .call import CloseCall, ClosePrediction
from .events import LibraryInstance
from .in_flight import instance_of

#: Holds that follow from link maps and bindings alone; the others also need other memory.
_OF_MAPS = frozenset({HoldKind.OPEN_COUNT, HoldKind.DEPENDENCY, HoldKind.RELOCATION})


class ClosePredictor:
    """Predicts the closes of one process; unchanged facts about a library are cached."""

    def __init__(self) -> None:
        self._closers: dict[str, bool] = {}
        self._lasting: dict[int, tuple[LinkMap, Library]] = {}
        self._staying = _KeptVerdicts()

    def predict(self, examined: GlibcExamination, link_map: LinkMap, outer: Optional[CloseCall]) -> ClosePrediction:
        """Predict a close; what it adds to the ``outer`` close, in which it is nested, is unloaded by that one."""
        planner = Planner(examined)
        outcome, left, unloads = planner.predict(link_map)
        by_address = examined.process.graph.by_address
        unloaded = {address: instance_of(examined.process, by_address[address]) for address in unloads}
        for_outer: dict[int, LibraryInstance] = {}
        may_unload_more: tuple[str, ...] = ()
        if outcome is Outcome.DEFERRED and outer is not None:
            for_outer = {a: i for a, i in unloaded.items() if a not in outer.prediction.unloads}
            unloaded = {}
        else:
            may_unload_more = tuple(sorted(self._names_of_closers(planner, (by_address[a] for a in unloads))))
        is_last = (left == 0 and outcome is not Outcome.UNKNOWN) or outcome is Outcome.NO_EFFECT
        kept = self._find_kept(planner, link_map, left, unloads) if is_last else ()
        return ClosePrediction(outcome, unloaded, for_outer, may_unload_more, kept)

    def explain(self, before: Graph, process: GlibcProcess, close_call: CloseCall) -> Mapping[int, LibraryInstance]:
        """Mark again under the current counts, which unseen nested closes have lowered; return what that unloaded.

        Not every debugger sees the closes by the libc of another namespace.
        """
        number = close_call.library.namespace if close_call.library else None
        after = process.graph.by_address
        namespace = next((n for n in before.namespaces if n.number == number), None)
        if namespace is None:
            return {}
        counts = {m.address: _count_of(m, after.get(m.address)) for m in namespace.maps}
        kept = mark(namespace, before, process.rules, counts)
        found = {a: i for a, i in close_call.unloaded.items() if a in counts and a not in kept}
        return {a: i for a, i in found.items() if a not in close_call.prediction.unloads}

    def _names_of_closers(self, planner: Planner, maps: Iterable[LinkMap]) -> Iterator[str]:
        for link_map in maps:
            if link_map.name not in self._closers:
                self._closers[link_map.name] = planner.can_close(link_map)
            if self._closers[link_map.name]:
                yield planner.examined.process.name(link_map)

    def _find_kept(self, planner: Planner, link_map: LinkMap, left: int, unloads: Sequence[int]) -> tuple[Library, ...]:
        """Return verdicts on a library and its dependencies as far as they stay after its last close."""
        if link_map.l_type != LT_LOADED or link_map.nodelete:
            return (self.verdict_on_permanent(planner.examined, link_map),)
        stays = [m for m in planner.closure(link_map) if m.address not in unloads]
        if not stays:
            return ()
        after = planner.examined.after({link_map.address: left})
        return tuple(
            self.verdict_on_permanent(planner.examined, m)
            if m.nodelete and m is not link_map
            else self._staying.verdict(after, m)
            for m in stays
        )

    def verdict_on_permanent(self, examined: GlibcExamination, link_map: LinkMap) -> Library:
        """Return the verdict on a library that stays for good; computed once."""
        known = self._lasting.get(link_map.address)
        if known is not None and _is_equal(known[0], link_map):
            return known[1]
        if known is not None and is_same_library(known[0], link_map):
            library = examined.refresh_verdict(known[1], link_map)
        else:
            library = examined.verdict(link_map, identify=False)
            # Its other holds change, and do not matter.
            holds = tuple(hold for hold in library.holds if hold.kind in PERMANENT)
            library = library._replace(holds=holds, holds_omitted=0)
        self._lasting[link_map.address] = link_map, library
        return library


class _KeptVerdicts:
    """A cache of verdicts on libraries that stay after a close, valid while their holders are unchanged."""

    def __init__(self) -> None:
        self._after: Optional[GlibcExamination] = None
        self._maps: list[LinkMap] = []
        self._known: dict[int, tuple[LinkMap, Sequence[Optional[Bindings]], Library]] = {}

    def verdict(self, after: GlibcExamination, link_map: LinkMap) -> Library:
        """Return the verdict on a library in the state after a close."""
        if after is not self._after:
            self._take(after)
        known = self._known.get(link_map.address)
        holders = dict.fromkeys(after.kept.holders.get(link_map.address, ()))
        by_address = after.process.graph.by_address
        bindings = [
            after.process.bindings.of(by_address[holder])
            for holder in holders
            if link_map.address in by_address[holder].relocated_to
        ]
        if known is not None and _is_equal(known[0], link_map) and known[1] == bindings:
            return known[2]
        library = after.verdict(link_map, identify=False)
        if library.held and _OF_MAPS.issuperset(hold.kind for hold in library.holds):
            self._known[link_map.address] = link_map, bindings, library
        return library

    def _take(self, after: GlibcExamination) -> None:
        marks = after.kept.marks
        maps = [after.process.graph.by_address[address] for address in marks]
        if self._after is None or marks != self._after.kept.marks or not all(map(_keeps_alike, maps, self._maps)):
            self._known.clear()
        self._after, self._maps = after, maps


def _count_of(link_map: LinkMap, now: Optional[LinkMap]) -> int:
    return now.l_direct_opencount if now is not None and is_same_library(link_map, now) else 0


def _is_equal(link_map: LinkMap, other: LinkMap) -> bool:
    """Return True if two reads of a link map found the same bytes."""
    return link_map is other or (
        link_map.raw == other.raw and link_map.edges == other.edges and link_map.name == other.name
    )


def _keeps_alike(link_map: LinkMap, other: LinkMap) -> bool:
    """Return True if two reads of a link map keep the same libraries."""
    return link_map is other or (
        link_map.name == other.name
        and link_map.needed == other.needed
        and link_map.relocated_to == other.relocated_to
        and link_map.l_auditing == other.l_auditing
    )
