"""Which DLL used to be at an address, and does a thread still point there?"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from ..counts import quantity
from ..memory import Memory
from ..model import Problem, Thread, ThreadRef
from ..paths import windows_base_name
from ..target import Target
from .crash import ModuleRanges, describe_crash, instruction_addresses
from .loader.gone import find_unloads
from .loader.wow64 import find_wow64_thread
from .model import Crash, GoneDll, GoneDlls, Pointer, UnloadedImage
from .state import WindowsExamination
from .target import STACK_POINTERS, RaisedException

#: Bytes read of each thread's stack, and of all stacks.
MAX_STACK = 1 << 20
MAX_STACKS = 32 << 20
MAX_POINTERS = 64
#: Costs of a pointer that is found, and of one that is reported, in Memory's units.
_POINTER_UNITS, _TOLD_UNITS = 50, 300


def find_gone(target: Target, address: Optional[int], pid: Optional[int] = None) -> GoneDlls:
    """Find the unloaded modules (all, or the ones at an address), the pointers into them, and the exception's part.

    :param address: of the process; with it, stacks and registers are not searched for pointers.
    :param pid: a process of a machine, None for the current one.
    :raises UnsupportedError: if the target is not a Windows process.
    :raises NotFoundError: if the target has no such process.
    """
    examined = WindowsExamination(target, pid)
    problems = [*examined.target.problems()]
    recorded = _collect(examined, problems)
    found = recorded.unloaded
    dlls = examined.dlls(brief=True)
    loaded = sorted(
        {(dll.start, dll.end, dll.name) for dll in dlls if dll.start < dll.end}
        | {(i.base, i.base + i.size, windows_base_name(i.path)) for i in examined.images.values()}
    )
    problems += examined.gaps(dlls)
    ranges = ModuleRanges(loaded, [gone.image for gone in found])
    raised = examined.target.exception()
    crash = _describe_crash(examined, raised, ranges)
    now: Optional[str] = None
    if address is not None:
        place = ranges.find_loaded(address)
        now = None if place is None else place.module
        if raised is None or address not in instruction_addresses(raised):
            crash = None
        found = [gone for gone in found if gone.image.base <= address < gone.image.base + gone.image.size]
        found = [
            gone._replace(
                offset=address - gone.image.base,
                confidence="likely" if now else "certain" if len(found) == 1 else "candidate",
            )
            for gone in found
        ]
    else:
        found = _with_pointers(examined, found, loaded, raised, problems)
    late = [problem for problem in examined.target.problems() if problem not in problems]
    return GoneDlls(
        examined.target_info(),
        examined.loader_info(),
        tuple(found),
        address,
        now,
        recorded.lost,
        recorded.records,
        crash,
        problems=(*dict.fromkeys((*problems, *late)), *examined.memory.problems()),
    )


class _Recorded(NamedTuple):
    """The unloaded modules, how many were overwritten, and whose records could be read."""

    unloaded: list[GoneDll]
    lost: Optional[int]
    records: tuple[str, ...]


def _describe_crash(
    examined: WindowsExamination, raised: Optional[RaisedException], ranges: ModuleRanges
) -> Optional[Crash]:
    if raised is None:
        return None
    return describe_crash(examined.memory, raised, _thread_of(examined, raised), ranges)


def _thread_of(examined: WindowsExamination, raised: RaisedException) -> ThreadRef:
    """Return the thread of an exception; number -1 if it is not listed."""
    listed = (ThreadRef(each.number, each.lwp, each.name) for each in examined.target.threads())
    return next((thread for thread in listed if thread.tid == raised.tid), ThreadRef(-1, raised.tid, None))


def _collect(examined: WindowsExamination, problems: list[Problem]) -> _Recorded:
    """Join the loader's own events with the ones that the dump or debugger recorded; equal ones become one."""
    recorded: dict[tuple[str, int, int, int], GoneDll] = {}
    lost: Optional[int] = None
    for loader in examined.loaders:
        record, problem = find_unloads(loader)
        if problem:
            problems.append(problem)
        if record:
            lost = (lost or 0) + (record.lost or 0)
            for event in record.events:
                # The same module at the same address twice: only the newer event is kept.
                recorded.pop(_identity(event), None)
                recorded[_identity(event)] = GoneDll(event, ("loader",))
    streamed: dict[tuple[str, int, int, int], GoneDll] = {}
    images = examined.target.unloaded_images()
    for image in images or ():
        known = recorded.get(_identity(image))
        if known:
            recorded[_identity(image)] = known._replace(sources=("loader", "module-list"))
        else:
            streamed[_identity(image)] = GoneDll(image, ("module-list",))
    records = (*(("loader",) if lost is not None else ()), *(("module-list",) if images is not None else ()))
    if not records:
        message = "neither a list of them nor the loader's own record is there: which DLLs were unloaded is not known"
        problems.append(Problem("unloaded DLLs", message))
    return _Recorded([*streamed.values(), *recorded.values()], lost, records)


def _identity(image: UnloadedImage) -> tuple[str, int, int, int]:
    # The ring cuts names at 32 characters.
    return image.name[:32].lower(), image.base, image.size, image.timestamp


