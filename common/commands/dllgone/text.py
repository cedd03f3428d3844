"""How does an answer about unloaded DLLs read?  Written once for all hosts."""

from __future__ import annotations

from collections.abc import Iterator

from ...render.dll_words import SHOWN_NAMES
from ...render.document import Document, Facts, Part, Sentence, Table
from ...render.words import join, layout_parts, problem_parts, quantity
from ...windows.model import GoneDll, GoneDlls

_SHOWN_POINTERS = 4


def dll_gone_view(answer: GoneDlls, verbose: bool) -> Document:
    """Build the text of an answer about unloaded DLLs."""
    notes: list[Part] = []
    if verbose:
        notes += layout_parts(answer.target, answer.loader)
    if answer.overwritten_events:
        notes.append(Sentence(f"{answer.overwritten_events} older unloads were overwritten in the loader's record."))
    notes += problem_parts(answer.problems)
    return Document((Sentence(_gone_answer(answer)), *_gone_parts(answer, verbose), *notes, *_gone_remedy(answer)))


def _gone_answer(answer: GoneDlls) -> str:
    gone = answer.unloaded
    if answer.address is None:
        if not gone:
            return "No unloaded DLL is on record."
        pointed = sum(bool(each.pointers) for each in gone)
        tail = f"; a thread still points into {pointed} of them" if pointed else ""
        return f"{quantity(len(gone), 'unloaded DLL')} on record{tail}."
    where = f"{answer.address:#x}"
    if answer.loaded_at_address and not gone:
        return f"{where} lies in {answer.loaded_at_address}, which is loaded."
    if not gone:
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
            thread = f"thread {pointer.thread.number} (TID {pointer.thread.tid:#x})"
            place = pointer.register or f"stack at {pointer.address:#x}"
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
