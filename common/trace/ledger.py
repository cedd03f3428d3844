"""Who opened and closed what, how often, and what was kept?  Sums of events, so that a long trace takes little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Optional, TypeVar, Union

from ..linux.trace.events import Close, Event, Kept, Leak, Open, Pin, Registration
from ..model import Outcome, Problem
from .events import Account, Deeds, Instance, OpenResult, Site, Totals

_T = TypeVar("_T")

#: How many events of each kind are kept for the report; all are in the log.
MAX_LISTED = 1000

_Key = tuple[str, int]


class _Sums:
    def __init__(self, name: str, before: int) -> None:
        self.name = name
        self.before = before
        self.opens: Counter[tuple[Optional[Site], str]] = Counter()
        self.closes: Counter[tuple[Optional[Site], str]] = Counter()
        self.early_returns = 0
        self.is_shown = False


class Ledger:
    """Sums of the events of a trace."""

    def __init__(self, at_start: Optional[Mapping[_Key, int]] = None) -> None:
        """Take the open counts of what was loaded at the program's start, by path and namespace."""
        self.mismatches: list[Close] = []
        self.pins: list[Pin] = []
        self.registrations: list[Registration] = []
        self.leaks: list[Leak] = []
        #: Closes of what was not open.
        self.vain: list[Close] = []
        self._at_start = at_start or {}
        self._accounts: dict[_Key, _Sums] = {}
        self._kept: dict[_Key, Kept] = {}
        self._counts: Counter[str] = Counter()
        self._unlisted: Counter[str] = Counter()

    def begin(self, library: Instance, before: int) -> None:
        """Open the account of a library that was open when the trace began."""
        sums = self._accounts[library.path, library.namespace] = _Sums(library.name, before)
        sums.is_shown = True

    def add(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, Open):
            self._add_open(event)
        elif isinstance(event, Close):
            self._add_close(event)
        elif isinstance(event, Pin):
            self._list("pins", self.pins, event)
        elif isinstance(event, Registration):
            self._list("registrations", self.registrations, event)
        else:
            self._list("leaks", self.leaks, event)

    def _list(self, name: str, listed: list[_T], event: _T) -> None:
        if len(listed) < MAX_LISTED:
            listed.append(event)
        else:
            self._unlisted[name] += 1

    def problems(self) -> tuple[Problem, ...]:
        """Tell of which events there were more than are listed."""
        text = "there were {} more than the {} that are listed here; --log has all"
        return tuple(Problem(name, text.format(count, MAX_LISTED)) for name, count in self._unlisted.items())

    def add_unasked(self, event: Event) -> None:
        """Count an event in the account of its library only, which is shown if another event shows it."""
        if isinstance(event, (Open, Close)):
            self._book(event, shown=False)

    def _book(self, event: Union[Open, Close], *, shown: bool) -> None:
        """Count an event in the account of its library."""
        if event.library is None or (isinstance(event, Close) and event.outcome is Outcome.NOT_OPEN):
            return
        key = event.library.path, event.library.namespace
        sums = self._accounts.get(key)
        if sums is None:
            sums = self._accounts[key] = _Sums(event.library.name, self._at_start.get(key, 0))
        sums.is_shown = sums.is_shown or shown
        if isinstance(event, Open):
            sums.opens[event.moment.caller, event.moment.by] += 1
        elif event.outcome is Outcome.EARLY_RETURN:
            sums.early_returns += 1
        else:
            sums.closes[event.moment.caller, event.moment.by] += 1

    def count_unseen(self, opens: int, closes: int) -> None:
        """Count what moved an open count without having been seen."""
        self._counts["unseen_opens"] += opens
        self._counts["unseen_closes"] += closes

    def _add_open(self, event: Open) -> None:
        self._book(event, shown=True)
        self._counts["opens"] += 1
        self._counts["failed"] += event.result is OpenResult.FAILED
        self._counts["unended"] += event.result is OpenResult.UNKNOWN

    def _add_close(self, event: Close) -> None:
        self._book(event, shown=True)
        counts = self._counts
        counts["closes"] += 1
        counts["unloading"] += bool(event.went)
        counts["unloaded"] += len(event.went)
        counts["keeping"] += bool(event.keeps)
        counts["raced"] += event.moment.raced
        counts["exact"] += event.is_exact and not event.moment.raced
        counts["nested"] += event.moment.inside is not None
        counts["unended"] += not event.ended
        counts["compared"] += event.ended and not event.moment.raced
        is_judged = not event.moment.raced and event.outcome is not Outcome.UNKNOWN
        if is_judged and (event.stayed or event.surprises):
            counts["mismatches"] += 1
            self._list("mismatches", self.mismatches, event)
        if event.outcome is Outcome.NOT_OPEN:
            self._list("vain", self.vain, event)
        for library in event.keeps:
            key = (library.path, library.namespace)
            before = self._kept.get(key)
            self._kept[key] = Kept(library, before.times + 1 if before else 1, event)

    def totals(self) -> Totals:
        """Give what was counted."""
        return Totals(**{name: self._counts[name] for name in Totals._fields})

    def kept(self) -> tuple[Kept, ...]:
        """Give the libraries that stayed at a last close, those that stayed most often first."""
        return tuple(sorted(self._kept.values(), key=lambda kept: (-kept.times, kept.library.name)))

    def accounts_with(self, left: Mapping[tuple[str, int], int]) -> tuple[Account, ...]:
        """Give the account of each library, by the open counts of now by path and namespace."""
        found = [
            Account(
                sums.name,
                path,
                namespace,
                sums.before,
                _deeds(sums.opens),
                _deeds(sums.closes),
                sums.early_returns,
                left.get((path, namespace)),
                (path, namespace) in self._at_start,
            )
            for (path, namespace), sums in self._accounts.items()
            if sums.is_shown
        ]
        return tuple(sorted(found, key=lambda each: (-(each.left or 0), each.name, each.namespace)))


def _deeds(counter: Counter[tuple[Optional[Site], str]]) -> tuple[Deeds, ...]:
    return tuple(Deeds(site, by, total) for (site, by), total in counter.most_common())
