"""Through which symbols does one image point into another's range?"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from dlwhy.common.linux.elf.bindings import Bindings
from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.memory import Memory
from dlwhy.tests.synth.loaded import BIAS, lay_out
from dlwhy.tests.synth.process import compile_file

SOURCE = """
extern int provided_value, other_value;
int provided(void);
int use(void) { return provided() + provided_value + other_value; }
"""
OTHER = 0x7F99_0000_0000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = ("-Wl,--unresolved-symbols=ignore-all", "-Wl,-z,lazy")
    return compile_file(tmp_path_factory.mktemp("bindings"), "libuser.so", SOURCE, *flags, language="c")


def bound(library: Path, places: dict[str, int]) -> tuple[Memory, ElfImage]:
    """Load the library, with the GOT entries of these symbols filled."""
    target = lay_out(library)
    image = ElfImage.at(Memory(target), BIAS)
    for relocation in image.for_each_symbolic_relocation():
        name = image.string(image.symbol(relocation.symbol).name)
        if name in places:
            target.overwrite(relocation.place, struct.pack("<Q", places[name]))
    memory = Memory(target)
    return memory, ElfImage.at(memory, BIAS)


def test_only_what_points_into_the_range(library: Path) -> None:
    places = {"provided": OTHER + 0x100, "provided_value": OTHER + 0xFFF, "other_value": OTHER + 0x1000}
    bindings = Bindings(*bound(library, places))
    assert bindings.symbols_into(OTHER, OTHER + 0x1000) == ("provided", "provided_value")
    assert bindings.symbols_into(OTHER + 0x1000, OTHER + 0x2000) == ("other_value",)
    assert bindings.symbols_into(OTHER + 0x101, OTHER + 0xFFF) == ()
    assert bindings.symbols_into(OTHER + 0x100, OTHER + 0x101) == ("provided",)


def test_what_is_not_bound_yet(library: Path) -> None:
    bindings = Bindings(*bound(library, {}))
    assert bindings.symbols_into(OTHER, OTHER + 0x1000) == ()


def test_relocations_that_are_not_in_memory(library: Path) -> None:
    memory, image = bound(library, {"provided": OTHER})
    table = image.dynamic_address(23)  # DT_JMPREL
    assert table is not None
    target = lay_out(library)
    target.forget(table, 8)
    fresh = Memory(target)
    assert Bindings(fresh, ElfImage.at(fresh, BIAS)).symbols_into(0, 1 << 64) == ()
    assert Bindings(memory, image).symbols_into(OTHER, OTHER + 1) == ("provided",)


def test_a_place_that_is_not_in_memory_is_left_out(library: Path) -> None:
    target = lay_out(library)
    image = ElfImage.at(Memory(target), BIAS)
    for relocation in image.for_each_symbolic_relocation():
        name = image.string(image.symbol(relocation.symbol).name)
        if name == "provided":
            target.forget(relocation.place, 8)
        elif name == "provided_value":
            target.overwrite(relocation.place, struct.pack("<Q", OTHER))
    memory = Memory(target)
    assert Bindings(memory, ElfImage.at(memory, BIAS)).symbols_into(OTHER, OTHER + 1) == ("provided_value",)


def test_later_bindings_are_the_same_until_something_binds(library: Path) -> None:
    target = lay_out(library)
    memory = Memory(target)
    first = Bindings(memory, ElfImage.at(memory, BIAS))
    assert first.later(Memory(target)) is first
    place = next(each.place for each in ElfImage.at(memory, BIAS).for_each_symbolic_relocation())
    target.overwrite(place, struct.pack("<Q", OTHER))
    second = first.later(Memory(target))
    assert len(second.symbols_into(OTHER, OTHER + 1)) == 1
    assert second.later(Memory(target)) is second
    target.forget(place, 8)
    assert second.later(Memory(target)).symbols_into(OTHER, OTHER + 1) == ()
