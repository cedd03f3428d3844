"""How much of the static TLS block is left for libraries that dlopen loads, and who has the rest?

A library whose thread-locals are accessed by the initial-exec model needs a piece of each thread's static block.  Its
size is fixed when the program starts; what dlopen may hand out of it is a surplus, 1664 bytes by default (glibc.rtld
.optional_static_tls).  ``_dl_try_allocate_static_tls`` (elf/dl-reloc.c) hands out at the end only; ``_dl_close_worker``
takes back what is at the end only, so a piece in the middle is never used again.  If nothing is left, dlopen fails with
"cannot allocate memory in static TLS block".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...memory import Memory
from ..layouts.resolve import LayoutSet
from .find import LoaderGlobals
from .maps import LinkMap
from .roots import LT_LOADED
from .tls import counts_downwards


class StaticSurplus(NamedTuple):
    """The surplus of the static TLS block in bytes: its size, what is free, and who has a piece, by link map.

    ``lost`` is what no loaded library has, and no later one gets.
    """

    size: int
    free: int
    held: Mapping[int, int]
    lost: int


def read_static_surplus(
    memory: Memory, layouts: LayoutSet, private: LoaderGlobals, maps: Iterable[LinkMap]
) -> Optional[StaticSurplus]:
    """Read how the surplus is used; None if a member is not known, cannot be read, or contradicts the libraries."""
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
    pieces = sorted(filter(None, (_piece(memory, link_map, downwards) for link_map in maps if not link_map.is_proxy)))
    first = max((piece.end for piece in pieces if not piece.is_loaded), default=0)
    held = {piece.link_map: piece.end - piece.start for piece in pieces if piece.is_loaded}
    lost = used - first - sum(held.values())
    if not first <= used <= end or lost < 0 or any(piece.start < first for piece in pieces if piece.is_loaded):
        return None
    return StaticSurplus(end - first, end - used, held, lost)


class _Piece(NamedTuple):
    end: int
    start: int
    link_map: int
    is_loaded: bool


def _piece(memory: Memory, link_map: LinkMap, downwards: bool) -> Optional[_Piece]:
    """Return a library's piece of the static block, None if it has none.

    NO_TLS_OFFSET is 0 or -1, FORCED_DYNAMIC_TLS_OFFSET -1 or -2 (include/link.h, sysdeps/*/nptl/tls.h).
    """
    offset, size = link_map.field("l_tls_offset") or 0, link_map.field("l_tls_blocksize") or 0
    if not size or offset == 0 or offset >= memory.platform.address_mask - 1:
        return None
    start, end = (offset - size, offset) if downwards else (offset, offset + size)
    return _Piece(end, start, link_map.address, link_map.l_type == LT_LOADED)


def _read_member(memory: Memory, layouts: LayoutSet, private: LoaderGlobals, name: str) -> Optional[int]:
    """Read a member of _rtld_global, or of _rtld_global_ro, in which later releases have the size."""
    member = layouts.require("rtld_global").fields.get(name)
    if member is not None:
        return memory.unsigned(private.rtld_global + member.offset, member.size)
    read_only = layouts.find("rtld_global_ro")
    symbol = private.rtld.find_symbol("_rtld_global_ro")
    member = read_only.fields.get(name) if read_only is not None else None
    return memory.unsigned(symbol[0] + member.offset, member.size) if member is not None and symbol else None
