"""What are the 32-bit registers and the 32-bit stack of a thread in a WoW64 process?

Slot 1 of its 64-bit TLS points at a structure with a WOW64_CONTEXT at offset 4, by Microsoft's documentation up to
Windows 8.1 (learn.microsoft.com/windows/win32/api/winnt/ns-winnt-wow64_context); so the structure is accepted only if
it has the segments of 32-bit user code and a stack pointer within the 32-bit stack.  Offsets of WOW64_CONTEXT: winnt.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from ...memory import Memory
from .lists import for_each_wow64_teb

#: _TEB.TlsSlots[1] of 64-bit code, and the context in what that points at.
_TLS_SLOT_1, _CONTEXT = 0x1488, 4
#: _NT_TIB.StackBase and .StackLimit of 32-bit code.
_STACK_BASE, _STACK_LIMIT = 4, 8
_REGISTERS = {
    "edi": 0x9C,
    "esi": 0xA0,
    "ebx": 0xA4,
    "edx": 0xA8,
    "ecx": 0xAC,
    "eax": 0xB0,
    "ebp": 0xB4,
    "eip": 0xB8,
    "esp": 0xC4,
}
_SEG_CS, _CODE_32 = 0xBC, 0x23
_SIZE = 0xCC


class Wow64Thread(NamedTuple):
    """A thread in its 32-bit code: its registers, empty if unknown, and the bounds of its stack."""

    registers: Mapping[str, int]
    stack_base: int
    stack_limit: int


def find_wow64_thread(memory: Memory, teb: int) -> Optional[Wow64Thread]:
    """Find the 32-bit side of a thread by its 64-bit TEB, None if it has none in memory."""
    for teb32 in for_each_wow64_teb(memory, teb):
        raw = memory.try_read(teb32 + _STACK_BASE, 8)
        if raw is None:
            continue
        base, limit = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "little")
        if limit < base:
            return Wow64Thread(_registers(memory, teb, base, limit), base, limit)
    return None


def _registers(memory: Memory, teb: int, base: int, limit: int) -> Mapping[str, int]:
    slot = memory.try_read(teb + _TLS_SLOT_1, 8)
    context = int.from_bytes(slot or b"", "little")
    raw = memory.try_read(context + _CONTEXT, _SIZE) if context else None
    if raw is None:
        return {}
    found = {name: int.from_bytes(raw[at : at + 4], "little") for name, at in _REGISTERS.items()}
    segment = int.from_bytes(raw[_SEG_CS : _SEG_CS + 4], "little")
    return found if segment == _CODE_32 and limit <= found["esp"] <= base else {}
