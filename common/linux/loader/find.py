"""Where is the private state of glibc's loader, and which version is it?"""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...memory import Memory
from ...paths import base_name
from ..elf.image import PT_LOAD, ElfImage
from ..layouts.resolve import Fingerprint, LayoutSet
from .rendezvous import PublicMap, Rendezvous, find_rtld, image_of

#: Names of the C library's own object, 2.17 to 2.43.
LIBC_NAMES = ("libc.so.6", "libc.so.6.1", "libc.so.0.3")
BANNER_SCAN_BYTES = 4 << 20
PF_X = 1

_BANNER = rb"GNU C Library [^\n]{0,80}?release version (\d+)\.(\d+)"


class LoaderGlobals(NamedTuple):
    """The location of glibc's private loader state, and the fingerprint of its layout."""

    rtld_map: PublicMap
    rtld: ElfImage
    libc: Optional[ElfImage]
    rtld_global: int
    fingerprint: Fingerprint


def find_loader_globals(memory: Memory, start: Rendezvous) -> Optional[LoaderGlobals]:
    """Find ``_rtld_global`` by ld.so's own dynamic symbols; None without it, because the loader is not glibc's.

    :raises FaultError: if ld.so's symbol table is neither in memory nor in a file on this machine.
    """
    found = find_rtld(memory, start)
    if found is None:
        return None
    rtld_map, rtld = found
    rtld_global = rtld.find_symbol("_rtld_global")
    if rtld_global is None:
        return None
    rtld_global_ro = rtld.find_symbol("_rtld_global_ro")
    libc = _find_libc(memory, start)
    fingerprint = Fingerprint(
        ld_build_id=rtld.read_build_id(),
        tls_modid_offset=_read_descriptor_offset(memory, libc, "_thread_db_link_map_l_tls_modid"),
        rtld_global_size=rtld_global[1],
        rtld_global_ro_size=rtld_global_ro[1] if rtld_global_ro else None,
        version=_read_version(memory, libc),
    )
    return LoaderGlobals(rtld_map, rtld, libc, rtld_global[0], fingerprint)


def _find_libc(memory: Memory, start: Rendezvous) -> Optional[ElfImage]:
    for entry in start.list:
        if is_libc(entry.l_name):
            try:
                return image_of(memory, entry)
            except DlwhyError:
                return None  # the version is then that of the layout, or not known, which is a problem
    return None


def is_libc(path: str) -> bool:
    """Return True if a library's name is the C library's.

    Before glibc 2.34 (8208be389bce) the file was called libc-2.NN.so.
    """
    if "libc" not in path:
        return False  # as nearly all of hundreds
    name = base_name(path)
    return name in LIBC_NAMES or (name[:7] == "libc-2." and name[-3:] == ".so" and name[7:-3].isdecimal())


def _read_descriptor_offset(memory: Memory, libc: Optional[ElfImage], name: str) -> Optional[int]:
    # libthread_db's descriptors are {size in bits, number of elements, offset}, 32 bits each; exported since 2.34
    # (fef400a2f976).
    try:
        symbol = libc.find_symbol(name) if libc else None
        raw = memory.read(symbol[0], 12) if symbol and symbol[1] == 12 else None
    except DlwhyError:
        return None  # one anchor less to tell layouts apart by; each is compared with the lists
    return struct.unpack(memory.struct_prefix + "III", raw)[2] if raw else None


def _read_version(memory: Memory, libc: Optional[ElfImage]) -> Optional[tuple[int, int]]:
    if libc is None:
        return None
    try:
        symbol = libc.find_symbol("__nptl_version")
        parts = memory.c_string(symbol[0], 32).split(".") if symbol else []
        if len(parts) > 1 and parts[0].isdecimal() and parts[1].isdecimal():
            return int(parts[0]), int(parts[1])
    except DlwhyError:
        pass  # the banner has the version, too
    return _scan_for_banner(memory, libc)


def _scan_for_banner(memory: Memory, libc: ElfImage) -> Optional[tuple[int, int]]:
    """Find "GNU C Library … release version 2.NN" among libc's constants.

    Before glibc 2.34 (fef400a2f976) no symbol exports the version.
    """
    import re  # takes 3 ms and is rarely needed

    constants = [h for h in libc.headers if h.type == 1 and not h.flags & 2 and h.memsz <= BANNER_SCAN_BYTES]
    for header in sorted(constants, key=lambda h: h.flags & 1):
        data = memory.try_read(libc.address(header.vaddr), header.memsz)
        match = re.search(_BANNER, data) if data else None
        if match:
            return int(match.group(1)), int(match.group(2))
    return None


def read_open_close(memory: Memory, layouts: LayoutSet, private: LoaderGlobals) -> dict[str, tuple[int, int]]:
    """Read the offsets and values of GLRO(dl_open) and GLRO(dl_close); empty unless both point into ld.so's code."""
    layout = layouts.find("rtld_global_ro")
    try:
        symbol = private.rtld.find_symbol("_rtld_global_ro")
    except DlwhyError:
        return {}  # other places are watched then, and what the lock's holder does is not known
    found = {}
    for name in ("_dl_open", "_dl_close"):
        member = layout.fields.get(name) if layout else None
        if member is None or symbol is None:
            return {}
        value = memory.try_unsigned(symbol[0] + member.offset, member.size) or 0
        if not _is_code(private.rtld, value):
            return {}
        found[name] = (member.offset, value)
    return found


def _is_code(image: ElfImage, address: int) -> bool:
    offset = (address - image.bias) & image.memory.platform.address_mask
    return any(h.type == PT_LOAD and h.flags & PF_X and h.vaddr <= offset < h.vaddr + h.memsz for h in image.headers)
