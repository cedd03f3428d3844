"""What did an exception have to do with DLLs that are unloaded?

The exception's own context counts, not the thread's: that one is in the handlers by the time a dump is written.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from ..memory import Memory
from ..model import ThreadRef
from .model import Crash, CrashCaller, CrashWord, UnloadedImage
from .target import LINK_REGISTER, PROGRAM_COUNTERS, STACK_POINTERS, RaisedException

#: EXCEPTION_ACCESS_VIOLATION and EXCEPTION_IN_PAGE_ERROR: their parameters are the kind of access and the address.
_ACCESS_ERRORS = frozenset({0xC0000005, 0xC0000006})
_ACCESSES = {0: "read", 1: "write", 8: "execute"}
#: How many words of the stack are looked at for a return address.
_CALLER_WORDS = 128
#: BL, BLR, and BLRAA and its kin, each after the mask of the bits that identify it.
_ARM64_CALLS = ((0xFC000000, 0x94000000), (0xFFFFFC1F, 0xD63F0000), (0xFEFFF800, 0xD63F0800))
#: The longest indirect call, in bytes; a relative call has 5.
_LONGEST_CALL = 7


class ModuleOffset(NamedTuple):
    """An address as the offset in a module, and whether that is unloaded."""

    module: str
    offset: int
    unloaded: bool


class ModuleRanges:
    """The ranges of the loaded modules, which take precedence, and of the unloaded ones."""

    def __init__(self, loaded: Sequence[tuple[int, int, str]], unloaded: Sequence[UnloadedImage]) -> None:
        """Create the ranges from sorted loaded ones, and from the unloaded modules, the newest last."""
        self._loaded = loaded
        self._unloaded = unloaded

    def find_loaded(self, address: int) -> Optional[ModuleOffset]:
        """Find the loaded module that an address lies in."""
        index = bisect_right(self._loaded, (address, 1 << 65, "")) - 1
        if index < 0 or not self._loaded[index][0] <= address < self._loaded[index][1]:
            return None
        start, _, name = self._loaded[index]
        return ModuleOffset(name, address - start, False)

    def find(self, address: int) -> Optional[ModuleOffset]:
        """Find the module that an address lies in; of unloaded ones the newest."""
        loaded = self.find_loaded(address)
        if loaded is not None:
            return loaded
        images = (image for image in reversed(self._unloaded) if image.base <= address < image.base + image.size)
        image = next(images, None)
        return None if image is None else ModuleOffset(image.name, address - image.base, True)


def describe_crash(memory: Memory, raised: RaisedException, thread: ThreadRef, ranges: ModuleRanges) -> Crash:
    """Describe an exception by the modules that it had to do with."""
    access, data = None, None
    if raised.code in _ACCESS_ERRORS and len(raised.parameters) >= 2:
        access, data = _ACCESSES.get(raised.parameters[0]), raised.parameters[1]
    words = list(_words(memory, raised, data, ranges))
    is_known = any(word.role == "instruction" and word.unloaded is False for word in words)
    caller = None if is_known else _find_caller(memory, raised, ranges)
    return Crash(thread, raised.code, raised.address, access, tuple(words), caller)


def instruction_addresses(raised: RaisedException) -> tuple[int, ...]:
    """Return where an exception was raised: by its record, and by its context if that differs."""
    counter = next((raised.registers[name] for name in PROGRAM_COUNTERS if name in raised.registers), raised.address)
    return tuple(dict.fromkeys((raised.address, counter)))


def _words(memory: Memory, raised: RaisedException, data: Optional[int], ranges: ModuleRanges) -> Iterator[CrashWord]:
    instructions = instruction_addresses(raised)
    for address in instructions:
        yield _word("instruction", address, ranges)
    if data is not None and data not in instructions:
        yield _word("data", data, ranges)
    no_holders = (*PROGRAM_COUNTERS, *STACK_POINTERS)
    holders = {name: value for name, value in raised.registers.items() if name not in no_holders}
    seen: set[int] = set()
    for register, holder in (*sorted(holders.items()), (None, data)):
        if holder is None or holder in seen:
            continue
        seen.add(holder)
        # What cannot be read is no object: only an address of an unloaded module is reported.
        value = memory.try_unsigned(holder, memory.pointer_size)
        found = None if value is None else ranges.find(value)
        if value is not None and found is not None and found.unloaded:
            yield CrashWord("object", value, register, *found)


def _word(role: str, address: int, ranges: ModuleRanges) -> CrashWord:
    found = ranges.find(address)
    return CrashWord(role, address) if found is None else CrashWord(role, address, None, *found)


def _find_caller(memory: Memory, raised: RaisedException, ranges: ModuleRanges) -> Optional[CrashCaller]:
    """Find the link register or the first word of the stack that can be a return address into a loaded module."""
    link = raised.registers.get(LINK_REGISTER, 0)
    linked = ranges.find_loaded(link)
    if linked is not None and _can_return_to(memory, link):
        return CrashCaller(link, None, linked.module, linked.offset)
    pointer = next((raised.registers[name] for name in STACK_POINTERS if name in raised.registers), 0)
    size = memory.pointer_size
    for place in range(pointer, pointer + _CALLER_WORDS * size, size) if pointer else ():
        value = memory.try_unsigned(place, size)
        if value is None:
            return None
        found = ranges.find_loaded(value)
        if found is not None and _can_return_to(memory, value):
            return CrashCaller(value, place, found.module, found.offset)
    return None


def _can_return_to(memory: Memory, address: int) -> bool:
    """Return False if the code before an address is in memory and does not end with a call."""
    if memory.platform.arch == "aarch64":
        word = memory.try_unsigned(address - 4, 4)
        return not word or any(word & mask == call for mask, call in _ARM64_CALLS)
    code = memory.try_read(address - _LONGEST_CALL, _LONGEST_CALL)
    if code is None or not any(code):
        return True
    indirect = any(code[-n] == 0xFF and code[1 - n] & 0x38 == 0x10 for n in range(2, _LONGEST_CALL + 1))
    return code[-5] == 0xE8 or indirect
