"""How does a plan of FreeLibrary read?  Written once for all hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...counts import quantity
from ...model import Outcome
from ...render.dll_words import (
    REFUSALS,
    SHOWN_NAMES,
    SHOWN_STEPS,
    count_words,
    dll_because,
    dll_names,
    dll_note_parts,
    dll_reason,
    load_remedy,
    permanent_words,
)
from ...render.document import Document, Facts, Part, Sentence, Table
from ...render.words import join, size_words, times
from ...windows.model import DllHoldKind, DllPlan, DllPlans, ImportCycleAlternative, LoaderRule

_OUTCOMES = {
    Outcome.UNLOADS: "is unloaded",
    Outcome.KEEPS: "stays",
    Outcome.NO_EFFECT: "is not freed",
    Outcome.UNKNOWN: "not known",
}
_OWN_LOADS = "Free only what you have loaded: a load of somebody else's, once freed, crashes the process."
_ORDERS = {
    "import-order": "depth first, siblings in import order",
    "reverse-initialization": "reverse initialisation order",
}


def dll_plan_view(plans: DllPlans, verbose: bool) -> Document:
    """Build the text of plans: one in detail, or a row for each DLL that LoadLibrary has loaded."""
    notes = dll_note_parts(plans.target, plans.loader, plans.rules, plans.problems, verbose)
    if plans.asked is None:
        return Document((*_ranking_parts(plans), *notes, *([Sentence(_OWN_LOADS)] if plans.plans else [])))
    (plan,) = plans.plans
    warnings = [Sentence(load_remedy(plan.library.name, holder)) for holder in plan.holders or ()]
    ending = _plan_remedy(plan)
    return Document((*_plan_parts(plan, verbose), *notes, *warnings, *([Sentence(ending)] if ending else [])))


def _ranking_parts(ranking: DllPlans) -> Iterator[Part]:
    plans = ranking.plans
    if not plans:
        yield Sentence("No DLL that is known was loaded by LoadLibrary and not freed: there is nothing to free.")
        return
    best = plans[0]
    answer = f"{quantity(len(plans), 'DLL')} {'was' if len(plans) == 1 else 'were'} loaded by LoadLibrary"
    if best.unloads:
        size = f"{quantity(len(best.unloads), 'DLL')}, {size_words(best.unload_bytes)}"
        yield Sentence(f"{answer}; freeing {best.library.name} unloads the most: {size}.")
    else:
        yield Sentence(f"{answer}; freeing any of them unloads nothing.")
    rows = tuple(
        (
            plan.library.name,
            str(plan.loadlibrary_count),
            str(plan.close_count),
            _OUTCOMES[plan.outcome],
            f"{'at least ' if plan.may_unload_more else ''}{len(plan.unloads)}",
            size_words(plan.unload_bytes) if plan.unloads else "",
        )
        for plan in plans
    )
    yield Table(("DLL", "loads", "frees", "then it", "unloads", "size"), rows)


def _plan_answer(plan: DllPlan) -> str:
    name = plan.library.name
    call = f"FreeLibrary({name})" if plan.close_count == 1 else f"FreeLibrary({name}), {times(plan.close_count)},"
    if plan.outcome is Outcome.UNKNOWN:
        return f"{call}: not known what it unloads, because its load count is not known."
    if plan.outcome is Outcome.NO_EFFECT:
        is_static = any(hold.kind is DllHoldKind.STATIC_IMPORT for hold in plan.library.holds)
        return f"{call} does nothing: {REFUSALS['static' if is_static else plan.refusal or 'pinned']}."
    if plan.unloads:
        atleast = "at least " if plan.may_unload_more else ""
        return f"{call} unloads {atleast}{quantity(len(plan.unloads), 'DLL')} ({size_words(plan.unload_bytes)})."
    if plan.load_count is not None:
        kept = plan.kept[0] if plan.kept else plan.library
        why = dll_reason(kept.holds[0]) if kept.holds else "it is still counted"
        left = "that of a pin" if plan.load_count_after is None else plan.load_count_after
        return f"{call} unloads nothing: it lowers the load count from {plan.load_count} to {left}; {why}."
    return f"{call} unloads nothing."


def _plan_parts(plan: DllPlan, verbose: bool) -> Iterator[Part]:
    yield Sentence(_plan_answer(plan))
    dll = plan.library
    facts: list[tuple[str, ...]] = [(f"base {dll.base:#x}", dll.path)]
    count = count_words(dll)
    if count != "?":
        own = f", {plan.loadlibrary_count} of them LoadLibrary's" if plan.loadlibrary_count is not None else ""
        facts.append((f"load count {count}{own}",))
    yield Facts(tuple(facts))
    if plan.unloads:
        how = _ORDERS[plan.order_algorithm or "import-order"]
        expected = "" if plan.order_certain else "; the order of siblings is expected, not certain"
        yield Sentence(f"These are unloaded, detached in this order ({how}{expected}):")
        shown = plan.unloads if verbose else plan.unloads[:SHOWN_NAMES]
        rows = [
            (
                str(number),
                each.name,
                f"{each.start:#x}-{each.end:#x}",
                "DllMain" if each.base in plan.gets_process_detach else "no DllMain call",
            )
            for number, each in enumerate(shown, 1)
        ]
        if len(shown) < len(plan.unloads):
            rows.append(("", f"and {len(plan.unloads) - len(shown)} more; -v shows them", "", ""))
        yield Table(("", "unloaded", "range", "detach"), tuple(rows))
    if plan.excess_closes:
        frees = "One of these calls takes" if plan.excess_closes == 1 else f"{plan.excess_closes} of these calls take"
        yield Sentence(f"{frees} what its importers hold, which LoadLibrary never gave: that is an over-free.")
    if plan.may_unload_more:
        verb, whose = ("imports", "its") if len(plan.may_unload_more) == 1 else ("import", "their")
        why = f"{dll_names(plan.may_unload_more, verbose)} {verb} FreeLibrary or LdrUnloadDll"
        yield Sentence(f"At least these: {why}, so {whose} DllMain can free others.")
    for cycle in plan.import_cycles:
        yield Sentence(_cycle_words(plan, cycle))
    if plan.kept:
        shown = plan.kept if verbose else plan.kept[:SHOWN_NAMES]
        rows2 = [(each.name, dll_because(each)) for each in shown]
        if len(shown) < len(plan.kept):
            rows2.append((f"and {len(plan.kept) - len(shown)} more", "-v shows them"))
        yield Table(("stays", "because"), tuple(rows2))


def _cycle_words(plan: DllPlan, cycle: Sequence[str]) -> str:
    names = " → ".join([*cycle[:SHOWN_NAMES], cycle[0]])
    if plan.rule is LoaderRule.WIN8:
        return f"Import cycle {names}: these share one count, and are loaded and unloaded together, whichever is freed."
    words = f"Import cycle {names}: entered at {cycle[0]}."
    others = [each for each in plan.import_cycle_alternatives if each.library in cycle]
    return " ".join([words, *(_entry_words(plan, others, each) for each in dict.fromkeys(map(_effect, others)))])


def _effect(entry: ImportCycleAlternative) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(entry.would_unload), frozenset(entry.would_pin)


def _entry_words(
    plan: DllPlan, entries: Sequence[ImportCycleAlternative], effect: tuple[frozenset[str], frozenset[str]]
) -> str:
    """Return what entering a cycle through another DLL would have changed, in words."""
    alike = [each for each in entries if _effect(each) == effect]
    gone, pinned = alike[0].would_unload, alike[0].would_pin
    through = f"Freed through {join([each.library for each in alike[:SHOWN_NAMES]])} instead"
    if not pinned and set(gone) == {each.name for each in plan.unloads}:
        return f"{through}, the same would be unloaded."
    words = f"{join(gone[:SHOWN_NAMES]) if gone else 'nothing'} would be unloaded"
    if pinned:
        words += f", and {join(pinned)} would stay for good: a count that falls below 0 means pinned"
    return f"{through}, {words}."


def _plan_remedy(plan: DllPlan) -> str:
    name = plan.library.name
    if plan.is_unloaded:
        return f"A later LoadLibrary maps {name} anew, with fresh data."
    if plan.blocker is not None:
        if plan.blocker.ldr_entry == plan.library.ldr_entry:
            return next(filter(None, (permanent_words(hold) for hold in plan.library.holds)), "")
        why = dll_reason(plan.blocker.holds[0]) if plan.blocker.holds else "it stays"
        return f"Nothing unloads {name} in this process, because {plan.blocker.name} keeps it: {why}."
    if plan.steps and plan.outcome is not Outcome.UNKNOWN:
        shown = plan.steps[:SHOWN_STEPS]
        words = [f"free {step.library} {times(step.total)}{' more' if step.library == name else ''}" for step in shown]
        if len(shown) < len(plan.steps):
            words.append(f"{len(plan.steps) - len(shown)} more")
        return f"To unload {name}: {join(words)}. {_OWN_LOADS}"
    return ""
