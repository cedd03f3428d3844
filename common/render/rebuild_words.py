"""How does it read what must be built or opened otherwise?"""

from __future__ import annotations

from collections.abc import Sequence

from ..linux.rebuild_model import Fix, FixKind, Hiding, Obstacle, ObstacleKind, Rebuild
from .words import join

_SHOWN_SYMBOLS = 2

#: Why a library should stay.
_DO_NOT = {
    ObstacleKind.GO_RUNTIME: (
        "its Go runtime has threads and signal handlers that never end, and without its code the process crashes"
    ),
    ObstacleKind.ON_PURPOSE: (
        "it is linked with -z nodelete on purpose, because it is still called after a dlclose, at exit or by threads"
    ),
    ObstacleKind.SYSTEM: "it is a library of the system, built to stay once it is loaded",
}


def rebuild_words(name: str, rebuild: Rebuild) -> str:
    """Return as sentences what lets a library go in another process; for one that must stay, why."""
    if rebuild.obstacle is not None:
        return _obstacle_words(name, rebuild.obstacle)
    sentences = [_fix_words(fix) for fix in rebuild.fixes]
    if len(sentences) < 2:
        return "".join(sentences)
    numbered = [f"({number}) {sentence}" for number, sentence in enumerate(sentences, 1)]
    return f"Only all of this together lets it go: {' '.join(numbered)}"


def _obstacle_words(name: str, obstacle: Obstacle) -> str:
    other = obstacle.library
    if obstacle.kind is ObstacleKind.TOO_MUCH:
        return "What keeps it is too much to look at, so there is no advice."
    if obstacle.kind is ObstacleKind.UNREAD:
        return f"What made {other} NODELETE could not all be read, so there is no advice."
    if obstacle.kind is ObstacleKind.MAIN_PROGRAM:
        return f"What keeps it is {other}, the main program."
    if obstacle.kind is ObstacleKind.STARTUP:
        return f"What keeps it is {other}, which was loaded at program start."
    if obstacle.kind is ObstacleKind.AUDIT:
        return f"What keeps it is {other}, which was loaded by LD_AUDIT; start the process without that."
    if obstacle.kind is ObstacleKind.THREADS:
        return (
            f"Do not try to unload {other} as long as threads run in its code, which is perhaps why it is linked with "
            "-z nodelete: it could be linked without that if its destructors ended them."
        )
    kept = "" if other == name else ", which keeps it"
    return f"Do not try to unload {other}{kept}: {_DO_NOT[obstacle.kind]}."


def _fix_words(fix: Fix) -> str:
    if fix.kind is FixKind.HIDE_SYMBOLS:
        return _hiding_words(fix)
    if fix.kind is FixKind.LINK_WITHOUT_NODELETE:
        return (
            f"Relink {fix.library} without -z nodelete, unless that is there because it has threads or exit handlers."
        )
    if fix.kind is FixKind.OPEN_WITHOUT_NODELETE:
        return f"Leave RTLD_NODELETE out of the dlopen that opens {fix.library}."
    if fix.kind is FixKind.OPEN_LOCALLY:
        what = _symbols(fix) if fix.symbols else "what it looks up by dlsym(RTLD_DEFAULT)"
        return (
            f"Open {fix.library} without RTLD_GLOBAL; let {join(fix.bound_by)} find {what} by dlsym with the handle "
            "instead."
        )
    return (
        f"Afterwards two causes cannot be told apart: leave RTLD_NODELETE out of the dlopen that opens {fix.library}, "
        "and open it without RTLD_GLOBAL, or look nothing of it up by dlsym(RTLD_DEFAULT)."
    )


def _hiding_words(fix: Fix) -> str:
    visibility = {
        Hiding.VISIBILITY: ", or by -fvisibility=hidden unless an attribute makes them visible",
        Hiding.ATTRIBUTE: ", or without the attribute that makes them visible in spite of -fvisibility=hidden",
    }
    other = next((words for way, words in visibility.items() if way in fix.ways), "")
    std = " -fvisibility=hidden does not hide what is of std::." if fix.std else ""
    if not fix.bound_by:
        return (
            f"Compile {fix.library} with -fno-gnu-unique, or keep these symbols out of its dynamic symbol table by a "
            f"version script{other}: {_symbols(fix)}.{std}"
        )
    verb = "is" if len(fix.bound_by) == 1 else "are"
    some = "some of them" if fix.some_unique else "them"
    return (
        f"Keep these symbols out of the dynamic symbol table of {fix.library} by a version script{other}, because "
        f"{join(fix.bound_by)} {verb} bound to {some}: {_symbols(fix)}.{std}"
    )


def _symbols(fix: Fix) -> str:
    shown: Sequence[str] = fix.symbols[:_SHOWN_SYMBOLS]
    more = len(fix.symbols) - len(shown) + fix.symbols_omitted
    return join([*shown, f"{more} more"] if more else list(shown))
