"""How is a verdict put into words?  Once, for every host."""

from __future__ import annotations

from ...lean import NamedTuple
from ...linux.state.matching import runs_wine
from ...model import Hold, HoldKind, Library, LoaderInfo, Problem, Root, State, TargetInfo, ThreadRef
from ...render.document import Document, Facts, Sentence, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ...render.document import Part


# Smaller values are counts and flags: nothing is mapped below, on Linux by default (vm.mmap_min_addr).
_FIRST_POINTER = 65536

_SHOWN_REASONS = 3
_SHOWN_HOLDS = 8
_SHOWN_DESTRUCTORS = 8
_SHOWN_SYMBOLS = 4

_STARTUP_REASONS = {
    "needed": "loaded at program start",
    "preload": "preloaded (LD_PRELOAD or /etc/ld.so.preload)",
    "vdso": "the kernel's vDSO",
    "rtld": "the dynamic loader itself",
    "proxy": "the dynamic loader, seen from this namespace",
}

_NODELETE_BRIEFS = {
    "elf-flag": "NODELETE (-z nodelete)",
    "unique-symbol": "NODELETE (unique symbols)",
    "bound-by-startup": "NODELETE (bound by what was loaded at start)",
    "dlopen-flag": "NODELETE (RTLD_NODELETE)",
    "pending": "NODELETE when the dlopen ends",
    "unknown": "NODELETE (RTLD_NODELETE or dlsym)",
}

_STARTUP_REMEDIES = {
    "needed": "What is loaded at program start stays until the process ends.",
    "preload": "A preloaded library stays until the process ends; start the process without it.",
    "vdso": "The kernel maps it into every process.",
    "rtld": "The dynamic loader stays until the process ends.",
    "proxy": "It is namespace 0's ld.so under another entry; the entry goes with its namespace, ld.so stays.",
}

_LIBC_PURPOSES = (
    ("libgcc_s", "thread cancellation and backtraces", "libc never closes it"),
    ("libnss_", "name service look-ups", "libc never closes it"),
    ("libidn2", "international host names", "libc never closes it"),
)


def state_view(state: State, verbose: bool) -> Document:
    """Put a state into words: one library in detail, or several in a table."""
    notes = [*(layout_parts(state.target, state.loader) if verbose else ()), *problem_parts(state.problems)]
    if len(state.libraries) == 1 and state.asked is not None:
        library = state.libraries[0]
        return Document((*_library_parts(library, verbose), *notes, Sentence(_remedy(library))))
    return Document((*_table_parts(state), *notes))


