"""How does a verdict on a library read?"""

from __future__ import annotations

from ..counts import quantity
from ..linux.model import Hold, HoldKind, Library, Root, StaticTls
from .words import join, times

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
    "dlopen-flag-or-dlsym": "NODELETE (RTLD_NODELETE or dlsym)",
}

_STARTUP_REMEDIES = {
    "needed": "What is loaded at program start stays until the process ends.",
    "preload": "A preloaded library stays until the process ends; start the process without it.",
    "vdso": "The kernel maps it into every process.",
    "rtld": "The dynamic loader stays until the process ends.",
    "proxy": "It is namespace 0's ld.so under another entry; the entry goes with its namespace, ld.so stays.",
}

#: What is said of a library that something keeps for good.
NOTHING_UNLOADS = "Nothing unloads it in this process."

#: What helps if too little of the static TLS block is left.
STATIC_TLS_REMEDY = (
    "Compile without -ftls-model=initial-exec, or start the process with "
    "GLIBC_TUNABLES=glibc.rtld.optional_static_tls=BYTES."
)
_SHOWN_PIECES = 8

#: Of a destructor that a thread owes which does not exist.
_LOST = (
    "If the process was forked while the thread ran, fork before the thread uses the library, or execute a program in "
    "the child."
)

_LIBC_PURPOSES = (
    ("libgcc_s", "thread cancellation and backtraces", "libc never closes it"),
    ("libnss_", "name service look-ups", "libc never closes it"),
    ("libidn2", "international host names", "libc never closes it"),
)


def because(library: Library) -> str:
    """Return the strongest hold in words, and the number of others."""
    if not library.holds:
        return "nothing keeps it" if library.held is False else "what keeps it is not known"
    more = len(library.holds) - 1 + library.holds_omitted
    return brief(library.holds[0]) + (f" +{more} more" if more else "")


def brief(hold: Hold) -> str:
    """Return a hold in words, without symbols, which can be long."""
    if hold.kind is HoldKind.NODELETE:
        return _NODELETE_BRIEFS[hold.origin] if hold.origin is not None else "NODELETE (cause not known)"
    if hold.kind in (HoldKind.DEPENDENCY, HoldKind.RELOCATION):
        verb = "needed" if hold.kind is HoldKind.DEPENDENCY else "bound"
        return f"{verb} by {hold.chain[-2]}{_root_note(hold)}"
    if hold.kind is HoldKind.TLS_DESTRUCTORS:
        return quantity(hold.total or 0, "pending TLS destructor")
    return reason(hold)


def reason(hold: Hold) -> str:
    """Return a hold in words, with one symbol."""
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
        ending = ", owed by a thread that does not exist here" if hold.never_ends else ""
        return quantity(hold.total or 0, "pending TLS destructor") + ending
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
    if hold.origin is None:
        return "NODELETE, for a cause that could not be read"
    if hold.origin == "pending":
        return "to become NODELETE when the dlopen in progress ends"
    return "NODELETE, by RTLD_NODELETE or a dlsym(RTLD_DEFAULT) of what was loaded at start"


def _more_symbols(hold: Hold) -> str:
    more = len(hold.symbols) - 1 + hold.symbols_omitted
    return f" and {more} more" if more else ""


def _symbol_note(hold: Hold) -> str:
    return f" through {hold.symbols[0]}{_more_symbols(hold)}" if hold.symbols else ""


def _root_note(hold: Hold) -> str:
    root = hold.root
    if root is None or root.library != hold.chain[-2]:
        return f" (kept by {root.library})" if root else ""
    return f" ({root_words(root)})"


_ROOT_WORDS = {
    HoldKind.MAIN_PROGRAM: "the main program",
    HoldKind.STARTUP: "loaded at program start",
    HoldKind.AUDIT: "loaded by LD_AUDIT",
    HoldKind.NODELETE: "NODELETE",
    HoldKind.OPEN_COUNT: "open",
    HoldKind.TLS_DESTRUCTORS: "pending TLS destructors",
}


def root_words(root: Root) -> str:
    """Return in words why the root of a chain stays."""
    return ", ".join(_ROOT_WORDS[kind] for kind in root.kinds)


def base_words(library: Library) -> str:
    """Return the base of a library; "?" if unknown."""
    return "?" if library.base is None else f"{library.base:#x}"


def range_words(library: Library) -> str:
    """Return the range of a library's mappings; "?" if unknown."""
    return "?" if library.start is None or library.end is None else f"{library.start:#x}-{library.end:#x}"


def libc_purpose(library: Library) -> tuple[str, str]:
    """Return what libc opened a library for, noting that it never closes it; empty for other libraries."""
    for prefix, purpose, ending in _LIBC_PURPOSES:
        if library.name.startswith(prefix):
            return purpose, ending
    return "character set conversion (iconv)", "libc closes it some time after the last iconv_close"


def unless_lost(owed: str, name: str, advice: str) -> str:
    """Return advice on a library for the case that the threads exist which owe a destructor, and were not seen."""
    return (
        f"A thread that was not seen, or does not exist, owes {owed} a TLS destructor. If it does not exist, nothing "
        f"unloads {name} in this process; otherwise {advice}"
    )


def permanent_remedy(library: Library, hold: Hold) -> str:
    """Return what would have prevented a permanent hold; empty for other holds."""
    if hold.kind is HoldKind.MAIN_PROGRAM:
        return "The main program stays until the process ends."
    if hold.kind is HoldKind.STARTUP:
        return _STARTUP_REMEDIES[hold.origin or "needed"]
    if hold.kind is HoldKind.NEVER_UNLOADS:
        return "Nothing unloads it: musl's dlclose only checks the handle, and destructors run at exit."
    if hold.kind is HoldKind.AUDIT:
        return "Audit libraries stay until the process ends; start the process without LD_AUDIT."
    if hold.kind is HoldKind.NODELETE and hold.origin != "pending":
        return NOTHING_UNLOADS
    if hold.kind is HoldKind.OPEN_COUNT and hold.origin == "libc":
        return f"No dlclose of yours can lower this count: {libc_purpose(library)[1]}."
    if hold.kind is HoldKind.TLS_DESTRUCTORS and hold.never_ends:
        return (
            f"Nothing unloads it in this process: a thread that does not exist here owes it a TLS destructor. {_LOST}"
        )
    root = hold.root
    if root is not None and root.never_ends:
        return (
            f"Nothing unloads it in this process, because a thread that does not exist here owes {root.library} a TLS "
            f"destructor. {_LOST}"
        )
    if root is not None:
        for kind, words in (
            (HoldKind.MAIN_PROGRAM, "is the main program"),
            (HoldKind.STARTUP, "was loaded at program start"),
            (HoldKind.AUDIT, "was loaded by LD_AUDIT"),
            (HoldKind.NODELETE, "is NODELETE"),
        ):
            if kind in root.kinds:
                return f"Nothing unloads it in this process, because {root.library} {words}."
    return ""


def static_tls_words(found: StaticTls) -> str:
    """Return in words how much of the static TLS block is free, and who has the rest."""
    pieces = sorted(found.held, key=lambda each: -each[1])
    others = sum(size for _, size in pieces[_SHOWN_PIECES:])
    parts = [f"{size} in {name}" for name, size in pieces[:_SHOWN_PIECES]]
    parts += [f"{others} in others"] if others else []
    parts += [f"{found.lost} lost to libraries that were unloaded, or to alignment"] if found.lost else []
    used = f": {join(parts)}" if parts else ""
    return f"{found.free} of {found.size} bytes are free{used}"
