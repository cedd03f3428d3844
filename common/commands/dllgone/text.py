"""How does an answer about unloaded DLLs read?  Written once for all hosts."""

from __future__ import annotations

from collections.abc import Iterator

from ...counts import quantity
from ...render.dll_words import SHOWN_NAMES
from ...render.document import Document, Facts, Part, Sentence, Table
from ...render.words import join, layout_parts, problem_parts
from ...windows.model import Crash, CrashWord, GoneDll, GoneDlls

_SHOWN_POINTERS = 4
_TARGETS = {"dump": "This dump", "live": "This process"}
#: Of ntstatus.h, and C++'s.
_EXCEPTIONS = {
    0x80000003: "breakpoint",
    0xC0000005: "access violation",
    0xC0000006: "page cannot be read",
    0xC000001D: "illegal instruction",
    0xC0000374: "heap corruption",
    0xC0000409: "fail fast",
    0xC00000FD: "stack overflow",
    0xE06D7363: "C++ exception",
}


def dll_gone_view(answer: GoneDlls, verbose: bool) -> Document:
    """Build the text of an answer about unloaded DLLs."""
    notes: list[Part] = []
    if verbose:
        notes += layout_parts(answer.target, answer.loader)
    if answer.overwritten_events:
        overwritten = quantity(answer.overwritten_events, "older unload was", "older unloads were")
        notes.append(Sentence(f"{overwritten} overwritten in the loader's record."))
    notes += problem_parts(answer.problems)
    sentences = [Sentence(_gone_answer(answer)), *(Sentence(text) for text in _crash_sentences(answer, verbose))]
    if answer.address is None:
        sentences = [*sentences[1:], sentences[0]]
    return Document((*sentences, *_gone_parts(answer, verbose), *notes, *_gone_remedy(answer)))


def _crash_sentences(answer: GoneDlls, verbose: bool) -> Iterator[str]:
    """Yield what an exception had to do with unloaded DLLs or with no module; with ``verbose`` all of it."""
    crash = answer.crash
    if crash is None or not (verbose or any(word.unloaded is not False for word in crash.words)):
        return
    name = _EXCEPTIONS.get(crash.code)
    number = f"thread {crash.thread.number} " if crash.thread.number >= 0 else "a thread that is not listed "
    yield (
        f"Exception {crash.code:#x}{f' ({name})' if name else ''} in {number}(TID {crash.thread.tid:#x}): "
        + "; ".join([_crash_words(answer, crash, word) for word in crash.words])
        + (f"; called from {crash.caller.module}+{crash.caller.offset:#x}" if crash.caller else "")
        + "."
    )


def _crash_words(answer: GoneDlls, crash: Crash, word: CrashWord) -> str:
    if word.module is not None:
        place = f"{word.module or 'a module without a name'}+{word.offset or 0:#x}"
        place += ", which is unloaded" if word.unloaded else ""
    elif answer.records:
        place = "in no module that is loaded, or unloaded and on record"
    else:
        place = "in no loaded module, and of unloaded ones there is no record"
    if word.role == "instruction":
        return f"raised at {word.value:#x}, {place}"
    if word.role == "data":
        return f"the {crash.access or 'access'} was of {word.value:#x}, {place}"
    holder = f"the object at {word.register}" if word.register else "what was accessed"
    return f"{holder} begins with {word.value:#x}, {place}"


def _gone_answer(answer: GoneDlls) -> str:
    gone = answer.unloaded
    if answer.address is None:
        if not gone:
            if not answer.records:
                return f"{_TARGETS.get(answer.target.kind, 'This target')} has no record of unloaded DLLs."
            return "No unloaded DLL is on record."
        pointed = sum(bool(each.pointers) for each in gone)
        tail = f"; a thread still points into {pointed} of them" if pointed else ""
        return f"{quantity(len(gone), 'unloaded DLL')} on record{tail}."
    where = f"{answer.address:#x}"
    if answer.loaded_at_address and not gone:
        return f"{where} lies in {answer.loaded_at_address}, which is loaded."
    if not gone:
        if not answer.records:
            return f"{where} lies in no loaded DLL, and there is no record of unloaded ones."
        return f"{where} lies in no unloaded DLL that is on record."
    if len(gone) > 1 or answer.loaded_at_address:
        now = f" It lies in {answer.loaded_at_address} now." if answer.loaded_at_address else ""
        names = join([_place(each) for each in reversed(gone[-SHOWN_NAMES:])])
        several = "one of these was there" if len(gone) > 1 else "this was there before"
        return f"{where}: {several}: {names}.{now}"
    return f"{where} was {_place(gone[0])}, which is unloaded."


def _place(gone: GoneDll) -> str:
    return f"{gone.image.name or 'a module without a name'}+{gone.offset or 0:#x}"


def _gone_parts(answer: GoneDlls, verbose: bool) -> Iterator[Part]:
    if not answer.unloaded:
        return
    shown = answer.unloaded if verbose else answer.unloaded[-64:]
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
    if len(shown) < len(answer.unloaded):
        rows.append(("", f"and {len(answer.unloaded) - len(shown)} older; -v shows them", "", "", "", ""))
    titles = ("event", "unloaded", "range", "timestamp", "from", "" if answer.address is None else "confidence")
    keep = len(titles) if answer.address is not None else len(titles) - 1
    yield Table(titles[:keep], tuple(row[:keep] for row in rows))
    pointers = []
    for each in answer.unloaded:
        for pointer in each.pointers if verbose else each.pointers[:_SHOWN_POINTERS]:
            number = f"thread {pointer.thread.number}" if pointer.thread.number >= 0 else "a thread"
            thread = f"{number} (TID {pointer.thread.tid:#x})"
            place = pointer.register or f"stack at {pointer.address:#x}"
            place += " of the exception" if pointer.in_exception else ""
            offset = pointer.value - each.image.base
            pointers.append((thread, place, f"{pointer.value:#x}", f"{each.image.name or '?'}+{offset:#x}"))
        hidden = each.pointers_omitted + (0 if verbose else max(0, len(each.pointers) - _SHOWN_POINTERS))
        if hidden:
            pointers.append(("", f"and {hidden} more into {each.image.name or '?'}", "", ""))
    if pointers:
        yield Facts(tuple(pointers))


def _gone_remedy(answer: GoneDlls) -> Iterator[Part]:
    if len(answer.unloaded) == 1 and answer.address is not None and not answer.loaded_at_address:
        image = answer.unloaded[0].image
        yield Sentence(
            f"Its symbols: {image.name}, timestamp {image.timestamp:08X}, size {image.size:x}; in WinDbg "
            f".reload /unl {image.name.partition('.')[0]}."
        )
