"""How does the report of a trace read?  Written once for all hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ...counts import quantity
from ...linux.model import Library
from ...linux.trace.events import Close, DescriptorLeak, Event, KeptLibrary, Open, Pin, Stop, TlsRegistration, Trace
from ...model import Outcome
from ...render.document import Document, Facts, Part, Sentence
from ...render.fit import cut, wrap, wrap_facts
from ...render.library_words import STATIC_TLS_REMEDY, because, reason, static_tls_words
from ...render.text import INDENT, MAX_WIDTH
from ...render.trace_words import (
    NAMED,
    SHOWN,
    active_accounts,
    call_parts,
    count_words,
    kept_parts,
    left_words,
    never_closed,
    short_name,
    site_words,
    some_of,
    total,
    trace_table,
)
from ...render.words import join, layout_parts, problem_parts, times
from ...trace.events import LibraryTotals, Site

_PIN_REASONS = {
    "elf-flag": "its own file (-z nodelete)",
    "unique-symbol": "a unique symbol",
    "bound-by-startup": "a binding of what was loaded at start",
    "dlopen-flag": "RTLD_NODELETE",
    "dlopen-flag-or-dlsym": "RTLD_NODELETE or dlsym(RTLD_DEFAULT)",
}


def started_view(trace: Trace, libraries: Sequence[str]) -> Document:
    """Build the text that says what the trace watches."""
    every = "opens and closes" if trace.problems else "all opens and closes"
    what = f"opens and closes of {_names(libraries)}" if libraries else every
    parts: list[Part] = [Sentence(f"Tracing {what}; dltrace report sums up, dltrace stop ends.")]
    parts.append(Facts((("opens", trace.opens_by), ("closes", trace.closes_by))))
    return Document((*parts, *problem_parts(trace.problems)))


def trace_view(trace: Trace, verbose: bool) -> Document:
    """Build the text of a trace's report."""
    parts: list[Part] = [Sentence(_answer(trace)), wrap_facts(tuple(_facts(trace, verbose)), whole_words=True)]
    parts += _kept_parts(trace.kept, verbose)
    parts += _account_parts(trace.library_totals, verbose)
    parts += _failure_parts(trace.opens_failed, verbose)
    parts += _pin_parts(trace.pins, verbose)
    parts += _registration_parts(trace.tls_registrations, verbose)
    parts += _leak_parts(trace.descriptor_leaks, verbose)
    parts += _mismatch_parts(trace.closes_mispredicted, verbose)
    parts += _not_open_parts(trace.closes_not_open, verbose)
    if verbose:
        parts += layout_parts(trace.target, trace.loader)
    parts += problem_parts(trace.problems)
    parts += never_closed(
        [each for each in trace.library_totals if not each.closes_without_effect], "opened", "closed", verbose
    )
    return Document(tuple(parts))


def stop_view(stop: Stop) -> Document:
    """Build the text that says why the process stops."""
    event = stop.event
    words = _event_words(event)
    names = _names(stop.libraries)
    if isinstance(event, Open):
        verb = "opens" if event.requested and stop.libraries[0] in event.requested else "follows one that loaded"
        return Document((Sentence(f"dltrace: {words} {verb} {names}."),))
    assert isinstance(event, Close)
    if stop.when == "unloaded":
        return Document((Sentence(f"dltrace: {words} is about to unload {names}."),))
    if stop.when == "opened":
        return Document((Sentence(f"dltrace: before {words}, {names} was loaded."),))
    kept = [each for each in event.kept or () if each.name in stop.libraries]
    room = MAX_WIDTH - len(INDENT)
    lines = [line for each in kept[:NAMED] for line in wrap(f"{short_name(each.name)} stays: {_why(each)}", room)]
    return Document((Sentence(f"dltrace: {words} keeps {names}."), Facts(tuple((line,) for line in lines))))


def _event_words(event: Event, verbose: bool = False) -> str:
    """Return the words for an open or close and its caller."""
    if isinstance(event, Open):
        requested = "?" if event.requested is None else short_name(event.requested, verbose) or "the program"
        call = f"dlopen({requested})"
    else:
        assert isinstance(event, Close)
        unknown = "what is no library" if event.handle is None else f"{event.handle:#x}"
        call = f"dlclose({short_name(event.library.name, verbose) if event.library else unknown})"
    return f"{call} by {site_words(event.header.caller, verbose)}"


def _why(library: Library) -> str:
    return reason(library.holds[0]) if library.holds else because(library)


