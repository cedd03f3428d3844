"""How is a trace put into words?  Once, for every host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from .analysis.events import Account, Close, Deeds, Kept, Leak, Open, Pin, Registration, Site, Trace
from .analysis.tracer import Stop
from .model import Library, Outcome
from .render.document import Document, Facts, Sentence, Table
from .views import because, completed, join, layout_parts, problem_parts, reason, times

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .render.document import Part

_SHOWN = 16

_PIN_REASONS = {
    "elf-flag": "its own file (-z nodelete)",
    "unique-symbol": "a unique symbol",
    "bound-by-startup": "a binding of what was loaded at start",
    "dlopen-flag": "RTLD_NODELETE",
    "unknown": "RTLD_NODELETE or dlsym(RTLD_DEFAULT)",
}


def started_view(trace: Trace, libraries: Sequence[str]) -> Document:
    """Say what is being watched."""
    what = f"opens and closes of {join(libraries)}" if libraries else "all opens and closes"
    parts: list[Part] = [Sentence(f"Tracing {what}; dltrace report sums up, dltrace stop ends.")]
    parts.append(Facts((("opens", trace.opens_by), ("closes", trace.closes_by))))
    return Document((*parts, *problem_parts(trace.problems)))


def trace_view(trace: Trace, verbose: bool) -> Document:
    """Put the sums of a trace into words."""
    parts: list[Part] = [Sentence(_answer(trace)), Facts(tuple(_facts(trace)))]
    parts += _kept_parts(trace.kept, verbose)
    parts += _account_parts(trace.accounts, verbose)
    parts += _pin_parts(trace.pins, verbose)
    parts += _registration_parts(trace.registrations, verbose)
    parts += _leak_parts(trace.leaks, verbose)
    parts += _mismatch_parts(trace.mismatches)
    if verbose:
        parts += layout_parts(trace.target, trace.loader)
    parts += problem_parts(trace.problems)
    parts += [Sentence(text) for text in (_never_closed(trace.accounts),) if text]
    return Document(tuple(parts))


def stop_text(stop: Stop) -> str:
    """Say why the process stops."""
    event = stop.event
    caller = site_words(event.moment.caller)
    names = join(stop.libraries)
    if isinstance(event, Open):
        verb = "opens" if event.requested and stop.libraries[0] in event.requested else "follows one that loaded"
        return f"dltrace: dlopen({event.requested or 'the program'}) by {caller} {verb} {names}."
    assert isinstance(event, Close)
    name = event.library.name if event.library else "what is no library"
    if stop.when == "unloaded":
        return f"dltrace: dlclose({name}) by {caller} is about to unload {names}."
    if stop.when == "opened":
        return f"dltrace: before dlclose({name}) by {caller}, {names} was loaded."
    reasons = [f"{each.name} stays: {_why(each)}" for each in event.keeps if each.name in stop.libraries]
    return f"dltrace: dlclose({name}) by {caller} keeps {names}.\n" + "\n".join(f"  {each}" for each in reasons)


def _why(library: Library) -> str:
    return reason(library.holds[0]) if library.holds else because(library)


def _answer(trace: Trace) -> str:
    totals = trace.totals
    if not totals.opens and not totals.closes:
        return "Nothing was opened or closed" + (" so far." if trace.watching else ".")
    words = [
        f"{completed(totals.opens, 'open')} ({totals.failed} failed)",
        f"{completed(totals.closes, 'close')}: {totals.unloading} unloaded "
        f"{completed(totals.unloaded, 'library', 'libraries')}, {totals.keeping} kept what could have gone",
    ]
    return f"{', '.join(words)}."


def _facts(trace: Trace) -> Iterator[tuple[str, ...]]:
    totals = trace.totals
    state = "going on" if trace.watching else f"over: {trace.ending}"
    yield ("trace", f"{state}, {trace.seconds:.1f} s")
    yield ("seen by", f"opens: {trace.opens_by}")
    yield ("", f"closes: {trace.closes_by}")
    ended = totals.closes - totals.unended - totals.raced
    yield (
        "predictions",
        f"{totals.exact} of {ended} exact when the close began; {totals.nested} closes within others; "
        f"{completed(totals.mismatches, 'mismatch', 'mismatches')}",
    )
    if totals.raced:
        yield ("raced", f"{completed(totals.raced, 'close')} while another thread opened or closed: not predictable")
    if totals.unended:
        yield ("not seen to end", completed(totals.unended, "event"))
    if totals.unseen_opens or totals.unseen_closes:
        yield ("not seen", f"{completed(totals.unseen_opens, 'open')}, {completed(totals.unseen_closes, 'close')}")


def _kept_parts(kept: Sequence[Kept], verbose: bool) -> Iterator[Part]:
    if not kept:
        return
    shown = kept if verbose else kept[:_SHOWN]
    rows = [
        (each.library.name, str(each.times), because(each.library), f"#{each.close.moment.number}") for each in shown
    ]
    if len(shown) < len(kept):
        rows.append((f"and {len(kept) - len(shown)} more", "", "-v shows them", ""))
    yield Table(("stayed", "times", "because", "last at"), tuple(rows))
    closes = {each.close.moment.number: each.close for each in shown}
    yield Facts(tuple((f"#{number}", _close_words(closes[number])) for number in sorted(closes)))


def _close_words(close: Close) -> str:
    name = close.library.name if close.library else "no library"
    early = ", which returned early" if close.outcome is Outcome.EARLY_RETURN else ""
    return f"dlclose({name}) by {site_words(close.moment.caller)}{early}"


def _account_parts(accounts: Sequence[Account], verbose: bool) -> Iterator[Part]:
    active = [each for each in accounts if verbose or each.opens or each.closes or each.early_returns]
    if not active:
        return
    shown = active if verbose else active[:_SHOWN]
    rows = [
        (
            each.name,
            str(each.namespace),
            str(each.before),
            _total(each.opens),
            _total(each.closes) + (f" +{each.early_returns} early" if each.early_returns else ""),
            "gone" if each.left is None else str(each.left),
        )
        for each in shown
    ]
    if len(shown) < len(active):
        rows.append((f"and {len(active) - len(shown)} more", "", "", "", "-v shows them", ""))
    yield Table(("library", "ns", "open before", "opened", "closed", "open now"), tuple(rows))
    if verbose:
        details = [row for each in shown for row in _deed_rows(each)]
        if details:
            yield Facts(tuple(details))


def _total(deeds: Sequence[Deeds]) -> str:
    return str(sum(each.total for each in deeds))


def _deed_rows(account: Account) -> Iterator[tuple[str, ...]]:
    for verb, deeds in (("opened", account.opens), ("closed", account.closes)):
        for each in deeds:
            yield (account.name, f"{verb} {times(each.total)}", _by_words(each))


def _by_words(deeds: Deeds) -> str:
    return f"by {site_words(deeds.site)}" + (" through libc" if deeds.by == "libc" else "")


def site_words(site: Optional[Site]) -> str:
    """Name a place in code."""
    if site is None:
        return "a caller not known"
    where = " ".join(filter(None, (site.line and f"({site.line})", site.library and f"in {site.library}")))
    return f"{site.function or f'{site.address:#x}'}{' ' if where else ''}{where}"


def _pin_parts(pins: Sequence[Pin], verbose: bool) -> Iterator[Part]:
    if not pins:
        return
    shown = pins if verbose else pins[:_SHOWN]
    rows = []
    for pin in shown:
        symbols = ", ".join(pin.symbols[:2]) if verbose else completed(len(pin.symbols), "symbol")
        during = f"#{pin.moment.inside}" if pin.moment.inside else "no open"
        looked_up = f"looked up by {join(pin.lookups)}" if pin.lookups else ""
        rows.append((pin.library.name, _PIN_REASONS[pin.origin or "unknown"], symbols, during, looked_up))
    yield Table(("became NODELETE", "by", "symbols", "during", ""), tuple(rows))


def _registration_parts(registrations: Sequence[Registration], verbose: bool) -> Iterator[Part]:
    if not registrations:
        return
    grouped: dict[tuple[str, str, str, str], int] = {}
    for each in registrations:
        warning = f"wrong owner: the destructor is in {each.owner}" if each.owner else ""
        name = each.library.name if each.library else "the program"
        key = (name, site_words(each.function), site_words(each.moment.caller), warning)
        grouped[key] = grouped.get(key, 0) + 1
    rows = [(key[0], str(total), *key[1:]) for key, total in grouped.items()]
    shown = rows if verbose else rows[:_SHOWN]
    yield Table(("TLS destructors keep", "times", "destructor", "registered by", ""), tuple(shown))


def _leak_parts(leaks: Sequence[Leak], verbose: bool) -> Iterator[Part]:
    if not leaks:
        return
    grouped: dict[tuple[str, str, str], int] = {}
    for each in leaks:
        sites = join([site_words(site) for site in each.sites]) if each.sites else "not watched"
        key = (each.library.name, each.path, sites)
        grouped[key] = grouped.get(key, 0) + 1
    rows = [(key[0], str(total), *key[1:]) for key, total in grouped.items()]
    shown = rows if verbose else rows[:_SHOWN]
    yield Table(("gone library", "times", "left open", "opened by"), tuple(shown))


def _mismatch_parts(mismatches: Sequence[Close]) -> Iterator[Part]:
    for close in mismatches[:_SHOWN]:
        stayed = [each.name for each in close.stayed]
        surprises = [each.name for each in close.surprises]
        words = [f"{join(stayed)} stayed"] if stayed else []
        words += [f"{join(surprises)} went too"] if surprises else []
        yield Sentence(f"Not as predicted: #{close.moment.number} {_close_words(close)}: {'; '.join(words)}.")


def _never_closed(accounts: Sequence[Account]) -> str:
    """Name who opened more often than was closed."""
    words = []
    for each in accounts:
        opened, closed = (sum(deeds.total for deeds in some) for some in (each.opens, each.closes))
        if each.left and opened > closed and not each.early_returns:
            excess = opened - closed
            words.append(f"{each.name} was opened {times(excess)} more than closed, {_by_words(each.opens[0])}")
    if not words:
        return ""
    shown = "; ".join(words[:4])
    more = f"; and {len(words) - 4} more" if len(words) > 4 else ""
    return f"Never closed: {shown}{more}."
