"""Which events does a trace report, and what are their totals?"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Optional

from ...model import Problem
from ...paths import windows_base_name
from ...trace.ledger import CountsAtStart
from ...trace.session import TraceSession
from ..state import WindowsExamination
from .events import DllEvent, DllInstance, DllTrace
from .ledger import DllLedger
from .snapshot import DllSnapshot, for_each_entry, is_complete, key_of, own_count

#: A trace that meets more problems than this is of no use.
MAX_PROBLEMS = 50


class DllTraceSummary:
    """The reported events of a trace, and its problems."""

    def __init__(
        self, examined: WindowsExamination, asked: Sequence[str], on_event: Callable[[DllEvent], None]
    ) -> None:
        """Create the summary of a trace; events about ``asked`` names go to ``on_event``."""
        self._info, self._loader, self._rules = examined.target_info(), examined.loader_info(), examined.rules()
        self._filter = tuple(asked)
        self._asked = [name.lower() for name in asked]
        self._on_event = on_event
        self._problems: dict[Problem, None] = {}
        entries = for_each_entry(examined)
        counts = {key_of(entry): own_count(graph, entry) for _, graph, entry in entries}
        self._ledger = DllLedger(CountsAtStart(counts, is_complete(examined)))
        for _, graph, entry in entries:
            own = own_count(graph, entry)
            if not graph.unit_of(entry).pinned and (own is None or own > 0):
                self._ledger.begin(key_of(entry))

    def tell(
        self, event: DllEvent, concerned: Iterable[Optional[DllInstance]], requested: Optional[str] = None
    ) -> None:
        """Report an event if it concerns a requested DLL, and count it."""
        names = [each.name for each in concerned if each is not None]
        names.append(windows_base_name(requested or ""))
        if not self._asked or any(self._is_asked_for(name) for name in names):
            self._ledger.add(event)
            self._on_event(event)

    def _is_asked_for(self, name: str) -> bool:
        name = name.lower()
        return any(fnmatch.fnmatchcase(name, each) or name == f"{each}.dll" for each in self._asked)

    def count_unseen(self, is_loaded: bool) -> None:
        """Count a module that was loaded (else unloaded) outside of all calls."""
        self._ledger.count_unseen(opens=is_loaded, closes=not is_loaded)

    def add_problem(self, where: str, message: str) -> None:
        """Record a problem."""
        if len(self._problems) < MAX_PROBLEMS:
            self._problems[Problem(where, message)] = None

    def report(self, snapshot: DllSnapshot, watching: TraceSession, *, is_watching: bool, unended: int) -> DllTrace:
        """Return the report; ``unended``: the number of in-flight calls."""
        ledger = self._ledger
        totals = ledger.totals()
        return DllTrace(
            target=self._info,
            loader=self._loader,
            rules=self._rules,
            watching=is_watching,
            end_reason=watching.ending,
            duration_seconds=watching.seconds(),
            totals=totals._replace(end_not_seen=totals.end_not_seen + unended),
            library_totals=ledger.library_totals(snapshot.now, snapshot.complete),
            kept=ledger.kept(),
            closes_mispredicted=tuple(ledger.closes_mispredicted),
            pins=tuple(ledger.pins),
            opens_failed=tuple(ledger.opens_failed),
            problems=(*self._problems, *ledger.problems()),
            filter=self._filter,
        )
