"""Who called the loader: which function outside libc and ld.so, and on whose behalf?

A close reaches ``_dl_close`` through several functions of libc and ld.so.  Each call path is unwound once; if its
frames have fixed sizes, later calls are recognised by their return addresses on the stack, with one read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...memory import Memory
from ...paths import base_name
from ...target import Hit, LiveTarget
from ...trace.events import Site
from ..elf.image import DT_STRSZ, DT_STRTAB, PT_LOAD, ElfImage
from ..elf.unwind import REGISTERS, CallFrame, Row, walk
from ..loader.find import is_libc
from ..loader.maps import Graph, LinkMap, is_same_library
from ..state.process import GlibcProcess
from .entry_points import CallingConvention, EntryPoint
from .lock_points import LockPoint
from .wrappers import only_wraps

#: At most this many frames are between a caller and the loader: NSS and gconv take about ten.
MAX_FRAMES = 40
MAX_WAYS = 64
MAX_SITES = 4096
STACK_BYTES = 2048
#: How much of a library is searched for a name, and of how many libraries that is kept.
_MAX_CONSTANTS = 4 << 20
_MAX_SEARCHED = 8
_PF_W = 2
#: How far above the stack pointer a caller's frame can be.
_STACK_RANGE = 8 << 20
#: Which argument is the name of what is to be opened.
_NAME_ARGUMENT = {EntryPoint.DLOPEN: 0, EntryPoint.DLMOPEN: 1, EntryPoint.DL_OPEN: 0}
#: A call path with one of these is not libc's own.
_EXPORTED = frozenset({"dlopen", "dlmopen", "dlclose"})


class Caller(NamedTuple):
    """A return address outside libc and ld.so (None: not found), and who called: "user" or "libc".

    ``through`` is the name of the library that only passed the call on; None if there was none.
    """

    pc: Optional[int]
    by: str
    through: Optional[str] = None


class _CallPath(NamedTuple):
    """A call path: where it ends, offsets and return addresses on the stack, the caller's offset, who calls."""

    address: int
    words: tuple[tuple[int, int], ...]
    caller: int
    by: str


