"""Where in ``_dl_open`` and ``_dl_close`` has a thread just taken the loader's lock?

Both functions take ``_dl_load_lock`` before they look at anything, and keep it until they have changed everything.  So
the order in which threads come to the instruction after that call is the order of the opens and closes themselves, and
what is read there is what the function is about to find.

The call is found in the code on the straight way from the function's start: until glibc 2.33 it goes through
``_dl_rtld_lock_recursive`` in ``_rtld_global``, since then (d6163dfd3831) through ``___rtld_mutex_lock``, both by
``call *disp32(%rip)``, with the lock's address loaded before.  A breakpoint must be at the beginning of an instruction,
so nothing is found if any instruction on the way is unknown.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple, Optional

from ...errors import DlwhyError
from ..elf.image import ElfImage
from ..elf.unwind import REGISTERS, find_row

#: From a function's start to the call; real code has less than 80 bytes there.
_MAX_CODE = 256
_ARGUMENT = 7  # rdi

_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))

# Instructions that compilers put before the call, by what follows their opcode: nothing, an operand (ModRM), or an
# operand and an immediate of 1 or 4 bytes.
_INSTRUCTION = re.compile(
    rb"""
      (?P<none> \xf3\x0f\x1e\xfa | \x41?[\x50-\x57] | (?:\x66*)\x90 )
    | (?P<byte> [\x70-\x7f] | \xa8 )
    | (?P<long> \x0f[\x80-\x8f] | \x41?[\xb8-\xbf] | \xa9 | \xe8 )
    | (?P<operand> \x64?[\x40-\x4f]? (?: [\x01\x03\x09\x0b\x21\x23\x29\x2b\x31\x33\x38-\x3b\x63\x84\x85\x89\x8b\x8d]
                 | \x0f[\x40-\x4f\x90-\x9f\xb6\xb7\xbe\xbf] ) | \x66*\x2e?\x0f\x1f | \xff (?=[\x10-\x17\xd0-\xd7]) )
    | (?P<operand_byte> [\x40-\x4f]?(?: [\x80\x83\xc0\xc1\xc6] | \xf6 (?=[\x00-\x07\x40-\x47\x80-\x87\xc0-\xc7]) ) )
    | (?P<operand_long> [\x40-\x4f]?(?: [\x81\xc7] | \xf7 (?=[\x00-\x07\x40-\x47\x80-\x87\xc0-\xc7]) ) )
    """,
    re.DOTALL | re.VERBOSE,
)
_IMMEDIATE = {"byte": 1, "long": 4, "operand_byte": 1, "operand_long": 4}


class LockPoint(NamedTuple):
    """The instruction at which a function has just taken the lock.

    ``frame`` are a register and what to add to it for the stack pointer at the function's start; ``argument`` is the
    register that has the function's first argument, None if that is not kept in one.
    """

    address: int
    frame: tuple[str, int]
    argument: Optional[str]


def find_lock_point(image: ElfImage, function: int, lock: int) -> Optional[LockPoint]:
    """Find where a function has just taken a lock, None if its code is not understood; x86-64 only.

    :param function: the address of a function of ld.so.
    :param lock: the address of ``_dl_load_lock``.
    """
    memory = image.memory
    if memory.platform.arch != "x86_64":
        return None
    code = memory.try_read(function, _MAX_CODE) or b""
    has_lock = False
    argument: Optional[str] = None
    for start, end in _instructions(code):
        instruction = code[start:end]
        if _loaded_address(instruction, function + end) == lock:
            has_lock = True
        copied = _copy_of_argument(instruction)
        argument = argument or copied
        if instruction[:1] in (b"\xff", b"\xe8"):
            return _describe(image, function + end, argument) if has_lock else None
    return None


def _describe(image: ElfImage, address: int, argument: Optional[str]) -> Optional[LockPoint]:
    """Return the point at an address, None if the function's frame is unknown there."""
    try:
        row = find_row(image, address)
    except DlwhyError:
        return None  # nothing is lost: opens and closes are seen at the functions' starts instead
    if row is None or row.cfa is None:
        return None
    names = REGISTERS["x86_64"]
    register, offset = row.cfa
    if register not in names or argument not in (None, *names.values()):
        return None
    return LockPoint(address, (names[register], offset - image.memory.pointer_size), argument)


def _instructions(code: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each instruction begins and ends, up to the first one that is not known."""
    position = 0
    while position < len(code):
        match = _INSTRUCTION.match(code, position)
        if match is None:
            return
        kind = match.lastgroup or ""
        end = match.end() + _IMMEDIATE.get(kind, 0)
        if kind.startswith("operand"):
            end += _operand_size(code[match.end() : match.end() + 2])
        if end > len(code):
            return
        yield position, end
        position = end


def _operand_size(start: bytes) -> int:
    """Return the size of an operand: ModRM, SIB and displacement."""
    if not start:
        return 1
    mode, register = start[0] >> 6, start[0] & 7
    if mode == 3:
        return 1
    size = 2 if register == 4 else 1
    if mode == 0:
        has_displacement = register == 5 or (register == 4 and start[-1] & 7 == 5)
        return size + 4 if has_displacement else size
    return size + (1 if mode == 1 else 4)


def _loaded_address(instruction: bytes, end: int) -> Optional[int]:
    """Return the address that ``lea disp32(%rip)`` loads, None for other instructions."""
    if len(instruction) != 7 or instruction[0] not in (0x48, 0x4C) or instruction[1] != 0x8D:
        return None
    if instruction[2] & 0xC7 != 5:
        return None
    distance: int = struct.unpack_from("<i", instruction, 3)[0]
    return end + distance


def _copy_of_argument(instruction: bytes) -> Optional[str]:
    """Return the register to which ``mov %rdi`` copies the function's first argument, None for other instructions."""
    if len(instruction) != 3 or instruction[0] not in (0x48, 0x49) or instruction[1] != 0x89:
        return None
    mode, source, target = instruction[2] >> 6, instruction[2] >> 3 & 7, instruction[2] & 7
    return _GENERAL[target + 8 * (instruction[0] & 1)] if mode == 3 and source == _ARGUMENT else None
