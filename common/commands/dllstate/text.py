"""How do verdicts on DLLs read?  Written once for all hosts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from ...counts import quantity
from ...render.dll_words import (
    SHOWN_STEPS,
    count_words,
    dll_because,
    dll_names,
    dll_note_parts,
    dll_reason,
    foreign_loads,
    load_remedy,
    load_words,
    permanent_words,
)
from ...render.document import Document, Facts, Part, Sentence, Table
from ...render.words import format_value, join, times
from ...windows.model import Dll, DllHoldKind, DllState

_SHOWN_REASONS = 3
_SHOWN_HOLDS = 8
_SHOWN_RELATIONS = 4
_NOT_RECORDED = "Who that is is not recorded (dlltrace tells it); freeing a load that is not yours crashes the process."
#: Why the first DLL of a chain stays, if that can end.
_CAN_GO = frozenset({DllHoldKind.LOAD_COUNT, DllHoldKind.LOADING})
#: Of DLLs that are unloaded by no FreeLibrary of the program's, by State.
_UNLOADING = {
    "InitError": "is being unloaded: its DllMain refused DLL_PROCESS_ATTACH, so its LoadLibrary fails",
    "SnapError": "is being unloaded: an import of it was not found, so its LoadLibrary fails",
    "Unloaded": "has been unloaded, and is still mapped (State Unloaded)",
}


def dll_state_view(state: DllState, verbose: bool) -> Document:
    """Build the text of a state: one DLL in detail, or several in a table."""
    notes = [*dll_note_parts(state.target, state.loader, state.rules, state.problems, verbose)]
    if state.process_exiting:
        notes.append(Sentence("The process is exiting: FreeLibrary does nothing any more."))
    if len(state.dlls) == 1 and state.asked is not None:
        dll = state.dlls[0]
        ending = [] if state.process_exiting else [Sentence(_remedy(dll, state.lock_owner))]
        return Document((*_dll_parts(dll, verbose), *notes, *ending))
    return Document((*_table_parts(state), *notes))


# -- the table of several DLLs --------------------------------------------------------------------------------


def _table_parts(state: DllState) -> Iterator[Part]:
    dlls = state.dlls
    if not dlls:
        yield Sentence("No module of it is known.")
        return
    if state.asked is not None:
        yield Sentence(f"{quantity(len(dlls), 'DLL')} match {state.asked}:")
    else:
        held = sum(dll.held is True for dll in dlls)
        going = sum(dll.held is False for dll in dlls)
        unknown = len(dlls) - held - going
        parts = [f"{held} {'stays' if held == 1 else 'stay'} loaded"]
        if going:
            parts.append(f"{going} being unloaded")
        if unknown:
            parts.append(f"{unknown} not known")
        yield Sentence(f"{quantity(len(dlls), 'module')}: {', '.join(parts)}.")
    several = len({dll.loader for dll in dlls}) > 1
    rows = tuple(
        (
            dll.name,
            *((("32-bit" if dll.loader == "wow64" else "64-bit"),) if several else ()),
            f"{dll.base:#x}",
            _verdict(dll),
            count_words(dll),
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


# -- one DLL --------------------------------------------------------------------------------------------------


def _dll_parts(dll: Dll, verbose: bool) -> Iterator[Part]:
    yield Sentence(_answer(dll))
    rows: list[tuple[str, ...]] = [(f"base {dll.base:#x}", f"size {dll.end - dll.start:#x}", dll.path)]
    count = count_words(dll)
    cells = []
    if count != "?":
        cells.append(f"load count  {count}")
    if dll.ddag_state:
        cells.append(f"State  {dll.ddag_state}")
    if dll.load_reason:
        by = f" (by {dll.first_loaded_by})" if dll.first_loaded_by else ""
        cells.append(f"first loaded  {dll.load_reason}{by}")
    if cells:
        rows.append(tuple(cells))
    yield Facts(tuple(rows))
    relations = []
    if dll.importers:
        relations.append(("imported by", dll_names(dll.importers, verbose, _SHOWN_RELATIONS)))
    if dll.imports:
        relations.append(("imports", dll_names(dll.imports, verbose, _SHOWN_RELATIONS)))
    if dll.import_cycle:
        relations.append(("import cycle with", dll_names(dll.import_cycle, verbose, _SHOWN_RELATIONS)))
    orders = [
        f"{name} {place}" for name, place in zip(dll.list_positions._fields, dll.list_positions) if place is not None
    ]
    if verbose and orders:
        relations.append(("place in order of", "  ".join(orders)))
    shown = dll.holds if verbose else dll.holds[:_SHOWN_HOLDS]
    for hold in shown:
        relations += [("load of", load_words(dll.name, holder)) for holder in hold.holders or ()]
        if len(hold.chain) > 2 and hold.kind is not DllHoldKind.PINNED:
            relations.append(("chain", " → ".join(hold.chain)))
    if len(shown) < len(dll.holds):
        relations.append(("", f"and {quantity(len(dll.holds) - len(shown), 'further reason')}; -v shows all"))
    if relations:
        yield Facts(tuple(relations))
    if verbose:
        evidence = tuple(
            dict.fromkeys(
                (f"{e.expression} = {format_value(e.value)}", f"at {e.address:#x}, offset {e.offset:#x}")
                for hold in dll.holds
                for e in hold.evidence
            )
        )
        if evidence:
            yield Facts(evidence)


def _answer(dll: Dll) -> str:
    name = dll.name
    if dll.held is False:
        return f"{name} {_UNLOADING.get(dll.ddag_state or '') or _unloading_words(dll)}."
    if dll.held is None:
        why = "its load count is not known" if dll.load_count is None else f"its load count is {dll.load_count}"
        also = f", but its State is {dll.ddag_state}" if dll.load_count is not None and dll.ddag_state else ""
        return f"{name}: not known whether FreeLibrary unloads it: {why}{also}."
    if dll.holds and dll.holds[0].kind is DllHoldKind.MAIN_PROGRAM:
        return f"{name} stays loaded: it is the program itself."
    reasons = [dll_reason(hold) for hold in dll.holds[:_SHOWN_REASONS]]
    more = len(dll.holds) - len(reasons) + dll.holds_omitted
    if more:
        reasons.append(f"and {more} more")
    return f"{name} stays loaded: {'; '.join(reasons)}."


def _unloading_words(dll: Dll) -> str:
    if dll.load_count:
        return f"is being unloaded: its State is {dll.ddag_state}, although its load count is {dll.load_count}"
    return "is being unloaded: a FreeLibrary has brought its count to 0"


def _remedy(dll: Dll, lock_owner: Optional[int]) -> str:
    inside = (
        f" Thread {lock_owner:#x} owns the loader lock: while that waits, nothing is unloaded." if lock_owner else ""
    )
    if dll.held is False and dll.ddag_state == "Unloaded":
        users = dll.fields.get("ReferenceCount")
        left = f": ReferenceCount is {users}" if users else ""
        return f"It is unmapped when its last user is done with it{left}; its handles dangle."
    if dll.held is False and dll.ddag_state in _UNLOADING:
        return "It goes when that LoadLibrary returns NULL: GetLastError has the reason."
    if dll.held is False:
        return f"It goes when that FreeLibrary returns; whoever loads it before that gets a dangling handle.{inside}"
    if dll.held is None and dll.load_count is not None:
        return "What is stored of it contradicts itself: ask again in the live process, or of a later dump."
    if dll.held is None:
        return "Dump with all memory (.dump /ma), or ask in the live process."
    if any(hold.kind is DllHoldKind.LOADING for hold in dll.holds):
        return f"No FreeLibrary takes it before that LoadLibrary has returned.{inside}"
    for hold in dll.holds:
        remedy = permanent_words(hold)
        if remedy:
            return remedy
    if dll.holds and all(hold.kind is DllHoldKind.DEPENDENCY and not hold.root_kinds for hold in dll.holds):
        return "Only modules that import one another keep it, as far as is known: no FreeLibrary lowers that."
    conditions = []
    known: list[str] = []
    rest = ""
    roots: dict[str, None] = {}
    for hold in dll.holds:
        if hold.kind is DllHoldKind.LOAD_COUNT and hold.total:
            known = [load_remedy(dll.name, holder) for holder in hold.holders or ()]
            others = hold.total - foreign_loads(hold.holders or ())
            if others > 0:
                conditions.append(f"FreeLibrary has been called on it {times(others)} more by whoever loaded it")
                rest = f" {_NOT_RECORDED}"
        elif hold.kind is DllHoldKind.DEPENDENCY:
            root = hold.chain[0] if hold.root_kinds else hold.chain[-2]
            if hold.root_kinds and _CAN_GO.isdisjoint(hold.root_kinds):
                return f"Nothing unloads it in this process, because {root} stays and imports it; see dllstate {root}."
            roots[root] = None
    more = len(roots) - SHOWN_STEPS
    more = max(0, more) + dll.holds_omitted
    if roots:
        names = [*list(roots)[:SHOWN_STEPS], *([f"{more} more"] if more else [])]
        conditions.append(f"{join(names)} {'has' if len(names) == 1 else 'have'} been unloaded")
    if known and not conditions:
        return " ".join(known)
    if not conditions:
        return f"How often it must be freed is not known; dllplan {dll.name} --frees all tries."
    return " ".join([*known, f"It goes once {' and '.join(conditions)}.{rest}"])
