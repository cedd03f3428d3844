"""How are verdicts on DLLs put into words?  Once, for every host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from ...model import Outcome
from ...render.document import Document, Facts, Sentence, Table
from ...windows.model import (
    CycleEntry,
    Dll,
    DllHold,
    DllHoldKind,
    DllPlan,
    DllPlans,
    DllState,
    GoneDll,
    GoneDlls,
    LoaderRule,
    LoaderRules,
)
from ..dlplan.text import size_words
from ..dlstate.text import completed, join, layout_parts, plain, problem_parts, times

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...render.document import Part

_SHOWN_REASONS = 3
_SHOWN_HOLDS = 8
_SHOWN_NAMES = 16
_SHOWN_RELATIONS = 4
_SHOWN_STEPS = 8
_SHOWN_POINTERS = 4

_PIN_REASONS = {
    "loader": "pinned by the loader at start",
    "explicit": "pinned while the process ran, by whom is not recorded",
    "inherited": "pinned",
    "shim": "pinned: an application shim put it there",
    "verifier": "pinned: an application verifier's provider",
    "clr": "pinned: managed code, which unloads with its AppDomain only",
    "unknown": "pinned, by what is not recorded",
}

_PIN_REMEDIES = {
    "loader": "The loader's own DLLs stay until the process ends.",
    "explicit": "Look for GetModuleHandleEx with GET_MODULE_HANDLE_EX_FLAG_PIN, for it or for what imports it.",
    "inherited": "See dllstate {top}: it was pinned, and a pin takes all imports along.",
    "shim": "Start the process without the shim.",
    "verifier": "Start the process without the verifier.",
    "clr": "Unload its AppDomain or AssemblyLoadContext; the runtime itself stays.",
    "unknown": "Look for GetModuleHandleEx with GET_MODULE_HANDLE_EX_FLAG_PIN; before Windows 8 also for 65535 loads, "
    "and on XP for a TLS directory.",
}

_RULES = {
    LoaderRule.XP: "XP (16-bit counts along the import tables)",
    LoaderRule.WIN7: "Windows 7 (16-bit counts along the import tables)",
    LoaderRule.WIN8: "Windows 8 to 11 (one count for each edge of the graph)",
    LoaderRule.WINE: "Wine (16-bit counts along the edges of the graph)",
}

_ORDERS = {
    "import-order": "depth first, siblings in import order",
    "reverse-initialization": "reverse initialisation order",
}

#: Why FreeLibrary does nothing.
REFUSALS = {
    "static": "it is a static import of the program, so FreeLibrary returns at once and lowers nothing",
    "pinned": "it is pinned, so FreeLibrary returns at once and lowers nothing",
    "imported": "its whole count belongs to what imports it, so FreeLibrary is refused, and yet returns TRUE",
    "unloading": "it is being unloaded already",
    "shutdown": "the process is exiting, where FreeLibrary does nothing",
}


def dll_state_view(state: DllState, verbose: bool) -> Document:
    """Put a state into words: one DLL in detail, or several in a table."""
    notes: list[Part] = []
    if verbose:
        notes += layout_parts(state.target, state.loader)
    notes += dll_rule_parts(state.rules, verbose)
    notes += problem_parts(state.problems)
    if state.shutdown:
        notes.append(Sentence("The process is exiting: FreeLibrary does nothing any more."))
    if len(state.dlls) == 1 and state.asked is not None:
        dll = state.dlls[0]
        return Document((*_dll_parts(dll, verbose), *notes, Sentence(_remedy(dll))))
    return Document((*_table_parts(state), *notes))


def dll_rule_parts(rules: Sequence[LoaderRules], verbose: bool) -> Iterator[Part]:
    """Say by which rules was judged: always where it is not what every current Windows does."""
    for each in rules:
        if verbose or each.rule is not LoaderRule.WIN8:
            which = "The 32-bit loader is judged" if each.loader == "wow64" else "Judged"
            yield Sentence(f"{which} by the rules of {_RULES[each.rule]}; {each.reason}.")


# -- the table of several DLLs --------------------------------------------------------------------------------


def _table_parts(state: DllState) -> Iterator[Part]:
    dlls = state.dlls
    if state.asked is not None:
        yield Sentence(f"{completed(len(dlls), 'DLL')} match {state.asked}:")
    else:
        held = sum(dll.held is True for dll in dlls)
        going = sum(dll.held is False for dll in dlls)
        unknown = len(dlls) - held - going
        parts = [f"{held} {'stays' if held == 1 else 'stay'} loaded"]
        if going:
            parts.append(f"{going} being unloaded")
        if unknown:
            parts.append(f"{unknown} not known")
        yield Sentence(f"{completed(len(dlls), 'module')}: {', '.join(parts)}.")
    several = len({dll.loader for dll in dlls}) > 1
    rows = tuple(
        (
            dll.name,
            *((("32-bit" if dll.loader == "wow64" else "64-bit"),) if several else ()),
            f"{dll.base:#x}",
            _verdict(dll),
            _count_words(dll),
            dll_because(dll),
        )
        for dll in dlls
    )
    titles = ("module", *(("loader",) if several else ()), "base", "verdict", "count", "because")
    yield Table(titles, rows)


def _verdict(dll: Dll) -> str:
    if dll.held is False:
        return "going"
    return "stays" if dll.held else "not known"


def _count_words(dll: Dll) -> str:
    count = dll_count(dll)
    if count is None:
        return "pinned" if any(hold.kind is DllHoldKind.PINNED for hold in dll.holds) else "?"
    return "pinned" if _is_pinned_count(dll, count) else str(count)


def dll_count(dll: Dll) -> Optional[int]:
    """Give the load count that decides, None when it is not known."""
    fields = dll.fields
    if dll.state is not None or (dll.node and fields.get("LoadCount")):
        return fields.get("LoadCount")
    if dll.node:
        return fields.get("ObsoleteLoadCount")
    return fields.get("LoadCount")


def _is_pinned_count(dll: Dll, count: int) -> bool:
    return count == 0xFFFFFFFF or (count == 0xFFFF and dll.state is None)


def dll_because(dll: Dll) -> str:
    """Say in a few words why a DLL stays."""
    if not dll.holds:
        if dll.held is not None:
            return ""
        return "loaded while it ran; its count is not in memory" if dll.entry else "known from the module list alone"
    more = len(dll.holds) - 1 + dll.holds_omitted
    return dll_reason(dll.holds[0], brief=True) + (f" +{more} more" if more else "")


def dll_reason(hold: DllHold, brief: bool = False) -> str:
    """Give the reason of a hold."""
    kind = hold.kind
    if kind is DllHoldKind.MAIN_PROGRAM:
        return "the program itself"
    if kind is DllHoldKind.STATIC_IMPORT:
        if len(hold.chain) > 2 and not brief:
            return f"static import of the program, through {hold.chain[-2]}"
        return "static import of the program"
    if kind is DllHoldKind.PINNED:
        if hold.origin == "inherited":
            return f"pinned with {hold.chain[0]}, which imports it"
        words = _PIN_REASONS[hold.origin or "unknown"]
        return words.partition(", by whom")[0] if brief else words
    if kind is DllHoldKind.LOAD_COUNT:
        if hold.total is None:
            count = hold.evidence[0].value if hold.evidence else 0
            return f"load count {count}" + ("" if brief else ", how much of it is LoadLibrary's is not known")
        return f"loaded {times(hold.total)} by LoadLibrary, not freed"
    if kind is DllHoldKind.UNLOADING:
        return "a FreeLibrary is unloading it"
    return f"imported by {hold.chain[-2]}{_root_words(hold, brief)}"


def _root_words(hold: DllHold, brief: bool) -> str:
    if not hold.root_kinds:
        return ""
    root = hold.chain[0]
    if root != hold.chain[-2]:
        return f" (kept by {root})"
    words = {
        DllHoldKind.MAIN_PROGRAM: "the program",
        DllHoldKind.STATIC_IMPORT: "static import" if brief else "a static import of the program",
        DllHoldKind.PINNED: "pinned",
        DllHoldKind.LOAD_COUNT: "loaded" if brief else "loaded by LoadLibrary",
    }
    return f" ({', '.join(words[kind] for kind in hold.root_kinds if kind in words)})"


# -- one DLL --------------------------------------------------------------------------------------------------


def _dll_parts(dll: Dll, verbose: bool) -> Iterator[Part]:
    yield Sentence(_answer(dll))
    rows: list[tuple[str, ...]] = [(f"base {dll.base:#x}", f"size {dll.end - dll.start:#x}", dll.path)]
    count = dll_count(dll)
    cells = []
    if count is not None:
        cells.append(f"load count  {'pinned' if _is_pinned_count(dll, count) else count}")
    if dll.state:
        cells.append(f"State  {dll.state}")
    if dll.load_reason:
        by = f" (by {dll.loaded_by})" if dll.loaded_by else ""
        cells.append(f"first loaded  {dll.load_reason}{by}")
    if cells:
        rows.append(tuple(cells))
    yield Facts(tuple(rows))
    relations = []
    if dll.importers:
        relations.append(("imported by", _names(dll.importers, verbose, _SHOWN_RELATIONS)))
    if dll.imports:
        relations.append(("imports", _names(dll.imports, verbose, _SHOWN_RELATIONS)))
    if dll.cycle:
        relations.append(("import cycle with", _names(dll.cycle, verbose, _SHOWN_RELATIONS)))
    orders = [f"{name} {place}" for name, place in zip(dll.orders._fields, dll.orders) if place is not None]
    if verbose and orders:
        relations.append(("place in order of", "  ".join(orders)))
    shown = dll.holds if verbose else dll.holds[:_SHOWN_HOLDS]
    for hold in shown:
        if len(hold.chain) > 2 and hold.kind is not DllHoldKind.PINNED:
            relations.append(("chain", " → ".join(hold.chain)))
    if len(shown) < len(dll.holds):
        relations.append(("", f"and {len(dll.holds) - len(shown)} further reasons; -v shows them"))
    if relations:
        yield Facts(tuple(relations))
    if verbose:
        evidence = tuple(
            dict.fromkeys(
                (f"{e.expression} = {plain(e.value)}", f"at {e.address:#x}, offset {e.offset:#x}")
                for hold in dll.holds
                for e in hold.evidence
            )
        )
        if evidence:
            yield Facts(evidence)


def _names(names: Sequence[str], verbose: bool, limit: int = _SHOWN_NAMES) -> str:
    shown = list(names) if verbose else list(names[:limit])
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _answer(dll: Dll) -> str:
    name = dll.name
    if dll.held is False:
        return f"{name} is being unloaded: a FreeLibrary has brought its count to 0."
    if dll.held is None:
        return f"{name}: not known whether FreeLibrary unloads it: its load count is not in memory."
    if dll.holds and dll.holds[0].kind is DllHoldKind.MAIN_PROGRAM:
        return f"{name} stays loaded: it is the program itself."
    reasons = [dll_reason(hold) for hold in dll.holds[:_SHOWN_REASONS]]
    more = len(dll.holds) - len(reasons) + dll.holds_omitted
    if more:
        reasons.append(f"and {more} more")
    return f"{name} stays loaded: {'; '.join(reasons)}."


def _remedy(dll: Dll) -> str:
    if dll.held is False:
        return "It goes when that FreeLibrary returns; what loads it meanwhile gets a handle that dangles."
    if dll.held is None:
        return "Dump with all memory (.dump /ma), or ask in the live process."
    for hold in dll.holds:
        remedy = _permanent(hold)
        if remedy:
            return remedy
    if dll.holds and all(hold.kind is DllHoldKind.DEPENDENCY and not hold.root_kinds for hold in dll.holds):
        return "Only modules that import one another keep it, as far as is known: no FreeLibrary lowers that."
    conditions = []
    roots: dict[str, None] = {}
    for hold in dll.holds:
        if hold.kind is DllHoldKind.LOAD_COUNT and hold.total:
            conditions.append(f"FreeLibrary has been called on it {times(hold.total)} more")
        elif hold.kind is DllHoldKind.DEPENDENCY:
            root = hold.chain[0] if hold.root_kinds else hold.chain[-2]
            if hold.root_kinds and DllHoldKind.LOAD_COUNT not in hold.root_kinds:
                return f"Nothing unloads it in this process, because {root} stays and imports it; see dllstate {root}."
            roots[root] = None
    more = len(roots) - _SHOWN_STEPS
    more = max(0, more) + dll.holds_omitted
    if roots:
        names = [*list(roots)[:_SHOWN_STEPS], *([f"{more} more"] if more else [])]
        conditions.append(f"{join(names)} {'has' if len(names) == 1 else 'have'} been unloaded")
    if not conditions:
        return f"How often it must be freed is not known; dllplan {dll.name} --frees all tries."
    return f"It goes once {' and '.join(conditions)}."


def _permanent(hold: DllHold) -> str:
    if hold.kind is DllHoldKind.MAIN_PROGRAM:
        return "The program stays until the process ends."
    if hold.kind is DllHoldKind.STATIC_IMPORT:
        return (
            "What the program imports stays until the process ends; a delay load (/DELAYLOAD) or LoadLibrary makes it "
            "one that can go."
        )
    if hold.kind is DllHoldKind.PINNED:
        fix = _PIN_REMEDIES[hold.origin or "unknown"].format(top=hold.chain[0] if hold.chain else "")
        return f"Nothing unloads it in this process. {fix}"
    return ""


# -- what FreeLibrary would do --------------------------------------------------------------------------------


def dll_plan_view(plans: DllPlans, verbose: bool) -> Document:
    """Put a prediction into words."""
    plan = plans.plan
    notes: list[Part] = []
    if verbose:
        notes += layout_parts(plans.target, plans.loader)
    notes += dll_rule_parts(plans.rules, verbose)
    notes += problem_parts(plans.problems)
    ending = _plan_remedy(plan)
    return Document((*_plan_parts(plan, verbose), *notes, *([Sentence(ending)] if ending else [])))


def _plan_answer(plan: DllPlan) -> str:
    name = plan.dll.name
    call = f"FreeLibrary({name})" if plan.frees == 1 else f"FreeLibrary({name}), {times(plan.frees)},"
    if plan.outcome is Outcome.UNKNOWN:
        return f"{call}: not known what it unloads, because its load count is not in memory."
    if plan.outcome is Outcome.EARLY_RETURN:
        is_static = any(hold.kind is DllHoldKind.STATIC_IMPORT for hold in plan.dll.holds)
        return f"{call} does nothing: {REFUSALS['static' if is_static else plan.refusal or 'pinned']}."
    if plan.unloads:
        atleast = "at least " if plan.at_least else ""
        return f"{call} unloads {atleast}{completed(len(plan.unloads), 'DLL')} ({size_words(plan.size)})."
    if plan.load_count is not None:
        kept = plan.keeps[0] if plan.keeps else plan.dll
        why = dll_reason(kept.holds[0]) if kept.holds else "it is still counted"
        return f"{call} unloads nothing: it lowers the load count from {plan.load_count} to {plan.count_left}; {why}."
    return f"{call} unloads nothing."


def _plan_parts(plan: DllPlan, verbose: bool) -> Iterator[Part]:
    yield Sentence(_plan_answer(plan))
    dll = plan.dll
    facts: list[tuple[str, ...]] = [(f"base {dll.base:#x}", dll.path)]
    if plan.load_count is not None:
        own = f", {plan.own_count} of them LoadLibrary's" if plan.own_count is not None else ""
        pinned = _is_pinned_count(dll, plan.load_count)
        facts.append((f"load count {'pinned' if pinned else plan.load_count}{'' if pinned else own}",))
    yield Facts(tuple(facts))
    if plan.unloads:
        how = _ORDERS[plan.order or "import-order"]
        expected = "" if plan.order_certain else "; the order of siblings is expected, not certain"
        yield Sentence(f"These go, detached in this order ({how}{expected}):")
        shown = plan.unloads if verbose else plan.unloads[:_SHOWN_NAMES]
        rows = [
            (
                str(number),
                each.name,
                f"{each.start:#x}-{each.end:#x}",
                "DllMain" if each.base in plan.detached else "no DllMain call",
            )
            for number, each in enumerate(shown, 1)
        ]
        if len(shown) < len(plan.unloads):
            rows.append(("", f"and {len(plan.unloads) - len(shown)} more; -v shows them", "", ""))
        yield Table(("", "goes", "range", "detach"), tuple(rows))
    if plan.over_freed:
        frees = "One of these calls takes" if plan.over_freed == 1 else f"{plan.over_freed} of these calls take"
        yield Sentence(f"{frees} what its importers hold, which LoadLibrary never gave: that is an over-free.")
    if plan.at_least:
        verb, whose = ("imports", "its") if len(plan.at_least) == 1 else ("import", "their")
        names = _names(plan.at_least, verbose)
        yield Sentence(f"At least these: {names} {verb} FreeLibrary, so {whose} DllMain can free others.")
    for cycle in plan.cycles:
        yield Sentence(_cycle_words(plan, cycle))
    if plan.keeps:
        shown = plan.keeps if verbose else plan.keeps[:_SHOWN_NAMES]
        rows2 = [(each.name, dll_because(each)) for each in shown]
        if len(shown) < len(plan.keeps):
            rows2.append((f"and {len(plan.keeps) - len(shown)} more", "-v shows them"))
        yield Table(("stays", "because"), tuple(rows2))


def _cycle_words(plan: DllPlan, cycle: Sequence[str]) -> str:
    names = " → ".join([*cycle[:_SHOWN_NAMES], cycle[0]])
    if plan.rule is LoaderRule.WIN8:
        return f"Import cycle {names}: these share one count and come and go together, whichever is freed."
    words = f"Import cycle {names}: entered at {cycle[0]}."
    others = [each for each in plan.cycle_entries if each.dll in cycle]
    return " ".join([words, *(_entry_words(plan, others, each) for each in dict.fromkeys(map(_effect, others)))])


def _effect(entry: CycleEntry) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(entry.unloads), frozenset(entry.pins)


def _entry_words(plan: DllPlan, entries: Sequence[CycleEntry], effect: tuple[frozenset[str], frozenset[str]]) -> str:
    """Say what entering a cycle elsewhere would have changed."""
    alike = [each for each in entries if _effect(each) == effect]
    gone, pinned = alike[0].unloads, alike[0].pins
    through = f"Freed through {join([each.dll for each in alike[:_SHOWN_NAMES]])} instead"
    if not pinned and set(gone) == {each.name for each in plan.unloads}:
        return f"{through}, the same would go."
    words = f"{join(gone[:_SHOWN_NAMES])} would go" if gone else "nothing would go"
    if pinned:
        words += f", and {join(pinned)} would stay for good: a count that falls below 0 means pinned"
    return f"{through}, {words}."


def _plan_remedy(plan: DllPlan) -> str:
    name = plan.dll.name
    if plan.goes:
        return f"A later LoadLibrary maps {name} anew, with fresh data."
    if plan.blocker is not None:
        if plan.blocker.entry == plan.dll.entry:
            return next(filter(None, (_permanent(hold) for hold in plan.dll.holds)), "")
        why = dll_reason(plan.blocker.holds[0]) if plan.blocker.holds else "it stays"
        return f"Nothing unloads {name} in this process, because {plan.blocker.name} keeps it: {why}."
    if plan.steps and plan.outcome is not Outcome.UNKNOWN:
        shown = plan.steps[:_SHOWN_STEPS]
        words = [f"free {step.dll} {times(step.total)}{' more' if step.dll == name else ''}" for step in shown]
        if len(shown) < len(plan.steps):
            words.append(f"{len(plan.steps) - len(shown)} more")
        return f"To make {name} go: {join(words)}."
    return ""


# -- what was unloaded ----------------------------------------------------------------------------------------


def dll_gone_view(answer: GoneDlls, verbose: bool) -> Document:
    """Put what was unloaded into words."""
    notes: list[Part] = []
    if verbose:
        notes += layout_parts(answer.target, answer.loader)
    if answer.lost:
        notes.append(Sentence(f"{answer.lost} older unloads were overwritten in the loader's record."))
    notes += problem_parts(answer.problems)
    return Document((Sentence(_gone_answer(answer)), *_gone_parts(answer, verbose), *notes, *_gone_remedy(answer)))


def _gone_answer(answer: GoneDlls) -> str:
    gone = answer.gone
    if answer.address is None:
        if not gone:
            return "No unloaded DLL is on record."
        pointed = sum(bool(each.pointers) for each in gone)
        tail = f"; a thread still points into {pointed} of them" if pointed else ""
        return f"{completed(len(gone), 'unloaded DLL')} on record{tail}."
    where = f"{answer.address:#x}"
    if answer.loaded and not gone:
        return f"{where} lies in {answer.loaded}, which is loaded."
    if not gone:
        return f"{where} lies in no unloaded DLL that is on record."
    if len(gone) > 1 or answer.loaded:
        now = f" It lies in {answer.loaded} now." if answer.loaded else ""
        names = join([_place(each) for each in reversed(gone[-_SHOWN_NAMES:])])
        several = "one of these was there" if len(gone) > 1 else "this was there before"
        return f"{where}: {several}: {names}.{now}"
    return f"{where} was {_place(gone[0])}, which is unloaded."


def _place(gone: GoneDll) -> str:
    return f"{gone.image.name or 'a module without a name'}+{gone.offset or 0:#x}"


def _gone_parts(answer: GoneDlls, verbose: bool) -> Iterator[Part]:
    if not answer.gone:
        return
    shown = answer.gone if verbose else answer.gone[-64:]
    rows = [
        (
            "" if each.image.sequence is None else str(each.image.sequence),
            each.image.name or "?",
            f"{each.image.base:#x}-{each.image.base + each.image.size:#x}",
            f"{each.image.timestamp:#x}",
            join(list(each.sources)),
            each.confidence or "",
        )
        for each in reversed(shown)
    ]
    if len(shown) < len(answer.gone):
        rows.append(("", f"and {len(answer.gone) - len(shown)} older; -v shows them", "", "", "", ""))
    titles = ("event", "unloaded", "range", "timestamp", "from", "" if answer.address is None else "confidence")
    keep = len(titles) if answer.address is not None else len(titles) - 1
    yield Table(titles[:keep], tuple(row[:keep] for row in rows))
    pointers = []
    for each in answer.gone:
        for pointer in each.pointers if verbose else each.pointers[:_SHOWN_POINTERS]:
            thread = f"thread {pointer.thread.number} (TID {pointer.thread.lwp:#x})"
            place = pointer.register or f"stack at {pointer.address:#x}"
            offset = pointer.value - each.image.base
            pointers.append((thread, place, f"{pointer.value:#x}", f"{each.image.name or '?'}+{offset:#x}"))
        hidden = each.pointers_omitted + (0 if verbose else max(0, len(each.pointers) - _SHOWN_POINTERS))
        if hidden:
            pointers.append(("", f"and {hidden} more into {each.image.name or '?'}", "", ""))
    if pointers:
        yield Facts(tuple(pointers))


def _gone_remedy(answer: GoneDlls) -> Iterator[Part]:
    if len(answer.gone) == 1 and answer.address is not None and not answer.loaded:
        image = answer.gone[0].image
        yield Sentence(
            f"Its symbols: {image.name}, timestamp {image.timestamp:08X}, size {image.size:x}; in WinDbg "
            f".reload /unl {image.name.partition('.')[0]}."
        )
