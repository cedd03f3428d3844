"""Which events does a trace report, and what are their totals?"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...model import Problem
from ...trace.ledger import CountsAtStart, LibraryKey, LoadedNow
from ...trace.session import TraceSession
from ..loader.maps import LinkMap
from ..loader.roots import LT_LOADED
from ..state.naming import missing_names, target_info
from ..state.process import GlibcProcess
from .entry_points import EntryPoints
from .events import Event, Trace
from .ledger import EventLedger
from .stops import StopRules

#: A trace with more problems than this is useless.
MAX_PROBLEMS = 50


class TraceSummary:
    """The reported events of a trace, and its problems."""

    def __init__(
        self, process: GlibcProcess, asked: tuple[str, ...], stops: StopRules, sink: Callable[[Event], None]
    ) -> None:
        """Create the summary of a trace.

        :param asked: the requested libraries, as the user wrote them; empty: all.
        :param sink: receives each event that concerns them.
        """
        self._info = target_info(process.memory)
        self._asked = asked
        self._stops = stops
        self._sink = sink
        self._problems: dict[Problem, None] = dict.fromkeys(process.all_problems())
        self._unended: tuple[Event, ...] = ()
        maps = [m for m in process.graph.by_address.values() if not m.is_proxy]
        startup = frozenset(_key_of_map(process, m) for m in maps if m.l_type != LT_LOADED)
        self._ledger = EventLedger(CountsAtStart(_open_counts(process, maps), process.graph.complete, startup))
        for link_map in maps:
            # Start-up libraries stay, so their build-ids are read on demand.
            if link_map.l_type == LT_LOADED:
                process.build_id(link_map)
            if link_map.l_type == LT_LOADED and link_map.l_direct_opencount:
                self._ledger.begin(_key_of_map(process, link_map))

    def tell(self, event: Event) -> None:
        """Report an ended event if it concerns a requested library, and count it."""
        if self._stops.is_about(event):
            self._ledger.add(event)
            self._sink(event)
        else:
            self._ledger.add_unasked(event)

    def tell_unended(self, events: tuple[Event, ...]) -> None:
        """Report the calls still in flight at the end of the trace, innermost first."""
        self._unended = events
        for event in reversed(events):
            self.tell(event)

    def count_unseen(self, opens: int, closes: int) -> None:
        """Count changes of open counts that no seen call explains."""
        self._ledger.count_unseen(opens, closes)

    def count_unloaded(self, number: int) -> None:
        """Count libraries that closes unloaded while threads raced, whichever close it was."""
        self._ledger.count_unloaded(number)

    def add_problem(self, where: str, message: str) -> None:
        """Record a problem."""
        if len(self._problems) < MAX_PROBLEMS:
            self._problems[Problem(where, message)] = None

    def report(
        self, process: GlibcProcess, session: TraceSession, entry_points: EntryPoints, running: tuple[Event, ...]
    ) -> Trace:
        """Return the report.

        :param process: the latest snapshot of the process.
        :param running: the events of the in-flight calls.
        """
        ledger = self._ledger
        now = _open_counts(process, (m for m in process.graph.by_address.values() if not m.is_proxy))
        return Trace(
            target=self._info,
            loader=process.loader_info(),
            watching=session.ending is None,
            end_reason=session.ending,
            duration_seconds=session.seconds(),
            opens_by=entry_points.opens_by,
            closes_by=entry_points.closes_by,
            totals=ledger.totals(),
            library_totals=ledger.library_totals(
                {key: LoadedNow(count) for key, count in now.items()}, process.graph.complete
            ),
            kept=ledger.kept(),
            closes_mispredicted=tuple(ledger.closes_mispredicted),
            pins=tuple(ledger.pins),
            tls_registrations=tuple(ledger.tls_registrations),
            descriptor_leaks=tuple(ledger.descriptor_leaks),
            problems=(*self._problems, *ledger.problems(), *missing_names()),
            end_not_seen=tuple(event for event in self._unended or running if self._stops.is_about(event)),
            closes_not_open=tuple(ledger.closes_not_open),
            opens_failed=tuple(ledger.opens_failed),
            filter=self._asked,
        )


def _open_counts(process: GlibcProcess, maps: Iterable[LinkMap]) -> dict[LibraryKey, int]:
    """Return open counts."""
    return {_key_of_map(process, m): m.l_direct_opencount for m in maps}


def _key_of_map(process: GlibcProcess, link_map: LinkMap) -> LibraryKey:
    """Return the key of a library's account."""
    return LibraryKey(process.path(link_map), link_map.l_ns, process.name(link_map))