def _answer(trace: Trace) -> str:
    totals = trace.totals
    if not totals.opens and not totals.closes:
        what = f"Nothing of {_names(trace.filter)}" if trace.filter else "Nothing"
        seen = "seen to be " if trace.problems or totals.opens_unseen or totals.closes_unseen else ""
        return f"{what} was {seen}opened or closed{' so far' if trace.watching else ''}."
    probes = f", {totals.opens_not_loaded} with RTLD_NOLOAD found nothing" if totals.opens_not_loaded else ""
    words = [
        f"{quantity(totals.opens, 'open')} ({totals.opens_failed} failed{probes})",
        f"{quantity(totals.closes, 'close')}: {totals.closes_that_unloaded} unloaded "
        f"{quantity(totals.libraries_unloaded, 'library')}, {totals.closes_that_kept} kept something",
    ]
    return f"{', '.join(words)}."


def _facts(trace: Trace, verbose: bool) -> Iterator[tuple[str, str]]:
    totals = trace.totals
    state = "going on" if trace.watching else f"over: {trace.end_reason}"
    yield ("trace", f"{state}, {trace.duration_seconds:.1f} s")
    yield ("seen by", f"opens: {trace.opens_by}")
    yield ("", f"closes: {trace.closes_by}")
    yield (
        "predictions",
        f"{totals.closes_predicted_exactly} of {totals.closes_compared} exact when the close began; "
        f"{quantity(totals.closes_nested, 'close')} within others; "
        f"{quantity(totals.closes_mispredicted, 'mismatch', 'mismatches')}",
    )
    if totals.closes_not_predicted:
        yield (
            "not predicted",
            f"{quantity(totals.closes_not_predicted, 'close')}: not all libraries could be read",
        )
    if totals.closes_raced:
        yield (
            "raced",
            f"{quantity(totals.closes_raced, 'close')} while another thread opened or closed: not predictable",
        )
    unended = [f"#{event.header.number} {_event_words(event, verbose)}" for event in trace.end_not_seen]
    for index, words in enumerate(some_of(unended, verbose)):
        yield ("" if index else "not seen to end", words)
    if totals.opens_unseen or totals.closes_unseen:
        yield ("not seen", f"{quantity(totals.opens_unseen, 'open')}, {quantity(totals.closes_unseen, 'close')}")


def _names(names: Sequence[str], verbose: bool = False) -> str:
    """Return the first names in words, or all of them if ``verbose``."""
    shown = [short_name(each, verbose) for each in (names if verbose else names[:NAMED])]
    more = len(names) - len(shown)
    return join([*shown, f"{more} more"] if more else shown)


def _kept_parts(kept: Sequence[KeptLibrary], verbose: bool) -> Iterator[Part]:
    rows = [(each.library.name, each.times_kept, because(each.library), each.last_event) for each in kept]
    return kept_parts("stayed", rows, lambda close: _close_words(close, verbose), verbose)


def _close_words(close: Close, verbose: bool) -> str:
    early = ", which returned early" if close.predicted_outcome is Outcome.NO_EFFECT else ""
    return f"{_event_words(close, verbose)}{early}"


def _account_parts(accounts: Sequence[LibraryTotals], verbose: bool) -> Iterator[Part]:
    active = active_accounts(accounts, verbose)
    if not active:
        return
    rows = [
        (
            each.name,
            str(each.namespace),
            count_words(each.open_count_at_start),
            str(total(each.opens_by_caller)),
            str(total(each.closes_by_caller))
            + (f" +{each.closes_without_effect} early" if each.closes_without_effect else ""),
            left_words(each),
        )
        for each in active
    ]
    yield trace_table(("library", "ns", "open before", "opened", "closed", "open now"), rows, verbose, 4)
    if verbose:
        yield from call_parts(active, "opened", "closed")


def _failure_parts(failures: Sequence[Open], verbose: bool) -> Iterator[Part]:
    """List the opens that failed, and why, in the words of dlerror."""
    grouped = Counter(_event_words(each, verbose) + _error_words(each, verbose) for each in failures)
    for words, number in list(grouped.items())[: None if verbose else SHOWN]:
        yield Sentence(f"Failed{f' {times(number)}' if number > 1 else ''}: {words}.")
    if not verbose and len(grouped) > SHOWN:
        yield Sentence(f"Failed: {len(grouped) - SHOWN} more; -v shows them.")
    lacking = [each for each in failures if each.lacks_static_tls]
    if lacking:
        last = lacking[-1]
        left = "how much is left is not known" if last.static_tls is None else static_tls_words(last.static_tls)
        yield Sentence(f"Static TLS for libraries that are opened, after #{last.header.number}: {left}.")
        yield Sentence(STATIC_TLS_REMEDY)


