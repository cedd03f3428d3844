"""Which open does a caller request?"""

from __future__ import annotations

from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ...memory import Memory
from ...target import Hit
from .callers import Callers
from .entry_points import CALLERS_NAMESPACE, EntryPoint

RTLD_NOLOAD = 4

_MAX_NAME = 4096
#: Higher bits are the loader's own (__RTLD_DLOPEN, __RTLD_SPROF and others), not the caller's.
_FLAGS = 0xFFFF


class OpenRequest(NamedTuple):
    """An open request: name, RTLD flags, namespace (negative: LM_ID_NEWLM, -2).

    ``name`` is empty for the program itself, None if it could not be read.
    """

    name: Optional[str]
    flags: int
    space: int


def read_request(callers: Callers, hit: Hit, memory: Memory, entry: EntryPoint) -> OpenRequest:
    """Read the arguments of a function that is about to open.

    :raises FaultError: if they cannot be read.
    """
    arguments = [callers.argument(hit, memory, i) for i in range(4 if entry is EntryPoint.DL_OPEN else 3)]
    if entry is EntryPoint.DL_OPEN:
        name, flags, space = arguments[0], arguments[1], arguments[3]
    elif entry is EntryPoint.DLMOPEN:
        name, flags, space = arguments[1], arguments[2], arguments[0]
    else:
        # dlopen itself requests the caller's namespace, or the program in the base namespace.
        name, flags, space = arguments[0], arguments[1], CALLERS_NAMESPACE if arguments[0] else 0
    bits = 8 * memory.pointer_size
    signed = space - (1 << bits) if space > 0 and space >> (bits - 1) else space
    return OpenRequest(_read_name(memory, name), flags & _FLAGS, signed)


def _read_name(memory: Memory, address: int) -> Optional[str]:
    try:
        return memory.c_string(address, _MAX_NAME) if address else ""
    except DlwhyError:
        return None