def completed(count: int, noun: str, plural: str = "") -> str:
    """Give a number with its noun."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def layout_parts(target: TargetInfo, loader: LoaderInfo) -> Iterator[Part]:
    """Say what was examined, and where the offsets came from."""
    version = f" {loader.version}" if loader.version else ""
    rows = [(f"{loader.kind}{version}, {target.arch}", target.description)]
    if loader.layout:
        rows.append((f"offsets: {loader.layout.kind.value}", loader.layout.detail))
    yield Facts(tuple(rows))


def problem_parts(problems: Sequence[Problem]) -> Iterator[Part]:
    """Say what could not be established."""
    for problem in problems:
        yield Sentence(f"problem: {problem.where}: {problem.message}")


# -- the table of several libraries ---------------------------------------------------------------------------


def _table_parts(state: State) -> Iterator[Part]:
    libraries = state.libraries
    if state.asked is not None:
        yield Sentence(f"{completed(len(libraries), 'library', 'libraries')} match {state.asked}:")
    else:
        held = sum(library.held is True for library in libraries)
        free = sum(library.held is False for library in libraries)
        unknown = len(libraries) - held - free
        parts = [f"{held} {'stays' if held == 1 else 'stay'} loaded", f"{free} can go"]
        if unknown:
            parts.append(f"{unknown} not known")
        yield Sentence(f"{completed(len(libraries), 'library', 'libraries')}: {', '.join(parts)}.")
    rows = tuple(
        (library.name, str(library.namespace), f"{library.base:#x}", _state_word(library), because(library))
        for library in libraries
    )
    yield Table(("library", "ns", "base", "verdict", "because"), rows)
    if state.asked is None and runs_wine(libraries):
        yield Sentence("Wine runs this process: the Windows modules in it are loaded by Wine, and are not listed here.")


def _state_word(library: Library) -> str:
    if library.is_going:
        return "going"
    if library.held is None:
        return "not known"
    return "stays" if library.held else "can go"


def because(library: Library) -> str:
    """Give the strongest reason and the number of further ones."""
    if not library.holds:
        return "nothing keeps it" if library.held is False else "its holders could not all be read"
    more = len(library.holds) - 1 + library.holds_omitted
    return brief(library.holds[0]) + (f" +{more} more" if more else "")


def brief(hold: Hold) -> str:
    """Give the reason without symbols, which can be long."""
    if hold.kind is HoldKind.NODELETE:
        return _NODELETE_BRIEFS[hold.origin or "unknown"]
    if hold.kind in (HoldKind.DEPENDENCY, HoldKind.RELOCATION):
        verb = "needed" if hold.kind is HoldKind.DEPENDENCY else "bound"
        return f"{verb} by {hold.chain[-2]}{_root_note(hold)}"
    return reason(hold)


# -- one library ----------------------------------------------------------------------------------------------


def _library_parts(library: Library, verbose: bool) -> Iterator[Part]:
    yield Sentence(_answer(library))
    yield Facts(tuple(_identity_rows(library)))
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
            (f"{e.expression} = {plain(e.value)}", f"at {e.address:#x}, offset {e.offset}")
            for hold in library.holds
            for e in hold.evidence
        )
        if rows:
            yield Facts(rows)


def plain(value: int) -> str:
    """Show counts in decimal and pointers in hexadecimal."""
    return str(value) if value < _FIRST_POINTER else f"{value:#x}"


def _shown(library: Library, verbose: bool) -> Sequence[Hold]:
    return library.holds if verbose else library.holds[:_SHOWN_HOLDS]


def _answer(library: Library) -> str:
    name = library.name
    if library.is_going:
        return f"{name} is being unloaded: a dlclose has condemned it, and its destructors are running."
    if library.held is False:
        return f"{name} can go: nothing keeps it, but the loader has not collected it yet."
    if library.held is None:
        reasons = [reason(hold) for hold in library.holds] or ["not all libraries could be read"]
        return f"{name}: not known whether it can go: {'; '.join(reasons)}."
    if len(library.holds) == 1 and library.holds[0].kind is HoldKind.MAIN_PROGRAM:
        return f"{name} stays loaded: it is the main program."
    reasons = [reason(hold) for hold in library.holds[:_SHOWN_REASONS]]
    more = len(library.holds) - len(reasons) + library.holds_omitted
    if more:
        reasons.append(f"and {more} more")
    return f"{name} stays loaded: {'; '.join(reasons) or 'another library keeps it'}."


def _identity_rows(library: Library) -> Iterator[tuple[str, ...]]:
    yield (f"namespace {library.namespace}", f"base {library.base:#x}", library.path)


def _field_cells(library: Library) -> list[str]:
    """Give the members that decide, in the loader's own names; before glibc 2.31 l_flags_1 holds the NODELETE flag."""
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


def reason(hold: Hold) -> str:
    """Give the reason with the symbol that stands for it."""
    kind = hold.kind
    if kind is HoldKind.MAIN_PROGRAM:
        return "main program"
    if kind is HoldKind.STARTUP:
        return _STARTUP_REASONS[hold.origin or "needed"]
    if kind is HoldKind.NEVER_UNLOADS:
        return "musl never unloads, by design"
    if kind is HoldKind.AUDIT:
        return "loaded by LD_AUDIT"
    if kind is HoldKind.NODELETE:
        return _nodelete_reason(hold)
    if kind is HoldKind.HALF_LOADED:
        return "a dlopen has not finished loading it"
    if kind is HoldKind.CLOSE_IN_PROGRESS:
        return "its destructors are running"
    if kind is HoldKind.OPEN_COUNT:
        if hold.origin == "libc":
            return f"opened {times(hold.total)} by libc for itself"
        return f"opened {times(hold.total)}, not closed"
    if kind is HoldKind.TLS_DESTRUCTORS:
        return completed(hold.total or 0, "pending TLS destructor")
    if kind is HoldKind.DEPENDENCY:
        return f"needed by {hold.chain[-2]}{_root_note(hold)}"
    return f"bound by {hold.chain[-2]}{_symbol_note(hold)}{_root_note(hold)}"


def _nodelete_reason(hold: Hold) -> str:
    if hold.origin == "elf-flag":
        return "NODELETE by its own file (linked with -z nodelete)"
    if hold.origin == "unique-symbol":
        return f"NODELETE by the unique symbol {hold.symbols[0]}" + _more_symbols(hold)
    if hold.origin == "bound-by-startup":
        return f"NODELETE because what was loaded at start is bound to {hold.symbols[0]}" + _more_symbols(hold)
    if hold.origin == "dlopen-flag":
        return "NODELETE by dlopen's flag RTLD_NODELETE"
    if hold.origin == "pending":
        return "to become NODELETE when the dlopen in progress ends"
    return "NODELETE, by RTLD_NODELETE or a dlsym(RTLD_DEFAULT) of what was loaded at start"


