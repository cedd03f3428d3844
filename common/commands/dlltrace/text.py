"""How does the report of a DLL trace read?  Written once for all hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...counts import quantity
from ...model import Outcome
from ...render.dll_words import REFUSALS, dll_because, dll_note_parts
from ...render.document import Document, Part, Sentence
from ...render.fit import wrap_facts
from ...render.trace_words import (
    SHOWN,
    active_accounts,
    call_parts,
    count_words,
    kept_parts,
    left_words,
    never_closed,
    short_name,
    site_words,
    total,
    trace_table,
)
from ...render.words import join, problem_parts
from ...trace.events import LibraryTotals
from ...windows.trace.events import DllClose, DllOpen, DllPin, DllTrace, KeptDll


def dll_trace_started_view(trace: DllTrace, names: Sequence[str]) -> Document:
    """Build the text that says what the trace watches."""
    what = f"loads and frees of {join(names)}" if names else "all loads and frees"
    parts: list[Part] = [Sentence(f"Tracing {what}: let the process run (g).")]
    parts += [Sentence("dlltrace report sums up, dlltrace stop ends."), *problem_parts(trace.problems)]
    return Document(tuple(parts))


def dll_trace_view(trace: DllTrace, verbose: bool) -> Document:
    """Build the text of a trace's report."""
    parts: list[Part] = [Sentence(_answer(trace)), wrap_facts(tuple(_facts(trace)), whole_words=True)]
    parts += _kept_parts(trace.kept, verbose)
    parts += _account_parts(trace, verbose)
    parts += _failure_parts(trace.opens_failed, verbose)
    parts += _pin_parts(trace.pins, verbose)
    parts += _mismatch_parts(trace.closes_mispredicted, verbose)
    parts += dll_note_parts(trace.target, trace.loader, trace.rules, trace.problems, verbose)
    unpinned = [each for each in trace.library_totals if not each.pinned_now]
    parts += never_closed(unpinned, "loaded", "freed", verbose)
    return Document(tuple(parts))


def _answer(trace: DllTrace) -> str:
    totals = trace.totals
    if not totals.opens and not totals.closes:
        return "Nothing was loaded or freed" + (" so far." if trace.watching else ".")
    return (
        f"{quantity(totals.opens, 'load')} ({totals.opens_failed} failed), {quantity(totals.closes, 'free')}: "
        f"{totals.closes_that_unloaded} unloaded {quantity(totals.libraries_unloaded, 'DLL')}, "
        f"{totals.closes_that_kept} did not unload the DLL."
    )


def _facts(trace: DllTrace) -> Iterator[tuple[str, str]]:
    totals = trace.totals
    yield ("trace", f"{'going on' if trace.watching else f'over: {trace.end_reason}'}, {trace.duration_seconds:.1f} s")
    yield (
        "predictions",
        f"{totals.closes_predicted_exactly} of {totals.closes_compared} exact when the free began; "
        f"{quantity(totals.closes_nested, 'free')} within other calls; "
        f"{quantity(totals.closes_mispredicted, 'mismatch', 'mismatches')}",
    )
    if totals.closes_not_predicted:
        yield ("not predicted", f"{quantity(totals.closes_not_predicted, 'free')}: not all counts could be read")
    if totals.closes_raced:
        yield (
            "raced",
            f"{quantity(totals.closes_raced, 'free')} while another thread loaded or freed: not predictable",
        )
    if totals.end_not_seen:
        yield ("not seen to end", quantity(totals.end_not_seen, "call"))
    if totals.opens_unseen or totals.closes_unseen:
        seen = f"{quantity(totals.opens_unseen, 'DLL')} came and {totals.closes_unseen} went"
        yield ("outside of calls", f"{seen}: by delay loads of ntdll, or by calls from before the trace")


def _kept_parts(kept: Sequence[KeptDll], verbose: bool) -> Iterator[Part]:
    rows = [(each.dll.name, each.times_kept, dll_because(each.dll), each.last_event) for each in kept]
    return kept_parts("freed, but stayed", rows, lambda close: _close_words(close, verbose), verbose)


def _close_words(close: DllClose, verbose: bool) -> str:
    name = short_name(close.library.name, verbose) if close.library else "no DLL"
    nothing = ""
    if close.predicted_outcome is Outcome.NO_EFFECT:
        nothing = f": {REFUSALS.get(close.refusal or '', 'it did nothing')}"
    return f"FreeLibrary({name}) by {site_words(close.header.caller, verbose)}{nothing}"


def _account_parts(trace: DllTrace, verbose: bool) -> Iterator[Part]:
    active = active_accounts(trace.library_totals, verbose)
    if not active:
        return
    rows = [
        (
            each.name,
            count_words(each.open_count_at_start),
            str(total(each.opens_by_caller)),
            str(total(each.closes_by_caller))
            + (f" +{each.closes_without_effect} without effect" if each.closes_without_effect else ""),
            _left_words(each),
        )
        for each in active
    ]
    yield trace_table(("DLL", "loads before", "loaded", "freed", "loads left"), rows, verbose, 3)
    if verbose:
        yield from call_parts(active, "loaded", "freed")


def _left_words(account: LibraryTotals) -> str:
    return "pinned" if account.pinned_now else left_words(account)


def _failure_parts(failures: Sequence[DllOpen], verbose: bool) -> Iterator[Part]:
    if not failures:
        return
    grouped: dict[tuple[str, str, str], int] = {}
    for each in failures:
        status = "" if each.ntstatus is None else f"{each.ntstatus:#010x}"
        key = (each.requested or "?", status, site_words(each.header.caller, verbose))
        grouped[key] = grouped.get(key, 0) + 1
    rows = [(key[0], str(count), *key[1:]) for key, count in grouped.items()]
    yield trace_table(("failed load of", "times", "NTSTATUS", "by"), rows, verbose, 3)


def _pin_parts(pins: Sequence[DllPin], verbose: bool) -> Iterator[Part]:
    if not pins:
        return
    rows = [(each.library.name, each.ntdll_function, site_words(each.header.caller, verbose)) for each in pins]
    yield trace_table(("was pinned", "in", "by"), rows, verbose, 2)


def _mismatch_parts(mismatches: Sequence[DllClose], verbose: bool) -> Iterator[Part]:
    for close in mismatches[:SHOWN]:
        kept, unpredicted = (
            [one.name for one in some or ()] for some in (close.predicted_but_kept, close.unloaded_but_not_predicted)
        )
        words = [f"{join(kept)} stayed"] if kept else []
        verb = "was" if len(unpredicted) == 1 else "were"
        words += [f"{join(unpredicted)} {verb} unloaded too"] if unpredicted else []
        yield Sentence(f"Not as predicted: #{close.header.number} {_close_words(close, verbose)}: {'; '.join(words)}.")
