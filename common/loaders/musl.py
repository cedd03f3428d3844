"""Is this process's dynamic loader musl's?

musl never unloads: its dlclose checks the handle and returns (ldso/dynlink.c, 1.2).  So the public link_map chain
says all that matters.
"""

from __future__ import annotations

from ..elf.image import PT_INTERP
from ..errors import DlwhyError
from ..memory import Memory
from .start import Start, find_rtld


def is_musl(memory: Memory, start: Start) -> bool:
    """Tell whether the loader is musl's: by its own dynamic symbols, or the program's PT_INTERP."""
    found = find_rtld(memory, start.maps)
    if found is not None:
        try:
            if found[1].find_symbol("_dl_debug_addr") and found[1].find_symbol("__dls3"):
                return True
        except DlwhyError:
            pass
    header = start.main.find_header(PT_INTERP)
    if header is None:
        return False
    try:
        return "ld-musl-" in memory.c_string(start.main.address(header.vaddr))
    except DlwhyError:
        return False
