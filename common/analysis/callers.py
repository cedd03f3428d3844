"""Who called the loader: which function outside of libc and ld.so, and on whose behalf?

A close arrives at ``_dl_close`` through several functions of libc and ld.so.  The debugger unwinds them once for each
way there is; as their frames have fixed sizes, the way is known again by its return addresses on the stack, which takes
one read.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple, Optional

from ..errors import DlwhyError
from ..loaders.glibc import Graph, LinkMap, is_libc
from ..loaders.glibc_calls import Convention, Entry
from ..memory import Memory
from ..target import Hit, LiveTarget
from .events import Site
from .glibc_state import GlibcExamination

#: How many frames lie between a caller and the loader at most: NSS and gconv take about ten.
MAX_FRAMES = 40
MAX_WAYS = 64
MAX_SITES = 4096
STACK_BYTES = 2048


_CALL_BYTES = 7
# call rel32; call r/m with no, 8 or 32 bits of displacement, and with a SIB byte: those end where a return goes to.
_X86_CALL = re.compile(rb"(\xe8....|\xff([\x10-\x17\xd0-\xd7]|[\x50-\x57].|[\x90-\x97]....|\x14.|\x54..))\Z", re.DOTALL)
_CALLS_BEFORE = {"x86_64": _X86_CALL, "i386": _X86_CALL}


class Caller(NamedTuple):
    """A return address outside of libc and ld.so, None if none was found, and who called: "user" or "libc"."""

    pc: Optional[int]
    by: str


class _Way(NamedTuple):
    """Offsets from the stack pointer with the return addresses there, the caller's offset, and who calls."""

    words: tuple[tuple[int, int], ...]
    caller: int
    by: str


class Callers:
    """Find and name callers in one process."""

    def __init__(self, target: LiveTarget, convention: Convention, rtld: int) -> None:
        self._target = target
        self._convention = convention
        self._rtld = rtld
        self._ways: list[_Way] = []
        self._sites: dict[int, tuple[Optional[LinkMap], Site]] = {}

    def argument(self, hit: Hit, memory: Memory, index: int) -> int:
        """Read an argument of the function that is about to begin."""
        names = self._convention.arguments
        if names:
            return hit.registers(names[index : index + 1])[0]
        return memory.pointer(self.stack(hit) + (index + 1) * memory.pointer_size)

    def stack(self, hit: Hit) -> int:
        """Read the stack pointer."""
        return hit.registers((self._convention.stack,))[0]

    def return_address(self, hit: Hit, memory: Memory) -> int:
        """Read where a function that is about to begin returns to."""
        if self._convention.link:
            return hit.registers((self._convention.link,))[0]
        return memory.pointer(self.stack(hit))

    def find(self, hit: Hit, examined: GlibcExamination, entry: Entry, stack: int) -> Caller:
        """Find who called, at an entry of the loader."""
        memory = examined.memory
        if entry in (Entry.DLOPEN, Entry.DLMOPEN, Entry.DLCLOSE):
            return Caller(self.return_address(hit, memory), "user")
        by = "libc"
        if entry is Entry.DL_OPEN:
            given = self.argument(hit, memory, 2)
            if self._is_known_outside(examined, given) or not self._is_inner(examined, given):
                return Caller(given, "user")
        data = memory.try_read(stack, STACK_BYTES) or memory.try_read(stack, STACK_BYTES // 8) or b""
        known = self._recognise(memory, data)
        if known is not None:
            return known
        found = self._unwind(hit, examined, stack, by)
        return found if found.pc is not None else self._scan(examined, data, by)

    def _recognise(self, memory: Memory, data: bytes) -> Optional[Caller]:
        form = struct.Struct(memory.struct_prefix + memory.pointer_code)
        last = len(data) - form.size
        for way in self._ways:
            if way.caller <= last and all(form.unpack_from(data, at)[0] == value for at, value in way.words):
                return Caller(form.unpack_from(data, way.caller)[0], way.by)
        return None

    def _unwind(self, hit: Hit, examined: GlibcExamination, stack: int, by: str) -> Caller:
        words: list[tuple[int, int]] = []
        word = examined.memory.pointer_size
        for frame in hit.frames(MAX_FRAMES)[1:]:
            at = frame.sp - word - stack
            if not self._is_inner(examined, frame.pc):
                if not self._convention.link and 0 <= at <= STACK_BYTES - word and len(self._ways) < MAX_WAYS:
                    self._ways.append(_Way(tuple(words), at, by))
                return Caller(frame.pc, by)
            if self._function(examined, frame.pc) == "dlclose":
                by = "user"
            words.append((at, frame.pc))
        return Caller(None, by)

    def _scan(self, examined: GlibcExamination, data: bytes, by: str) -> Caller:
        """Find the caller among the words on the stack, where the debugger cannot unwind.

        LLDB 14 does not find ld.so in a process that it has launched.
        """
        memory = examined.memory
        if memory.platform.arch not in _CALLS_BEFORE:
            return Caller(None, by)
        form = struct.Struct(memory.struct_prefix + memory.pointer_code)
        for (word,) in form.iter_unpack(data[: len(data) - len(data) % form.size]):
            link_map = examined.find_map(word)
            before = memory.try_read(word - _CALL_BYTES, _CALL_BYTES) if link_map else None
            if before is None or not _CALLS_BEFORE[memory.platform.arch].search(before):
                continue
            if not self._is_inner(examined, word):
                return Caller(word, by)
            if self._function(examined, word) == "dlclose":
                by = "user"
        return Caller(None, by)

    def _is_known_outside(self, examined: GlibcExamination, pc: int) -> bool:
        """Tell whether a place has been named before, as that of a caller."""
        known = self._sites.get(pc)
        return known is not None and known[0] is not None and _is_there(examined.graph, known[0])

    def _is_inner(self, examined: GlibcExamination, pc: int) -> bool:
        link_map = examined.find_map(pc)
        return link_map is not None and (link_map.l_real == self._rtld or is_inner(link_map.name))

    @staticmethod
    def _function(examined: GlibcExamination, pc: int) -> Optional[str]:
        link_map = examined.find_map(pc)
        image = examined.image(link_map) if link_map else None
        try:
            symbol = image.covering_symbol(pc - 1) if image else None
        except DlwhyError:
            return None
        return symbol[0] if symbol else None

    def name(self, examined: GlibcExamination, pc: Optional[int], before: int = 1) -> Optional[Site]:
        """Name the place of a call by its return address, or with ``before`` 0 a function by its own address."""
        if pc is None:
            return None
        known = self._sites.get(pc)
        if known is not None and _is_there(examined.graph, known[0]):
            return known[1]
        link_map = examined.find_map(pc)
        named = examined.code_symbol(pc - before)
        site = Site(pc, named.library, named.name, self._target.find_line(pc - before))
        if len(self._sites) < MAX_SITES:
            self._sites[pc] = (link_map, site)
        return site


def _is_there(graph: Graph, link_map: Optional[LinkMap]) -> bool:
    return link_map is not None and is_same(link_map, graph.by_address.get(link_map.address))


def is_same(link_map: LinkMap, other: Optional[LinkMap]) -> bool:
    """Tell whether two readings of one address found the same library, not another that came there later."""
    return link_map is other or (
        other is not None
        and link_map.l_addr == other.l_addr
        and link_map.l_ld == other.l_ld
        and link_map.l_name == other.l_name
        and link_map.l_ns == other.l_ns
    )


def is_inner(path: str) -> bool:
    """Tell whether a library is part of the C library through which opens and closes pass."""
    return is_libc(path) or path.rpartition("/")[2].startswith(("libdl.so", "libdl-2."))