def _more_symbols(hold: Hold) -> str:
    more = len(hold.symbols) - 1 + hold.symbols_omitted
    return f" and {more} more" if more else ""


def times(count: object) -> str:
    """Say how often."""
    return "once" if count == 1 else f"{count} times"


def _symbol_note(hold: Hold) -> str:
    return f" through {hold.symbols[0]}{_more_symbols(hold)}" if hold.symbols else ""


def _root_note(hold: Hold) -> str:
    root = hold.root
    if root is None or root.library != hold.chain[-2]:
        return f" (kept by {root.library})" if root else ""
    return f" ({_root_words(root)})"


_ROOT_WORDS = {
    HoldKind.MAIN_PROGRAM: "the main program",
    HoldKind.STARTUP: "loaded at program start",
    HoldKind.AUDIT: "loaded by LD_AUDIT",
    HoldKind.NODELETE: "NODELETE",
    HoldKind.OPEN_COUNT: "open",
    HoldKind.TLS_DESTRUCTORS: "pending TLS destructors",
}


def _root_words(root: Root) -> str:
    return ", ".join(_ROOT_WORDS[kind] for kind in root.kinds)


def _detail_rows(library: Library, hold: Hold, verbose: bool) -> Iterator[tuple[str, ...]]:
    if hold.kind is HoldKind.TLS_DESTRUCTORS:
        shown = hold.destructors if verbose else hold.destructors[:_SHOWN_DESTRUCTORS]
        for destructor in shown:
            function = destructor.function
            name = function.name or (f"{function.address:#x}" if function.address else "a function not known")
            where = f" in {function.library}" if function.library else ""
            yield (
                "TLS destructor",
                thread_words(destructor.thread),
                name + where,
                f"object {destructor.object:#x}",
            )
        if len(shown) < len(hold.destructors):
            yield ("TLS destructor", f"and {len(hold.destructors) - len(shown)} more; -v shows them")
    elif hold.kind is HoldKind.NODELETE:
        what = "unique symbol" if hold.origin == "unique-symbol" else "bound symbol"
        yield from _symbol_rows(what, hold, verbose)
        if hold.early_return:
            count = library.fields.get("l_direct_opencount")
            yield (
                "open count",
                f"{count}, which says nothing: dlclose returns early on a NODELETE library",
            )
    elif hold.kind in (HoldKind.DEPENDENCY, HoldKind.RELOCATION):
        what = "dependency" if hold.kind is HoldKind.DEPENDENCY else "relocation"
        root = f"{hold.root.library}: {_root_words(hold.root)}" if hold.root else ""
        yield (what, " → ".join(hold.chain), root)
        yield from _symbol_rows("  symbol", hold, verbose)
    elif hold.kind is HoldKind.OPEN_COUNT and hold.origin == "libc":
        purpose, _ = _libc_purpose(library)
        yield ("opened by libc", purpose)


def _symbol_rows(what: str, hold: Hold, verbose: bool) -> Iterator[tuple[str, ...]]:
    shown = hold.symbols if verbose else hold.symbols[:_SHOWN_SYMBOLS]
    for symbol in shown:
        yield (what, symbol)
    hidden = len(hold.symbols) - len(shown) + hold.symbols_omitted
    if hidden:
        yield (what, f"and {hidden} more" + ("; -v shows them" if not verbose and not hold.symbols_omitted else ""))


def thread_words(thread: ThreadRef) -> str:
    """Name a thread."""
    name = f', "{thread.name}"' if thread.name else ""
    return f"thread {thread.number} (LWP {thread.lwp}{name})"


def _libc_purpose(library: Library) -> tuple[str, str]:
    for prefix, purpose, ending in _LIBC_PURPOSES:
        if library.name.startswith(prefix):
            return purpose, ending
    return "character set conversion (iconv)", "libc closes it some time after the last iconv_close"


# -- remedies -------------------------------------------------------------------------------------------------


