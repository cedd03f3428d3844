"""Do the ELF header and the program headers in memory agree with a link map?

The question is answered with one request for each library and next to no work, since it is asked of all; where the
answer is no, or a library is unusual, `layout.header_contradictions` and ``state.doubts`` find out what differs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Optional

from ...memory import PAGE_SIZE, Memory
from ...structs import Structure
from ..elf.image import PT_DYNAMIC, PT_GNU_RELRO, PT_LOAD, PT_TLS
from .maps import LinkMap
from .roots import LT_EXECUTABLE

#: Higher module ids of thread-local storage are implausible.
MAX_TLS_MODULES = 1 << 16
#: The number of words of an ``Elf_Phdr``.
_WORDS = 8
#: Indexes of p_offset, p_vaddr, p_memsz and p_align among the words; p_type is the first.
_WORDS_64, _WORDS_32 = (2, 3, 6, 7), (1, 2, 5, 7)
_MEMBERS = ("l_phnum", "l_tls_blocksize", "l_tls_align", "l_tls_modid", "l_relro_addr", "l_relro_size", "l_entry")
# The charge for a library, in Memory's units, in addition to the bytes that are read.
_LIBRARY_UNITS = 300


class HeaderAgreement:
    """Compares the link maps of a process with the headers in memory."""

    def __init__(self, memory: Memory, structure: Structure) -> None:
        """Compile the comparison for a target.

        :param structure: ``struct link_map`` with all its members, as `LinkMap` decodes it.
        """
        is_64 = memory.pointer_size == 8
        self._prefix = prefix = memory.struct_prefix
        self._memory = memory
        self._mask = memory.platform.address_mask
        self._ident = b"\x7fELF" + bytes([2 if is_64 else 1, 1 if prefix == "<" else 2])
        #: e_ident's first bytes, e_entry, e_phoff, e_phentsize, e_phnum.
        self._start = struct.Struct(f"{prefix}6s18x{'QQ14xHH' if is_64 else 'II10xHH'}")
        self._header = f"{'2I6Q' if is_64 else '8I'}"
        self._header_size = struct.calcsize(prefix + self._header)
        self._words = _WORDS_64 if is_64 else _WORDS_32
        self._known: dict[int, bool] = {}
        self._tables: dict[int, struct.Struct] = {}
        self._picks: dict[tuple[int, ...], Optional[Callable[[Any], tuple[int, ...]]]] = {}
        places = structure.places
        is_known = all(structure.is_plain_integer(name) for name in _MEMBERS)
        self._pick_members: Optional[Callable[[Any], tuple[int, ...]]] = (
            itemgetter(*(places[name][0] for name in _MEMBERS)) if is_known else None
        )

    def holds(self, link_map: LinkMap) -> bool:
        """Return True if a library's headers agree with its link map; False also where that is not seen at once."""
        known = self._known.get(link_map.address)
        if known is None:
            known = self._known[link_map.address] = self._compare(link_map)
        return known

    def _compare(self, link_map: LinkMap) -> bool:
        if self._pick_members is None or not self._memory.spend(_LIBRARY_UNITS, "headers of libraries"):
            return False
        start = link_map.l_map_start
        page = None if start % PAGE_SIZE else self._memory.try_page(start)
        if page is None:
            return False
        ident, entry, offset, size, count = self._start.unpack_from(page)
        if ident != self._ident or size != self._header_size or not 0 < count <= (len(page) - offset) // size:
            return False
        table = self._tables.get(count)
        if table is None:
            table = self._tables[count] = struct.Struct(self._prefix + self._header * count)
        words = table.unpack_from(page, offset)
        types = words[::_WORDS]
        pick = self._picks[types] if types in self._picks else self._compile(types)
        if pick is None:
            return False
        lowest, skipped, highest, extent, dynamic, tls_size, tls_align, relro, relro_size = pick((*words, 0))
        bias, mask = link_map.l_addr, self._mask
        phnum, blocksize, align, module, relro_addr, protected, own_entry = self._pick_members(link_map.values)
        return (
            bias + lowest - skipped & mask == start
            and bias + dynamic & mask == link_map.l_ld
            and -PAGE_SIZE < (bias + highest + extent & mask) - link_map.l_map_end < PAGE_SIZE
            and start <= link_map.l_ld < link_map.l_map_end
            and phnum == count
            and blocksize == tls_size
            and align == tls_align
            and (module == 0) == (tls_size == 0)
            and module <= MAX_TLS_MODULES
            and (PT_GNU_RELRO not in types or (relro_addr == relro and protected == relro_size))
            and (not entry or not own_entry or own_entry - bias & mask == entry or link_map.l_type == LT_EXECUTABLE)
        )

    def _compile(self, types: tuple[int, ...]) -> Optional[Callable[[Any], tuple[int, ...]]]:
        """Return what picks the words to compare from a table whose headers have these types; None if it is unusual.

        Loaded segments are in ascending order (gABI, "Program Header"), and linkers put them side by side.  A header
        that is not there counts as 0, the word behind the table.
        """
        first, count = types.index(PT_LOAD) if PT_LOAD in types else 0, types.count(PT_LOAD)
        pick = None
        if count and types[first : first + count] == (PT_LOAD,) * count and PT_DYNAMIC in types:
            offset, vaddr, memsz, align = self._words
            missing = len(types) * _WORDS
            last, dynamic = _WORDS * (first + count - 1), _WORDS * types.index(PT_DYNAMIC)
            places = [_WORDS * first + vaddr, _WORDS * first + offset, last + vaddr, last + memsz, dynamic + vaddr]
            for kind, members in ((PT_TLS, (memsz, align)), (PT_GNU_RELRO, (vaddr, memsz))):
                base = _WORDS * types.index(kind) if kind in types else None
                places += [missing if base is None else base + member for member in members]
            pick = itemgetter(*places)
        self._picks[types] = pick
        return pick
