"""How are the members of a structure decoded, once a layout says where they are?

All structures with a layout are decoded here: glibc's, musl's and NT's.  Structures with one form in all versions, such
as ELF and PE headers, records of dumps and those of the ABI, are decoded by ``struct`` where they are read.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import Optional

from .errors import LayoutError
from .memory import Memory
from .model import Evidence, Layout, Source

ALL_BITS = (1 << 64) - 1
_INTEGER_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Structure:
    """The integer and bit-field members of one structure, decoded at once and returned by name.

    ``places`` has for each member its index among the decoded integers, its shift, its mask, and its highest bit if it
    is signed, else 0.  ``size`` is the number of bytes that must be readable.
    """

    def __init__(
        self, layout: Layout, struct_prefix: str, only: Optional[Collection[str]] = None, signed: Collection[str] = ()
    ) -> None:
        """Compile a layout; ``only``: the members to decode (None: all), ``signed``: the signed ones."""
        self.layout = layout
        self.places: dict[str, tuple[int, int, int, int]] = {}
        members = sorted(
            (field.offset, field.size, name)
            for name, field in layout.fields.items()
            if field.size in _INTEGER_CODES and (only is None or name in only)
        )
        self.size = max((offset + size for offset, size, _ in members), default=0)
        # Members that overlap, as in a union, are not decoded with the others.
        apart: list[tuple[int, int]] = []
        indexes: dict[tuple[int, int], int] = {}
        form, position = struct_prefix, 0
        for offset, size, _ in members:
            if (offset, size) not in indexes and (offset, size) not in apart:
                if offset >= position:
                    indexes[offset, size] = len(indexes)
                    form += f"{offset - position}x{_INTEGER_CODES[size]}"
                    position = offset + size
                else:
                    apart.append((offset, size))
        self._struct = struct.Struct(form)
        self._apart = [struct.Struct(f"{struct_prefix}{offset}x{_INTEGER_CODES[size]}") for offset, size in apart]
        indexes.update((place, len(indexes) + number) for number, place in enumerate(apart))
        for offset, size, name in members:
            field = layout.fields[name]
            bits = field.bit_count or 8 * size
            mask = (1 << field.bit_count) - 1 if field.bit_count else ALL_BITS
            sign = 1 << bits - 1 if name in signed else 0
            self.places[name] = indexes[offset, size], field.bit_shift, mask, sign

    def require(self, names: Collection[str]) -> Structure:
        """Return the structure itself if it has some members.

        :raises LayoutError: if it lacks any of them, or one is not an integer.
        """
        missing = [name for name in names if name not in self.places]
        if missing:
            raise LayoutError(f"the layout of {self.layout.type_name} lacks {', '.join(missing)}")
        return self

    def is_plain_integer(self, name: str) -> bool:
        """Return True if a member exists and is an unsigned integer, not a bit-field."""
        return self.places.get(name, ())[1:] == (0, ALL_BITS, 0)

    def decode(self, raw: bytes) -> tuple[int, ...]:
        """Decode the bytes of the structure, at least ``size``."""
        values: tuple[int, ...] = self._struct.unpack_from(raw)
        return (*values, *(form.unpack_from(raw)[0] for form in self._apart)) if self._apart else values

    def get(self, values: Sequence[int], name: str) -> Optional[int]:
        """Return a member from the result of `decode`, None if this version lacks it."""
        place = self.places.get(name)
        if place is None:
            return None
        index, shift, mask, sign = place
        return (values[index] >> shift & mask ^ sign) - sign

    def get_all(self, values: Sequence[int], names: Collection[str]) -> dict[str, Optional[int]]:
        """Return several members, None for each that this version lacks."""
        places = self.places
        found: dict[str, Optional[int]] = dict.fromkeys(names)
        for name in names:
            if name in places:
                index, shift, mask, sign = places[name]
                found[name] = (values[index] >> shift & mask ^ sign) - sign
        return found

    def read(self, memory: Memory, address: int) -> dict[str, int]:
        """Read all members of the structure at an address, with one request.

        :raises FaultError: if any cannot be read.
        """
        values = self.decode(memory.read(address, self.size))
        return {
            name: (values[index] >> shift & mask ^ sign) - sign
            for name, (index, shift, mask, sign) in self.places.items()
        }

    def read_member(self, memory: Memory, address: int, name: str) -> Optional[int]:
        """Read one member of the structure at an address, None if this version lacks it, or it cannot be read."""
        place, field = self.places.get(name), self.layout.fields.get(name)
        value = memory.try_unsigned(address + field.offset, field.size) if place and field else None
        return None if value is None or place is None else (value >> place[1] & place[2] ^ place[3]) - place[3]


class StructView:
    """A structure of the target, read at once if all of it is readable, else member by member."""

    __slots__ = ("_memory", "_raw", "_values", "address", "source", "structure")

    def __init__(self, memory: Memory, address: int, structure: Structure, source: Source) -> None:
        """Read the structure at an address."""
        self._memory = memory
        self._raw = memory.try_read(address, structure.layout.size)
        self._values: Optional[tuple[int, ...]] = None
        self.address = address
        self.structure = structure
        self.source = source

    @property
    def layout(self) -> Layout:
        """Return the layout."""
        return self.structure.layout

    def get(self, name: str) -> Optional[int]:
        """Return a member, None if this version lacks it or it cannot be read."""
        if self._raw is None:
            return self.structure.read_member(self._memory, self.address, name)
        if self._values is None:
            self._values = self.structure.decode(self._raw)
        return self.structure.get(self._values, name)

    def evidence(self, name: str) -> tuple[Evidence, ...]:
        """Return a member with its address and the expression that shows it in a debugger; empty if there is none."""
        value, field = self.get(name), self.layout.fields.get(name)
        if value is None or field is None:
            return ()
        expression = f"(({self.layout.type_name}*){self.address:#x})->{name}"
        return (Evidence(self.address + field.offset, expression, value, field.offset, self.source, name),)