def _remedy(library: Library) -> str:
    if library.is_going:
        return "It goes when that dlclose ends, unless a destructor opens it again."
    if library.held is False:
        return (
            f"It goes when the next dlclose in namespace {library.namespace} brings some library's count to zero: "
            "only that runs the collector."
        )
    if library.held is None:
        return "Ask again when the dlopen in progress has returned, or with a complete core."
    for hold in library.holds:
        text = permanent_remedy(library, hold)
        if text:
            return text
    conditions = list(dict.fromkeys(c for hold in library.holds for c in _conditions(hold)))
    if not conditions:
        return "What keeps it could not be read, so there is no advice."
    collector = (
        ""
        if any(c.collects for c in conditions)
        else f", and another dlclose in namespace {library.namespace} has run the collector"
    )
    more = f" (and {library.holds_omitted} more holders have let it go)" if library.holds_omitted else ""
    return f"It can go once {join([c.text for c in conditions])}{more}{collector}."


class _Condition(NamedTuple):
    """What must happen before a library can go, and whether that runs the collector by itself."""

    text: str
    collects: bool = False


def permanent_remedy(library: Library, hold: Hold) -> str:
    """Say what would have helped against a hold that nothing in this process lifts; empty for others."""
    if hold.kind is HoldKind.MAIN_PROGRAM:
        return "The main program stays until the process ends."
    if hold.kind is HoldKind.STARTUP:
        return _STARTUP_REMEDIES[hold.origin or "needed"]
    if hold.kind is HoldKind.NEVER_UNLOADS:
        return "Nothing unloads it: musl's dlclose only checks the handle, and destructors run at exit."
    if hold.kind is HoldKind.AUDIT:
        return "Audit libraries stay until the process ends; start the process without LD_AUDIT."
    if hold.kind is HoldKind.NODELETE and hold.origin != "pending":
        return f"Nothing unloads it in this process. {_nodelete_fix(library, hold)}"
    if hold.kind is HoldKind.OPEN_COUNT and hold.origin == "libc":
        return f"No dlclose of yours can lower this count: {_libc_purpose(library)[1]}."
    root = hold.root
    if root is not None:
        for kind, words in (
            (HoldKind.MAIN_PROGRAM, "is the main program"),
            (HoldKind.STARTUP, "was loaded at program start"),
            (HoldKind.AUDIT, "was loaded by LD_AUDIT"),
            (HoldKind.NODELETE, "is NODELETE"),
        ):
            if kind in root.kinds:
                return (
                    f"Nothing unloads it in this process, because {root.library} {words}; see dlstate {root.library}."
                )
    return ""


def _nodelete_fix(library: Library, hold: Hold) -> str:
    if hold.origin == "elf-flag":
        return f"Relink {library.name} without -z nodelete."
    if hold.origin == "unique-symbol":
        return (
            "Compile it with -fno-gnu-unique, or keep these symbols out of its dynamic symbol table "
            "(-fvisibility=hidden or a version script)."
        )
    if hold.origin == "bound-by-startup":
        return "Open it without RTLD_GLOBAL, or let the start-up object get the address by dlsym with the handle."
    if hold.origin == "dlopen-flag":
        return "Leave RTLD_NODELETE out of the dlopen that opened it."
    return (
        "Afterwards the two causes cannot be told apart: look for RTLD_NODELETE at its dlopen, and for "
        "dlsym(RTLD_DEFAULT) while it was RTLD_GLOBAL."
    )


def _conditions(hold: Hold) -> Iterator[_Condition]:
    if hold.kind is HoldKind.OPEN_COUNT:
        yield _Condition(f"dlclose has been called on it {times(hold.total)} more", collects=True)
    elif hold.kind is HoldKind.TLS_DESTRUCTORS:
        threads = sorted({d.thread.number for d in hold.destructors})
        if threads:
            noun, verb = ("thread", "has") if len(threads) == 1 else ("threads", "have")
            yield _Condition(f"{noun} {join([str(t) for t in threads])} {verb} exited")
        else:
            yield _Condition("the threads that owe it a destructor have exited")
    elif hold.kind is HoldKind.HALF_LOADED:
        yield _Condition("the dlopen in progress has returned")
    elif hold.kind is HoldKind.NODELETE:
        yield _Condition("the dlopen in progress has failed (if it succeeds, the library stays for good)")
    elif hold.root is not None:
        root = hold.root
        if HoldKind.OPEN_COUNT in root.kinds and root.opened_by == "libc":
            yield _Condition(f"libc has closed {root.library}, which it opened for itself", collects=True)
        elif HoldKind.OPEN_COUNT in root.kinds:
            yield _Condition(f"dlclose has closed {root.library}", collects=True)
        if HoldKind.TLS_DESTRUCTORS in root.kinds:
            yield _Condition(f"no thread owes {root.library} a TLS destructor")


def join(words: Iterable[str]) -> str:
    """Join words with commas and an "and"."""
    items = list(words)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
