"""Is a caller found by the image alone? Each row of the table as pyelftools reads it, and damage never a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

import pytest
from dlwhy.common.errors import DlwhyError
from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.linux.elf.unwind import PT_GNU_EH_FRAME, REGISTERS, CallFrame, find_row, walk
from dlwhy.common.memory import Memory
from dlwhy.common.model import Platform
from dlwhy.tests.fakes import I386, X86_64
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.hosts import crossbuild
from dlwhy.tests.synth.loaded import BIAS, lay_out, system_library
from dlwhy.tests.synth.process import compile_file
from elftools.dwarf.callframe import FDE, CFARule, RegisterRule
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

AARCH64 = Platform("aarch64", 8, "little")
#: DW_CFA_GNU_args_size and DW_CFA_AARCH64_negate_ra_state, which pyelftools 0.32 parses and does not decode.
NOT_DECODED = (0x2E, 0x2D)
LOW_BIAS = 0x5000_0000
LOSSES = (RegisterRule.UNDEFINED, RegisterRule.REGISTER, RegisterRule.EXPRESSION, RegisterRule.VAL_EXPRESSION)

# Frames of fixed size, of a variable one, and one that the stack pointer does not tell.
SOURCE = """
extern int outside(void *, int);
int leaf(int x) { return x + 1; }
int fixed(int x) { char room[200]; return outside(room, x) + x; }
int variable(int x) { char room[x]; return outside(room, x) + x; }
"""


def compare(path: Path, platform: Platform, bias: int, stride: int) -> int:
    """Compare rows with those of pyelftools; gives how many were compared."""
    image = ElfImage.at(Memory(lay_out(path, bias, platform)), bias)
    compared = 0
    with path.open("rb") as stream:
        entries = [entry for entry in ELFFile(stream).get_dwarf_info().EH_CFI_entries() if isinstance(entry, FDE)]
        assert entries
        for entry in entries[::stride]:
            end = entry["initial_location"] + entry["address_range"]
            if any(each.opcode in NOT_DECODED for each in (*entry.cie.instructions, *entry.instructions)):
                continue
            table = entry.get_decoded().table
            for row, following in zip(table, [*(each["pc"] for each in table[1:]), end]):
                for place in {row["pc"], following - 1}:
                    if row["pc"] <= place < following:
                        assert found_at(image, place) == expected(row, entry.cie["return_address_register"]), hex(place)
                        compared += 1
            after = find_row(image, image.address(end))
            assert after is None or after.cfa is not None
    return compared


def found_at(image: ElfImage, place: int) -> tuple[object, ...]:
    row = find_row(image, image.address(place))
    assert row is not None
    return row.cfa, dict(row.rules), row.return_register


def expected(row: Mapping[Any, Any], return_register: int) -> tuple[object, ...]:
    """Put a row of pyelftools into our words."""
    cfa: CFARule = row["cfa"]
    rules: dict[int, Optional[int]] = {}
    for number, rule in row.items():
        if isinstance(number, int) and rule.type != RegisterRule.SAME_VALUE:
            assert rule.type == RegisterRule.OFFSET or rule.type in LOSSES
            rules[number] = rule.arg if rule.type == RegisterRule.OFFSET else None
    return None if cfa.expr is not None else (cfa.reg, cfa.offset), rules, return_register


@pytest.mark.parametrize("name", ["libc.so.6", "ld-linux-x86-64.so.2", "libstdc++.so.6", "libgcc_s.so.1"])
def test_rows_are_those_of_pyelftools(name: str) -> None:
    assert compare(system_library(name), X86_64, BIAS, 7) > 200


@pytest.mark.matrix
def test_rows_of_i386() -> None:
    crossbuild.require(crossbuild.I386)
    assert compare(Path("/lib32/libc.so.6"), I386, LOW_BIAS, 7) > 2000


@pytest.mark.matrix
@pytest.mark.parametrize("suite", crossbuild.EMULATED[0].suites)
def test_rows_of_aarch64(suite: str) -> None:
    root = crossbuild.sysroot_of(crossbuild.EMULATED[0], suite)
    (path,) = {each.resolve() for each in root.rglob("libc.so.6")}
    assert compare(path, AARCH64, BIAS, 7) > 300


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile functions whose frames differ; what they call need not be there."""
    flags = ("-O1", "-Wl,--unresolved-symbols=ignore-all", "-fno-stack-protector")
    return compile_file(tmp_path_factory.mktemp("unwind"), "libunwound.so", SOURCE, *flags, language="c")


