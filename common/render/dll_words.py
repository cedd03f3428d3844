"""How does a verdict on a DLL read?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..model import LoaderInfo, Problem, TargetInfo, ThreadRef
from ..windows.model import Dll, DllHold, DllHoldKind, HolderKind, LoaderRule, LoaderRules, LoadHolder
from .document import Part, Sentence
from .words import layout_parts, problem_parts, times

_PIN_REASONS = {
    "loader": "pinned by the loader at start",
    "explicit": "pinned while the process ran, by whom is not recorded",
    "inherited": "pinned",
    "shim": "pinned: an application shim put it there",
    "verifier": "pinned: an application verifier's provider",
    "clr": "pinned: managed code, which unloads with its AppDomain only",
    "unknown": "pinned, by what is not recorded",
}

_RULES = {
    LoaderRule.XP: "XP (16-bit counts along the import tables)",
    LoaderRule.WIN7: "Windows 7 (16-bit counts along the import tables)",
    LoaderRule.WIN8: "Windows 8 to 11 (one count for each edge of the graph)",
    LoaderRule.WINE: "Wine (16-bit counts along the edges of the graph)",
}

#: When an interpreter frees an extension module.
_RUNTIME_REMEDIES = {
    "python": "Python never frees one, so that it goes when the process ends; FreeLibrary crashes it",
    "node": "Node.js frees one when the environment that loaded it ends; FreeLibrary crashes it",
    "jvm": "the JVM frees one when the class loader that loaded it is collected; FreeLibrary crashes it",
    "lua": "Lua frees one when its state is closed; FreeLibrary crashes it",
    "ruby": "Ruby never frees one, so that it goes when the process ends; FreeLibrary crashes it",
}

#: Why FreeLibrary does nothing.
REFUSALS = {
    "static": "it is a static import of the program, so FreeLibrary returns at once and lowers nothing",
    "pinned": "it is pinned, so FreeLibrary returns at once and lowers nothing",
    "importers-only": "its whole count belongs to what imports it, so FreeLibrary is refused, and yet returns TRUE",
    "unloading": "it is being unloaded already",
    "process-exiting": "the process is exiting, where FreeLibrary does nothing",
}


def _rule_parts(rules: Sequence[LoaderRules], verbose: bool) -> Iterator[Part]:
    """Yield the rule that the verdicts follow, unless it is the one of all current Windows versions."""
    for each in rules:
        if verbose or each.rule is not LoaderRule.WIN8:
            which = "The 32-bit loader: by" if each.loader == "wow64" else "By"
            yield Sentence(f"{which} the rules of {_RULES[each.rule]}; {each.reason}.")


def dll_note_parts(
    target: TargetInfo,
    loader: LoaderInfo,
    rules: Sequence[LoaderRules],
    problems: Sequence[Problem],
    verbose: bool,
) -> Iterator[Part]:
    """Yield what an answer about DLLs rests on, and what could not be read for it."""
    if verbose:
        yield from layout_parts(target, loader)
    yield from _rule_parts(rules, verbose)
    yield from problem_parts(problems)


def dll_because(dll: Dll) -> str:
    """Return in a few words why a DLL stays."""
    if not dll.holds:
        if dll.held is not None:
            return ""
        return (
            "loaded while it ran; its count is not in memory" if dll.ldr_entry else "known from the module list alone"
        )
    more = len(dll.holds) - 1 + dll.holds_omitted
    return dll_reason(dll.holds[0], brief=True) + (f" +{more} more" if more else "")


def dll_reason(hold: DllHold, brief: bool = False) -> str:
    """Return a hold in words."""
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
    if kind is DllHoldKind.LOADING:
        return "a LoadLibrary that has not returned is loading it"
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
        DllHoldKind.LOADING: "being loaded",
    }
    return f" ({', '.join(words[kind] for kind in hold.root_kinds if kind in words)})"


def load_words(name: str, holder: LoadHolder) -> str:
    """Return in a few words whose a load of the DLL ``name`` is, and by what that shows."""
    if holder.thread is not None:
        return f"{_thread_words(holder.thread)}, which began in {name} at {holder.address:#x}"
    if holder.kind is HolderKind.COM:
        return f"COM: its table at {holder.address:#x} has its handle and DllGetClassObject"
    if holder.kind is HolderKind.DELAY_LOAD:
        return f"a delay load of {holder.library}, whose slot at {holder.address:#x} has its handle"
    return f"{holder.library}, of which it is an extension module (entry at {holder.address:#x})"


def _thread_words(thread: ThreadRef) -> str:
    return f"thread {thread.number} (TID {thread.tid:#x})"


def load_remedy(name: str, holder: LoadHolder) -> str:
    """Return what undoes a holder's load of the DLL ``name``, where FreeLibrary would crash."""
    if holder.thread is not None:
        frees = ", and frees it by FreeLibraryAndExitThread if the load is its own" if holder.frees_itself else ""
        who = _thread_words(holder.thread)
        return f"End {who} first: it began in {name}{frees}; a FreeLibrary before that crashes the process."
    if holder.kind is HolderKind.COM:
        if not holder.frees_itself:
            return "COM has loaded it: CoUninitialize alone frees it, without DllCanUnloadNow; FreeLibrary crashes COM."
        return (
            "COM has loaded it: CoFreeUnusedLibraries frees it once its DllCanUnloadNow returns S_OK, CoUninitialize "
            "always; FreeLibrary crashes COM."
        )
    if holder.kind is HolderKind.DELAY_LOAD:
        linked = "" if holder.frees_itself else f" once {holder.library} is linked with /DELAY:UNLOAD"
        return (
            f'{holder.library} has delay-loaded it: __FUnloadDelayLoadedDLL2("{name}") in {holder.library} frees '
            f"it{linked}; FreeLibrary crashes its next call."
        )
    return f"{holder.library} has loaded it as an extension module: {_RUNTIME_REMEDIES[holder.runtime or '']}."


