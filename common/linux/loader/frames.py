"""Which libraries is each thread in the middle of executing?

A thread is in a library if its program counter is in the library's code, or the return address of one of its frames.
Frames are found by the call frame tables of the images (``elf.unwind``), so every debugger's answer is the same.
Where the tables end before the thread's outermost frame, or registers are missing, the rest of the stack is searched
for words that follow a call instruction: such a word can also be left over from an earlier call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...memory import PAGE_SIZE, Memory
from ...model import Platform, Thread
from ..elf.image import PT_LOAD, ElfImage
from ..elf.machine import PROGRAM_COUNTER, stack_register
from ..elf.unwind import REGISTERS, Row, find_row, walk
from .maps import Graph, LinkMap

_PF_X = 1
#: Frames of one thread that are unwound; what lies above them is searched as words.
MAX_FRAMES = 1 << 12
#: How much of a stack is searched for words, in bytes.
MAX_STACK = 1 << 18

# Costs in Memory's units: a thread whose registers are read, a frame, a word.
_THREAD_UNITS = 5000
_FRAME_UNITS = 1500
_WORD_UNITS = 12

#: The longest call instruction of x86, in bytes.
_LONGEST_CALL = 7


class Position(NamedTuple):
    """The libraries that a thread is in, by their link maps' addresses.

    ``certain`` are those of its program counter and its frames, ``possible`` those that only words of its stack name.
    """

    thread: Thread
    certain: frozenset[int]
    possible: frozenset[int]


class Positions(NamedTuple):
    """The positions of all threads, as far as they are known: ``unknown`` are threads without a program counter."""

    known: tuple[Position, ...]
    unknown: tuple[Thread, ...]


def find_positions(
    memory: Memory, graph: Graph, image_of: Callable[[LinkMap], Optional[ElfImage]], wanted: Sequence[LinkMap]
) -> Positions:
    """Find out which of the wanted libraries each thread is in.

    :param image_of: returns a library's image, None if it cannot be read.
    """
    addresses = frozenset(link_map.address for link_map in wanted)

    def wanted_at(address: int) -> Optional[int]:
        link_map = graph.find_map(address)
        return link_map.address if link_map is not None and link_map.address in addresses else None

    finder = _Finder(memory, graph, image_of, wanted_at)
    known: list[Position] = []
    unknown: list[Thread] = []
    target = memory.target
    names = _names(memory.platform)
    # Debuggers and cores number threads differently.
    for thread in sorted(target.threads(), key=lambda each: (each.lwp != target.pid, each.lwp)):
        registers = target.registers(thread, names) if memory.spend(_THREAD_UNITS, "frames of threads") else {}
        if PROGRAM_COUNTER in registers:
            known.append(Position(thread, *finder.find(registers)))
        else:
            unknown.append(thread)
    return Positions(tuple(known), tuple(unknown))


def is_within(
    memory: Memory,
    graph: Graph,
    image_of: Callable[[LinkMap], Optional[ElfImage]],
    thread: Thread,
    functions: Sequence[tuple[int, int]],
) -> Optional[bool]:
    """Return True if a thread has a frame of one of several functions; None if that is not known.

    :param image_of: returns a library's image, None if it cannot be read.
    :param functions: where each function begins and ends.
    """
    registers = memory.target.registers(thread, _names(memory.platform))
    if PROGRAM_COUNTER not in registers:
        return None

    def wanted_at(address: int) -> Optional[int]:
        return next((start for start, end in functions if start <= address < end), None)

    finder = _Finder(memory, graph, image_of, wanted_at)
    certain, possible = finder.find(registers)
    if certain or possible:
        return True
    return False if finder.is_whole else None


def _names(platform: Platform) -> tuple[str, ...]:
    return (PROGRAM_COUNTER, *REGISTERS.get(platform.arch, {0: stack_register(platform)}).values())


class _Finder:
    def __init__(
        self,
        memory: Memory,
        graph: Graph,
        image_of: Callable[[LinkMap], Optional[ElfImage]],
        wanted_at: Callable[[int], Optional[int]],
    ) -> None:
        """Create a finder of the code for which ``wanted_at``, of an address, returns a number."""
        self._memory = memory
        self._graph = graph
        self._image_of = image_of
        self._wanted_at = wanted_at
        self._rows: dict[int, Optional[Row]] = {}
        self._sites: dict[int, Optional[int]] = {}
        #: True if the frames of the thread that was looked at last were found to the outermost one.
        self.is_whole = False

    def find(self, registers: Mapping[str, int]) -> tuple[frozenset[int], frozenset[int]]:
        """Find what a thread is in, that of words apart."""
        memory = self._memory
        pc, stack = registers[PROGRAM_COUNTER], registers.get(stack_register(memory.platform))
        certain = {self._wanted_at(pc)}
        is_whole = False
        if memory.platform.arch in REGISTERS:
            numbers = {
                number: registers[name] for number, name in REGISTERS[memory.platform.arch].items() if name in registers
            }
            count = 0
            for frame in walk(memory, self._image_at, pc, numbers, self._rows):
                pc, stack, count = frame.pc, frame.stack, count + 1
                certain.add(self._wanted_at(pc - 1))
                if count >= MAX_FRAMES or not memory.spend(_FRAME_UNITS, "frames of threads"):
                    break
            is_whole = self._is_outermost(pc, count > 0)
        self.is_whole = is_whole
        possible = set() if is_whole or stack is None else self._search(stack)
        found = frozenset(address for address in certain if address is not None)
        return found, frozenset(possible - found)

    def _image_at(self, pc: int) -> Optional[ElfImage]:
        link_map = self._graph.find_map(pc)
        return self._image_of(link_map) if link_map is not None else None

    def _is_outermost(self, pc: int, is_call: bool) -> bool:
        """Return True if a frame's table says that nothing has called it; one of a signal has no plain CFA."""
        image = self._image_at(pc)
        try:
            row = find_row(image, pc - is_call) if image is not None else None
        except DlwhyError:
            return False  # unknown: the words above it are searched
        return row is not None and row.cfa is not None and row.rules.get(row.return_register, 0) is None

    def _search(self, stack: int) -> set[int]:
        """Search the words of a stack for return addresses in the wanted libraries."""
        memory = self._memory
        found: set[int] = set()
        address, end = stack - stack % memory.pointer_size, stack + MAX_STACK
        while address < end:
            size = PAGE_SIZE - address % PAGE_SIZE
            words = memory.try_words(address, size // memory.pointer_size)
            if words is None or not memory.spend(_WORD_UNITS * len(words), "frames of threads"):
                break
            for word in words:
                if word not in self._sites:
                    self._sites[word] = self._wanted_at(word - 1) if word else None
                    if self._sites[word] is not None and not self._follows_call(word):
                        self._sites[word] = None
                site = self._sites[word]
                if site is not None:
                    found.add(site)
            address += size
        return found

    def _follows_call(self, address: int) -> bool:
        """Return True if the code before an address can be a call; on some architectures any code can."""
        image = self._image_at(address - 1)
        if image is None:
            return False
        offset = address - 1 - image.bias & self._memory.platform.address_mask
        if not any(
            h.type == PT_LOAD and h.flags & _PF_X and h.vaddr <= offset < h.vaddr + h.memsz for h in image.headers
        ):
            return False
        code = self._memory.try_read(address - _LONGEST_CALL - 1, _LONGEST_CALL + 1)
        return code is None or ends_with_call(self._memory.platform, code)


def ends_with_call(platform: Platform, code: bytes) -> bool:
    """Return True if eight bytes of code can end with a call instruction."""
    if platform.arch in ("x86_64", "i386"):
        if code[-5] == 0xE8:
            return True
        # FF /2: call through a register or memory, as long as its ModRM byte says.
        for size in (2, 3, 4, 6, 7):
            opcode, operand = code[-size], code[1 - size]
            if opcode == 0xFF and operand >> 3 & 7 == 2 and size in _call_sizes(operand):
                return True
        return False
    if platform.arch == "aarch64":
        word = int.from_bytes(code[-4:], "little")
        return word & 0xFC00_0000 == 0x9400_0000 or word & 0xFEFF_F000 == 0xD63F_0000
    return True


def _call_sizes(operand: int) -> tuple[int, ...]:
    """Return the possible lengths of an indirect call, given its ModRM byte; prefixes are left out."""
    mode, register = operand >> 6, operand & 7
    if mode == 3:
        return (2,)
    if mode == 0:
        return (3, 7) if register == 4 else (6,) if register == 5 else (2,)
    return (2 + (register == 4) + (1 if mode == 1 else 4),)
