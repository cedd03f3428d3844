"""Which libraries can close others while they are finalised, and by what?

A library that imports dlclose can, and so can one that looks it up by dlsym.  On x86-64 the code of finalisers is
followed: what DT_FINI, DT_FINI_ARRAY and the destructors that are registered by ``__cxa_atexit`` reach through calls,
jumps and addresses that they take, in their own library and in others, up to an import of dlclose.  libc is not
followed, whose own closes are its business.  Calls through pointers, such as virtual functions, are not followed
either: if finalisers reach one, each function counts that the library imports, or that is in a table whose address the
code takes, or has in a variable.  Elsewhere a library counts if it is bound to a function of one that imports dlclose.

Not known are objects in the heap that point to tables, and a name of dlclose that is put together for dlsym.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...graph import Search
from ...memory import Memory
from ..elf.image import DT_STRSZ, DT_STRTAB, PT_LOAD, ElfImage
from ..elf.unwind import find_function_range
from ..loader.find import is_libc
from ..loader.maps import LinkMap
from ..loader.roots import LT_LOADED
from ..loader.threads import is_libpthread
from ..model import CodeSymbol
from ..plan_model import Closer, ClosingWay
from .process import GlibcProcess

#: Imports through which a library can close others, and look up the first ones.
CLOSERS = ("dlclose", "__libc_dlclose")
LOOKUPS = ("dlsym", "dlvsym")
_REGISTER = "__cxa_atexit"

#: STT_FUNC and STT_GNU_IFUNC, and the functions that every program may export.
_FUNCTION_TYPES = (2, 10)
_OF_START = ("_init", "_fini", "_start", "main")

DT_FINI, DT_FINI_ARRAY, DT_FINI_ARRAYSZ = 13, 26, 28
_PF_X = 1
MAX_STRING_TABLE = 64 << 20
#: How much code and data of a library is searched, how many functions are followed, and how large one may be.
MAX_SEARCHED = 4 << 20
MAX_FUNCTIONS = 3000
MAX_FUNCTION = 1 << 16
MAX_FINALISERS = 1 << 12
#: How many words of a table of functions are looked at.
TABLE_WORDS = 16
#: How much is looked at of a function whose end no table has.
_UNKNOWN_END = 512
_ALIGNMENT = 16

#: What all libraries of a command may take together, in Memory's units.
ALLOWANCE = 60_000_000

# Costs in these units: for each function that is followed, each byte that is searched, a call that is found, and a
# symbol that is looked up.
_FUNCTION_UNITS = 15_000
_BYTE_UNITS = 1
_SITE_UNITS = 30
_CALL_UNITS = 60
_LOOKUP_UNITS = 1500

# Instructions of x86-64 with a 32-bit offset from their end: call and jump; conditional jumps; call and jump through a
# word; loads of an address, and of a word.  At any position, so what is found can also be part of another instruction:
# only targets where a function begins, or a word that a relocation fills, count.
_OFFSET = rb"([\x00-\xff]{4})"
_BRANCHES = re.compile(rb"(?=(?:[\xe8\xe9]|\x0f[\x80-\x8f])" + _OFFSET + rb")")
_CALLS = re.compile(rb"(?=[\xe8\xe9]" + _OFFSET + rb")")
_THROUGH_WORDS = re.compile(rb"(?=\xff[\x15\x25]" + _OFFSET + rb")")
_ADDRESSES = re.compile(rb"(?=\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]" + _OFFSET + rb")")
_LOADS = re.compile(rb"(?=\x8b[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]" + _OFFSET + rb")")
# An entry of the procedure linkage table: endbr64 perhaps, bnd perhaps, then a jump through a word.
_STUB = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\xf2?\xff\x25" + _OFFSET)
_LONGEST_STUB = 11
# Calls through a register, or through a word at one, perhaps with a small offset as in a table of virtual functions,
# and such jumps, but not those of a switch: these have a prefix, or add to the register just before.
_SLOT = rb"[\x00\x08\x10\x18\x20\x28\x30\x38\x40\x48\x50\x58\x60\x68\x70\x78]"
_FAR_SLOT = rb"[\x00-\xff][\x00-\x0f]\x00\x00"
_BY_POINTER = re.compile(
    rb"\xff(?:[\xd0-\xd7\x10-\x14\x16\x17]|[\x50-\x53\x55-\x57]" + _SLOT + rb"|[\x90-\x93\x95-\x97]" + _FAR_SLOT + rb")"
    rb"|(?<!\x3e)(?<!\x48\x01[\xc0-\xff])\xff"
    rb"(?:[\xe0-\xe7\x20-\x23\x26\x27]|[\x60-\x63\x65-\x67]" + _SLOT + rb"|[\xa0-\xa3\xa5-\xa7]" + _FAR_SLOT + rb")"
)
# What crtstuff.c's part of each library jumps to by a register, if there is such a function at all.
_OF_CRTSTUFF = "_ITM_"


class _TooMuchError(Exception):
    """There is more code than is followed."""


class Closers:
    """What in a process can close libraries while it is finalised."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process
        self._left = ALLOWANCE
        self._imports: dict[int, Optional[bool]] = {}
        self._known: dict[int, Optional[Closer]] = {}
        self._code: dict[int, _Code] = {}

    def imports(self, link_map: LinkMap) -> Optional[bool]:
        """Return True if a library imports dlclose, None if its imports cannot be read."""
        if link_map.address not in self._imports:
            image = self._process.image(link_map)
            try:
                self._imports[link_map.address] = None if image is None else imports_any(image, CLOSERS)
            except DlwhyError as error:
                self._imports[link_map.address] = None
                self._process.note_trouble(link_map, f"its imports cannot be read: {error}")
        return self._imports[link_map.address]

    def find(self, link_map: LinkMap) -> Optional[Closer]:
        """Return by what a library's finalisers can close others, None if by nothing that is known."""
        if link_map.address not in self._known:
            self._known[link_map.address] = self._find(link_map)
        return self._known[link_map.address]

    def _find(self, link_map: LinkMap) -> Optional[Closer]:
        name = self._process.name(link_map)
        imports = self.imports(link_map)
        if imports is None:
            return Closer(name, ClosingWay.UNKNOWN)
        if imports:
            return Closer(name, ClosingWay.IMPORT)
        try:
            if self._looks_up(link_map):
                return Closer(name, ClosingWay.LOOKUP)
            if not self.leads_on(link_map):
                return None
            if self._process.memory.platform.arch != "x86_64":
                return self._bound_to(link_map, [each for each in self._capable if each is not link_map])
            return _FinaliserCalls(self, link_map).run(name)
        except (DlwhyError, _TooMuchError):
            return Closer(name, ClosingWay.UNKNOWN)

    @cached_property
    def _capable(self) -> Sequence[LinkMap]:
        """Return the libraries through whose functions others can close; what cannot be read is not among them."""
        maps = self._process.graph.by_address.values()
        found = []
        for link_map in maps:
            if not link_map.is_proxy and not is_of_glibc(link_map) and self.imports(link_map):
                image = self._process.image(link_map)
                if image is not None and self._exports_functions(image):
                    found.append(link_map)
        return found

    def _exports_functions(self, image: ElfImage) -> bool:
        """Return True if others can call an image; most programs that import dlclose export nothing."""
        for index in range(1, image.symbol_count()):
            symbol = image.symbol(index)
            if symbol.shndx and symbol.type in _FUNCTION_TYPES and image.string(symbol.name) not in _OF_START:
                return True
            if not self.spend(_CALL_UNITS):
                return True
        return False

    def leads_on(self, link_map: LinkMap) -> bool:
        """Return True if code of a library can come to another one that imports dlclose, by calls alone."""
        return self._leading is None or link_map.address in self._leading

    @cached_property
    def _leading(self) -> Optional[Collection[int]]:
        """Return the link maps from which a library can be reached that imports dlclose; None: from all of them.

        What was loaded at start is found by all, also by libraries that do not name it as needed.
        """
        if any(link_map.l_type != LT_LOADED for link_map in self._capable):
            return None
        return self._leading_by_needs

    def needs_one(self, link_map: LinkMap) -> bool:
        """Return True if a library imports dlclose for others, or needs or is bound to one that does."""
        return link_map.address in self._leading_by_needs

    @cached_property
    def _leading_by_needs(self) -> Collection[int]:
        """Return the link maps from which a library can be reached that imports dlclose, by what they record."""
        if not self._capable:
            return ()
        users: dict[int, list[int]] = {}
        for link_map in self._process.graph.by_address.values():
            for address in (*link_map.needed, *link_map.relocated_to):
                users.setdefault(address, []).append(link_map.address)
        return Search([each.address for each in self._capable], lambda each: users.get(each, ())).run().before

    def _looks_up(self, link_map: LinkMap) -> bool:
        """Return True if a library imports dlsym, and has the name of dlclose among its constants."""
        image = self._process.image(link_map)
        if image is None or not imports_any(image, LOOKUPS):
            return False
        for header in image.headers:
            if header.type == PT_LOAD and header.filesz:
                if header.filesz > MAX_SEARCHED or not self.spend(_BYTE_UNITS * header.filesz // 16):
                    raise _TooMuchError
                data = image.memory.read(image.address(header.vaddr), header.filesz)
                if any(b"\0" + each.encode() + b"\0" in data for each in CLOSERS):
                    return True
        return False

    def _bound_to(self, link_map: LinkMap, others: Sequence[LinkMap]) -> Optional[Closer]:
        for other in others:
            symbols = self._process.bindings.symbols_into(link_map, other)
            if symbols:
                through = CodeSymbol(0, symbols[0], self._process.name(other))
                return Closer(self._process.name(link_map), ClosingWay.CALL, through)
        return None

    def spend(self, units: int) -> bool:
        """Charge work on finalisers to an allowance of their own: the rest of the answer does not depend on them."""
        self._left -= units
        return self._left >= 0

    def code(self, link_map: LinkMap) -> Optional[_Code]:
        """Return the code of a library, None if it has none that is followed."""
        if link_map.address not in self._code:
            image = None if is_of_glibc(link_map) or link_map.is_proxy else self._process.image(link_map)
            if image is None:
                return None
            self._code[link_map.address] = _Code(self, self._process, link_map, image)
        return self._code[link_map.address]

    def code_at(self, address: int) -> Optional[_Code]:
        """Return the code of the library that contains an address."""
        link_map = self._process.find_map(address)
        return self.code(link_map) if link_map is not None and self.leads_on(link_map) else None

    def symbol(self, address: int) -> CodeSymbol:
        """Return the function at an address."""
        return self._process.code_symbol(address)


def is_of_glibc(link_map: LinkMap) -> bool:
    """Return True for libraries of glibc, in which dlclose is, and all that it calls."""
    return is_libc(link_map.name) or is_libpthread(link_map.name) or "/ld-" in link_map.name or "libdl" in link_map.name


def imports_any(image: ElfImage, names: Sequence[str]) -> bool:
    """Return True if an image imports one of several symbols.

    :raises DlwhyError: if its tables cannot be read.
    """
    start = image.dynamic_address(DT_STRTAB)
    if start is None:
        return False
    strings = image.memory.read(start, min(image.dynamic.get(DT_STRSZ, 0), MAX_STRING_TABLE))
    if not any(name.encode() + b"\0" in strings for name in names):
        return False
    indexes = {relocation.symbol for relocation in image.for_each_symbolic_relocation()}
    symbols = (image.symbol(index) for index in indexes)
    return any(symbol.shndx == 0 and image.string(symbol.name) in names for symbol in symbols)


class _Target(NamedTuple):
    """Where code leads: a function's address, or 0, and the name of the symbol that it is called by, if any."""

    address: int
    symbol: str = ""


class _Code:
    """The code of one library, and where its instructions lead."""

    def __init__(self, closers: Closers, process: GlibcProcess, link_map: LinkMap, image: ElfImage) -> None:
        self._closers = closers
        self._process = process
        self.link_map = link_map
        self._image = image
        self._memory: Memory = image.memory
        self._segments = [
            (image.address(h.vaddr), image.address(h.vaddr + h.filesz))
            for h in image.headers
            if h.type == PT_LOAD and h.flags & _PF_X
        ]
        self._stubs: dict[int, Optional[int]] = {}
        self._words: dict[int, _Target] = {}
        self._extents: dict[int, Optional[tuple[int, int]]] = {}
        self._targets: dict[int, tuple[_Target, ...]] = {}

    def contains(self, address: int) -> bool:
        """Return True if an address is in the code."""
        return any(start <= address < end for start, end in self._segments)

    def extent(self, address: int) -> tuple[int, int]:
        """Return the start and end of the function at an address, as far as they are known."""
        found = self._range_at(address)
        if found is not None:
            return found
        end = next(end for start, end in self._segments if start <= address < end)
        end = min(end, address + _UNKNOWN_END)
        following = filter(None, map(self._range_at, range(address + _ALIGNMENT, end, _ALIGNMENT)))
        return address, next((start for start, _ in following), end)

    def _range_at(self, address: int) -> Optional[tuple[int, int]]:
        if address not in self._extents:
            self._extents[address] = find_function_range(self._image, address)
        return self._extents[address]

    def targets(self, function: int) -> tuple[_Target, ...]:
        """Return where a function leads: to functions, its own library's and others', and to imported symbols."""
        if function not in self._targets:
            if not self._closers.spend(_FUNCTION_UNITS):
                raise _TooMuchError
            start, end = self.extent(function)
            self._targets[function] = tuple(dict.fromkeys(self._find_targets(start, min(end, start + MAX_FUNCTION))))
        return self._targets[function]

    def calls_by_pointer(self, function: int) -> bool:
        """Return True if a function calls, or jumps, through a pointer, so that it is not known where that leads."""
        start, end = self.extent(function)
        end = min(end, start + MAX_FUNCTION)
        data = self._read(start, end)
        words = [word for _, word in self._sites(_THROUGH_WORDS, data, start)]
        if any(self._is_variable(word) for word in words):
            return True
        if not _BY_POINTER.search(data):
            return False
        loaded = self._places(_LOADS, data, start)
        return not any(self._symbol_in(word).startswith(_OF_CRTSTUFF) for word in loaded)

    def _is_variable(self, word: int) -> bool:
        """Return True if a word has the address of code elsewhere, and no relocation that says of which function."""
        value = self._memory.try_unsigned(word, self._memory.pointer_size) or 0
        return not self._symbol_in(word) and not self.contains(value) and self._process.find_map(value) is not None

    def imported(self) -> Iterator[_Target]:
        """Yield the functions and data that the library is bound to of those which can lead to dlclose."""
        for word in self._symbols:
            if not self._closers.spend(_CALL_UNITS):
                raise _TooMuchError
            for target in self._in_word(word):
                link_map = self._process.find_map(target.address) if target.address else None
                if link_map is not None and link_map is not self.link_map and self._closers.needs_one(link_map):
                    yield target

    def in_tables(self, function: int) -> Iterator[_Target]:
        """Yield the functions in the tables whose addresses a function takes, or finds in a variable.

        Each table is of functions of its own library: what one imports counts in any case, if that is the finaliser's.
        """
        start, end = self.extent(function)
        end = min(end, start + MAX_FUNCTION)
        data, word = self._read(start, end), self._memory.pointer_size
        places = list(self._places(_ADDRESSES, data, start))
        places += [self._memory.try_unsigned(place, word) or 0 for place in self._places(_LOADS, data, start)]
        for place in dict.fromkeys(places):
            code = None if place % word else self._closers.code_at(place)
            if code is None or code.contains(place):
                continue
            for value in self._memory.try_words(place, TABLE_WORDS) or ():
                if code.contains(value):
                    yield from code._at(value)

    def _find_targets(self, start: int, end: int) -> Iterator[_Target]:
        data = self._read(start, end)
        for place in self._places(_BRANCHES, data, start):
            if not start <= place < end:
                yield from self._at(place)
        yield from self.taken(start, end, data)
        for place in self._places(_THROUGH_WORDS, data, start):
            yield from self._in_word(place)

    def taken(self, start: int, end: int, data: Optional[bytes] = None) -> Iterator[_Target]:
        """Yield the functions whose addresses a piece of code takes."""
        data = self._read(start, end) if data is None else data
        for place in self._places(_ADDRESSES, data, start):
            if self.contains(place) and not start <= place < end:
                yield from self._at(place)
        for place in self._places(_LOADS, data, start):
            yield from self._in_word(place)

    def registered(self) -> Iterator[_Target]:
        """Yield the functions that can be registered by __cxa_atexit: whose addresses its callers take."""
        callers: dict[int, list[int]] = {}
        registering: list[int] = []
        for start, end in self._segments:
            data = self._read(start, end)
            for site, place in self._sites(_CALLS, data, start):
                if self.contains(place):
                    callers.setdefault(place, []).append(site)
            words = self._sites(_THROUGH_WORDS, data, start)
            registering += [site for site, word in words if self._symbol_in(word) == _REGISTER]
        for place in callers:
            stub = self._stub(place)
            if stub is not None and self._symbol_in(stub) == _REGISTER:
                registering += callers[place]
        done: set[int] = set()
        for site in registering:
            start, end = self.extent(site)
            if start in done:
                continue
            done.add(start)
            # atexit is a function of each library, which passes its argument on.
            for other in callers.get(start, ()):
                registering.append(other)
            yield from self.taken(start, end)

    def finalisers(self) -> Iterator[_Target]:
        """Yield the functions of DT_FINI and DT_FINI_ARRAY."""
        image = self._image
        last = image.dynamic_address(DT_FINI)
        if last is not None and self.contains(last):
            yield _Target(last)
        array, size = image.dynamic_address(DT_FINI_ARRAY), image.dynamic.get(DT_FINI_ARRAYSZ, 0)
        if array is not None and size:
            for word in self._memory.words(array, min(size // self._memory.pointer_size, MAX_FINALISERS)):
                if self.contains(word):
                    yield _Target(word)

    def imports_registration(self) -> bool:
        """Return True if the library imports __cxa_atexit."""
        return imports_any(self._image, (_REGISTER,))

    def _read(self, start: int, end: int) -> bytes:
        if end - start > MAX_SEARCHED or not self._closers.spend(_BYTE_UNITS * (end - start)):
            raise _TooMuchError
        return self._memory.read(start, end - start)

    def _places(self, pattern: re.Pattern[bytes], data: bytes, start: int) -> Iterator[int]:
        return (place for _, place in self._sites(pattern, data, start))

    def _sites(self, pattern: re.Pattern[bytes], data: bytes, start: int) -> Iterator[tuple[int, int]]:
        """Yield each instruction that can be one of a kind, with the address that it names."""
        low, high = self.link_map.extent
        for match in pattern.finditer(data):
            if not self._closers.spend(_SITE_UNITS):
                raise _TooMuchError
            place = start + match.end(1) + struct.unpack("<i", match[1])[0]
            if low <= place < high:
                yield start + match.start(), place

    def _at(self, place: int) -> Iterator[_Target]:
        """Yield the function that begins at an address, or that an entry of the procedure linkage table leads to."""
        if not self._closers.spend(_CALL_UNITS):
            raise _TooMuchError
        stub = self._stub(place)
        if stub is not None:
            yield from self._in_word(stub)
        elif self.contains(place):
            found = self._range_at(place)
            if found is None or found[0] == place:
                yield _Target(place)

    def _stub(self, place: int) -> Optional[int]:
        if place not in self._stubs:
            data = self._memory.try_read(place, _LONGEST_STUB) if self.contains(place) else None
            match = _STUB.match(data) if data else None
            self._stubs[place] = place + match.end(1) + struct.unpack("<i", match[1])[0] if match else None
        return self._stubs[place]

    @cached_property
    def _symbols(self) -> dict[int, int]:
        """Return the indexes of the symbols that words are filled with."""
        return {each.place: each.symbol for each in self._image.for_each_symbolic_relocation()}

    def _symbol_in(self, word: int) -> str:
        index = self._symbols.get(word)
        return "" if index is None else self._image.string(self._image.symbol(index).name)

    def _in_word(self, word: int) -> Iterator[_Target]:
        """Yield what a word of the global offset table leads to."""
        if word not in self._words:
            self._words[word] = self._resolve(word)
        target = self._words[word]
        if target.address or target.symbol:
            yield target

    def _resolve(self, word: int) -> _Target:
        name = self._symbol_in(word)
        value = self._memory.try_unsigned(word, self._memory.pointer_size) or 0
        if not name:
            return _Target(value if self.contains(value) else 0)
        if name in CLOSERS:
            return _Target(0, name)
        symbol = self._image.symbol(self._symbols[word])
        if symbol.shndx == 0 and self._image.contains(value):
            value = self._look_up(name)  # not bound yet: it leads back into the procedure linkage table
        return _Target(value, name)

    def _look_up(self, name: str) -> int:
        """Find a symbol as ld.so would: in what was loaded at start, then in what the library needs."""
        by_address = self._process.graph.by_address
        namespace = self._process.namespaces.get(self.link_map.l_ns)
        first = [m for m in namespace.maps if m.l_type != LT_LOADED] if namespace else []
        needed = [by_address[address] for address in self.link_map.needed if address in by_address]
        others = list(namespace.maps) if namespace else []
        for link_map in dict.fromkeys((*first, *needed, *others)):
            image = self._process.image(link_map)
            if not self._closers.spend(_LOOKUP_UNITS):
                raise _TooMuchError
            found = image.find_symbol(name) if image is not None and not link_map.is_proxy else None
            if found is not None:
                return found[0]
        return 0


class _FinaliserCalls:
    """The functions that a library's finalisers reach, the nearest first."""

    def __init__(self, closers: Closers, link_map: LinkMap) -> None:
        self._closers = closers
        self._link_map = link_map

    def run(self, name: str) -> Optional[Closer]:
        """Return how dlclose is reached, and through which function outside the library; None if it is not reached."""
        code = self._closers.code(self._link_map)
        if code is None:
            return None
        roots = list(code.finalisers())
        if code.imports_registration():
            roots += code.registered()
        before: dict[int, int] = {}
        through = self._search(roots, before)
        if through is not None:
            return Closer(name, ClosingWay.CALL, through)
        if not any(self._calls_by_pointer(function) for function in before):
            return None
        through = self._search(code.imported(), before)
        fresh = list(before)
        while fresh and through is None:
            known = len(before)
            through = self._search(self._in_tables(fresh), before)
            fresh = list(before)[known:]
        return Closer(name, ClosingWay.POINTER, through) if through else None

    def _in_tables(self, functions: Sequence[int]) -> Iterator[_Target]:
        for function in functions:
            code = self._closers.code_at(function)
            if code is not None and code.contains(function):
                yield from code.in_tables(function)

    def _calls_by_pointer(self, function: int) -> bool:
        code = self._closers.code_at(function)
        return code is not None and code.contains(function) and code.calls_by_pointer(function)

    def _search(self, roots: Iterable[_Target], before: dict[int, int]) -> Optional[CodeSymbol]:
        """Follow functions up to dlclose; add each to ``before``, with the one that leads to it, 0 for a root."""
        queue = [root.address for root in roots if root.address and root.address not in before]
        before.update(dict.fromkeys(queue, 0))
        for function in queue:
            if len(before) > MAX_FUNCTIONS:
                raise _TooMuchError
            own = self._closers.code_at(function)
            if own is None or not own.contains(function):
                continue
            for target in own.targets(function):
                if target.symbol in CLOSERS:
                    return self._closers.symbol(self._entrance(function, before))
                if target.address and target.address not in before:
                    before[target.address] = function
                    queue.append(target.address)
        return None

    def _entrance(self, function: int, before: dict[int, int]) -> int:
        """Return the first function outside the library on the path to one."""
        first, last = self._link_map.extent
        entrance = function
        while function:
            if not first <= function < last:
                entrance = function
            function = before[function]
        return entrance