def foreign_loads(holders: Sequence[LoadHolder]) -> int:
    """Return how many loads are known to be those of holders: of threads that free the DLL at most one."""
    others = sum(holder.thread is None for holder in holders)
    return others + any(holder.thread is not None and bool(holder.frees_itself) for holder in holders)


SHOWN_NAMES = 16
SHOWN_STEPS = 8

PIN_REMEDIES = {
    "loader": "The loader's own DLLs stay until the process ends.",
    "explicit": "Look for GetModuleHandleEx with GET_MODULE_HANDLE_EX_FLAG_PIN, for it or for what imports it.",
    "inherited": "See dllstate {top}: it was pinned, and a pin takes all imports along.",
    "shim": "Start the process without the shim.",
    "verifier": "Start the process without the verifier.",
    "clr": "Unload its AppDomain or AssemblyLoadContext; the runtime itself stays.",
    "unknown": "Look for GetModuleHandleEx with GET_MODULE_HANDLE_EX_FLAG_PIN; before Windows 8 also for 65535 loads, "
    "and on XP for a TLS directory.",
}


def count_words(dll: Dll) -> str:
    """Return the current load count of a DLL; "?" if unknown."""
    if dll.load_count is not None:
        return str(dll.load_count)
    return "pinned" if any(_is_pin(hold) for hold in dll.holds) else "?"


def _is_pin(hold: DllHold) -> bool:
    # The program is pinned wherever its count is in memory.
    is_main = hold.kind is DllHoldKind.MAIN_PROGRAM and bool(hold.evidence)
    return is_main or hold.kind in (DllHoldKind.STATIC_IMPORT, DllHoldKind.PINNED)


def dll_names(names: Sequence[str], verbose: bool, limit: int = SHOWN_NAMES) -> str:
    """Return the names of some DLLs as a list in words, all of them with ``verbose``."""
    shown = list(names) if verbose else list(names[:limit])
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def permanent_words(hold: DllHold) -> str:
    """Return why a hold is permanent."""
    if hold.kind is DllHoldKind.MAIN_PROGRAM:
        return "The program stays until the process ends."
    if hold.kind is DllHoldKind.STATIC_IMPORT:
        return (
            "What the program imports stays until the process ends; a delay load (/DELAYLOAD) or LoadLibrary makes it "
            "one that can go."
        )
    if hold.kind is DllHoldKind.PINNED:
        fix = PIN_REMEDIES[hold.origin or "unknown"].format(top=hold.chain[0] if hold.chain else "")
        return f"Nothing unloads it in this process. {fix}"
    return ""