class Stack:
    """A thread about to execute an instruction of a library; its stack holds other words, too, that look alike."""

    TOP = 0x7FFE_0000_0000
    CALLER = 0x4_0000

    def __init__(self, path: Path) -> None:
        self.target = lay_out(path)
        self.image = ElfImage.at(Memory(self.target), BIAS)
        self.words = [self.image.address(0x1100)] * 512
        with path.open("rb") as stream:
            symbols = ELFFile(stream).get_section_by_name(".dynsym")
            self.starts = {each.name: int(each["st_value"]) for each in symbols.iter_symbols()}

    def cfa(self, place: int) -> tuple[int, int]:
        """Give the register and offset that tell the frame."""
        row = find_row(self.image, place)
        assert row is not None
        assert row.cfa is not None
        return row.cfa

    def frames(self, pc: int, registers: Mapping[int, int]) -> list[CallFrame]:
        """Unwind from a place; the images end where the library does."""
        data = b"".join(word.to_bytes(8, "little") for word in self.words)
        self.target.overwrite(self.TOP, data)
        memory = Memory(self.target)
        image = ElfImage.at(memory, BIAS)
        return list(walk(memory, lambda place: image if image.contains(place) else None, pc, registers))


def test_a_leaf_and_what_called_it(library: Path) -> None:
    stack = Stack(library)
    inner = stack.image.address(stack.starts["fixed"])
    row = find_row(stack.image, stack.image.address(stack.starts["leaf"]))
    assert row is not None
    assert (row.cfa, row.rules, row.return_register) == ((7, 8), {16: -8}, 16)
    # fixed is at its first call instruction, with all of its frame below the return address.
    call, size = next((at, cfa[1]) for at in range(inner, inner + 64) if (cfa := stack.cfa(at))[1] > 200)
    stack.words[0] = call + 1
    stack.words[size // 8] = stack.CALLER
    frames = stack.frames(stack.image.address(stack.starts["leaf"]), {7: stack.TOP, 3: 1, 6: 2})
    assert frames == [
        CallFrame(call + 1, stack.TOP + 8, stack.TOP, is_fixed=True),
        CallFrame(stack.CALLER, stack.TOP + 8 + size, stack.TOP + size, is_fixed=True),
    ]


def test_a_frame_of_variable_size_is_told_by_its_frame_pointer(library: Path) -> None:
    stack = Stack(library)
    start = stack.image.address(stack.starts["variable"])
    inside = next(at for at in range(start, start + 64) if stack.cfa(at)[0] == 6)
    stack.words[101] = stack.CALLER
    frames = stack.frames(inside, {7: stack.TOP, 6: stack.TOP + 100 * 8})
    assert frames == [CallFrame(stack.CALLER, stack.TOP + 102 * 8, stack.TOP + 101 * 8, is_fixed=False)]
    assert stack.frames(inside, {7: stack.TOP}) == []
    assert stack.frames(inside, {7: stack.TOP, 6: stack.TOP - 64}) == [], "a caller's frame does not lie below"


def test_what_has_no_table_has_no_caller(library: Path) -> None:
    stack = Stack(library)
    assert find_row(stack.image, stack.image.address(0)) is None
    headers = tuple(header for header in stack.image.headers if header.type != PT_GNU_EH_FRAME)
    bare = ElfImage(stack.image.memory, headers, stack.image.bias, 0)
    assert find_row(bare, stack.image.address(stack.starts["leaf"])) is None


@examples(400)
@given(
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=8),
    name=st.sampled_from(["leaf", "fixed", "variable"]),
    offset=st.integers(0, 48),
    words=st.lists(st.integers(0, 2**64 - 1), max_size=16),
)
def test_damage_ends(
    library: Path, damage: list[tuple[float, bytes]], name: str, offset: int, words: list[int]
) -> None:
    stack = Stack(library)
    header = next(each for each in stack.image.headers if each.type == PT_GNU_EH_FRAME)
    for fraction, data in damage:
        stack.target.overwrite(stack.image.address(header.vaddr) + int(fraction * 512), data)
    stack.words[: len(words)] = words
    place = stack.image.address(stack.starts[name] + offset)
    frames = stack.frames(place, dict.fromkeys(REGISTERS["x86_64"], stack.TOP + 64))
    assert len(frames) <= len(stack.words)
    with suppress(DlwhyError):
        find_row(ElfImage.at(Memory(stack.target), BIAS), place)
