"""How do verdicts on libraries read?  Written once for all hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from ...counts import quantity
from ...linux.model import PERMANENT, Hold, HoldKind, Library, State, runs_wine
from ...model import ThreadRef
from ...render.document import Document, Facts, Part, Sentence, Table
from ...render.library_words import (
    NOTHING_UNLOADS,
    STATIC_TLS_REMEDY,
    base_words,
    because,
    libc_purpose,
    permanent_remedy,
    reason,
    root_words,
    static_tls_words,
    unless_lost,
)
from ...render.words import format_value, join, join_first, layout_parts, problem_parts, times

if TYPE_CHECKING:
    from ...linux.rebuild_model import Rebuild

_SHOWN_REASONS = 3
_SHOWN_HOLDS = 8
_SHOWN_DESTRUCTORS = 8
_SHOWN_SYMBOLS = 4
_SHOWN_FILES = 8
_SHOWN_THREADS = 8
#: Little is left if less than one in this many bytes of the static TLS block is free; as large a share is much to lose.
_LOW_SHARE = 4

#: How a file has changed; what makes the library itself doubtful is a problem of its own.
_FILE_STATES = {
    "deleted": "has been deleted since it was loaded",
    "renamed": "no longer has the name by which it was loaded",
    "replaced": "has been replaced by another since it was loaded",
    "maybe_written": "may have been written in place since it was loaded, as its times tell",
}


def state_view(state: State, verbose: bool) -> Document:
    """Build the text of a state: one library in detail, or several in a table."""
    notes = [*(layout_parts(state.target, state.loader) if verbose else ()), *problem_parts(state.problems)]
    if len(state.libraries) == 1 and state.asked is not None:
        library = state.libraries[0]
        return Document((*_library_parts(library, verbose), *notes, Sentence(_remedy(library, state.target.pid))))
    return Document((*_table_parts(state), *notes))


# -- the table of several libraries ---------------------------------------------------------------------------


def _table_parts(state: State) -> Iterator[Part]:
    libraries = state.libraries
    if state.asked is not None:
        yield Sentence(f"{quantity(len(libraries), 'library')} match {state.asked}:")
    else:
        held = sum(library.held is True for library in libraries)
        free = sum(library.held is False for library in libraries)
        unknown = len(libraries) - held - free
        parts = [f"{held} {'stays' if held == 1 else 'stay'} loaded", f"{free} can go"]
        if unknown:
            parts.append(f"{unknown} not known")
        yield Sentence(f"{quantity(len(libraries), 'library')}: {', '.join(parts)}.")
    rows = tuple(
        (library.name, str(library.namespace), base_words(library), _state_word(library), because(library))
        for library in libraries
    )
    yield Table(("library", "ns", "base", "verdict", "because"), rows)
    yield from _file_sentences(libraries)
    yield from _static_tls_sentences(state)
    if state.asked is None and runs_wine(libraries):
        yield Sentence("Wine runs this process: the Windows modules in it are loaded by Wine, and are not listed here.")


def _static_tls_sentences(state: State) -> Iterator[Sentence]:
    """Yield who has the static TLS block, if little of it is left or some of it is lost."""
    found = state.static_tls
    if found is None:
        return
    is_low = found.free * _LOW_SHARE < found.size
    if not is_low and found.lost * _LOW_SHARE < found.size:
        return
    yield Sentence(f"Static TLS for libraries that are opened: {static_tls_words(found)}.")
    if is_low:
        yield Sentence(f'With too few, dlopen fails: "cannot allocate memory in static TLS block". {STATIC_TLS_REMEDY}')


def _file_sentences(libraries: Sequence[Library]) -> Iterator[Sentence]:
    for state, words in _FILE_STATES.items():
        names = [library.name for library in libraries if library.file_state == state]
        if names:
            yield Sentence(f"The file of {join_first(names, _SHOWN_FILES)} {words}.")


def _state_word(library: Library) -> str:
    if library.held:
        return "stays"
    if library.is_being_unloaded:
        return "going"
    return "not known" if library.held is None else "can go"


# -- one library ----------------------------------------------------------------------------------------------


def _library_parts(library: Library, verbose: bool) -> Iterator[Part]:
    yield Sentence(_answer(library))
    yield Facts(tuple(_identity_rows(library)))
    if library.file_state in _FILE_STATES:
        yield Facts(((f"the file {_FILE_STATES[library.file_state]}",),))
    fields = _field_cells(library)
    if fields:
        yield Facts((("    ".join(fields),),))
    details = [row for hold in _shown(library, verbose) for row in _detail_rows(library, hold, verbose)]
    if details:
        yield Facts(tuple(details))
    hidden = len(library.holds) - len(_shown(library, verbose)) + library.holds_omitted
    if hidden:
        yield Facts(((f"and {hidden} more" + ("" if verbose else "; -v shows them"),),))
    if verbose:
        rows = tuple(
            (f"{e.expression} = {format_value(e.value)}", f"at {e.address:#x}, offset {e.offset}")
            for hold in library.holds
            for e in hold.evidence
        )
        if rows:
            yield Facts(rows)


def _shown(library: Library, verbose: bool) -> Sequence[Hold]:
    return library.holds if verbose else library.holds[:_SHOWN_HOLDS]


def _answer(library: Library) -> str:
    name = library.name
    if library.is_being_unloaded:
        return f"{name} is being unloaded: a dlclose has condemned it, and its destructors are running."
    if library.held is False:
        return f"{name} can go: nothing keeps it, but the loader has not collected it yet."
    if library.held is None:
        reasons = [reason(hold) for hold in library.holds] or [
            "not all libraries could be read, or what was read contradicts itself"
        ]
        return f"{name}: not known whether it can go: {'; '.join(reasons)}."
    if len(library.holds) == 1 and library.holds[0].kind is HoldKind.MAIN_PROGRAM:
        return f"{name} stays loaded: it is the main program."
    reasons = [reason(hold) for hold in library.holds[:_SHOWN_REASONS]]
    more = len(library.holds) - len(reasons) + library.holds_omitted
    if more:
        reasons.append(f"and {more} more")
    return f"{name} stays loaded: {'; '.join(reasons) or 'another library keeps it'}."


def _identity_rows(library: Library) -> Iterator[tuple[str, ...]]:
    bias = "" if library.load_bias in (None, library.base) else f", load bias {library.load_bias:#x}"
    yield (f"namespace {library.namespace}", f"base {base_words(library)}{bias}", library.path or "path not known")


def _field_cells(library: Library) -> list[str]:
    """Return the decisive members in the loader's own names.

    Since glibc 2.31 (f63b73814f74 and f8ed116aa574, bug 20839) the NODELETE flag is in l_nodelete_active, before
    that in l_flags_1.
    """
    fields = library.fields
    flag = "l_nodelete_active" if fields.get("l_nodelete_active") is not None else "l_flags_1"
    names = ("l_direct_opencount", flag, "l_tls_dtor_count", "l_map_used", "runtime_loaded")
    booleans = {"l_nodelete_active", "l_map_used", "runtime_loaded"}
    cells = []
    for name in names:
        value = fields.get(name)
        if value is not None:
            shown = ("yes" if value else "no") if name in booleans else f"{value:#x}" if name == flag else str(value)
            cells.append(f"{name}  {shown}")
    return cells


def _detail_rows(library: Library, hold: Hold, verbose: bool) -> Iterator[tuple[str, ...]]:
    if hold.kind is HoldKind.TLS_DESTRUCTORS:
        shown = hold.destructors if verbose else hold.destructors[:_SHOWN_DESTRUCTORS]
        for destructor in shown:
            function = destructor.function
            name = function.name or (f"{function.address:#x}" if function.address else "a function not known")
            where = f" in {function.library}" if function.library else ""
            yield (
                "TLS destructor",
                thread_words(destructor.thread) if destructor.thread else "a thread that does not exist here",
                name + where,
                f"object {f'{destructor.variable} at ' if destructor.variable else ''}{destructor.object:#x}",
            )
        if len(shown) < len(hold.destructors):
            yield ("TLS destructor", f"and {len(hold.destructors) - len(shown)} more; -v shows them")
    elif hold.kind is HoldKind.NODELETE:
        what = "unique symbol" if hold.origin == "unique-symbol" else "bound symbol"
        yield from _symbol_rows(what, hold, verbose)
        if hold.dlclose_returns_early:
            count = library.fields.get("l_direct_opencount")
            yield (
                "open count",
                f"{count}, which says nothing: dlclose returns early on a NODELETE library",
            )
    elif hold.kind in (HoldKind.DEPENDENCY, HoldKind.RELOCATION):
        what = "dependency" if hold.kind is HoldKind.DEPENDENCY else "relocation"
        root = f"{hold.root.library}: {root_words(hold.root)}" if hold.root else ""
        yield (what, " → ".join(hold.chain), root)
        yield from _symbol_rows("  symbol", hold, verbose)
    elif hold.kind is HoldKind.OPEN_COUNT and hold.origin == "libc":
        purpose, _ = libc_purpose(library)
        yield ("opened by libc", purpose)


def _symbol_rows(what: str, hold: Hold, verbose: bool) -> Iterator[tuple[str, ...]]:
    shown = hold.symbols if verbose else hold.symbols[:_SHOWN_SYMBOLS]
    for symbol in shown:
        yield (what, symbol)
    hidden = len(hold.symbols) - len(shown) + hold.symbols_omitted
    if hidden:
        yield (what, f"and {hidden} more" + ("; -v shows them" if not verbose and not hold.symbols_omitted else ""))


def thread_words(thread: ThreadRef) -> str:
    """Return the words for a thread."""
    name = f', "{thread.name}"' if thread.name else ""
    return f"thread {thread.number} (LWP {thread.tid}{name})"


# -- remedies -------------------------------------------------------------------------------------------------


def _remedy(library: Library, pid: Optional[int]) -> str:
    if library.is_being_unloaded:
        return "It goes when that dlclose ends, unless a destructor opens it again."
    if library.held is False:
        return (
            f"It goes when the next dlclose in namespace {library.namespace} brings some library's count to zero: "
            "only that runs the collector."
        )
    if library.held is None:
        return "The problems say why; ask again when no dlopen or dlclose is in progress, or of a complete core."
    conditions = list(dict.fromkeys(c for hold in library.holds for c in _conditions(hold)))
    if library.rebuild is not None:
        return _lasting_remedy(library.name, library.rebuild, conditions)
    for hold in library.holds:
        text = permanent_remedy(library, hold)
        if text:
            return text
    if not conditions:
        return "What keeps it could not be read, so there is no advice."
    advice = _possible_remedy(library, conditions, pid)
    if any(hold.has_unseen_debtors for hold in library.holds):
        return unless_lost("it", library.name, f"it {advice}")
    return f"It {advice}"


def _possible_remedy(library: Library, conditions: Sequence[_Condition], pid: Optional[int]) -> str:
    """Return what lets a library go in this process, as what it does."""
    main = next((t for hold in library.holds for t in _debtors(hold) if t.tid == pid), None)
    if main is not None:
        return (
            f"goes at the end of the process: thread {main.number} owes it a TLS destructor, and is the main "
            "thread, which runs it then."
        )
    collector = (
        ""
        if any(c.collects for c in conditions)
        else f", and another dlclose in namespace {library.namespace} has run the collector"
    )
    holders = quantity(library.holds_omitted, "more holder has", "more holders have")
    more = f" (and {holders} let it go)" if library.holds_omitted else ""
    return f"can go once {join([c.text for c in conditions])}{more}{collector}."


def _lasting_remedy(name: str, rebuild: Rebuild, conditions: Sequence[_Condition]) -> str:
    """Return what lets a library go in another process that stays for good in this one."""
    from ...render.rebuild_words import rebuild_words  # the list of all libraries has no remedies

    words = f"{NOTHING_UNLOADS} {rebuild_words(name, rebuild)}"
    if rebuild.obstacle is not None or not conditions:
        return words
    return f"{words} Even then it can go only once {join([c.text for c in conditions])}."


class _Condition(NamedTuple):
    """A condition for unloading a library, and whether it runs the collector by itself."""

    text: str
    collects: bool = False


def _debtors(hold: Hold) -> Iterator[ThreadRef]:
    """Yield the threads that owe a library TLS destructors."""
    return (destructor.thread for destructor in hold.destructors if destructor.thread is not None)


def _conditions(hold: Hold) -> Iterator[_Condition]:
    if hold.kind is HoldKind.OPEN_COUNT:
        yield _Condition(f"dlclose has been called on it {times(hold.total)} more", collects=True)
    elif hold.never_ends:
        yield _Condition("no fork has left behind a thread that owes a TLS destructor")
    elif hold.kind is HoldKind.TLS_DESTRUCTORS:
        threads = sorted({thread.number for thread in _debtors(hold)})
        if threads:
            noun, verb = ("thread", "has") if len(threads) == 1 else ("threads", "have")
            yield _Condition(f"{noun} {join_first([*map(str, threads)], _SHOWN_THREADS)} {verb} exited")
        if not threads or hold.has_unseen_debtors:
            others = "the other threads" if threads else "the threads"
            yield _Condition(f"{others} that owe it a destructor have exited")
    elif hold.kind is HoldKind.HALF_LOADED:
        yield _Condition("the dlopen in progress has returned")
    elif hold.kind is HoldKind.NODELETE and hold.origin == "pending":
        yield _Condition("the dlopen in progress has failed (if it succeeds, the library stays for good)")
    elif hold.root is not None and PERMANENT.isdisjoint(hold.root.kinds):
        root = hold.root
        if HoldKind.OPEN_COUNT in root.kinds and root.opened_by == "libc":
            yield _Condition(f"libc has closed {root.library}, which it opened for itself", collects=True)
        elif HoldKind.OPEN_COUNT in root.kinds:
            yield _Condition(f"dlclose has closed {root.library}", collects=True)
        if HoldKind.TLS_DESTRUCTORS in root.kinds:
            yield _Condition(f"no thread owes {root.library} a TLS destructor")
