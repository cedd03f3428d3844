"""Who opened and closed what, how often, and with which result?  Totals only: a long trace takes little memory.

Counts what the events of all systems share; the ledger of each system stores the events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple, Optional, TypeVar

from ..counts import quantity
from ..model import Outcome, Problem
from .events import Calls, EventHeader, LibraryTotals, OpenResult, Site, Totals

_T = TypeVar("_T")

#: At most this many events of each kind are listed in the report; the log has all.
MAX_LISTED = 1000


class LibraryKey(NamedTuple):
    """A library's path and namespace: one file can be loaded in several namespaces.

    ``name`` tells those apart whose ``path`` is None, because it is unknown.
    """

    path: Optional[str]
    namespace: int
    name: str


class LoadedNow(NamedTuple):
    """The current open count of a library that is loaded, and whether it is pinned; each None if unknown."""

    open_count: Optional[int]
    pinned: Optional[bool] = None


class CountsAtStart(NamedTuple):
    """The open counts when the trace began, None for an unknown one.

    ``complete`` is False if not all libraries could be read, ``startup`` has those loaded at program start.
    """

    open_counts: Mapping[LibraryKey, Optional[int]]
    complete: bool
    startup: frozenset[LibraryKey] = frozenset()

    def find(self, key: LibraryKey) -> Optional[int]:
        """Return the open count of a library, 0 if it was not loaded; None if unknown."""
        return self.open_counts.get(key, 0 if self.complete else None)


class CloseResult(NamedTuple):
    """The effect of a close: how many libraries it unloaded, and whether something stayed.

    ``predicted_exactly``: exactly the libraries predicted at its start were unloaded, None if that is unknown;
    ``contradicts_predictions``: neither its own prediction nor those of nested closes explain what it did.
    """

    ended: bool
    unloaded: int
    kept_something: bool
    predicted_exactly: Optional[bool]
    contradicts_predictions: bool


class _LibraryCounts:
    def __init__(self, before: Optional[int]) -> None:
        self.before = before
        self.opens: Counter[tuple[Optional[Site], str]] = Counter()
        self.closes: Counter[tuple[Optional[Site], str]] = Counter()
        self.early_returns = 0
        self.is_shown = False


class Ledger:
    """The totals over a trace's events."""

    def __init__(self, at_start: CountsAtStart) -> None:
        """Create a ledger.

        :param at_start: the open counts when the trace began.
        """
        self._at_start = at_start
        self._accounts: dict[LibraryKey, _LibraryCounts] = {}
        self._counts: Counter[str] = Counter()
        self._unlisted: Counter[str] = Counter()

    def begin(self, key: LibraryKey) -> None:
        """Open the account of a library that was open when the trace began."""
        self._account(key, shown=True)

    def _account(self, key: LibraryKey, shown: bool) -> _LibraryCounts:
        """Find the account of a library; the report omits an account that no event shows."""
        sums = self._accounts.get(key)
        if sums is None:
            sums = self._accounts[key] = _LibraryCounts(self._at_start.find(key))
        sums.is_shown = sums.is_shown or shown
        return sums

    def record_open(self, key: LibraryKey, header: EventHeader, *, shown: bool) -> None:
        """Count an open in the account of its library."""
        self._account(key, shown).opens[header.caller, header.initiated_by] += 1

    def record_close(self, key: LibraryKey, header: EventHeader, outcome: Outcome, *, shown: bool) -> None:
        """Count a close in the account of its library, unless the library was not open."""
        if outcome is Outcome.NOT_OPEN:
            return
        sums = self._account(key, shown)
        if outcome is Outcome.NO_EFFECT:
            sums.early_returns += 1
        else:
            sums.closes[header.caller, header.initiated_by] += 1

    def count_open(self, result: OpenResult, *, ended: bool) -> None:
        """Count an open in the totals."""
        self._counts["opens"] += 1
        self._counts["opens_failed"] += result is OpenResult.FAILED
        self._counts["opens_not_loaded"] += result is OpenResult.NOT_LOADED
        self._counts["end_not_seen"] += not ended

    def count_close(self, header: EventHeader, ending: CloseResult) -> bool:
        """Count a close in the totals; return True if it was mispredicted, False if threads raced."""
        counts = self._counts
        counts["closes"] += 1
        counts["closes_that_unloaded"] += bool(ending.unloaded)
        counts["libraries_unloaded"] += ending.unloaded
        counts["closes_that_kept"] += ending.kept_something
        counts["closes_raced"] += header.raced
        counts["closes_predicted_exactly"] += ending.predicted_exactly is True and not header.raced
        counts["closes_nested"] += header.within_event is not None
        counts["end_not_seen"] += not ending.ended
        counts["closes_compared"] += ending.predicted_exactly is not None and not header.raced
        counts["closes_not_predicted"] += ending.ended and ending.predicted_exactly is None and not header.raced
        is_mismatch = ending.contradicts_predictions and not header.raced
        counts["closes_mispredicted"] += is_mismatch
        return is_mismatch

    def count_unseen(self, opens: int, closes: int) -> None:
        """Count opens and closes that no event shows."""
        self._counts["opens_unseen"] += opens
        self._counts["closes_unseen"] += closes

    def count_unloaded(self, number: int) -> None:
        """Count libraries that one of several closes unloaded."""
        self._counts["libraries_unloaded"] += number

    def _list(self, name: str, listed: list[_T], event: _T) -> None:
        """List an event, or count it if there are too many of its kind, ``name``."""
        if len(listed) < MAX_LISTED:
            listed.append(event)
        else:
            self._unlisted[name] += 1

    def problems(self) -> tuple[Problem, ...]:
        """Return a problem for each kind of event of which more occurred than are listed."""
        text = f"occurred than the {MAX_LISTED} that are listed here; --log has all"
        return tuple(Problem(name, f"{quantity(count, 'more event')} {text}") for name, count in self._unlisted.items())

    def totals(self) -> Totals:
        """Return the totals."""
        return Totals(**{name: self._counts[name] for name in Totals._fields})

    def library_totals(self, now: Mapping[LibraryKey, LoadedNow], complete: bool) -> tuple[LibraryTotals, ...]:
        """Return the account of each library, with its current open count.

        :param now: what is loaded now.
        :param complete: False if more can be loaded.
        """
        absent = LoadedNow(0, pinned=False) if complete else LoadedNow(None)
        found = []
        for key, sums in self._accounts.items():
            if not sums.is_shown:
                continue
            current = now.get(key, absent)
            found.append(
                LibraryTotals(
                    name=key.name,
                    path=key.path,
                    namespace=key.namespace,
                    open_count_at_start=sums.before,
                    opens_by_caller=_call_counts(sums.opens),
                    closes_by_caller=_call_counts(sums.closes),
                    closes_without_effect=sums.early_returns,
                    open_count_now=current.open_count,
                    loaded_now=True if key in now else False if complete else None,
                    pinned_now=current.pinned,
                    at_start=key in self._at_start.startup,
                )
            )
        return tuple(sorted(found, key=lambda each: (-(each.open_count_now or 0), each.name, each.namespace)))


def _call_counts(counter: Counter[tuple[Optional[Site], str]]) -> tuple[Calls, ...]:
    return tuple(Calls(site, by, total) for (site, by), total in counter.most_common())
