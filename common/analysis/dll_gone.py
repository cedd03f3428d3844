"""Which DLL used to be at this address, and does a thread still point there?"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Optional

from ..loaders.windows_gone import find_unloads
from ..memory import Memory
from ..model import Problem, ThreadRef
from ..target import Target
from ..winmodel import GoneDll, GoneDlls, Pointer, UnloadedImage
from ..wintarget import WindowsTarget
from .dll_state import WindowsExamination

#: How much of each thread's stack is looked at, and of how many threads.
MAX_STACK = 1 << 20
MAX_THREADS = 4096
MAX_POINTERS = 64

_POINTER_REGISTERS_SKIPPED = frozenset({"thread_pointer"})


def find_gone(target: Target, address: Optional[int], pid: Optional[int] = None) -> GoneDlls:
    """Find the modules that were unloaded, those at an address if one is given, and what still points into them.

    :raises UnsupportedError: if it is no process of Windows.
    """
    examined = WindowsExamination(target, pid)
    problems = [*examined.target.problems()]
    found, lost = _collect(examined, problems)
    loaded = sorted(
        {(dll.start, dll.end, dll.name) for dll in examined.dlls() if dll.start < dll.end}
        | {(i.base, i.base + i.size, i.path.replace("/", "\\").rsplit("\\", 1)[-1]) for i in examined.images.values()}
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
        found = _with_pointers(examined, found, loaded)
    return GoneDlls(
        examined.target_info(), examined.loader_info(), tuple(found), address, now, lost, problems=tuple(problems)
    )


def _collect(examined: WindowsExamination, problems: list[Problem]) -> tuple[list[GoneDll], Optional[int]]:
    """Join the loader's own events with those that the dump or debugger recorded: the same is the same module."""
    recorded: dict[tuple[str, int, int, int], GoneDll] = {}
    lost: Optional[int] = None
    for loader in examined.loaders:
        record, problem = find_unloads(loader)
        if problem:
            problems.append(problem)
        if record:
            lost = (lost or 0) + (record.lost or 0)
            for event in record.events:
                # The same module at the same place twice: the newer event stands for both.
                recorded.pop(_identity(event), None)
                recorded[_identity(event)] = GoneDll(event, ("loader",))
    streamed: list[GoneDll] = []
    for image in examined.target.unloaded_images():
        known = recorded.get(_identity(image))
        if known:
            recorded[_identity(image)] = known._replace(sources=("loader", "stream"))
        else:
            gone = GoneDll(image, ("stream",))
            if gone not in streamed:
                streamed.append(gone)
    return [*streamed, *recorded.values()], lost


def _identity(image: UnloadedImage) -> tuple[str, int, int, int]:
    # The ring cuts names at 32 characters.
    return image.name[:32].lower(), image.base, image.size, image.timestamp


def _name_at(loaded: Sequence[tuple[int, int, str]], address: int) -> Optional[str]:
    index = bisect_right(loaded, (address, 1 << 65, "")) - 1
    if index >= 0 and loaded[index][0] <= address < loaded[index][1]:
        return loaded[index][2]
    return None


def _with_pointers(
    examined: WindowsExamination, found: list[GoneDll], loaded: Sequence[tuple[int, int, str]]
) -> list[GoneDll]:
    """Add what points into each range that nothing uses now: registers, and words of the stacks."""
    if not found:
        return found
    free = [g for g in found if not any(s < g.image.base + g.image.size and g.image.base < e for s, e, _ in loaded)]
    # The newest owner of a range is who a stale pointer is about.
    owners = sorted({(g.image.base, g.image.base + g.image.size): g for g in free}.items())
    starts = [span[0] for span, _ in owners]
    pointers: dict[GoneDll, list[Pointer]] = {gone: [] for gone in found}

    def note(value: int, thread: ThreadRef, register: Optional[str], place: Optional[int]) -> None:
        index = bisect_right(starts, value) - 1
        if index >= 0 and value < owners[index][0][1]:
            pointers[owners[index][1]].append(Pointer(thread, value, register, place))

    low, high = (starts[0], max(span[1] for span, _ in owners)) if owners else (0, 0)
    for number, (thread, register, place, value) in enumerate(_words(examined.target, examined.memory)):
        if low <= value < high:
            note(value, thread, register, place)
        del number
    return [
        gone._replace(
            pointers=tuple(pointers[gone][:MAX_POINTERS]),
            pointers_omitted=max(0, len(pointers[gone]) - MAX_POINTERS),
        )
        for gone in found
    ]


def _words(target: WindowsTarget, memory: Memory) -> Iterator[tuple[ThreadRef, Optional[str], Optional[int], int]]:
    """Yield each register and stack word of each thread: thread, register or address, value."""
    size = memory.pointer_size
    for thread in list(target.threads())[:MAX_THREADS]:
        who = ThreadRef(thread.number, thread.lwp, thread.name)
        registers = dict(target.registers(thread))
        teb = registers.get("thread_pointer", 0)
        for name, value in registers.items():
            if name not in _POINTER_REGISTERS_SKIPPED:
                yield who, name, None, value
        pointer = registers.get("rsp" if size == 8 else "esp", 0)
        # _NT_TIB.StackBase, .StackLimit
        raw = memory.try_read(teb + size, 2 * size) if teb else None
        if raw is None:
            continue
        base, limit = int.from_bytes(raw[:size], "little"), int.from_bytes(raw[size:], "little")
        start = pointer if limit <= pointer < base else limit
        for address, words in _stack(memory, start - start % size, min(base, start + MAX_STACK), size):
            for index, value in enumerate(words):
                yield who, None, address + index * size, value


def _stack(memory: Memory, start: int, end: int, size: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield what is there of a stack, page by page."""
    address = start
    while address < end:
        step = min(end, address - address % 4096 + 4096) - address
        if memory.try_read(address, step) is not None:
            yield address, memory.words(address, step // size)
        address += step