def _error_words(failed: Open, verbose: bool) -> str:
    """Return what dlerror says after a colon; unless ``verbose``, without repeating the name that was to be opened."""
    if failed.error is None or verbose:
        return "" if failed.error is None else f": {failed.error}"
    name, colon, reason = failed.error.partition(": ")
    named = "" if name == failed.requested else f": {short_name(name)}"
    return f"{named}{colon}{cut(reason, MAX_WIDTH - 1)}"


def _pin_parts(pins: Sequence[Pin], verbose: bool) -> Iterator[Part]:
    if not pins:
        return
    rows = []
    for pin in pins:
        count = len(pin.symbols or ()) + pin.symbols_omitted
        symbols = quantity(count, "symbol") if count else ""
        if verbose and count:
            more = [f"{pin.symbols_omitted} more"] if pin.symbols_omitted else []
            symbols = ", ".join([*(pin.symbols or ()), *more])
        during = f"#{pin.header.within_event}" if pin.header.within_event else "no open"
        looked_up = f"looked up by {_names(pin.looked_up_by, verbose)}" if pin.looked_up_by else ""
        by_dlsym = pin.origin == "bound-by-startup" and not pin.symbols
        why = "dlsym by what was loaded at start" if by_dlsym else _PIN_REASONS[pin.origin or "dlopen-flag-or-dlsym"]
        rows.append((pin.library.name, why, symbols, during, looked_up))
    yield trace_table(("became NODELETE", "by", "symbols", "in or after", ""), rows, verbose, 1)


def _registration_parts(registrations: Sequence[TlsRegistration], verbose: bool) -> Iterator[Part]:
    if not registrations:
        return
    grouped: dict[tuple[str, ...], int] = {}
    for each in registrations:
        warning = f"wrong owner: {each.destructor.library}" if each.is_elsewhere else ""
        name = each.library.name if each.library else "?"
        function = site_words(each.destructor, verbose, home=each.destructor.library)
        key = (name, function, site_words(each.header.caller, verbose, home=name), warning)
        grouped[key] = grouped.get(key, 0) + 1
    rows = [(key[0], str(count), *key[1:]) for key, count in grouped.items()]
    yield trace_table(("TLS destructors keep", "times", "destructor", "registered by", ""), rows, verbose, 2)


def _leak_parts(leaks: Sequence[DescriptorLeak], verbose: bool) -> Iterator[Part]:
    if not leaks:
        return
    grouped: dict[tuple[str, str, str], int] = {}
    for each in leaks:
        sites = "not watched" if each.opened_at is None else _sites(each, each.opened_at, verbose)
        key = (each.library.name, each.descriptor_target, sites)
        grouped[key] = grouped.get(key, 0) + 1
    rows = [(key[0], str(count), *key[1:]) for key, count in grouped.items()]
    yield trace_table(("gone library", "times", "left open", "opened by"), rows, verbose, 2)


def _sites(leak: DescriptorLeak, sites: Sequence[Site], verbose: bool) -> str:
    words = [site_words(site, verbose, home=leak.library.name) for site in sites]
    if not words:
        return "no call of its own"
    return join(words if verbose or len(words) == 1 else [words[0], f"{len(words) - 1} more"])


def _mismatch_parts(mismatches: Sequence[Close], verbose: bool) -> Iterator[Part]:
    shown = mismatches if verbose else mismatches[:SHOWN]
    for close in shown:
        kept = [each.name for each in close.predicted_but_kept or ()]
        unpredicted = [each.name for each in close.unloaded_but_not_predicted or ()]
        words = [f"{_names(kept, verbose)} stayed"] if kept else []
        verb = "was" if len(unpredicted) == 1 else "were"
        words += [f"{_names(unpredicted, verbose)} {verb} unloaded too"] if unpredicted else []
        number = close.header.number
        yield Sentence(f"Not as predicted: #{number} {_close_words(close, verbose)}: {'; '.join(words)}.")
    if len(shown) < len(mismatches):
        yield Sentence(f"Not as predicted: {len(mismatches) - len(shown)} more; -v shows them.")


def _not_open_parts(closes: Sequence[Close], verbose: bool) -> Iterator[Part]:
    grouped = Counter(_close_words(close, verbose) for close in closes)
    words = [f"{text}, {times(number)}" if number > 1 else text for text, number in grouped.items()]
    if words:
        yield Sentence(f"Closed without being open: {'; '.join(some_of(words, verbose))}.")
