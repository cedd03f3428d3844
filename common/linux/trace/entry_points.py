"""Through which instructions does a glibc process open and close libraries, and where are the arguments?

ld.so keeps the addresses of its ``_dl_open`` and ``_dl_close`` in ``_rtld_global_ro`` for libc, so they can be found
without debug information, and all opens and closes of all namespaces pass through them.  If a debugger cannot keep
breakpoints in ld.so, the functions that lead there are watched instead: the exported ``dlopen``, ``dlmopen`` and
``dlclose`` (until 2.33 in libdl, then moved to libc by 0c1c3a771ece, 6a1ed32789ea and d8cce17d2a8f), and on x86-64
libc's own two calls through ``_rtld_global_ro``, by which it opens and closes modules of its own (elf/dl-libc.c:
do_dlopen, do_dlclose).  Each namespace has its own libc; one that comes later is not watched.

Where the code of ld.so's functions is understood, they are also watched where they have just taken the loader's lock.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Optional

from ...errors import DlwhyError, UnsupportedError
from ...memory import Memory
from ...model import Problem
from ...paths import base_name
from ..elf.image import PT_LOAD, ElfImage
from ..layouts.resolve import LayoutSet
from ..loader.find import LoaderGlobals, is_libc, read_open_close
from ..loader.maps import Graph, LinkMap
from .lock_points import LockPoint, find_lock_point

PF_X = 1

#: LM_ID_NEWLM of <dlfcn.h>; the loader's own callers pass __LM_ID_CALLER, -2, for the caller's namespace.
NEW_NAMESPACE = -1
CALLERS_NAMESPACE = -2

#: At most this many bytes of code before a call through _rtld_global_ro its address is loaded.
_LOAD_DISTANCE = 192
_MAX_TEXT = 64 << 20
_NOT_BY_OTHERS = ", but not those by code in namespaces that came later"
#: The cost of examining a call, in Memory's units.
_MATCH_UNITS = 150

# call *disp32(%reg) and jmp *disp32(%reg), with or without a REX prefix; rsp and r12 would need another byte.
_CALL = rb"\xff[\x90-\x93\x95-\x97]"
_JUMP = rb"\xff[\xa0-\xa3\xa5-\xa7]"
# mov disp32(%rip),%reg
_LOAD = re.compile(rb"[\x48\x4c]\x8b[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](....)", re.DOTALL)


class CallingConvention(NamedTuple):
    """A calling convention: argument registers, or none if arguments are on the stack above the return address.

    ``link`` is the register with the return address, None if that is on the stack.
    """

    arguments: tuple[str, ...]
    stack: str
    link: Optional[str] = None


CONVENTIONS: Mapping[str, CallingConvention] = {
    "x86_64": CallingConvention(("rdi", "rsi", "rdx", "rcx"), "rsp"),
    "i386": CallingConvention((), "esp"),
    "aarch64": CallingConvention(("x0", "x1", "x2", "x3"), "sp", "x30"),
    "arm": CallingConvention(("r0", "r1", "r2", "r3"), "sp", "lr"),
    "ppc64le": CallingConvention(("r3", "r4", "r5", "r6"), "r1", "lr"),
    "riscv64": CallingConvention(("a0", "a1", "a2", "a3"), "sp", "ra"),
    "s390x": CallingConvention(("r2", "r3", "r4", "r5"), "r15", "r14"),
}


class EntryPoint(Enum):
    """A function of the loader or libc through which opens and closes pass."""

    DL_OPEN = "_dl_open"
    DL_CLOSE = "_dl_close"
    DL_OPEN_LOCKED = "_dl_open, with the lock"
    DL_CLOSE_LOCKED = "_dl_close, with the lock"
    DLOPEN = "dlopen"
    DLMOPEN = "dlmopen"
    DLCLOSE = "dlclose"

    @property
    def function(self) -> str:
        """Return the function's name."""
        return str(self.value).partition(",")[0]


