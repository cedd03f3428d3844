"""How does a plan of a close read?  Written once for all hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from ...counts import quantity
from ...linux.model import Library
from ...linux.plan_model import Action, Closer, ClosingWay, Plan, Plans, Remedy, Step
from ...linux.rebuild_model import Rebuild
from ...model import Outcome, ThreadRef
from ...render.document import Document, Facts, Part, Sentence, Table
from ...render.library_words import (
    NOTHING_UNLOADS,
    base_words,
    because,
    permanent_remedy,
    range_words,
    reason,
    unless_lost,
)
from ...render.rebuild_words import rebuild_words
from ...render.words import join, join_first, layout_parts, problem_parts, size_words, times

_SHOWN_LIBRARIES = 16
#: Libraries that threads run in, and that close others by a function of another library.
_SHOWN_THREADS = 3
_SHOWN_CLOSERS = 3
_SHOWN_DEBTORS = 8

_OUTCOMES = {
    Outcome.UNLOADS: "unloads",
    Outcome.KEEPS: "keeps",
    Outcome.NO_EFFECT: "early return",
    Outcome.DEFERRED: "deferred",
    Outcome.NOT_OPEN: "not open",
    Outcome.UNKNOWN: "not known",
}


def plan_view(plans: Plans, verbose: bool) -> Document:
    """Build the text of plans: one in detail, or all open libraries in a table."""
    notes: list[Part] = list(layout_parts(plans.target, plans.loader)) if verbose else []
    notes += problem_parts(plans.problems)
    if plans.asked is None:
        return Document((*_ranking_parts(plans), *notes))
    plan = plans.plans[0]
    ending = [Sentence(text) for text in (_advice(plan, plans.target.pid), _reopening(plan)) if text]
    return Document((*_plan_parts(plans, plan, verbose), *notes, *ending))


# -- all open libraries ---------------------------------------------------------------------------------------


def _ranking_parts(plans: Plans) -> Iterator[Part]:
    if plans.loader.kind == "musl":
        yield Sentence("No close frees anything: musl never unloads, by design.")
        return
    handles = plans.plans
    count = len(handles) + plans.unranked
    if not count:
        yield Sentence("No library is open: there is nothing to close.")
        return
    answer = f"{quantity(count, 'library is', 'libraries are')} open"
    if not handles:
        yield Sentence(f"{answer}; what closing any of them frees is not known.")
        return
    if plans.unranked:
        answer += f", {len(handles)} of them ranked"
    them = "the ranked ones" if plans.unranked else "them"
    others = "the other ranked ones" if plans.unranked else "the others"
    best = handles[0]
    unknown = sum(plan.outcome is Outcome.UNKNOWN for plan in handles)
    known = " of what is known" if unknown or plans.unranked else ""
    if best.unloads:
        freed = f"{quantity(len(best.unloads), 'library')}, {size_words(best.unload_bytes)}"
        yield Sentence(f"{answer}; closing {best.library.name} frees the most{known}: {freed}.")
    elif unknown:
        what = "it" if count == 1 else f"{'any' if unknown == len(handles) else unknown} of {them}"
        rest = "" if unknown == len(handles) else f"; closing any of {others} frees nothing"
        yield Sentence(f"{answer}; what closing {what} frees is not known{rest}.")
    else:
        yield Sentence(f"{answer}; closing any of {them} frees nothing.")
    rows = tuple(
        (
            plan.library.name,
            str(plan.library.namespace),
            str(plan.open_count),
            str(plan.close_count),
            _OUTCOMES[plan.outcome],
            *_freed_cells(plan),
            _others(plan),
        )
        for plan in handles
    )
    yield Table(("library", "ns", "open", "closes", "outcome", "unloads", "frees", "with it"), rows)
    yield from _inside_parts(handles)
    if plans.garbage:
        names = _names(plans.garbage)
        yield Sentence(f"Garbage that the first close that collects in its namespace unloads: {names}.")


def _inside_parts(plans: tuple[Plan, ...]) -> Iterator[Part]:
    """Yield a warning if threads are in code that some of the closes unload."""
    inside = {(each.link_map, each.thread.tid): each.library for plan in plans for each in plan.threads_inside}
    counts: dict[str, int] = {}
    for library in inside.values():
        counts[library] = counts.get(library, 0) + 1
    if counts:
        shown = [f"{library} ({count})" for library, count in list(counts.items())[:_SHOWN_LIBRARIES]]
        more = [quantity(len(counts) - len(shown), "other")] if len(counts) > len(shown) else []
        yield Sentence(f"Threads run in {join([*shown, *more])}, and crash once it is unloaded: see dlplan LIBRARY.")


def _freed_cells(plan: Plan) -> tuple[str, str]:
    if plan.outcome is Outcome.UNKNOWN:
        return "?", "?"
    more = "≥ " if plan.may_unload_more else ""
    return f"{more}{len(plan.unloads)}", size_words(plan.unload_bytes) if plan.unloads else "-"


def _others(plan: Plan) -> str:
    names = [library.name for library in plan.unloads if library.link_map != plan.library.link_map]
    return " ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")


def _names(libraries: tuple[Library, ...]) -> str:
    return join_first([library.name for library in libraries], _SHOWN_LIBRARIES)


# -- one close ------------------------------------------------------------------------------------------------


def _plan_parts(plans: Plans, plan: Plan, verbose: bool) -> Iterator[Part]:
    yield Sentence(_answer(plans, plan))
    library = plan.library
    facts: list[tuple[str, ...]] = [
        (f"namespace {library.namespace}", f"base {base_words(library)}", library.path or "path not known")
    ]
    if plan.open_count is not None:
        facts.append((f"open count  {plan.open_count}", f"handle {library.link_map:#x}"))
    yield Facts(tuple(facts))
    yield from _unload_parts(plan, verbose)
    yield from _thread_parts(plan)
    yield from _keep_parts(plan, verbose)
    excess = plan.close_count - (plan.open_count or 0)
    if excess > 0 and plan.outcome in (Outcome.UNLOADS, Outcome.KEEPS, Outcome.DEFERRED) and plan.open_count:
        ending = "the handle is dead by then" if plan.is_unloaded else 'dlclose fails with "shared object not open"'
        yield Sentence(f"{excess} of these closes {'comes' if excess == 1 else 'come'} too late: {ending}.")


def _answer(plans: Plans, plan: Plan) -> str:
    name = plan.library.name
    close = f"dlclose({name})" if plan.close_count == 1 else f"Closing {name} {times(plan.close_count)}"
    if plans.loader.kind == "musl":
        return f"{close} unloads nothing: musl never unloads, by design."
    if plan.outcome is Outcome.NOT_OPEN:
        return f'{name} is not open: its count is 0, so dlclose would fail with "shared object not open".'
    if plan.outcome is Outcome.UNKNOWN:
        return (
            f"{close}: not known what it unloads: not all libraries could be read, or what was read contradicts itself."
        )
    if plan.outcome is Outcome.NO_EFFECT:
        return f"{close} does nothing: {name} is NODELETE, so dlclose returns early and does not lower the count."
    freed = f"{quantity(len(plan.unloads), 'library')} ({size_words(plan.unload_bytes)})"
    atleast = "at least " if plan.may_unload_more else ""
    if plan.outcome is Outcome.UNLOADS:
        return f"{close} unloads {atleast}{freed}."
    count = plan.open_count or 0
    left = max(0, count - plan.close_count)
    if plan.outcome is Outcome.DEFERRED:
        verb = "is" if len(plan.unloads) == 1 else "are"
        then = f"Then {atleast}{freed} {verb} unloaded." if plan.unloads else "Then nothing more is unloaded."
        return (
            f"{close} is deferred: a dlclose is running, so the count drops to 0 and that dlclose collects again "
            f"when its destructors have run. {then}"
        )
    if left:
        return f"{close} unloads nothing: it lowers the open count from {count} to {left}."
    kept = plan.kept[0]
    why = reason(kept.holds[0]) if kept.holds else "another library keeps it"
    verb = "is unloaded" if len(plan.unloads) == 1 else "are unloaded"
    rest = f" {atleast.capitalize()}{freed} that nothing keeps any more {verb}." if plan.unloads else ""
    return f"{close} does not unload it: the open count drops to 0, but {name} stays: {why}.{rest}"


def _unload_parts(plan: Plan, verbose: bool) -> Iterator[Part]:
    if not plan.unloads:
        return
    shown = plan.unloads if verbose else plan.unloads[:_SHOWN_LIBRARIES]
    sorted_by = f" (sorting: {plan.order_algorithm})" if verbose and plan.order_algorithm else ""
    if plan.order_algorithm is None:
        yield Sentence("These are unloaded; the order of their finalisers is not known:")
    elif not plan.order_certain:
        yield Sentence(f"These are unloaded, finalised in this order if GLIBC_TUNABLES leaves the default{sorted_by}:")
    else:
        yield Sentence(f"These are unloaded, finalised in this order{sorted_by}:")
    rows = [(str(number), library.name, range_words(library)) for number, library in enumerate(shown, 1)]
    if len(shown) < len(plan.unloads):
        rows.append(("", f"and {len(plan.unloads) - len(shown)} more; -v shows them", ""))
    yield Table(("", "unloaded", "range"), tuple(rows))
    yield from _closer_parts(plan)


def _closer_parts(plan: Plan) -> Iterator[Part]:
    """Yield which finalisers can close other libraries, and by what."""
    by_way: dict[ClosingWay, list[Closer]] = {}
    for closer in plan.closers:
        by_way.setdefault(closer.way, []).append(closer)
    for way, verb, what in (
        (ClosingWay.IMPORT, "import", "dlclose"),
        (ClosingWay.LOOKUP, "look", "dlclose up by dlsym"),
    ):
        names = [closer.library for closer in by_way.get(way, ())]
        if names:
            verb, whose = (f"{verb}s", "its") if len(names) == 1 else (verb, "their")
            yield Sentence(f"At least these: {_first(names)} {verb} {what}, so {whose} destructors can close others.")
    for way, verb, why in (
        (ClosingWay.CALL, "call", ""),
        (ClosingWay.POINTER, "may call", " Where the pointers lead that they call through is not followed."),
    ):
        calls = by_way.get(way, [])
        if calls:
            words = [f"those of {closer.library} {verb} {_called(closer)}" for closer in calls[:_SHOWN_CLOSERS]]
            more = len(calls) - len(words)
            shown = join(
                [
                    *words,
                    *([f"those of {quantity(more, 'more library')} {verb} others"] if more > 0 else []),
                ]
            )
            reached = f"{shown}, by which dlclose is reached.{why}"
            yield Sentence(f"At least these, because destructors can close others: {reached}")
    if plan.imports_unread:
        which = _first(plan.imports_unread)
        yield Sentence(f"At least these: what {which} can close is not known, because the imports cannot be read.")
    unread = set(plan.imports_unread)
    unknown = [closer.library for closer in by_way.get(ClosingWay.UNKNOWN, ()) if closer.library not in unread]
    if unknown:
        yield Sentence(f"At least these: what destructors of {_first(unknown)} can close is too much to follow.")


def _called(closer: Closer) -> str:
    function = closer.through
    if function is None:
        return "a function not known"
    return f"{function.name or f'{function.address:#x}'} in {function.library or 'no library'}"


def _first(names: Sequence[str]) -> str:
    return join_first(names, _SHOWN_LIBRARIES)


def _thread_parts(plan: Plan) -> Iterator[Part]:
    """Yield a warning if threads are in code that is unloaded, and how many can be."""
    certain = [each.library for each in plan.threads_inside if each.certain]
    possible = [each.library for each in plan.threads_inside if not each.certain]
    if certain:
        when = "it is" if len(set(certain)) == 1 else "they are"
        crash = "crashes" if len(certain) == 1 else "crash"
        yield Sentence(f"{_threads_in(certain, 'runs', 'run')}, and {crash} once {when} unloaded.")
    if possible:
        why = "a word on its stack says" if len(possible) == 1 else "words on their stacks say"
        yield Sentence(f"{_threads_in(possible, 'may run', 'may run')}, as {why}: a frame, or left over from one.")
    if plan.threads_unknown:
        whose = "its program counter is" if plan.threads_unknown == 1 else "their program counters are"
        more = "more " if plan.threads_inside else ""
        yield Sentence(f"{quantity(plan.threads_unknown, f'{more}thread')} can be there: {whose} not known.")


def _threads_in(libraries: list[str], verb: str, verbs: str) -> str:
    """Return how many threads run in which library; one library is named for each thread."""
    counts = {library: libraries.count(library) for library in dict.fromkeys(libraries)}
    (name, count), *others = counts.items()
    words = [f"{quantity(count, 'thread')} {verb if count == 1 else verbs} in {name}"]
    words += [f"{number} in {library}" for library, number in others[: _SHOWN_THREADS - 1]]
    more = sum(number for _, number in others[_SHOWN_THREADS - 1 :])
    return join([*words, f"{more} in others"] if more else words)


def _keep_parts(plan: Plan, verbose: bool) -> Iterator[Part]:
    keeps = [library for library in plan.kept if not library.is_being_unloaded]
    if not keeps:
        return
    shown = keeps if verbose else keeps[:_SHOWN_LIBRARIES]
    rows = [(library.name, because(library)) for library in shown]
    if len(shown) < len(keeps):
        rows.append((f"and {len(keeps) - len(shown)} more", "-v shows them"))
    yield Table(("stays", "because"), tuple(rows))


# -- what would unload it -------------------------------------------------------------------------------------


def _advice(plan: Plan, pid: Optional[int]) -> str:
    change = plan.remedy
    if plan.is_being_unloaded:
        name = plan.library.name
        return f"{name} is unloaded when the dlclose that is running ends, unless a destructor opens it again."
    if change is None:
        return ""
    if change.blocker is not None:
        return _never(plan.library, change.blocker, change.rebuild)
    if plan.outcome is Outcome.DEFERRED and not plan.is_unloaded and _only_collects(change):
        return f"{plan.library.name} is unloaded at the next dlclose in its namespace, {plan.library.namespace}."
    unseen = next((step.library for step in change.steps if step.unseen), None)
    name = plan.library.name
    advice = _end_of_process(plan, change, pid)
    if not advice:
        start = "this is needed to" if unseen else "To"
        advice = f"{start} unload {name}: {_then([_step_words(plan, step) for step in change.steps])}."
    return unless_lost(unseen, name, advice) if unseen else advice


def _end_of_process(plan: Plan, change: Remedy, pid: Optional[int]) -> str:
    """Return that a library goes at the end of the process, if its main thread owes a destructor; else nothing."""
    for step in change.steps:
        for thread in step.threads:
            if thread.tid == pid:
                owed = "it" if step.link_map == plan.library.link_map else step.library
                return (
                    f"{plan.library.name} goes at the end of the process: {_thread(thread)} owes {owed} a TLS "
                    "destructor, and is the main thread, which runs it then."
                )
    return ""


def _only_collects(change: Remedy) -> bool:
    return all(step.action is Action.COLLECT for step in change.steps)


def _then(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, then {words[-1]}"


def _never(library: Library, blocker: Library, rebuild: Optional[Rebuild]) -> str:
    if blocker.link_map != library.link_map:
        why = reason(blocker.holds[0]) if blocker.holds else "it stays for good"
        remedy = f"Nothing unloads {library.name} in this process, because {blocker.name} keeps it: {why}."
    else:
        remedy = next(filter(None, (permanent_remedy(blocker, hold) for hold in blocker.holds)), NOTHING_UNLOADS)
    return remedy if rebuild is None else f"{remedy} {rebuild_words(library.name, rebuild)}"


def _step_words(plan: Plan, step: Step) -> str:
    own = step.link_map == plan.library.link_map
    if step.action is Action.CLOSE:
        handles = f"{step.total} more handle{'' if step.total == 1 else 's'}"
        return f"close {handles} of {step.library}" if own else f"close {step.library} {times(step.total)}"
    if step.action is Action.LIBC_CLOSE:
        return f"libc must close {step.library}, which it opened for itself"
    if step.action is Action.THREAD_EXIT:
        owed = "" if own else f" (it owes {step.library} a TLS destructor)"
        if not step.threads:
            return f"the threads that owe {step.library} a TLS destructor must exit"
        if step.unseen:
            others = f"the other threads that owe {step.library} a TLS destructor"
            return f"{join([*map(_thread, step.threads[:_SHOWN_DEBTORS]), others])} must exit"
        return f"{join_first([*map(_thread, step.threads)], _SHOWN_DEBTORS)} must exit{owed}"
    if plan.open_count and plan.outcome is Outcome.KEEPS:
        return f"this close, or later any dlclose in namespace {step.namespace} that brings a count to 0"
    return f"any dlclose in namespace {step.namespace} that brings a count to 0"


def _thread(thread: ThreadRef) -> str:
    return f"thread {thread.number} (LWP {thread.tid})"


def _reopening(plan: Plan) -> str:
    name = plan.library.name
    if plan.outcome is Outcome.UNKNOWN:
        return ""
    if plan.is_being_unloaded:
        return f"Opening {name} after that maps it anew, with fresh statics."
    if not plan.is_unloaded:
        return f"Opening {name} again finds it as it is, with its old statics."
    kept = [library for library in plan.kept if not library.proxy]
    but = f"; those of {_names(tuple(kept))} stay" if kept else ""
    return f"Opening {name} again maps it anew, with fresh statics{but}."
