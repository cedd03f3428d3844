"""Through which instructions does a glibc process open and close libraries, and where are the arguments?

ld.so keeps the addresses of its ``_dl_open`` and ``_dl_close`` in ``_rtld_global_ro`` for libc, so they can be found
without debug information, and all opens and closes of all namespaces pass through them.  If a debugger cannot keep
breakpoints in ld.so, the functions that lead there are watched instead: the exported ``dlopen``, ``dlmopen`` and
``dlclose`` (until 2.33 in libdl, then moved to libc by 0c1c3a771ece, 6a1ed32789ea and d8cce17d2a8f), and on x86-64
libc's own two calls through ``_rtld_global_ro``, by which it opens and closes modules of its own (elf/dl-libc.c:
do_dlopen, do_dlclose).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, Optional

from ...errors import DlwhyError, UnsupportedError
from ...memory import Memory
from ...paths import base_name
from ..elf.image import PT_LOAD, ElfImage
from ..layouts.resolve import LayoutSet
from ..loader.find import LoaderGlobals, is_libc, read_open_close
from ..loader.maps import Graph

PF_X = 1

#: LM_ID_NEWLM of <dlfcn.h>; the loader's own callers pass __LM_ID_CALLER, -2, for the caller's namespace.
NEW_NAMESPACE = -1
CALLERS_NAMESPACE = -2

#: At most this many bytes of code before a call through _rtld_global_ro its address is loaded.
_LOAD_DISTANCE = 192
_MAX_TEXT = 64 << 20
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
    DLOPEN = "dlopen"
    DLMOPEN = "dlmopen"
    DLCLOSE = "dlclose"


class EntryPoints(NamedTuple):
    """The addresses to break at, with the function at each, and how opens and closes are seen, as text."""

    entries: Mapping[int, EntryPoint]
    opens_by: str
    closes_by: str


def find_entry_points(
    memory: Memory, layouts: LayoutSet, private: LoaderGlobals, graph: Graph, *, in_rtld: bool
) -> EntryPoints:
    """Find the instructions that all opens and closes pass.

    :param in_rtld: prefer ld.so's own functions.
    :raises UnsupportedError: if no such instruction is found.
    """
    pointers = read_open_close(memory, layouts, private)
    if in_rtld and pointers:
        entries = {pointers["_dl_open"][1]: EntryPoint.DL_OPEN, pointers["_dl_close"][1]: EntryPoint.DL_CLOSE}
        return EntryPoints(entries, "_dl_open, by _rtld_global_ro", "_dl_close, by _rtld_global_ro")
    found = dict(_find_exported(memory, graph))
    if not {EntryPoint.DLCLOSE, EntryPoint.DLOPEN} & set(found.values()) and not pointers:
        raise UnsupportedError("neither _dl_close nor dlclose can be found in this process")
    opens, closes = "dlopen and dlmopen", "dlclose"
    inner = dict(_find_inner_calls(memory, private, pointers)) if pointers else {}
    if set(inner.values()) == {EntryPoint.DL_OPEN, EntryPoint.DL_CLOSE}:
        opens, closes = f"{opens}, and libc's own call of _dl_open", f"{closes}, and libc's own call of _dl_close"
    found.update(inner)
    return EntryPoints(found, opens, closes)


def _find_exported(memory: Memory, graph: Graph) -> Iterator[tuple[int, EntryPoint]]:
    """Find the exported functions in the base namespace: since 2.34 in libc (d8cce17d2a8f), before in libdl."""
    for link_map in graph.namespaces[0].maps:
        name = base_name(link_map.name)
        if not (is_libc(name) or name.startswith(("libdl.so", "libdl-2."))):
            continue
        try:
            image = ElfImage.at(memory, link_map.field("l_map_start") or 0)
            for entry in (EntryPoint.DLOPEN, EntryPoint.DLMOPEN, EntryPoint.DLCLOSE):
                address = image.find_function(entry.value)
                if address:
                    yield address, entry
        except DlwhyError:
            continue


def _find_inner_calls(
    memory: Memory, private: LoaderGlobals, pointers: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[int, EntryPoint]]:
    """Find libc's calls through the pointers in _rtld_global_ro, whose address is in its GOT."""
    libc = private.libc
    symbol = private.rtld.find_symbol("_rtld_global_ro")
    if libc is None or symbol is None or memory.platform.arch != "x86_64":
        return
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
                if _loads(memory, start, code or b"", match.start(), symbol[0]):
                    yield start + match.start(), entry


def _loads(memory: Memory, start: int, code: bytes, position: int, wanted: int) -> bool:
    """Return True if the code shortly before an address loads a GOT slot that holds ``wanted``."""
    first = max(0, position - _LOAD_DISTANCE)
    for match in _LOAD.finditer(code, first, position):
        slot = start + match.end() + struct.unpack("<i", match[1])[0]
        if memory.try_read(slot, 8) == wanted.to_bytes(8, "little"):
            return True
    return False


def find_function(images: Sequence[Optional[ElfImage]], name: str) -> Optional[int]:
    """Find an exported function in the first of several images that has it."""
    for image in images:
        try:
            address = image.find_function(name) if image else None
        except DlwhyError:
            continue
        if address:
            return address
    return None
