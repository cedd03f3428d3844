"""What will a close that is about to begin unload, and what of all that it needs will stay, and why?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from ..loaders.glibc import LT_LOADED, LinkMap
from ..model import Library, Outcome
from .callers import is_same
from .glibc_state import PERMANENT, GlibcExamination
from .operations import Closing, instance_of
from .plan import Planner


class Forecast:
    """Predict the closes of one process; what never changes about a library is found once."""

    def __init__(self) -> None:
        self._closers: dict[str, bool] = {}
        self._lasting: dict[int, tuple[LinkMap, Library]] = {}

    def predict(
        self, examined: GlibcExamination, closing: Closing, link_map: LinkMap, outer: Optional[Closing]
    ) -> None:
        """Predict a close; what another one puts off goes to that, ``outer``."""
        planner = Planner(examined)
        outcome, left, unloads = planner.predict(link_map)
        closing.outcome = outcome
        by_address = examined.graph.by_address
        going = {address: instance_of(examined, by_address[address]) for address in unloads}
        if outcome is Outcome.DEFERRED and outer is not None:
            outer.remarked.update((a, i) for a, i in going.items() if a not in outer.predicted)
        else:
            closing.predicted = going
            closing.at_least = tuple(sorted(self._names_of_closers(planner, (by_address[a] for a in unloads))))
        if left == 0 or outcome is Outcome.EARLY_RETURN:
            closing.keeps = self._keeps(planner, link_map, left, unloads)

    def _names_of_closers(self, planner: Planner, maps: Iterable[LinkMap]) -> Iterator[str]:
        for link_map in maps:
            if link_map.name not in self._closers:
                self._closers[link_map.name] = planner.can_close(link_map)
            if self._closers[link_map.name]:
                yield planner.examined.name(link_map)

    def _keeps(self, planner: Planner, link_map: LinkMap, left: int, unloads: Sequence[int]) -> tuple[Library, ...]:
        """Judge what stays of a library and all that it needs, after its last close."""
        if link_map.l_type != LT_LOADED or link_map.nodelete:
            return (self.judge_lasting(planner.examined, link_map),)
        stays = [m for m in planner.closure(link_map) if m.address not in unloads]
        if not stays:
            return ()
        after = planner.examined.after({link_map.address: left})
        return tuple(
            self.judge_lasting(planner.examined, m)
            if m.nodelete and m is not link_map
            else after.judge(m, identify=False)
            for m in stays
        )

    def judge_lasting(self, examined: GlibcExamination, link_map: LinkMap) -> Library:
        """Judge a library that stays for good; it does so once."""
        known = self._lasting.get(link_map.address)
        if known is None or not is_same(known[0], link_map):
            library = examined.judge(link_map, identify=False)
            # What else needs it changes, and does not matter.
            holds = tuple(hold for hold in library.holds if hold.kind in PERMANENT)
            known = (link_map, library._replace(holds=holds, holds_omitted=0))
            self._lasting[link_map.address] = known
        return known[1]
