"""Which DLL used to be at an address, and does a thread still point there?"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Optional

from ..memory import Memory
from ..model import Problem, ThreadRef
from ..paths import windows_base_name
from ..target import Target
from .loader.gone import find_unloads
from .loader.wow64 import find_wow64_thread
from .model import GoneDll, GoneDlls, Pointer, UnloadedImage
from .state import WindowsExamination

#: Bytes read of each thread's stack, and of all stacks.
MAX_STACK = 1 << 20
MAX_STACKS = 32 << 20
MAX_POINTERS = 64
#: Costs of a pointer that is found, and of one that is reported, in Memory's units.
_POINTER_UNITS, _TOLD_UNITS = 50, 300


def find_gone(target: Target, address: Optional[int], pid: Optional[int] = None) -> GoneDlls:
    """Find the unloaded modules (all, or the ones at an address), and the pointers into them.

    :param address: of the process; with it, stacks and registers are not searched for pointers.
    :param pid: a process of a machine, None for the current one.
    :raises UnsupportedError: if the target is not a Windows process.
    :raises NotFoundError: if the target has no such process.
    """
    examined = WindowsExamination(target, pid)
    problems = [*examined.target.problems()]
    found, lost = _collect(examined, problems)
    loaded = sorted(
        {(dll.start, dll.end, dll.name) for dll in examined.dlls() if dll.start < dll.end}
        | {(i.base, i.base + i.size, windows_base_name(i.path)) for i in examined.images.values()}
    )
    now: Optional[str] = None
    if address is not None:
        now = _name_at(loaded, address)
        found = [gone for gone in found if gone.image.base <= address < gone.image.base + gone.image.size]
        found = [
            gone._replace(
                offset=address - gone.image.base,
                confidence="likely" if now else "certain" if len(found) == 1 else "candidate",
            )
            for gone in found
        ]
    else:
        found = _with_pointers(examined, found, loaded, problems)
    late = [problem for problem in examined.target.problems() if problem not in problems]
    return GoneDlls(
        examined.target_info(),
        examined.loader_info(),
        tuple(found),
        address,
        now,
        lost,
        problems=(*problems, *late, *examined.memory.problems()),
    )


def _collect(examined: WindowsExamination, problems: list[Problem]) -> tuple[list[GoneDll], Optional[int]]:
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
    for image in examined.target.unloaded_images():
        known = recorded.get(_identity(image))
        if known:
            recorded[_identity(image)] = known._replace(sources=("loader", "module-list"))
        else:
            streamed[_identity(image)] = GoneDll(image, ("module-list",))
    return [*streamed.values(), *recorded.values()], lost


def _identity(image: UnloadedImage) -> tuple[str, int, int, int]:
    # The ring cuts names at 32 characters.
    return image.name[:32].lower(), image.base, image.size, image.timestamp


def _name_at(loaded: Sequence[tuple[int, int, str]], address: int) -> Optional[str]:
    index = bisect_right(loaded, (address, 1 << 65, "")) - 1
    if index >= 0 and loaded[index][0] <= address < loaded[index][1]:
        return loaded[index][2]
    return None


def _with_pointers(
    examined: WindowsExamination,
    found: list[GoneDll],
    loaded: Sequence[tuple[int, int, str]],
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
    for thread, register, place, value in _words(examined, low, high, problems):
        owner = bisect_right(starts, value) - 1
        if value >= owners[owner][0][1]:
            continue
        is_told = len(pointers[owner]) < MAX_POINTERS
        if examined.memory.spend(_TOLD_UNITS if is_told else _POINTER_UNITS, "pointers into unloaded DLLs") and is_told:
            pointers[owner].append(Pointer(thread, value, register, place))
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


def _words(
    examined: WindowsExamination, low: int, high: int, problems: list[Problem]
) -> Iterator[tuple[ThreadRef, Optional[str], Optional[int], int]]:
    """Yield each register and stack word from ``low`` up to ``high``: thread, register or address, value."""
    target, memory = examined.target, examined.memory
    size = memory.pointer_size
    budget = MAX_STACKS
    has_wow64 = any(loader.kind == "wow64" for loader in examined.loaders)
    for thread in target.threads():
        who = ThreadRef(thread.number, thread.lwp, thread.name)
        registers = dict(target.registers(thread))
        teb = registers.pop("thread_pointer", 0)
        for name, value in registers.items():
            if low <= value < high:
                yield who, name, None, value
        stacks = []
        # _NT_TIB.StackBase, .StackLimit
        raw = memory.try_read(teb + size, 2 * size) if teb else None
        if raw is not None:
            base, limit = int.from_bytes(raw[:size], "little"), int.from_bytes(raw[size:], "little")
            stacks.append((registers.get("rsp" if size == 8 else "esp", 0), limit, base, size))
        narrow = find_wow64_thread(memory, teb) if has_wow64 else None
        if narrow is not None:
            for name, value in narrow.registers.items():
                if low <= value < high:
                    yield who, name, None, value
            stacks.append((narrow.registers.get("esp", 0), narrow.stack_limit, narrow.stack_base, 4))
        for pointer, limit, base, word in stacks:
            start = pointer if limit <= pointer < base else limit
            start -= start % word
            if budget <= 0:
                message = f"only those of the first {thread.number - 1} threads were looked at"
                problems.append(Problem("stacks", message))
                return
            end = min(base, start + MAX_STACK, start + budget)
            budget -= max(0, end - start)
            for address, words in _stack(memory, start, end, word):
                for index, value in enumerate(words):
                    if low <= value < high:
                        yield who, None, address + index * word, value


def _stack(memory: Memory, start: int, end: int, size: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the readable part of a stack, page by page, as words of ``size`` bytes."""
    address = start
    while address < end:
        step = min(end, address - address % 4096 + 4096) - address
        data = memory.try_read(address, step)
        if data is not None:
            count = step // size
            yield address, struct.unpack_from(f"<{count}{'Q' if size == 8 else 'I'}", data)
        address += step