def _with_pointers(
    examined: WindowsExamination,
    found: list[GoneDll],
    loaded: Sequence[tuple[int, int, str]],
    raised: Optional[RaisedException],
    problems: list[Problem],
) -> list[GoneDll]:
    """Add to each module whose range is now unused the registers and stack words that point into it."""
    taken = _joined(loaded)
    free = [gone for gone in found if not _overlaps(taken, gone.image.base, gone.image.base + gone.image.size)]
    # A stale pointer is attributed to the newest owner of the range.
    owners = sorted({(gone.image.base, gone.image.base + gone.image.size): gone for gone in free}.items())
    if not owners:
        return found
    starts = [span[0] for span, _ in owners]
    low, high = starts[0], max(span[1] for span, _ in owners)
    pointers: list[list[Pointer]] = [[] for _ in owners]
    omitted = [0 for _ in owners]
    for pointer in (*_exception_words(examined, raised, low, high), *_words(examined, low, high, problems)):
        owner = bisect_right(starts, pointer.value) - 1
        if pointer.value >= owners[owner][0][1]:
            continue
        is_told = len(pointers[owner]) < MAX_POINTERS
        if examined.memory.spend(_TOLD_UNITS if is_told else _POINTER_UNITS, "pointers into unloaded DLLs") and is_told:
            pointers[owner].append(pointer)
        else:
            omitted[owner] += 1
    told = {
        gone: gone._replace(pointers=tuple(listed), pointers_omitted=more)
        for (_, gone), listed, more in zip(owners, pointers, omitted)
    }
    return [told.get(gone, gone) for gone in found]


def _joined(loaded: Sequence[tuple[int, int, str]]) -> list[tuple[int, int]]:
    """Join sorted ranges that touch or overlap."""
    joined: list[tuple[int, int]] = []
    for start, end, _ in loaded:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _overlaps(ranges: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    index = bisect_right(ranges, (end, 0)) - 1
    return index >= 0 and start < ranges[index][1] and ranges[index][0] < end


def _exception_words(
    examined: WindowsExamination, raised: Optional[RaisedException], low: int, high: int
) -> Iterator[Pointer]:
    """Yield each register of the exception's own context from ``low`` up to ``high``."""
    if raised is not None:
        thread = _thread_of(examined, raised)
        for name, value in sorted(raised.registers.items()):
            if low <= value < high:
                yield Pointer(thread, value, name, in_exception=True)


class _Stack(NamedTuple):
    """A thread's stack: its stack pointer, its bounds, and the size of its words.

    ``bounded`` is False if its end is not known: it is read as far as it can be.
    """

    pointer: int
    limit: int
    base: int
    word: int
    bounded: bool = True


def _words(examined: WindowsExamination, low: int, high: int, problems: list[Problem]) -> Iterator[Pointer]:
    """Yield each register and stack word from ``low`` up to ``high``."""
    target, memory = examined.target, examined.memory
    budget = MAX_STACKS
    threads = target.threads()
    if not threads:
        message = "none are listed: what registers and stacks still point to is not known"
        problems.append(Problem("threads", message))
    has_wow64 = any(loader.kind == "wow64" for loader in examined.loaders)
    unread = 0
    for thread in threads:
        who = ThreadRef(thread.number, thread.lwp, thread.name)
        registers = dict(target.registers(thread))
        teb = registers.pop("thread_pointer", 0)
        narrow = find_wow64_thread(memory, teb) if has_wow64 else None
        for name, value in (*sorted(registers.items()), *(sorted(narrow.registers.items()) if narrow else ())):
            if low <= value < high:
                yield Pointer(who, value, name)
        stacks = [_native_stack(examined, thread, teb, registers)]
        if narrow is not None:
            stacks.append(_Stack(narrow.registers.get("esp", 0), narrow.stack_limit, narrow.stack_base, 4))
        is_read = True
        for stack in stacks:
            if stack is None:
                is_read = False
                continue
            start = stack.pointer if stack.limit <= stack.pointer < stack.base else stack.limit
            start -= start % stack.word
            if budget <= 0:
                message = f"only those of the first {quantity(thread.number - 1, 'thread')} were looked at"
                problems.append(Problem("stacks", message))
                return
            end = min(stack.base, start + MAX_STACK, start + budget)
            read = 0
            for address, words in _pages(memory, start, end, stack):
                read += len(words) * stack.word
                for index, value in enumerate(words):
                    if low <= value < high:
                        yield Pointer(who, value, None, address + index * stack.word)
            budget -= max(0, end - start) if stack.bounded else read
            is_read = is_read and (read >= end - start - stack.word if stack.bounded else read > 0)
        unread += not is_read
    if unread:
        which = f"{unread} of {quantity(len(threads), 'thread')}"
        message = f"those of {which} cannot be read completely: pointers there are not found"
        problems.append(Problem("stacks", message))


def _native_stack(
    examined: WindowsExamination, thread: Thread, teb: int, registers: Mapping[str, int]
) -> Optional[_Stack]:
    """Find a thread's stack: by its TEB, else by the dump's list of threads, else from its stack pointer on."""
    memory = examined.memory
    size = memory.pointer_size
    pointer = next((registers[name] for name in STACK_POINTERS if name in registers), 0)
    # _NT_TIB.StackBase, .StackLimit
    raw = memory.try_read(teb + size, 2 * size) if teb else None
    if raw is not None:
        base, limit = int.from_bytes(raw[:size], "little"), int.from_bytes(raw[size:], "little")
        return _Stack(pointer, limit, base, size)
    listed = examined.target.stack(thread)
    if listed is not None:
        return _Stack(pointer, *listed, size)
    return _Stack(pointer, pointer, pointer + MAX_STACK, size, bounded=False) if pointer else None


def _pages(memory: Memory, start: int, end: int, stack: _Stack) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the readable part of a stack, page by page, as words; of one without known end up to the first gap."""
    address, size = start, stack.word
    while address < end:
        step = min(end, address - address % 4096 + 4096) - address
        data = memory.try_read(address, step)
        if data is not None:
            count = step // size
            yield address, struct.unpack_from(f"<{count}{'Q' if size == 8 else 'I'}", data)
        elif not stack.bounded:
            return
        address += step
