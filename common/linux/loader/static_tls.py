"""How much of the static TLS block is left for libraries that dlopen loads, and who has the rest?

A library whose thread-locals are accessed by the initial-exec model needs a piece of each thread's static block.  Its
size is fixed when the program starts; what dlopen may hand out of it is a surplus, 1664 bytes by default (glibc.rtld
.optional_static_tls).  ``_dl_try_allocate_static_tls`` (elf/dl-reloc.c) hands out at the end only; ``_dl_close_worker``
takes back what is at the end only, so a piece in the middle is never used again.  If nothing is left, dlopen fails with
"cannot allocate memory in static TLS block".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Optional

from ...errors import DlwhyError
from ...memory import Memory
from ..layouts.resolve import LayoutSet
from ..model import StaticTls
from .find import LoaderGlobals
from .maps import LinkMap
from .roots import LT_LOADED
from .tls_blocks import counts_downwards


def read_static_surplus(
    memory: Memory,
    layouts: LayoutSet,
    private: LoaderGlobals,
    maps: Iterable[LinkMap],
    name: Callable[[LinkMap], str],
) -> Optional[StaticTls]:
    """Read how the surplus is used; None if a member is not known, cannot be read, or contradicts the libraries.

    :param name: returns a library's base name.
    """
    try:
        used = _read_member(memory, layouts, private, "_dl_tls_static_used")
        size = _read_member(memory, layouts, private, "_dl_tls_static_size")
    except DlwhyError:
        return None
    pthread = layouts.find("pthread")
    downwards = counts_downwards(memory.platform)
    if used is None or size is None or (downwards and pthread is None):
        return None
    # Where blocks count downwards from the thread pointer, the size includes struct pthread behind it.
    end = size - (pthread.size if downwards and pthread is not None else 0)
    first = 0
    opened: list[tuple[int, int, LinkMap]] = []
    for link_map in maps:
        piece = None if link_map.is_proxy else _piece(memory, link_map, downwards)
        if piece is not None and link_map.l_type == LT_LOADED:
            opened.append((*piece, link_map))
        elif piece is not None:
            first = max(first, piece[1])
    opened.sort(key=lambda each: (each[1], each[0], each[2].address))
    held = tuple((name(link_map), stop - start) for start, stop, link_map in opened)
    lost = used - first - sum(size for _, size in held)
    if not first <= used <= end or lost < 0 or any(start < first for start, _, _ in opened):
        return None
    return StaticTls(end - first, end - used, held, lost)


def _piece(memory: Memory, link_map: LinkMap, downwards: bool) -> Optional[tuple[int, int]]:
    """Return the start and end of a library's piece of the static block, None if it has none.

    NO_TLS_OFFSET is 0 or -1, FORCED_DYNAMIC_TLS_OFFSET -1 or -2 (include/link.h, sysdeps/*/nptl/tls.h).
    """
    offset, size = link_map.field("l_tls_offset") or 0, link_map.field("l_tls_blocksize") or 0
    if not size or offset == 0 or offset >= memory.platform.address_mask - 1:
        return None
    return (offset - size, offset) if downwards else (offset, offset + size)


def _read_member(memory: Memory, layouts: LayoutSet, private: LoaderGlobals, name: str) -> Optional[int]:
    """Read a member of _rtld_global, or of _rtld_global_ro, in which later releases have the size."""
    member = layouts.require("rtld_global").fields.get(name)
    if member is not None:
        return memory.unsigned(private.rtld_global + member.offset, member.size)
    read_only = layouts.find("rtld_global_ro")
    symbol = private.rtld.find_symbol("_rtld_global_ro")
    member = read_only.fields.get(name) if read_only is not None else None
    return memory.unsigned(symbol[0] + member.offset, member.size) if member is not None and symbol else None
