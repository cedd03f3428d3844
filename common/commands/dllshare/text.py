"""How does an answer about mapped files read?  Written once for all hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ...counts import quantity
from ...render.document import Document, Facts, Part, Sentence, Table
from ...render.text import INDENT, MAX_WIDTH
from ...render.words import layout_parts, problem_parts
from ...windows.model import Allowed, FileOperation, FileView, MappedFile, OpenFile, SectionUse, Share

_LABEL = 11
_VERBOSE_LABEL = len("posix-delete")
_SHOWN_PROCESSES = 16
_SHOWN_NAMESAKES = 8
_IN_TEXT = ("rename", "delete", "overwrite")


def share_view(share: Share, verbose: bool) -> Document:
    """Build the text of an answer: one file in detail, or several in a table."""
    notes: list[Part] = list(layout_parts(share.target, share.loader)) if verbose else []
    notes += problem_parts(share.problems)
    wide = share.target.arch == "x86_64"
    if share.asked is not None and len(share.files) == 1:
        file = share.files[0]
        return Document((*_file_parts(file, wide, verbose), *notes, Sentence(_remedy(file))))
    return Document((*_table_parts(share), *notes))


# -- several files --------------------------------------------------------------------------------------------


def _table_parts(share: Share) -> Iterator[Part]:
    files = share.files
    count = quantity(len(files), "mapped file" if all(file.mappings for file in files) else "file")
    if share.asked is not None:
        yield Sentence(f"{count} match {share.asked}:")
    else:
        stuck = sum(_operation(file, "rename").allowed is Allowed.NO for file in files)
        yield Sentence(f"{count}: {stuck} cannot even be renamed, {len(files) - stuck} can or may be.")
    rows = tuple(
        (
            file.base_name or f"name at {file.file_name_address or 0:#x} cannot be read",
            *(_operation(file, name).allowed.value for name in _IN_TEXT),
            "/".join("image" if section.image else "data" for section in file.sections),
            _mapped_by(file),
        )
        for file in files
    )
    yield Table(("file", *_IN_TEXT, "section", "mapped by"), rows)
    yield from _namesake_parts(share)


def _namesake_parts(share: Share) -> Iterator[Part]:
    """Yield how files of one name differ, and which of them is newer."""
    wide = share.target.arch != "i386"
    groups: dict[str, list[MappedFile]] = {}
    for file in share.files:
        if file.base_name:
            groups.setdefault(file.base_name.lower(), []).append(file)
    namesakes = [group for group in groups.values() if len(group) > 1]
    if not namesakes:
        return
    rows = [
        (file.base_name, _main_area(file, wide), _size_words(file), _link_words(file), _mapped_by(file))
        for group in namesakes[:_SHOWN_NAMESAKES]
        for file in group
    ]
    yield Table(("of one name", "control area", "size", "linked", "mapped by"), tuple(rows))
    for group in namesakes[:_SHOWN_NAMESAKES]:
        yield Sentence(f"{quantity(len(group), 'file')} are named {group[0].base_name}: {_newest_words(group, wide)}.")
    yield Sentence(
        "A name is that by which a file was opened: one that was renamed while it was mapped keeps its old one here. "
        "Ask about one of them by its control area: dllshare ADDRESS."
    )


def _main_area(file: MappedFile, wide: bool) -> str:
    return _pointer(file.sections[0].control_area, wide) if file.sections else "?"


def _size_words(file: MappedFile) -> str:
    return "?" if file.image_bytes is None else f"{file.image_bytes:#x}"


def _link_words(file: MappedFile) -> str:
    if file.link_time is not None:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(file.link_time))
    return "?" if file.timestamp is None else f"a hash, or not known ({file.timestamp:#x})"


def _newest_words(group: Sequence[MappedFile], wide: bool) -> str:
    times = [file.link_time for file in group if file.link_time is not None]
    newest = [file for file in group if file.link_time == max(times, default=None)]
    if len(times) < len(group):
        return "which is newer is not known, because not all link dates are"
    if len(newest) > 1:
        return "which is newer is not known: their link dates are the same"
    return f"that of control area {_main_area(newest[0], wide)} is the newest by link date"


def _mapped_by(file: MappedFile) -> str:
    processes = list(dict.fromkeys(f"{mapping.process_name} ({mapping.pid})" for mapping in file.mappings))
    if not processes:
        openers = list(dict.fromkeys(f"{opener.process_name} ({opener.pid})" for opener in file.openers))
        more = f" +{len(openers) - 1}" if len(openers) > 1 else ""
        return f"nobody; open in {openers[0]}{more}" if openers else ""
    return " ".join(processes[:2]) + (f" +{len(processes) - 2}" if len(processes) > 2 else "")


# -- one file -------------------------------------------------------------------------------------------------


def _file_parts(file: MappedFile, wide: bool, verbose: bool) -> Iterator[Part]:
    unread = f"the name at {_pointer(file.file_name_address or 0, wide)} is paged out"
    if file.file_name_source == "loader":
        yield Sentence(f"{file.file_name} (as a loader lists it; {unread})")
    else:
        yield Sentence(file.file_name or f"({unread})")
    rows = [*_identity_rows(file, wide, verbose), *_operation_rows(file, verbose), *_other_rows(file)]
    width = _VERBOSE_LABEL if verbose else _LABEL
    yield Facts(tuple((f"{label:<{width}} {text}",) for label, text in rows))
    if verbose:
        yield from _verbose_parts(file)


def _identity_rows(file: MappedFile, wide: bool, verbose: bool) -> Iterator[tuple[str, str]]:
    if file.mappings:
        yield "process", _mapping_words(file.mappings[0], wide)
    for section in file.sections if verbose else file.sections[:1]:
        yield "control area", _section_words(section, wide)
    if file.file is not None:
        yield "file object", _file_words(file.file, wide)


def _mapping_words(mapping: FileView, wide: bool) -> str:
    width = 16 if wide and mapping.end >> 32 else 8
    if mapping.vad is None:
        return f"System (0n{mapping.pid})   base {mapping.base:0{width}x}-{mapping.end:0{width}x}   kernel image"
    kind = "Mapped Exe" if mapping.image else "Mapped"
    commit = "" if mapping.commit_pages is None else f"  commit 0n{mapping.commit_pages}"
    bits = "  32-bit" if mapping.wow64 and mapping.end >> 32 == 0 else ""
    return (
        f"{mapping.process_name} (0n{mapping.pid})   base {mapping.base:0{width}x}-{mapping.end:0{width}x}   "
        f"VAD {mapping.vad:0{16 if wide else 8}x}  {kind} {mapping.protection}{commit}{bits}"
    )


def _section_words(section: SectionUse, wide: bool) -> str:
    parts = [quantity(section.mapped_views, "mapped view"), quantity(section.user_references, "user reference")]
    if section.section_references:
        parts.append(quantity(section.section_references, "section reference"))
    kind = "image section" if section.image else "data section"
    state = "" if section.in_use else ", only cached"
    return f"{_pointer(section.control_area, wide)}   {', '.join(parts)}   {kind}{state}"


def _file_words(file: OpenFile, wide: bool) -> str:
    masked = f" (fast ref {file.fast_ref} masked)" if file.fast_ref else ""
    handle = "handle open: sharing is enforced" if file.open else "handle closed: sharing no longer enforced"
    pending = "   delete pending" if file.delete_pending else ""
    rights = f"access {file.access}   sharing rwd: {file.sharing}"
    return f"{_pointer(file.address, wide)}{masked}   {rights}   {handle}{pending}"


def _operation(file: MappedFile, name: str) -> FileOperation:
    return next(operation for operation in file.operations if operation.name == name)


def _operation_rows(file: MappedFile, verbose: bool) -> Iterator[tuple[str, str]]:
    told: set[str] = set()
    posix = _operation(file, "posix-delete")
    for operation in file.operations:
        if not verbose and operation.name not in _IN_TEXT:
            continue
        whole = verbose or operation.allowed in (Allowed.PROBABLY, Allowed.DEPENDS)
        reason = operation.reason if whole else operation.reason.partition(";")[0]
        words = [_status_words(operation)] if operation.status else []
        if operation.name == "delete" and posix.allowed is Allowed.NO and not verbose:
            reason = f"{reason}; POSIX delete fails alike" if operation.allowed is Allowed.NO else reason
        first = reason.partition(";")[0]
        if operation.allowed is not Allowed.YES or verbose:
            if first not in told or verbose:
                words.append(reason)
            told.add(first)
        yield operation.name, f"{operation.allowed.value:<3}  {': '.join(words)}".rstrip()


def _status_words(operation: FileOperation) -> str:
    status = operation.status
    return f"{status.name} 0x{status.ntstatus:08X} → {status.win32_error_name} ({status.win32_error})" if status else ""


def _other_rows(file: MappedFile) -> Iterator[tuple[str, str]]:
    others: dict[str, None] = {}
    first = file.mappings[0] if file.mappings else None
    for mapping in file.mappings:
        if first is None or mapping.pid != first.pid:
            kind = ", as a kernel image" if mapping.vad is None else "" if mapping.image else ", as data"
            others[f"{mapping.process_name} (0n{mapping.pid}{kind})"] = None
    if others:
        yield from _listed("also mapped by ", list(others))
    if file.openers:
        words = [
            f"{each.process_name} (0n{each.pid}, handle {each.handle:x}, "
            + ("of a section)" if each.section else f"{each.file.access}{each.file.sharing})")
            for each in file.openers
        ]
        yield from _listed("open in", words)


def _listed(label: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the rows of a list, wrapped to the screen; the first row has the label."""
    more = len(words) - _SHOWN_PROCESSES
    shown = [*words[:_SHOWN_PROCESSES], *([f"and {more} more; -v or --json shows them"] if more > 0 else [])]
    room = MAX_WIDTH - len(INDENT) - max(len(label), _LABEL) - 1
    line = ""
    for number, word in enumerate(shown):
        piece = word if number == len(shown) - 1 else f"{word}, "
        if line and len(line) + len(piece.rstrip()) > room:
            yield label, line.rstrip()
            label, line = " " * len(label), ""
        line += piece
    yield label, line


