"""Which unloads does Windows' loader itself record?

ntdll keeps a ring of RTL_UNLOAD_EVENT_TRACE.  RtlGetUnloadEventTraceEx returns the addresses of three variables:
element size, count and pointer.  Without symbols and without a call, they are read from its code, whose bytes are the
same from Windows 10 to Wine on x64 and x86; on ARM64 it is followed.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple, Optional

from ...counts import quantity
from ...errors import FaultError
from ...memory import Memory
from ...model import Problem
from ..model import UnloadedImage
from ..pe import find_export
from .lists import Loader

EXPORT = "RtlGetUnloadEventTraceEx"
#: RTL_UNLOAD_EVENT_TRACE_NUMBER is 64, or 16 in older versions.
MAX_EVENTS = 1 << 12
#: Cost of an event, in Memory's units.
_EVENT_UNITS = 2000
_NAME_BYTES = 64
_SIZES = {8: (0x60, 0x68), 4: (0x54, 0x5C)}

# lea rax, [rip+x]; mov [rcx], rax; the same for rdx and r8; ret
_X64 = re.compile(
    rb"\x48\x8d\x05(....)\x48\x89\x01\x48\x8d\x05(....)\x48\x89\x02\x48\x8d\x05(....)\x49\x89\x00\xc3", re.S
)
# mov eax, [ebp+8]; mov dword ptr [eax], x; the same for the other two; ret 12
_X86 = re.compile(
    rb"\x8b\xff\x55\x8b\xec\x8b\x45\x08\xc7\x00(....)\x8b\x45\x0c\xc7\x00(....)\x8b\x45\x10\xc7\x00(....)\x5d\xc2\x0c\x00",
    re.S,
)
_CODE_BYTES = 48
# ARM64: hints (BTI, PACIBSP, NOP), ADRP and ADR, ADD of a number, STR, RET; each after the mask of the bits that
# identify it.
_HINT, _ADDRESS, _ADD, _STORE, _RETURN = (
    (0xFFFFF01F, 0xD503201F),
    (0x1F000000, 0x10000000),
    (0xFF800000, 0x91000000),
    (0xFFC00000, 0xF9000000),
    (0xFFFFFC1F, 0xD65F0000),
)


class UnloadRecord(NamedTuple):
    """The loader's own record: unload events, oldest first, and the number of overwritten older ones."""

    events: tuple[UnloadedImage, ...]
    lost: Optional[int]


def find_unloads(loader: Loader) -> tuple[Optional[UnloadRecord], Optional[Problem]]:
    """Find the loader's record of unloads; None and the reason if it cannot be found."""
    memory, size = loader.memory, loader.pointer_size
    where = "unload events" + (" of the 32-bit loader" if loader.kind == "wow64" else "")
    ntdll = loader.find_entry("ntdll.dll")
    address = find_export(memory, ntdll.base, EXPORT) if ntdll else None
    if address is None:
        return None, Problem(where, f"ntdll's {EXPORT} is not in memory: the loader's own record is not known")
    variables = _variables(memory, address, size)
    if variables is None:
        return None, Problem(where, f"the code of {EXPORT} is not of a known form: the loader's record is not known")
    try:
        element, count = memory.unsigned(variables[0], 4), memory.unsigned(variables[1], 4)
        array = memory.unsigned(variables[2], size)
        if not array:
            return UnloadRecord((), 0), None
        if element < _SIZES[size][0] or element > 0x1000 or not 0 < count <= MAX_EVENTS:
            return None, Problem(
                where, f"its numbers make no sense: {quantity(count, 'element')} of {quantity(element, 'byte')}"
            )
        events = []
        for slot in range(count):
            memory.spend(_EVENT_UNITS, where)
            event = _event(memory.read(array + slot * element, _SIZES[size][0]), size)
            if event.base:
                events.append(event)
    except FaultError as error:
        return None, Problem(where, f"the loader's record is not in memory ({error})")
    events.sort(key=lambda event: event.sequence or 0)
    newest = events[-1].sequence or 0 if events else -1
    return UnloadRecord(tuple(events), max(0, newest + 1 - len(events))), None


def _variables(memory: Memory, address: int, size: int) -> Optional[tuple[int, ...]]:
    if size == 8 and memory.platform.arch == "aarch64":
        return _arm64_variables(memory, address)
    code = memory.try_read(address, _CODE_BYTES)
    if code is None:
        return None
    if size == 8:
        found = _X64.match(code)
        if found is None:
            return None
        return tuple(address + found.end(i) + struct.unpack("<i", found.group(i))[0] for i in (1, 2, 3))
    found = _X86.match(code)
    return None if found is None else tuple(struct.unpack("<I", found.group(i))[0] for i in (1, 2, 3))


def _arm64_variables(memory: Memory, address: int) -> Optional[tuple[int, ...]]:
    """Follow code that computes addresses and stores them where its three arguments, X0 to X2, point."""
    registers: dict[int, int] = {}
    stored: dict[int, int] = {}
    for place in range(address, address + _CODE_BYTES, 4):
        word = memory.try_unsigned(place, 4)
        if word is None:
            return None
        target, source = word & 31, word >> 5 & 31
        immediate = word >> 10 & 0xFFF
        if word & _RETURN[0] == _RETURN[1]:
            return tuple(stored[each] for each in (0, 1, 2)) if stored.keys() == {0, 1, 2} else None
        if word & _ADDRESS[0] == _ADDRESS[1]:
            registers[target] = _arm64_address(word, place)
        elif word & _ADD[0] == _ADD[1] and source in registers:
            registers[target] = registers[source] + (immediate << 12 if word >> 22 & 1 else immediate)
        elif word & _STORE[0] == _STORE[1] and target in registers and source not in registers and not immediate:
            stored[source] = registers[target]
        elif word & _HINT[0] != _HINT[1]:
            return None
    return None


def _arm64_address(word: int, place: int) -> int:
    """Return what ADR or ADRP computes."""
    distance = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
    distance -= (distance & 1 << 20) << 1
    return (place & ~0xFFF) + (distance << 12) if word >> 31 else place + distance


def _event(raw: bytes, size: int) -> UnloadedImage:
    base, length = struct.unpack_from("<QQ" if size == 8 else "<II", raw)
    sequence, timestamp, checksum = struct.unpack_from("<III", raw, 2 * size)
    name = raw[2 * size + 12 : 2 * size + 12 + _NAME_BYTES].decode("utf-16-le", "replace").split("\0", 1)[0]
    return UnloadedImage(name, base, length, timestamp, checksum, sequence)
