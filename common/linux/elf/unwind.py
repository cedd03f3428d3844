"""Who called a function, according to the call frame information in its image?

A debugger's own unwinder needs the file, and guesses without it: LLDB 14 finds no ld.so in a process that it has
launched, and returns words of the stack that are not return addresses.  ``.eh_frame`` and its search table are part of
the loaded image, so the result here is the same under every debugger.

Sources: DWARF 4 §6.4 and §7.23 (call frame instructions); the Linux Standard Base, Core, §10.6 (``.eh_frame`` and
``.eh_frame_hdr``); DWARF for the Arm 64-bit Architecture, §4.4 (signed return addresses).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Optional

from ...counts import quantity
from ...errors import CorruptError, DlwhyError
from ...memory import Memory
from .image import ElfImage

PT_GNU_EH_FRAME = 0x6474E550

#: The registers that calls preserve, and the stack pointer, by DWARF number, and by name in gdb and LLDB.
REGISTERS: Mapping[str, Mapping[int, str]] = {
    "x86_64": {3: "rbx", 6: "rbp", 7: "rsp", 12: "r12", 13: "r13", 14: "r14", 15: "r15"},
    "i386": {3: "ebx", 4: "esp", 5: "ebp", 6: "esi", 7: "edi"},
    "aarch64": {**{number: f"x{number}" for number in range(19, 31)}, 31: "sp"},
}
_STACK = {"x86_64": 7, "i386": 4, "aarch64": 31}

#: Pointers are 4-byte offsets from the table, as all linkers write them (DW_EH_PE_datarel | DW_EH_PE_sdata4).
_TABLE_ENCODING = 0x3B
_OMITTED = 0xFF
_MAX_ENTRIES = 1 << 22
_MAX_RECORD = 1 << 16
_MAX_STATES = 64
#: More registers than any processor has.
_MAX_RULES = 512
_MAX_SHIFT = 63
#: Low bits of an AArch64 return address, which a signature leaves unchanged.
_UNSIGNED_BITS = 48


class CallFrame(NamedTuple):
    """A caller: its program counter and stack pointer after the call returns.

    ``place`` is the return address's own address on the stack, None while it is in a register.  ``is_fixed`` means that
    the distance between the two stack pointers is the same for every call from there.
    """

    pc: int
    stack: int
    place: Optional[int]
    is_fixed: bool


class Row(NamedTuple):
    """A row of the call frame table: how to find a function's caller at one instruction.

    The CFA is a register and an offset, None if it is an expression.  ``rules`` have for each register the offset from
    the CFA at which it is saved, None if it is lost.
    """

    cfa: Optional[tuple[int, int]]
    rules: Mapping[int, Optional[int]]
    return_register: int
    is_signed: bool


def walk(
    memory: Memory,
    find_image: Callable[[int], Optional[ElfImage]],
    pc: int,
    registers: Mapping[int, int],
    rows: Optional[dict[int, Optional[Row]]] = None,
) -> Iterator[CallFrame]:
    """Yield the callers of the instruction at ``pc``, as far as images are known.

    The last one is the first without an image, unless the tables end the walk earlier.

    :param rows: rows by instruction, which are found once for several walks.
    """
    rows = {} if rows is None else rows
    known = dict(registers)
    is_call = False
    while True:
        image = find_image(pc)
        if image is None:
            return
        try:
            place = pc - is_call
            row = rows[place] = rows[place] if place in rows else find_row(image, place)
            stepped = _step(memory, row, known, is_call) if row else None
        except DlwhyError:
            return  # the caller looks whether the last frame is the outermost
        if stepped is None:
            return
        frame, known = stepped
        yield frame
        pc, is_call = frame.pc, True


def _step(
    memory: Memory, row: Row, registers: Mapping[int, int], is_call: bool
) -> Optional[tuple[CallFrame, dict[int, int]]]:
    """Unwind one frame; None if the caller is unknown or not above this frame.

    Only a function that has called nothing has its return address in a register.
    """
    stack = _STACK[memory.platform.arch]
    if row.cfa is None or row.cfa[0] not in registers:
        return None
    mask = memory.platform.address_mask
    cfa = registers[row.cfa[0]] + row.cfa[1] & mask
    before = registers.get(stack, 0)
    result = dict(registers)
    for number, offset in row.rules.items():
        if offset is None:
            result.pop(number, None)
        elif number in REGISTERS[memory.platform.arch] or number == row.return_register:
            result[number] = memory.pointer(cfa + offset & mask)
    offset = row.rules.get(row.return_register)
    pc = result.get(row.return_register)
    if pc is None or cfa < before or (cfa == before and (is_call or offset is not None)):
        return None
    if row.is_signed:
        pc &= (1 << _UNSIGNED_BITS) - 1
    result[stack] = cfa
    place = None if offset is None else cfa + offset & mask
    return CallFrame(pc, cfa, place, row.cfa[0] == stack), result


def find_row(image: ElfImage, address: int) -> Optional[Row]:
    """Find the row for an instruction; None if there is none.

    :raises CorruptError: if the tables contradict themselves.
    :raises FaultError: if they are not in memory.
    """
    start = _find_description(image, address)
    return _Description(image, start).row(address) if start is not None else None


def find_function_range(image: ElfImage, address: int) -> Optional[tuple[int, int]]:
    """Return where the function begins and ends that the tables have for an address; None if they have none.

    :raises CorruptError: if the tables contradict themselves.
    :raises FaultError: if they are not in memory.
    """
    start = _find_description(image, address)
    found = _Description(image, start).range if start is not None else None
    return found if found is not None and found[0] <= address < found[1] else None


def _find_description(image: ElfImage, address: int) -> Optional[int]:
    """Find the FDE by the search table."""
    header = image.find_header(PT_GNU_EH_FRAME)
    if header is None:
        return None
    memory, start = image.memory, image.address(header.vaddr)
    reader = _Reader(memory, start, memory.read(start, min(header.memsz, 32)), start)
    version, pointer, count, table = (reader.unsigned(1) for _ in range(4))
    if version != 1 or table != _TABLE_ENCODING or count == _OMITTED:
        return None
    reader.encoded(pointer)
    total = reader.encoded(count)
    entries = start + reader.position
    if not 0 < total <= min(_MAX_ENTRIES, header.memsz // 8):
        raise CorruptError(f"{quantity(total, 'entry')} of .eh_frame_hdr", start)
    wanted = address - start
    form = struct.Struct(memory.struct_prefix + "ii")
    low, high = 0, total
    while high - low > 1:
        middle = (low + high) // 2
        first, _ = form.unpack(memory.read(entries + middle * form.size, form.size))
        low, high = (middle, high) if first <= wanted else (low, middle)
    first, description = form.unpack(memory.read(entries + low * form.size, form.size))
    return start + description & memory.platform.address_mask if first <= wanted else None


class _Reader:
    """Reads values one after another from bytes at an address."""

    def __init__(self, memory: Memory, address: int, data: bytes, base: int) -> None:
        self._byteorder = memory.platform.byteorder
        self._mask = memory.platform.address_mask
        self._pointer_size = memory.pointer_size
        self._address = address
        self._data = data
        self._base = base
        self.position = 0

    @property
    def is_at_end(self) -> bool:
        return self.position >= len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self.position : self.position + size]
        if size < 0 or len(piece) < size:
            raise CorruptError("call frame information that is cut off", self._address)
        self.position += size
        return piece

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), self._byteorder)  # type: ignore[arg-type]

    def signed(self, size: int) -> int:
        return int.from_bytes(self.take(size), self._byteorder, signed=True)  # type: ignore[arg-type]

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value
            if shift > _MAX_SHIFT:
                raise CorruptError("call frame information with an endless number", self._address)

    def sleb(self) -> int:
        start = self.position
        value = self.uleb()
        bits = 7 * (self.position - start)
        return value - (1 << bits) if value >> (bits - 1) else value

    def text(self) -> bytes:
        end = self._data.find(b"\0", self.position)
        if end < 0:
            raise CorruptError("call frame information that is cut off", self._address)
        return self.take(end + 1 - self.position)[:-1]

    def encoded(self, encoding: int) -> int:
        """Read a pointer in a DW_EH_PE_* encoding."""
        place = self._address + self.position
        kind = encoding & 0x0F
        if kind == 1:
            value = self.uleb()
        elif kind == 9:
            value = self.sleb()
        elif kind in (0, 2, 3, 4):
            value = self.unsigned({0: self._pointer_size, 2: 2, 3: 4, 4: 8}[kind])
        elif kind in (10, 11, 12):
            value = self.signed({10: 2, 11: 4, 12: 8}[kind])
        else:
            raise CorruptError(f"pointer encoding {encoding:#x}", place)
        applied = {0x00: 0, 0x10: place, 0x30: self._base}
        if encoding & 0x70 not in applied:
            raise CorruptError(f"pointer encoding {encoding:#x}", place)
        return value + applied[encoding & 0x70] & self._mask


class _Description:
    """A function's call frame information: an FDE with its CIE."""

    def __init__(self, image: ElfImage, address: int) -> None:
        self._memory = image.memory
        fde, cie_distance = self._record(address)
        cie, cie_id = self._record(address + 4 - cie_distance)
        if cie_distance == 0 or cie_id != 0:
            raise CorruptError("an FDE without a CIE", address)
        version = cie.unsigned(1)
        augmentation = cie.text()
        if version not in (1, 3) or (augmentation and augmentation[:1] != b"z"):
            raise CorruptError(f"a CIE of version {version}", address)
        self._code_factor, self._data_factor = cie.uleb(), cie.sleb()
        self._return_register = cie.unsigned(1) if version == 1 else cie.uleb()
        encoding = 0
        if augmentation:
            end = cie.uleb() + cie.position
            for letter in augmentation[1:]:
                if letter == ord("R"):
                    encoding = cie.unsigned(1)
                elif letter == ord("L"):
                    cie.unsigned(1)
                elif letter == ord("P"):
                    cie.encoded(cie.unsigned(1) & 0x7F)
            cie.take(end - cie.position)
        self._encoding = encoding
        self._start = fde.encoded(encoding)
        self._size = fde.encoded(encoding & 0x0F)
        if augmentation:
            fde.take(fde.uleb())
        self._common, self._own = cie, fde

    def _record(self, address: int) -> tuple[_Reader, int]:
        """Read a record's first two words; return a reader behind them, and the second word."""
        size = self._memory.unsigned(address, 4)
        if not 4 <= size <= _MAX_RECORD:
            raise CorruptError(f"call frame information of {quantity(size, 'byte')}", address)
        reader = _Reader(self._memory, address + 4, self._memory.read(address + 4, size), 0)
        return reader, reader.unsigned(4)

    @property
    def range(self) -> tuple[int, int]:
        return self._start, self._start + self._size

    def row(self, address: int) -> Optional[Row]:
        """Execute the instructions up to an address."""
        if not self._start <= address < self._start + self._size:
            return None
        table = _CallFrameMachine(self._code_factor, self._data_factor, self._encoding)
        table.execute(self._common, self._start, address)
        table.initial = dict(table.rules)
        table.execute(self._own, self._start, address)
        return Row(table.cfa, table.rules, self._return_register, table.is_signed)


