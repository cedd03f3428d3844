"""What would FreeLibrary unload, in which order, what would stay, and what else must be freed?

The rules are in `loader.unload`.  DllMain functions are not predicted: if an unloaded DLL imports FreeLibrary, the plan
is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Optional

from ..counts import quantity
from ..errors import DlwhyError, NotFoundError, UnsupportedError
from ..graph import Search
from ..model import Outcome, Problem
from ..target import Target
from .loader.lists import LdrEntry, Loader
from .loader.unload import FreeResult, ImportGraph, LoadUnit, components, effective_count, gets_detached
from .model import Dll, DllHoldKind, DllPlan, DllPlans, DllStep, ImportCycleAlternative, LoaderRule
from .pe import find_image
from .state import DllExplainer, WindowsExamination

#: A DLL that imports one of these can free others in its DllMain, which cannot end its thread by
#: FreeLibraryAndExitThread.
FREERS = frozenset({"FreeLibrary", "LdrUnloadDll"})
#: Maximum number of simulated calls.
MAX_FREES = 1 << 20
#: Maximum number of ranked DLLs, each on a copy of all counts, and the cost of one count of it, in Memory's units.
MAX_RANKED = 1024
_COPY_UNITS = 60
#: Maximum number of simulated other entries into import cycles, each on a copy of all counts.
MAX_CYCLE_ENTRIES = 16

#: Refusals of a free that no other one changes.
_NO_REMEDY = frozenset({"process-exiting", "unloading"})
_STAYS = frozenset({DllHoldKind.MAIN_PROGRAM, DllHoldKind.STATIC_IMPORT, DllHoldKind.PINNED})


def plan_free(
    target: Target, text: str, evaluate: Callable[[str], int], frees: Optional[int] = 1, pid: Optional[int] = None
) -> DllPlans:
    """Predict the effect of ``frees`` calls of FreeLibrary (None: all effective ones) on the DLL ``text``.

    :param text: a base name with or without .dll, the end of a path, a pattern or an expression.
    :param evaluate: returns the value of an expression.
    :param pid: a process of a machine, None for the current one.
    :raises NotFoundError: if no DLL fits, or more than one, or the target has no such process.
    :raises UnsupportedError: if the target is not a Windows process, or the loader's lists are not in memory.
    """
    examined = WindowsExamination(target, pid)
    found = examined.choose(examined.dlls(brief=True), text, evaluate)
    if len(found) > 1:
        near = [f"{dll.base:#x} ({dll.path})" for dll in found]
        raise NotFoundError(f"{len(found)} loaded DLLs match '{text}': name one by its base address", near)
    loader, graph, entry = examined.find(found[0])
    (library,) = examined.with_holders(examined.in_full(found))
    problems = list(examined.problems)
    plan = _plan(examined, loader, graph, entry, frees, problems)
    plan = plan._replace(holders=next((hold.holders for hold in library.holds if hold.holders is not None), None))
    return DllPlans(
        examined.target_info(),
        examined.loader_info(),
        examined.rules(),
        (plan,),
        text,
        problems=(*problems, *examined.memory.problems()),
    )


def rank_frees(target: Target, frees: Optional[int] = None, pid: Optional[int] = None) -> DllPlans:
    """Predict for each DLL that LoadLibrary has loaded what freeing it would do, the largest unload first.

    :param frees: how many calls of FreeLibrary for each DLL; None: as many as LoadLibrary's.
    :param pid: a process of a machine, None for the current one.
    :raises NotFoundError: if the target has no such process.
    :raises UnsupportedError: if the target is not a Windows process, or the loader's lists are not in memory.
    """
    examined = WindowsExamination(target, pid)
    if not examined.loaders:
        raise UnsupportedError("; ".join(f"{each.where}: {each.message}" for each in examined.problems))
    problems = list(examined.problems)
    plans: list[DllPlan] = []
    for loader, graph in zip(examined.loaders, examined.import_graphs):
        unknown = [unit for unit in graph.units.values() if unit.own is None and not unit.pinned]
        if unknown:
            what = quantity(len(unknown), "DLL")
            message = f"how often LoadLibrary has loaded {what} is not known: not ranked"
            problems.append(Problem("ranking", message))
        loaded = [unit.entries[0] for unit in graph.units.values() if (unit.own or 0) > 0 and not unit.pinned]
        if len(loaded) > MAX_RANKED:
            message = f"{len(loaded)} DLLs were loaded, only {MAX_RANKED} are ranked"
            problems.append(Problem("ranking", message))
        plans += _ranked(examined, loader, graph, loaded[:MAX_RANKED], frees, problems)
    plans.sort(key=lambda plan: (-plan.unload_bytes, -len(plan.unloads), plan.library.name.lower(), plan.library.base))
    return DllPlans(
        examined.target_info(),
        examined.loader_info(),
        examined.rules(),
        tuple(plans),
        problems=(*problems, *examined.memory.problems()),
    )


def _ranked(
    examined: WindowsExamination,
    loader: Loader,
    graph: ImportGraph,
    entries: Sequence[LdrEntry],
    frees: Optional[int],
    problems: list[Problem],
) -> Iterator[DllPlan]:
    """Yield a plan for each DLL, as far as the budget allows."""
    explainer = DllExplainer(loader, graph)
    order = loader.in_initialization_order()
    for entry in entries:
        if not loader.memory.spend(_COPY_UNITS * len(graph.units), "the ranking of DLLs"):
            return
        unit, after = graph.unit_of(entry), graph.copy()
        wanted = frees if frees is not None else min(max(1, unit.own or 0), MAX_FREES)
        result = after.free(entry, wanted, bool(loader.shutdown), order)
        yield DllPlan(
            library=explainer.describe(entry, examined.images.get(entry.base), brief=True),
            rule=graph.rule,
            load_count=effective_count(unit, graph.rule),
            loadlibrary_count=unit.own,
            close_count=wanted,
            outcome=_outcome(result, entry),
            load_count_after=_count_left(after, entry),
            excess_closes=_count_excess(unit, result),
            refusal=result.refusal,
            unloads=tuple(explainer.describe(each, examined.images.get(each.base), brief=True) for each in result.dead),
            gets_process_detach=tuple(each.base for each in result.dead if gets_detached(graph.rule, each)),
            order_algorithm=result.order,
            order_certain=result.order_certain,
            may_unload_more=_freers(loader, result, problems),
            unload_bytes=sum(each.size for each in result.dead),
        )


def _freers(loader: Loader, result: FreeResult, problems: list[Problem]) -> tuple[str, ...]:
    """Return the names of the unloaded DLLs that can free others; ``problems`` says of which it is not known."""
    found = []
    for each in result.dead:
        frees_others = _frees_others(loader, each)
        if frees_others is None:
            message = "its imports are not in memory: if its DllMain frees others, more than this goes"
            if (problem := Problem(each.label, message)) not in problems:
                problems.append(problem)
        elif frees_others:
            found.append(each.label)
    return tuple(found)


def _outcome(result: FreeResult, entry: LdrEntry) -> Outcome:
    if result.refusal == "unknown":
        return Outcome.UNKNOWN
    if any(each is entry for each in result.dead):
        return Outcome.UNLOADS
    return Outcome.NO_EFFECT if result.refusal and not result.effective else Outcome.KEEPS


def plan_once(examined: WindowsExamination, loader: Loader, graph: ImportGraph, entry: LdrEntry) -> DllPlan:
    """Predict one call of FreeLibrary; ``examined.problems`` says what is uncertain."""
    return _plan(examined, loader, graph, entry, 1, examined.problems)


def _plan(
    examined: WindowsExamination,
    loader: Loader,
    graph: ImportGraph,
    entry: LdrEntry,
    frees: Optional[int],
    problems: list[Problem],
) -> DllPlan:
    before = DllExplainer(loader, graph)
    unit = graph.unit_of(entry)
    described = before.describe(entry, examined.images.get(entry.base))
    mine = unit.own if unit.own is not None else unit.count or 0
    wanted = frees if frees is not None else min(max(1, mine), MAX_FREES)
    after = graph.copy()
    result = after.free(entry, wanted, bool(loader.shutdown), loader.in_initialization_order())
    dead = {each.address for each in result.dead}
    unloads = tuple(before.describe(each, examined.images.get(each.base), brief=True) for each in result.dead)
    outcome = _outcome(result, entry)
    keeps: tuple[Dll, ...] = ()
    if outcome is not Outcome.UNKNOWN:
        keeps = tuple(_keeps(examined, loader, graph, after, entry, dead))
    has_remedy = entry.address not in dead and result.refusal not in _NO_REMEDY
    steps, blocker = _remedy(examined, loader, after, entry) if has_remedy else ((), None)
    at_least = _freers(loader, result, problems)
    return DllPlan(
        library=described,
        rule=graph.rule,
        load_count=effective_count(unit, graph.rule),
        loadlibrary_count=unit.own if not unit.pinned else None,
        close_count=wanted,
        outcome=outcome,
        load_count_after=_count_left(after, entry),
        excess_closes=_count_excess(unit, result),
        refusal=None if outcome is Outcome.UNKNOWN else result.refusal,
        unloads=unloads,
        gets_process_detach=tuple(each.base for each in result.dead if gets_detached(graph.rule, each)),
        order_algorithm=result.order,
        order_certain=result.order_certain,
        kept=keeps,
        may_unload_more=at_least,
        import_cycles=tuple(_cycles(before, graph, entry)),
        import_cycle_alternatives=tuple(_cycle_entries(before, loader, graph, entry, wanted)),
        unload_bytes=sum(each.size for each in result.dead),
        steps=steps,
        blocker=blocker,
    )


def _count_excess(unit: LoadUnit, result: FreeResult) -> Optional[int]:
    if unit.pinned:
        return 0
    if result.refusal == "unknown" or (unit.own is None and result.effective):
        return None
    return max(0, result.effective - max(0, unit.own or 0))


def _count_left(after: ImportGraph, entry: LdrEntry) -> Optional[int]:
    unit = after.units.get(after.by_entry[entry.address])
    return effective_count(unit, after.rule) if unit else 0


def _keeps(
    examined: WindowsExamination,
    loader: Loader,
    graph: ImportGraph,
    after: ImportGraph,
    entry: LdrEntry,
    dead: set[int],
) -> Iterator[Dll]:
    """Yield the DLL and its imports that stay; permanent ones are omitted."""
    explainer = DllExplainer(loader, after)
    for key in Search([graph.by_entry[entry.address]], graph.children):
        unit = graph.units[key]
        for each in unit.entries:
            if each.address not in dead and (each is entry or not unit.pinned):
                yield explainer.describe(each, examined.images.get(each.base))


def _remedy(
    examined: WindowsExamination, loader: Loader, after: ImportGraph, entry: LdrEntry
) -> tuple[tuple[DllStep, ...], Optional[Dll]]:
    """Return what else must be freed to unload a DLL, or the DLL that keeps it permanently."""
    explainer = DllExplainer(loader, after)
    steps: list[DllStep] = []
    for key in Search([after.by_entry[entry.address]], after.parents):
        unit = after.units[key]
        if any(hold.kind in _STAYS for hold in explainer.own_holds(unit, brief=True)):
            return (), explainer.describe(unit.entries[0], examined.images.get(unit.entries[0].base))
        if unit.own is None:
            if after.rule is not LoaderRule.WIN8 or unit.count is None:
                return (), None
        elif unit.own > 0:
            steps.append(DllStep(explainer.name(key), unit.own))
    return tuple(steps), None


def _frees_others(loader: Loader, entry: LdrEntry) -> Optional[bool]:
    """Return whether a DLL imports FreeLibrary, None if its imports cannot be read."""
    image = find_image(loader.memory, entry.base)
    if image is None:
        return None
    try:
        return image.imports_any(FREERS)
    except DlwhyError:
        return None  # a problem of the plan


def _cycles(explainer: DllExplainer, graph: ImportGraph, entry: LdrEntry) -> Iterator[tuple[str, ...]]:
    """Yield the import cycles in a DLL's closure as names, each from its entry.

    On Windows 8 and later the modules of a cycle share a node; otherwise cycles are found in the graph.
    """
    if graph.rule is LoaderRule.WIN8:
        for key in Search([graph.by_entry[entry.address]], graph.children):
            unit = graph.units[key]
            if len(unit.entries) > 1:
                names = [each.label for each in unit.entries]
                yield tuple([entry.label, *(n for n in names if n != entry.label)] if entry in unit.entries else names)
        return
    for component in components(graph, [entry.address]):
        if len(component) > 1:
            yield tuple(explainer.name(key) for key in component)


def _cycle_entries(
    explainer: DllExplainer, loader: Loader, graph: ImportGraph, entry: LdrEntry, frees: int
) -> Iterator[ImportCycleAlternative]:
    """Simulate the same number of frees through each other member of a cycle, if members have their own counts."""
    if graph.rule is LoaderRule.WIN8:
        return
    others = [
        key
        for component in components(graph, [entry.address])
        if len(component) > 1
        for key in component
        if key != entry.address
    ]
    order = loader.in_initialization_order()
    for key in others[:MAX_CYCLE_ENTRIES]:
        after = graph.copy()
        result = after.free(loader.entries[key], frees, bool(loader.shutdown), order)
        if result.refusal == "unknown":
            continue
        pins = [each for each, unit in after.units.items() if unit.pinned and not graph.units[each].pinned]
        yield ImportCycleAlternative(
            explainer.name(key), tuple(each.label for each in result.dead), tuple(explainer.name(each) for each in pins)
        )
