"""How are the target and its libraries named?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from ...errors import DlwhyError
from ...helper import shared_helper
from ...memory import Memory
from ...model import Problem, TargetInfo
from ...paths import base_name
from ..auxv import AT_EXECFN, AT_SYSINFO_EHDR
from ..elf.image import MAX_NAME, ElfImage
from ..loader.maps import LinkMap

#: No more names of a library than these are read.
MAX_LIBRARY_NAMES = 64

#: The sonames of vDSOs that are not called linux-vdso.so.1.
_VDSO_NAMES = {"i386": "linux-gate.so.1", "ppc64le": "linux-vdso64.so.1", "s390x": "linux-vdso64.so.1"}


def target_info(memory: Memory) -> TargetInfo:
    """Describe the target."""
    target = memory.target
    return TargetInfo(target.kind, memory.platform.os, memory.platform.arch, target.pid, target.description)


def main_program_path(memory: Memory, rtld: Optional[ElfImage] = None) -> str:
    """Return the main program's path; the loader itself leaves its l_name empty.

    If ld.so was started as the program, the kernel and the debugger name ld.so; then argv[0], as ld.so keeps it in
    ``_dl_argv``, is the program.
    """
    modules = memory.target.modules()
    path = modules[0].path if modules else ""
    if not path:
        path = _read_path(memory, memory.target.auxv().get(AT_EXECFN, 0))
    if rtld is not None and modules and rtld.contains(modules[0].base):
        try:
            symbol = rtld.find_symbol("_dl_argv")
            path = _read_path(memory, memory.pointer(memory.pointer(symbol[0]))) if symbol else ""
        except DlwhyError:
            path = ""  # ld.so's path is not the program's
    return path


def for_each_library_name(memory: Memory, link_map: LinkMap) -> Iterator[str]:
    """Yield the names by which a library has been found, as far as the loader lists them.

    l_libname is a list of ``struct libname_list {const char *name; struct libname_list *next;}`` (include/link.h).

    :raises FaultError: if a name cannot be read.
    :raises CorruptError: if a name has no end.
    """
    address = link_map.field("l_libname") or 0
    for _ in range(MAX_LIBRARY_NAMES):
        if not address:
            return
        name, address = memory.words(address, 2)
        yield memory.c_string(name, MAX_NAME)


def is_vdso(memory: Memory, link_map: LinkMap) -> Optional[bool]:
    """Return True for the link map of the kernel's vDSO, None if only its name fits.

    Any library can have that name; the vDSO's address is in the auxiliary vector (getauxval(3)).
    """
    start = memory.target.auxv().get(AT_SYSINFO_EHDR)
    if start:
        return link_map.l_map_start == start
    return None if link_map.name in ("linux-vdso.so.1", *_VDSO_NAMES.values()) else False


def vdso_name(arch: str) -> str:
    """Return the soname that the kernel's vDSO has on an architecture (vdso(7))."""
    return _VDSO_NAMES.get(arch, "linux-vdso.so.1")


def missing_names() -> tuple[Problem, ...]:
    """Return a problem if demangling this answer's names took too long."""
    message = "some take too much time or memory to find or to demangle: they are missing, or as the linker has them"
    return (Problem("names", message),) if shared_helper().missing else ()


def _read_path(memory: Memory, address: int) -> str:
    try:
        return memory.c_string(address) if address else ""
    except DlwhyError:
        return ""  # then it is called the main program


def opened_by(path: str) -> str:
    """Return who most probably opened a library: libc opens these for itself and hands out no handle."""
    name = base_name(path)
    internal = name.startswith(("libgcc_s.so", "libnss_", "libidn2.so")) or "/gconv/" in path
    return "libc" if internal else "user"