class _CallFrameMachine:
    """The state of DWARF's call frame machine."""

    def __init__(self, code_factor: int, data_factor: int, encoding: int) -> None:
        self._code_factor = code_factor
        self._data_factor = data_factor
        self._encoding = encoding
        self.cfa: Optional[tuple[int, int]] = None
        self.rules: dict[int, Optional[int]] = {}
        self.initial: dict[int, Optional[int]] = {}
        self.is_signed = False
        self._states: list[tuple[Optional[tuple[int, int]], dict[int, Optional[int]], bool]] = []

    def execute(self, code: _Reader, place: int, until: int) -> None:
        """Execute instructions as long as they apply to ``until``."""
        while not code.is_at_end:
            opcode = code.unsigned(1)
            high, low = opcode & 0xC0, opcode & 0x3F
            if high == 0x40:
                place += low * self._code_factor
            elif high == 0x80:
                self.rules[low] = code.uleb() * self._data_factor
            elif high == 0xC0:
                self._restore(low)
            elif opcode == 0x01:
                place = code.encoded(self._encoding)
            elif opcode in (0x02, 0x03, 0x04):
                place += code.unsigned(1 << (opcode - 2)) * self._code_factor
            else:
                self._define(opcode, code)
            if len(self.rules) > _MAX_RULES:
                raise CorruptError(f"call frame information of more than {_MAX_RULES} registers")
            if place > until:
                return

    def _restore(self, number: int) -> None:
        if number in self.initial:
            self.rules[number] = self.initial[number]
        else:
            self.rules.pop(number, None)

    def _define(self, opcode: int, code: _Reader) -> None:
        if opcode in (0x00, 0x2E):  # nop; DW_CFA_GNU_args_size matters to exceptions only
            if opcode:
                code.uleb()
        elif opcode in (0x05, 0x11):
            number = code.uleb()
            self.rules[number] = (code.uleb() if opcode == 0x05 else code.sleb()) * self._data_factor
        elif opcode == 0x06:
            self._restore(code.uleb())
        elif opcode in (0x07, 0x09, 0x14, 0x15):  # undefined, register, val_offset: nothing that is saved
            self.rules[code.uleb()] = None
            if opcode != 0x07:
                code.uleb()
        elif opcode == 0x08:
            self.rules.pop(code.uleb(), None)
        elif opcode == 0x0A and len(self._states) < _MAX_STATES:
            self._states.append((self.cfa, dict(self.rules), self.is_signed))
        elif opcode == 0x0B and self._states:
            self.cfa, self.rules, self.is_signed = self._states.pop()
        elif opcode in (0x10, 0x16):
            self.rules[code.uleb()] = None
            code.take(code.uleb())
        elif opcode == 0x2D:
            self.is_signed = not self.is_signed
        else:
            self._define_cfa(opcode, code)

    def _define_cfa(self, opcode: int, code: _Reader) -> None:
        if opcode == 0x0C:
            self.cfa = (code.uleb(), code.uleb())
        elif opcode == 0x12:
            self.cfa = (code.uleb(), code.sleb() * self._data_factor)
        elif opcode == 0x0F:
            code.take(code.uleb())
            self.cfa = None
        elif opcode in (0x0D, 0x0E, 0x13) and self.cfa is not None:
            number, offset = self.cfa
            if opcode == 0x0D:
                self.cfa = (code.uleb(), offset)
            else:
                self.cfa = (number, code.uleb() if opcode == 0x0E else code.sleb() * self._data_factor)
        else:
            raise CorruptError(f"call frame instruction {opcode:#x}")
