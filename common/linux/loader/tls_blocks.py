"""Where does a thread have the thread-local variables of a library?

Each thread has a vector of them, the DTV, of pairs ``{ void *val; void *to_free; }`` (dl-dtv.h), with
an entry for each module id, which the loader allots to libraries with thread-local variables.  The control block has
its address: ``tcbhead_t.dtv`` of sysdeps/*/nptl/tls.h, fixed by the compilers' ABIs.
"""

from __future__ import annotations

from typing import Optional

from ...memory import Memory
from .maps import LinkMap

MAX_MODULES = 1 << 20

#: The offset of ``tcbhead_t.dtv`` from the thread pointer.
_DTV_OFFSET = {
    "x86_64": 8,
    "i386": 4,
    "s390x": 8,
    "aarch64": 0,
    "arm": 0,
    "riscv64": -16,
    "loongarch64": -16,
    "ppc64le": -0x7008,
    "ppc64": -0x7008,
}


def find_offset(memory: Memory, thread_pointer: int, link_map: LinkMap, address: int) -> Optional[int]:
    """Return the offset of an address in a thread's block of a library; None if it is elsewhere, or not known."""
    module, size = link_map.field("l_tls_modid"), link_map.field("l_tls_blocksize")
    at = _DTV_OFFSET.get(memory.platform.arch)
    if not module or not size or module > MAX_MODULES or at is None:
        return None
    word = memory.pointer_size
    vector = memory.try_unsigned(thread_pointer + at & memory.platform.address_mask, word)
    block = memory.try_unsigned(vector + 2 * word * module, word) if vector else None
    return address - block if block and block <= address < block + size else None