class EntryPoints(NamedTuple):
    """The addresses to break at, with the function at each, and how opens and closes are seen, as text.

    ``locked`` are those at which the thread has just taken the loader's lock; if there are any, all opens and closes
    pass them, and `EntryPoint.DL_OPEN` only has the arguments.  ``problems`` say which places are not watched.
    """

    entries: Mapping[int, EntryPoint]
    opens_by: str
    closes_by: str
    locked: Mapping[int, LockPoint] = {}
    problems: tuple[Problem, ...] = ()

    @property
    def functions(self) -> Mapping[int, str]:
        """Return the name of the function at each address."""
        return {address: entry.function for address, entry in self.entries.items()}

    def with_new_namespace(self) -> EntryPoints:
        """Return the same for a process that requests a namespace, whose libc's functions are not watched."""
        if EntryPoint.DLCLOSE not in self.entries.values() or self.opens_by.endswith(_NOT_BY_OTHERS):
            return self
        return self._replace(opens_by=self.opens_by + _NOT_BY_OTHERS, closes_by=self.closes_by + _NOT_BY_OTHERS)


def find_entry_points(
    memory: Memory, layouts: LayoutSet, private: LoaderGlobals, graph: Graph, *, in_rtld: bool
) -> EntryPoints:
    """Find the instructions that all opens and closes pass.

    :param in_rtld: prefer ld.so's own functions.
    :raises UnsupportedError: if no such instruction is found.
    """
    problems: list[Problem] = []
    pointers = read_open_close(memory, layouts, private)
    if in_rtld and pointers:
        return _find_in_rtld(layouts, private, pointers)
    found = dict(_find_exported(memory, graph, problems))
    if not {EntryPoint.DLCLOSE, EntryPoint.DLOPEN} & set(found.values()) and not pointers:
        raise UnsupportedError("neither _dl_close nor dlclose can be found in this process")
    problems += _missing(graph, set(found.values()), problems)
    opens, closes = "dlopen and dlmopen", "dlclose"
    inner = dict(_find_inner_calls(memory, private, graph, pointers)) if pointers else {}
    if set(inner.values()) == {EntryPoint.DL_OPEN, EntryPoint.DL_CLOSE}:
        opens, closes = f"{opens}, and libc's own call of _dl_open", f"{closes}, and libc's own call of _dl_close"
    found.update(inner)
    return EntryPoints(found, opens, closes, problems=tuple(problems))


def _find_in_rtld(layouts: LayoutSet, private: LoaderGlobals, pointers: Mapping[str, tuple[int, int]]) -> EntryPoints:
    """Return ld.so's own functions, and where they have just taken the lock if that is found in both."""
    of_open, of_close = pointers["_dl_open"][1], pointers["_dl_close"][1]
    opens, closes = "_dl_open, by _rtld_global_ro", "_dl_close, by _rtld_global_ro"
    lock = layouts.require("rtld_global").fields.get("_dl_load_lock")
    address = private.rtld_global + lock.offset if lock else 0
    open_point, close_point = (
        find_lock_point(private.rtld, function, address) if lock else None for function in (of_open, of_close)
    )
    if open_point is None or close_point is None or close_point.argument is None:
        return EntryPoints({of_open: EntryPoint.DL_OPEN, of_close: EntryPoint.DL_CLOSE}, opens, closes)
    entries = {
        of_open: EntryPoint.DL_OPEN,
        open_point.address: EntryPoint.DL_OPEN_LOCKED,
        close_point.address: EntryPoint.DL_CLOSE_LOCKED,
    }
    locked = {point.address: point for point in (open_point, close_point)}
    return EntryPoints(entries, f"{opens}, in the loader's lock", f"{closes}, in the loader's lock", locked)


#: The exported functions, and what goes through each.
_EXPORTED = {EntryPoint.DLOPEN: "opens", EntryPoint.DLMOPEN: "opens", EntryPoint.DLCLOSE: "closes"}


