"""Is this process's loader musl's, and what does it record about each library?

musl never unloads: its dlclose checks the handle and returns (ldso/dynlink.c, 1.2).  Its ``struct dso`` begins with
the public part of ``struct link_map``, and records which libraries dlopen loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from ...errors import DlwhyError, FaultError, LayoutError
from ...memory import Memory
from ...structs import Structure
from ..elf.image import PT_INTERP
from ..layouts.tables import load_musl_dso
from .rendezvous import PublicMap, Rendezvous, find_rtld

#: The members that are reported.
FIELDS = ("runtime_loaded", "relocated", "constructed")

# sizeof(Elf_Phdr), which musl keeps for every library.
_PHDR_SIZES = {8: 56, 4: 32}


def is_musl(memory: Memory, start: Rendezvous) -> bool:
    """Return True if the loader is musl's: by its own dynamic symbols, or the program's PT_INTERP."""
    found = find_rtld(memory, start)
    if found is not None:
        try:
            if found[1].find_symbol("_dl_debug_addr") and found[1].find_symbol("__dls3"):
                return True
        except DlwhyError:
            pass  # the program's PT_INTERP says it, too
    header = start.main.find_header(PT_INTERP)
    if header is None:
        return False
    try:
        return "ld-musl-" in memory.c_string(start.main.address(header.vaddr))
    except DlwhyError:
        return False  # then the loader is glibc's, or refused as one that is not known


def read_dso(memory: Memory, entry: PublicMap) -> Optional[Mapping[str, int]]:
    """Read the members of a library's ``struct dso``; None if this musl has another layout.

    The layout is that of musl since 1.1.22 (403555690775), which moved the flags.
    """
    try:
        structure = Structure(load_musl_dso(memory.platform.arch), memory.struct_prefix)
        values = structure.read(memory, entry.address)
    except (LayoutError, FaultError):
        return None  # the caller says that the members are not known
    is_sound = (
        values["phentsize"] == _PHDR_SIZES[memory.pointer_size]
        and all(values[name] in (0, 1) for name in FIELDS)
        and (values["kernel_mapped"] == 1 or values["map"] <= entry.l_ld < values["map"] + values["map_len"])
    )
    return values if is_sound else None