class Callers:
    """Finds and names the callers of the loader in one process."""

    def __init__(self, target: LiveTarget, convention: CallingConvention, rtld: int) -> None:
        self._target = target
        self._convention = convention
        self._rtld = rtld
        self._ways: list[_CallPath] = []
        self._sites: dict[int, tuple[Optional[LinkMap], Site]] = {}
        #: What the tables say of instructions, and the library of each, with the image that they were read from.
        self._rows: dict[int, Optional[Row]] = {}
        self._places: dict[int, tuple[LinkMap, ElfImage]] = {}
        #: The libraries that opened what their callers named; None for those that opened a name of their own.
        self._passing: dict[int, Optional[LinkMap]] = {}
        #: The constants of libraries whose callers' names may be copies of them.
        self._constants: dict[int, tuple[LinkMap, tuple[bytes, ...]]] = {}

    def argument(self, hit: Hit, memory: Memory, index: int) -> int:
        """Read an argument of the function that is about to begin."""
        names = self._convention.arguments
        if names:
            return hit.registers(names[index : index + 1])[0]
        return memory.pointer(self.stack(hit) + (index + 1) * memory.pointer_size)

    def stack(self, hit: Hit, point: Optional[LockPoint] = None) -> int:
        """Read the stack pointer, with ``point`` as it was at the function's start."""
        if point is not None:
            register, offset = point.frame
            return hit.registers((register,))[0] + offset
        return hit.registers((self._convention.stack,))[0]

    def handle(self, hit: Hit, memory: Memory, point: Optional[LockPoint]) -> int:
        """Read the handle that a function is about to close."""
        if point is not None and point.argument is not None:
            return hit.registers((point.argument,))[0]
        return self.argument(hit, memory, 0)

    def return_address(self, hit: Hit, memory: Memory) -> int:
        """Read the return address of the function about to begin."""
        if self._convention.link:
            return hit.registers((self._convention.link,))[0]
        return memory.pointer(self.stack(hit))

    def saved_return(self, memory: Memory, stack: int) -> Optional[int]:
        """Read the return address at a stack pointer; None if it is in a register, or unreadable."""
        return memory.try_unsigned(stack, memory.pointer_size) if self._convention.link is None else None

    def find(self, hit: Hit, process: GlibcProcess, entry: EntryPoint, stack: int) -> Caller:
        """Find the caller of a loader function, or of the library that only passed the call on."""
        found = self._find_direct(hit, process, entry, stack)
        return found if found.pc is None or found.by != "user" else self._look_behind(hit, process, entry, stack, found)

    def _look_behind(self, hit: Hit, process: GlibcProcess, entry: EntryPoint, stack: int, direct: Caller) -> Caller:
        """Find the first caller outside the libraries that only passed a call on.

        These are known by their names, or by the name of what is to be opened: it is a constant of a library further
        out, the copy of one, or a variable in the frame of one of its functions.
        """
        link_map = process.find_map(direct.pc or 0)
        if link_map is None:
            return direct
        index = _NAME_ARGUMENT.get(entry)
        name = 0 if index is None else self.argument(hit, process.memory, index)
        outer = self._find_owner(hit, process, stack, name, link_map)
        if outer is None and name and process.find_map(name) is None:
            outer = self._find_copied(hit, process, name, link_map)
        if outer is not None:
            return Caller(outer, "user", process.name(link_map))
        # A library that passed on a constant can have built this name itself.
        passing = self._passing if index is None else {}
        if not self._only_wraps(process, direct.pc or 0, link_map, passing):
            return direct
        for frame in self._frames(hit, process, lambda *_: True):
            there = process.find_map(frame.pc)
            if there is None:
                break
            if not (self._is_inner(process, frame.pc) or self._only_wraps(process, frame.pc, there, passing)):
                return Caller(frame.pc, "user", process.name(link_map) if there is not link_map else None)
        return direct

    def _only_wraps(
        self, process: GlibcProcess, pc: int, link_map: LinkMap, passing: Mapping[int, Optional[LinkMap]]
    ) -> bool:
        """Return True if a caller is known to pass on what it is called for."""
        known = passing.get(link_map.address)
        if known is not None and is_same_library(known, link_map):
            return True
        site = self.name(process, pc)
        return site is not None and only_wraps(site)

    def _find_owner(self, hit: Hit, process: GlibcProcess, stack: int, name: int, direct: LinkMap) -> Optional[int]:
        """Find the caller in another library whose constant or variable the name is; None if it is the direct one's."""
        owner = process.find_map(name)
        if len(self._passing) >= MAX_SITES:
            self._passing.clear()
        if owner is direct:
            self._passing[direct.address] = None
        if not name or owner is direct or (owner is None and not stack < name < stack + _STACK_RANGE):
            return None
        passed: dict[int, tuple[LinkMap, int]] = {}
        before: Optional[LinkMap] = None
        for frame in self._frames(hit, process, lambda *_: True):
            if owner is None and before is not None and name < frame.stack:
                owner = before
                break
            link_map = process.find_map(frame.pc)
            if link_map is None:
                return None
            before = None if self._is_inner(process, frame.pc) else link_map
            if before is not None:
                passed.setdefault(before.address, (before, frame.pc))
                if before is owner:
                    break
        if owner is None or owner is direct or owner.address not in passed:
            return None
        _, found = passed.pop(owner.address)
        for address, (link_map, _) in passed.items():
            self._passing.setdefault(address, link_map)
        return found

    def _find_copied(self, hit: Hit, process: GlibcProcess, name: int, direct: LinkMap) -> Optional[int]:
        """Find the caller in another library that has the name among its constants; None if the direct one has it."""
        passed: dict[int, tuple[LinkMap, int]] = {}
        for frame in self._frames(hit, process, lambda *_: True):
            there = process.find_map(frame.pc)
            if there is None:
                break
            if not self._is_inner(process, frame.pc):
                passed.setdefault(there.address, (there, frame.pc))
        others = [each for each in passed.values() if each[0] is not direct]
        try:
            text = process.memory.c_bytes(name) if others else b""
            if not text or self._has_constant(process, direct, text):
                return None
            owner = next((each for each in others if self._has_constant(process, each[0], text)), None)
        except DlwhyError:
            return None  # the direct caller is named
        if owner is None:
            return None
        for link_map, _ in passed.values():
            if link_map is owner[0]:
                break
            self._passing.setdefault(link_map.address, link_map)
        return owner[1]

    def _has_constant(self, process: GlibcProcess, link_map: LinkMap, text: bytes) -> bool:
        """Return True if a library has a string among its constants; those of very large ones are not looked at."""
        known = self._constants.get(link_map.address)
        if known is None or not is_same_library(known[0], link_map):
            image = process.image(link_map)
            known = link_map, () if image is None else tuple(_constants(image))
            if len(self._constants) >= _MAX_SEARCHED:
                self._constants.clear()
            self._constants[link_map.address] = known
        return any(b"\0" + text + b"\0" in part for part in known[1])

    def _find_direct(self, hit: Hit, process: GlibcProcess, entry: EntryPoint, stack: int) -> Caller:
        memory = process.memory
        if entry in (EntryPoint.DLOPEN, EntryPoint.DLMOPEN, EntryPoint.DLCLOSE):
            return Caller(self.return_address(hit, memory), "user")
        if entry is EntryPoint.DL_OPEN:
            given = self.argument(hit, memory, 2)
            if self._is_known_outside(process, given) or not self._is_inner(process, given):
                return Caller(given, "user")
        known = self._recognise(memory, hit.address, stack)
        return known if known is not None else self._unwind(hit, process, stack)

    def _recognise(self, memory: Memory, address: int, stack: int) -> Optional[Caller]:
        ways = [way for way in self._ways if way.address == address]
        data = memory.try_read(stack, max(way.caller for way in ways) + memory.pointer_size) if ways else None
        form = struct.Struct(memory.struct_prefix + memory.pointer_code)
        for way in ways if data else ():
            if all(form.unpack_from(data or b"", at)[0] == value for at, value in way.words):
                return Caller(form.unpack_from(data or b"", way.caller)[0], way.by)
        return None

    def _unwind(self, hit: Hit, process: GlibcProcess, stack: int) -> Caller:
        by = "libc"
        words: list[tuple[int, int]] = []
        is_fixed = True
        for frame in self._frames(hit, process, self._is_inner):
            is_fixed = is_fixed and frame.is_fixed and frame.place is not None
            at = (frame.place or 0) - stack
            if not self._is_inner(process, frame.pc):
                if is_fixed and words and len(self._ways) < MAX_WAYS and words[0][0] >= 0 and at <= STACK_BYTES:
                    self._ways.append(_CallPath(hit.address, tuple(words), at, by))
                return Caller(frame.pc, by)
            if self._function(process, frame.pc) in _EXPORTED:
                by = "user"
            words.append((at, frame.pc))
        return Caller(None, by)

    def skip_libstdcxx(self, hit: Hit, process: GlibcProcess, pc: int) -> int:
        """Find the caller above libstdc++, whose ``__cxa_thread_atexit`` only forwards to libc."""
        link_map = process.find_map(pc)
        if link_map is None or not base_name(link_map.name).startswith("libstdc++.so"):
            return pc

        def is_passing(_: GlibcProcess, address: int) -> bool:
            return address == hit.address or process.find_map(address) is link_map

        frames = self._frames(hit, process, is_passing)
        return next((frame.pc for frame in frames if not is_passing(process, frame.pc)), pc)

    def _frames(
        self, hit: Hit, process: GlibcProcess, is_passed: Callable[[GlibcProcess, int], bool]
    ) -> Iterator[CallFrame]:
        """Unwind through the functions that ``is_passed`` accepts, up to the first caller that it does not."""
        memory = process.memory
        names = REGISTERS[memory.platform.arch]
        registers = dict(zip(names, hit.registers(tuple(names.values()))))

        def find_image(pc: int) -> Optional[ElfImage]:
            link_map = process.find_map(pc) if is_passed(process, pc) else None
            return self._image(process, link_map, pc) if link_map else None

        return islice(walk(memory, find_image, hit.address, registers, self._rows), MAX_FRAMES)

    def _image(self, process: GlibcProcess, link_map: LinkMap, pc: int) -> Optional[ElfImage]:
        """Return the image with an instruction, as it was when its row was read; forget the row of a library gone."""
        known = self._places.get(pc)
        if known is not None and is_same_library(known[0], link_map):
            return known[1]
        # A call is looked up by the byte before the return address.
        self._rows.pop(pc, None)
        self._rows.pop(pc - 1, None)
        image = process.image(link_map)
        if len(self._places) >= MAX_SITES:
            self._places.clear()
            self._rows.clear()
        if image is not None:
            self._places[pc] = link_map, image
        return image

    def _is_known_outside(self, process: GlibcProcess, pc: int) -> bool:
        """Return True if a return address is already known as a caller's."""
        known = self._sites.get(pc)
        return known is not None and known[0] is not None and _is_there(process.graph, known[0])

    def _is_inner(self, process: GlibcProcess, pc: int) -> bool:
        link_map = process.find_map(pc)
        return link_map is not None and (link_map.l_real == self._rtld or forwards_calls(link_map.name))

    @staticmethod
    def _function(process: GlibcProcess, pc: int) -> Optional[str]:
        link_map = process.find_map(pc)
        image = process.image(link_map) if link_map else None
        try:
            symbol = image.covering_symbol(pc - 1) if image else None
        except DlwhyError:
            return None  # the caller is shown by its address
        return symbol[0] if symbol else None

    def name(self, process: GlibcProcess, pc: Optional[int], before: int = 1) -> Optional[Site]:
        """Return the call site at a return address, or with ``before`` 0 the function at its own address."""
        if pc is None:
            return None
        known = self._sites.get(pc)
        if known is not None and _is_there(process.graph, known[0]):
            return known[1]
        link_map = process.find_map(pc)
        named = process.code_symbol(pc - before)
        site = Site(pc, named.library, named.name, self._target.find_line(pc - before))
        if len(self._sites) < MAX_SITES:
            self._sites[pc] = (link_map, site)
        return site


def _is_there(graph: Graph, link_map: Optional[LinkMap]) -> bool:
    return link_map is not None and is_same_library(link_map, graph.by_address.get(link_map.address))


def _constants(image: ElfImage) -> Iterator[bytes]:
    """Yield what a library cannot write to, without its names of symbols and of libraries that it needs."""
    names, size = image.dynamic_address(DT_STRTAB) or 0, image.dynamic.get(DT_STRSZ, 0)
    left = _MAX_CONSTANTS
    for header in image.headers:
        if header.type == PT_LOAD and not header.flags & _PF_W and header.filesz <= left:
            left -= header.filesz
            start = image.address(header.vaddr)
            data = image.memory.try_read(start, header.filesz) or b""
            inside = names - start
            yield data[:inside] + b"\0" + data[inside + size :] if 0 <= inside < len(data) else data


def forwards_calls(path: str) -> bool:
    """Return True for libraries of glibc that forward opens and closes."""
    return is_libc(path) or base_name(path).startswith(("libdl.so", "libdl-2."))