def _find_exported(memory: Memory, graph: Graph, problems: list[Problem]) -> Iterator[tuple[int, EntryPoint]]:
    """Find the exported functions of all namespaces: since 2.34 in libc (d8cce17d2a8f), before in libdl."""
    for link_map in _exporters(graph):
        for entry, what in _EXPORTED.items():
            try:
                image = ElfImage.at(memory, link_map.field("l_map_start") or 0)
                address = image.find_function(entry.value)
            except DlwhyError as error:
                where = f"{entry.value} in {base_name(link_map.name)}"
                where += f" of namespace {link_map.l_ns}" if link_map.l_ns else ""
                problems.append(Problem(where, f"could not be read: {error}: {what} through it are not seen"))
                continue
            if address:
                yield address, entry


def _exporters(graph: Graph) -> Iterator[LinkMap]:
    for namespace in graph.namespaces:
        for link_map in namespace.maps:
            name = base_name(link_map.name)
            if not link_map.is_proxy and (is_libc(name) or name.startswith(("libdl.so", "libdl-2."))):
                yield link_map


def _missing(graph: Graph, found: set[EntryPoint], problems: Sequence[Problem]) -> Iterator[Problem]:
    """Yield a problem for each exported function that no library has, unless it could not be read."""
    known = {problem.where.partition(" ")[0] for problem in problems}
    has_one = any(True for _ in _exporters(graph))
    for entry, what in _EXPORTED.items():
        if entry not in found and entry.value not in known:
            why = "neither libc nor libdl exports it" if has_one else "neither libc nor libdl is known by its name"
            yield Problem(entry.value, f"{why}: {what} through it are not seen")


def _find_inner_calls(
    memory: Memory, private: LoaderGlobals, graph: Graph, pointers: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[int, EntryPoint]]:
    """Find the calls through the pointers in _rtld_global_ro in the libc of each namespace."""
    symbol = private.rtld.find_symbol("_rtld_global_ro")
    if symbol is None or memory.platform.arch != "x86_64":
        return
    images = [private.libc] if private.libc else []
    for link_map in _exporters(graph):
        if link_map.l_ns and is_libc(base_name(link_map.name)):
            try:
                images.append(ElfImage.at(memory, link_map.l_map_start))
            except DlwhyError:
                continue  # its exported functions could not be read either, which is a problem of the report
    for libc in images:
        yield from _find_calls(memory, libc, symbol[0], pointers)


def _find_calls(
    memory: Memory, libc: ElfImage, rtld_global_ro: int, pointers: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[int, EntryPoint]]:
    """Find a libc's calls through the pointers in _rtld_global_ro, whose address is in its GOT."""
    wanted = {
        EntryPoint.DL_OPEN: re.compile(_CALL + re.escape(struct.pack("<i", pointers["_dl_open"][0]))),
        EntryPoint.DL_CLOSE: re.compile(_JUMP + re.escape(struct.pack("<i", pointers["_dl_close"][0]))),
    }
    for header in libc.headers:
        if header.type != PT_LOAD or not header.flags & PF_X or header.memsz > _MAX_TEXT:
            continue
        start = libc.address(header.vaddr)
        code = memory.try_read(start, header.memsz)
        for entry, pattern in wanted.items() if code else ():
            for match in pattern.finditer(code or b""):
                if not memory.spend(_MATCH_UNITS, "libc's code"):
                    return
                if _loads(memory, start, code or b"", match.start(), rtld_global_ro):
                    yield start + match.start(), entry


def _loads(memory: Memory, start: int, code: bytes, position: int, wanted: int) -> bool:
    """Return True if the code shortly before an address loads a GOT slot that holds ``wanted``."""
    first = max(0, position - _LOAD_DISTANCE)
    for match in _LOAD.finditer(code, first, position):
        slot = start + match.end() + struct.unpack("<i", match[1])[0]
        if memory.try_read(slot, 8) == wanted.to_bytes(8, "little"):
            return True
    return False


def find_function(
    images: Sequence[Optional[ElfImage]], name: str, problems: Optional[list[Problem]] = None
) -> Optional[int]:
    """Find an exported function in the first of several images that has it.

    :param problems: receives why it could not be looked for.
    """
    for image in images:
        try:
            address = image.find_function(name) if image else None
        except DlwhyError as error:
            if problems is not None:
                problems.append(Problem(name, f"could not be read: {error}: calls of it are not seen"))
            continue
        if address:
            return address
    return None
