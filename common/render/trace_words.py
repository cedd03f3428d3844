"""How do the totals of a trace read, on every system?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Optional, Protocol, TypeVar

from ..trace.events import Calls, EventHeader, LibraryTotals, Site
from .document import Facts, Part, Sentence, Table
from .fit import compact, cut, fit_table, wrap_facts
from .words import times

#: How many rows a table has without -v.
SHOWN = 16
NAMED = 4
_NAME_WIDTH = 40
_FUNCTION_WIDTH = 60


class _AnyClose(Protocol):
    @property
    def header(self) -> EventHeader: ...


_Close = TypeVar("_Close", bound=_AnyClose)


def trace_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]], verbose: bool, place: int) -> Table:
    """Build a table of the first rows, or of all; the cell in column ``place`` says how to see the rest."""
    if verbose:
        return Table(titles, tuple(rows))
    shown = list(rows[:SHOWN])
    if len(shown) < len(rows):
        cells = [f"and {len(rows) - len(shown)} more", *[""] * (len(titles) - 1)]
        cells[place] = "-v shows them"
        shown.append(tuple(cells))
    return fit_table(titles, shown)


def kept_parts(
    title: str, rows: Sequence[tuple[str, int, str, _Close]], describe: Callable[[_Close], str], verbose: bool
) -> Iterator[Part]:
    """Yield what stayed at a last close: how often and why, and the latest such close of each.

    :param title: what stands above the names.
    :param rows: of each library its name, how often it stayed, why, and that close.
    :param describe: returns a close in words.
    """
    if not rows:
        return
    cells = [(name, str(count), why, f"#{close.header.number}") for name, count, why, close in rows]
    yield trace_table((title, "times", "because", "last at"), cells, verbose, 2)
    closes = {close.header.number: close for *_, close in (rows if verbose else rows[:SHOWN])}
    facts = [(f"#{number}", describe(closes[number])) for number in sorted(closes)]
    yield wrap_facts(facts, whole_words=verbose)


def short_name(name: str, verbose: bool = False) -> str:
    """Return a name, shortened unless ``verbose``."""
    return name if verbose else cut(name, _NAME_WIDTH)


def total(calls: Sequence[Calls]) -> int:
    """Count the opens, or the closes, of a library."""
    return sum(each.total for each in calls)


def count_words(count: Optional[int]) -> str:
    """Return an open count in words."""
    return "?" if count is None else str(count)


def left_words(account: LibraryTotals) -> str:
    """Return in words how often a library is open now."""
    return "unloaded" if account.loaded_now is False else count_words(account.open_count_now)


def active_accounts(accounts: Sequence[LibraryTotals], verbose: bool) -> list[LibraryTotals]:
    """Return the accounts of the libraries that calls concerned, or all of them."""
    return [
        each
        for each in accounts
        if verbose or each.opens_by_caller or each.closes_by_caller or each.closes_without_effect
    ]


def call_parts(accounts: Sequence[LibraryTotals], opened: str, closed: str) -> Iterator[Part]:
    """Yield who opened and closed each library, using these verbs."""
    rows = [
        (account.name, f"{verb} {times(each.total)}", _by_words(each, verbose=True))
        for account in accounts
        for verb, calls in ((opened, account.opens_by_caller), (closed, account.closes_by_caller))
        for each in calls
    ]
    if rows:
        yield Facts(tuple(rows))


def _by_words(calls: Calls, verbose: bool) -> str:
    return f"by {site_words(calls.caller, verbose)}" + (" through libc" if calls.initiated_by == "libc" else "")


def site_words(site: Optional[Site], verbose: bool = False, home: Optional[str] = None) -> str:
    """Return the words for a call site; its library is omitted if it is ``home``."""
    if site is None:
        return "a caller not known"
    function = site.function or f"{site.address:#x}"
    if not verbose:
        function = cut(compact(function), _FUNCTION_WIDTH)
    line = site.line and f"({short_name(site.line, verbose)})"
    library = f"in {short_name(site.library, verbose)}" if site.library and site.library != home else None
    through = f"through {short_name(site.through, verbose)}" if site.through else None
    return " ".join(filter(None, (function, line, library, through)))


def some_of(words: Sequence[str], verbose: bool) -> list[str]:
    """Return the first of several items, and how many more there are; all of them with ``verbose``."""
    shown = words if verbose else words[:NAMED]
    more = len(words) - len(shown)
    return [*shown, f"and {more} more"] if more else [*shown]


def never_closed(accounts: Sequence[LibraryTotals], opened: str, closed: str, verbose: bool) -> Iterator[Part]:
    """Yield who opened each library more often than it was closed, using these verbs."""
    words = []
    for each in accounts:
        excess = total(each.opens_by_caller) - total(each.closes_by_caller)
        is_open = each.open_count_now != 0 and each.loaded_now
        if is_open and excess > 0 and not each.at_start:
            name, openers = short_name(each.name, verbose), _opener_words(each, excess, verbose)
            words.append(f"{name} was {opened} {times(excess)} more than {closed}, {openers}")
    if words:
        yield Sentence(f"Never {closed}: {'; '.join(some_of(words, verbose))}.")


def _opener_words(account: LibraryTotals, excess: int, verbose: bool) -> str:
    """Return the words for who can have opened a library without closing it."""
    openers = unbalanced_openers(account)
    words = [_by_words(each, verbose) for each in openers]
    if len(openers) == 1:
        return words[0]
    if sum(each.total for each in openers) == excess:
        words = [f"{times(each.total)} {text}" for each, text in zip(openers, words)]
        return ", ".join(some_of(words, verbose))
    return " or ".join(some_of(words, verbose))


def unbalanced_openers(account: LibraryTotals) -> list[Calls]:
    """Return who opened a library more often than it closed the library, and by how much, the most frequent first.

    Each function's opens are held against its own closes first, then each calling library's against those of all its
    functions.  A function that opens at several places has no line.
    """
    groups: dict[_Function, list[Calls]] = {}
    for calls in account.opens_by_caller:
        groups.setdefault(_function_of(calls), []).append(calls)
    left = {function: total(calls) for function, calls in groups.items()}
    closes: Counter[_Function] = Counter()
    for calls in account.closes_by_caller:
        closes[_function_of(calls)] += calls.total
    for function in left:
        taken = min(left[function], closes[function])
        left[function] -= taken
        closes[function] -= taken
    for library in dict.fromkeys(function.library for function in left):
        own = [function for function in left if function.library == library and left[function]]
        count = sum(closes[function] for function in closes if function.library == library)
        if len(own) == 1 or count >= sum(left[function] for function in own):
            for function in own:
                left[function] = max(0, left[function] - count)
    found = [_merged(groups[function], count) for function, count in left.items() if count]
    return sorted(found, key=lambda each: -each.total)


class _Function(NamedTuple):
    """A calling function: its library and its name, or its address if it has no name."""

    library: Optional[str]
    name: object
    initiated_by: str


def _function_of(calls: Calls) -> _Function:
    site = calls.caller
    if site is None:
        return _Function(None, None, calls.initiated_by)
    return _Function(site.library, site.function or site.address, calls.initiated_by)


def _merged(group: Sequence[Calls], count: int) -> Calls:
    """Return one item for all the places at which a function opens."""
    site = group[0].caller
    if len(group) > 1 and site is not None:
        site = site._replace(line=None)
    return Calls(site, group[0].initiated_by, count)