def _verbose_parts(file: MappedFile) -> Iterator[Part]:
    rows = tuple(
        (
            mapping.process_name,
            str(mapping.pid),
            f"{mapping.base:x}-{mapping.end:x}",
            "" if mapping.vad is None else f"{mapping.vad:x}",
            "image" if mapping.image else "data",
            mapping.protection or "",
        )
        for mapping in file.mappings
    )
    if rows:
        yield Table(("process", "pid", "range", "VAD", "as", "protection"), rows)
    yield Facts(
        tuple(
            (f"{each.expression} = {each.value:#x}", f"at {each.address:#x}, offset {each.offset:#x}")
            for each in file.evidence
        )
    )
    handles = tuple(
        (
            opener.process_name,
            str(opener.pid),
            f"{opener.handle:x}",
            f"{opener.file.address:x}",
            opener.file.access + opener.file.sharing,
            f"{opener.granted_access:08x}",
        )
        for opener in file.openers
    )
    if handles:
        yield Table(("open in", "pid", "handle", "file object", "sharing", "granted"), handles)


def _remedy(file: MappedFile) -> str:
    rename, delete, overwrite = (_operation(file, name) for name in _IN_TEXT)
    if any(each.delete_pending for each in (file.file, *(opener.file for opener in file.openers)) if each):
        return "It goes when its last handle is closed and nothing maps it; then a new one can take its name."
    if delete.allowed is Allowed.YES and overwrite.allowed is Allowed.YES:
        return "Nothing stands in the way: replace it."
    if rename.allowed is Allowed.NO:
        who = ", ".join(
            dict.fromkeys(
                f"{o.process_name} (0n{o.pid})" for o in file.openers if "d" not in o.file.sharing and not o.section
            )
        )
        return (
            f"To replace it, close its handle in {who} first." if who else "To replace it, close its open handle first."
        )
    now = "To replace it now: rename it" if rename.allowed is Allowed.YES else "To replace it, try to rename it"
    return (
        f"{now} on the same volume, put the new file in place, delete the old one at the next boot "
        "(MoveFileEx … MOVEFILE_DELAY_UNTIL_REBOOT)."
    )


def _pointer(value: int, wide: bool) -> str:
    """Write an address as WinDbg does."""
    return f"{value >> 32:08x}`{value & 0xFFFFFFFF:08x}" if wide else f"{value:08x}"
