"""Where does a thread have the thread-local variables of a library?

Each thread has a vector of them, the DTV, of pairs ``{ void *val; void *to_free; }`` (dl-dtv.h), with
an entry for each module id, which the loader allots to libraries with thread-local variables.  The control block has
its address: ``tcbhead_t.dtv`` of sysdeps/*/nptl/tls.h, fixed by the compilers' ABIs.
"""

from __future__ import annotations

from typing import Optional

from ...memory import Memory
from ...model import Platform
from .maps import LinkMap

MAX_MODULES = 1 << 20

# TLS variant II: l_tls_offset counts downwards from the thread pointer to the block; elsewhere it counts upwards from
# the control block, which on ppc64 is below the thread pointer (its ABI).
_VARIANT_II = frozenset({"x86_64", "i386", "s390x"})
_THREAD_POINTER_BIAS = {"ppc64le": 0x7000, "ppc64": 0x7000}

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


def counts_downwards(platform: Platform) -> bool:
    """Return True if l_tls_offset counts downwards from the thread pointer."""
    return platform.arch in _VARIANT_II


def find_static_block(platform: Platform, pointer: int, link_map: LinkMap) -> int:
    """Return the address of a start-up library's thread-local block, given the thread pointer."""
    shift = link_map.field("l_tls_offset") or 0
    block = pointer - _THREAD_POINTER_BIAS.get(platform.arch, 0)
    return block - shift if platform.arch in _VARIANT_II else block + shift
