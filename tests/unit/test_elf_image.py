"""Does an image in memory say what pyelftools says of its file: symbols, names, notes, relocations?"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dlwhy.common.errors import CorruptError, DlwhyError, FaultError
from dlwhy.common.linux.elf.image import (
    DT_DEBUG,
    DT_FLAGS_1,
    MAX_DYNAMIC_ENTRIES,
    PT_DYNAMIC,
    PT_TLS,
    ElfImage,
    ElfImages,
    ProgramHeader,
    find_build_id,
    gnu_hash,
    read_dynamic,
    sysv_hash,
)
from dlwhy.common.memory import Memory
from dlwhy.tests.fakes import S390X, X86_64, FakeTarget
from dlwhy.tests.synth.elfcore import Encoder
from dlwhy.tests.synth.glibc import Library
from dlwhy.tests.synth.glibc_layouts import process_of
from dlwhy.tests.synth.loaded import BIAS, image_of, lay_out, system_library
from dlwhy.tests.synth.process import compile_file
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
int first(int x) { return x + 1; }
int second_one = 2;
extern int elsewhere(int);
int (*pointer)(int) = elsewhere;
__thread int per_thread = 3;
int third(void) { return printf("%d", second_one + per_thread) + elsewhere(1) + abs(second_one); }
"""
PAGE = 4096
NAMES = ["libc.so.6", "ld-linux-x86-64.so.2", "libstdc++.so.6", "libgcc_s.so.1", "libz.so", "sysv", "gnu"]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for style in ("sysv", "gnu"):
        flags = (f"-Wl,--hash-style={style}", "-Wl,--unresolved-symbols=ignore-all", "-Wl,-z,nodelete", "-lz")
        compile_file(folder, f"lib{style}.so", SOURCE, "-Wl,--no-as-needed", *flags, language="c")
    return folder


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest, compiled: Path) -> Path:
    if request.param in ("sysv", "gnu"):
        return compiled / f"lib{request.param}.so"
    return system_library(request.param)


@pytest.fixture
def elf(path: Path) -> Iterator[Any]:
    with path.open("rb") as stream:
        yield ELFFile(stream)


def test_every_symbol_is_found(path: Path, elf: Any) -> None:
    image = image_of(path)
    wanted: dict[str, set[tuple[int, int]]] = {}
    undefined = set()
    for symbol in elf.get_section_by_name(".dynsym").iter_symbols():
        if symbol["st_shndx"] == "SHN_UNDEF":
            undefined.add(symbol.name)
        elif symbol["st_info"]["bind"] != "STB_LOCAL":
            value = symbol["st_value"] + BIAS & (1 << 64) - 1
            wanted.setdefault(symbol.name, set()).add((value, symbol["st_size"]))
    assert wanted
    for name, places in wanted.items():
        assert image.find_symbol(name) in places, name
    for name in undefined - set(wanted) - {""}:
        assert image.find_symbol(name) is None, name
    for name in ("", "no_such_symbol", "main", "_", "x" * 300):
        if name not in wanted:
            assert image.find_symbol(name) is None


def test_names_and_notes(path: Path, elf: Any) -> None:
    image = image_of(path)
    tags = list(elf.get_section_by_name(".dynamic").iter_tags())
    sonames = [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"]
    assert image.read_soname() == (sonames[0] if sonames else None)
    assert image.read_needed() == tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED")
    notes = [note for section in elf.iter_sections("SHT_NOTE") for note in section.iter_notes()]
    build_ids = [note["n_desc"] for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"]
    assert image.read_build_id() == (build_ids[0] if build_ids else None)
    flags = [tag.entry.d_val for tag in tags if tag.entry.d_tag == "DT_FLAGS_1"]
    assert image.dynamic.get(DT_FLAGS_1) == (flags[0] if flags else None)
    assert DT_DEBUG not in image.dynamic
    assert [(header.type, header.vaddr, header.memsz) for header in image.headers if header.type == PT_TLS] == [
        (7, segment["p_vaddr"], segment["p_memsz"]) for segment in elf.iter_segments("PT_TLS")
    ]
    assert image.entry == elf.header["e_entry"]


def test_symbol_count_and_relocations(path: Path, elf: Any) -> None:
    image = image_of(path)
    table = elf.get_section_by_name(".dynsym")
    hashed = any(elf.get_section_by_name(name) for name in (".hash", ".gnu.hash"))
    assert hashed
    # The GNU hash table knows of the symbols before the first hashed one, and of all behind it.
    assert image.symbol_count() == table.num_symbols()
    expected = set()
    for section in elf.iter_sections():
        if section["sh_type"] in ("SHT_RELA", "SHT_REL"):
            for relocation in section.iter_relocations():
                if relocation["r_info_sym"]:
                    expected.add((BIAS + relocation["r_offset"], relocation["r_info_sym"]))
    found = [(each.place, each.symbol) for each in image.for_each_symbolic_relocation()]
    assert set(found) == expected
    assert len(found) == len(expected)
    for _, index in found:
        assert image.string(image.symbol(index).name) == table.get_symbol(index).name


def test_which_symbol_covers_an_address(path: Path, elf: Any) -> None:
    image = image_of(path)
    sized = [
        symbol
        for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
        if symbol["st_size"] > 4 and symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF"
    ]
    starts: dict[int, set[str]] = {}
    for symbol in sized:
        starts.setdefault(symbol["st_value"], set()).add(symbol.name)
    for symbol in sized[:: max(1, len(sized) // 20)]:
        inside = BIAS + symbol["st_value"] + symbol["st_size"] - 1
        found = image.covering_symbol(inside)
        assert found is not None
        start = found[1] - BIAS
        assert start <= symbol["st_value"] + symbol["st_size"] - 1
        if start in starts:
            assert found[0] in starts[start]
    assert image.covering_symbol(image.load_range()[1] + PAGE) is None


@settings(max_examples=200, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(0, 1), st.sampled_from([1, 2, 6]))),
    offset=st.integers(0, 99),
)
def test_of_symbols_that_overlap_the_first_covers(spans: list[tuple[int, int, int, int]], offset: int) -> None:
    symbols = b"".join(
        struct.pack("<IBBHQQ", 2 * number, kind, 0, section, start, size)
        for number, (start, size, section, kind) in enumerate(spans)
    )
    strings = b"".join(bytes([65 + number % 26, 0]) for number in range(len(spans)))
    sysv_hash_table = struct.pack("<II", 1, len(spans))
    pieces = {BIAS: symbols + bytes(16), BIAS + PAGE: strings + bytes(16), BIAS + 2 * PAGE: sysv_hash_table}
    memory = Memory(FakeTarget(pieces))
    image = ElfImage(memory, (ProgramHeader(1, 0, 0, 4 * PAGE, 4 * PAGE, 5, PAGE),), BIAS, 0)
    image._entries = ((4, BIAS + 2 * PAGE), (5, BIAS + PAGE), (6, BIAS), (10, len(strings)))
    expected = next(
        (
            (chr(65 + number % 26), BIAS + start)
            for number, (start, size, section, kind) in enumerate(spans)
            if section and kind != 6 and start <= offset < start + size
        ),
        None,
    )
    assert image.covering_symbol(BIAS + offset) == expected


def test_load_range(path: Path, elf: Any) -> None:
    image = image_of(path)
    loads = list(elf.iter_segments("PT_LOAD"))
    assert image.load_range() == (
        BIAS + loads[0]["p_vaddr"],
        BIAS + loads[-1]["p_vaddr"] + loads[-1]["p_memsz"],
    )
    assert image.contains(BIAS + loads[0]["p_vaddr"])
    assert not image.contains(BIAS - 1)
    assert not image.contains(image.load_range()[1])


def test_through_the_program_headers(path: Path, elf: Any) -> None:
    whole = image_of(path)
    header = elf.header
    image = ElfImage.from_program_headers(
        whole.memory, BIAS + header["e_phoff"], header["e_phnum"], header["e_phentsize"]
    )
    assert image.bias == BIAS
    assert image.dynamic == whole.dynamic


def test_hash_functions() -> None:
    """The published examples of binutils' and the gabi's functions."""
    assert gnu_hash(b"") == 5381
    assert gnu_hash(b"printf") == 0x156B2BB8
    assert gnu_hash(b"syscall") == 0xBAC212A0
    assert sysv_hash(b"") == 0
    assert sysv_hash(b"printf") == 0x77905A6
    assert sysv_hash(b"jdfgsdhfsdfsd 6445dsfsd7fg/*/+bfjsdgf%$^") == 248446350


def test_relocated_entries_are_addresses(compiled: Path) -> None:
    """Where the loader has made DT_ entries into addresses, they are not moved again."""
    target = lay_out(compiled / "libgnu.so")
    plain = ElfImage.at(Memory(target), BIAS)
    expected = plain.find_symbol("third")
    assert expected is not None
    header = plain.find_header(PT_DYNAMIC)
    assert header is not None
    for index, (tag, value) in enumerate(plain.dynamic_entries):
        if tag in (5, 6, 0x6FFFFEF5):
            target.overwrite(plain.address(header.vaddr) + 16 * index + 8, struct.pack("<Q", BIAS + value))
    assert ElfImage.at(Memory(target), BIAS).find_symbol("third") == expected


def test_what_is_no_image() -> None:
    memory = Memory(FakeTarget({BIAS: b"\x7fELF\1\1\1" + bytes(4096), BIAS + 0x10000: bytes(4096)}))
    for base in (BIAS, BIAS + 0x10000):
        with pytest.raises(CorruptError):
            ElfImage.at(memory, base)
    with pytest.raises(FaultError):
        ElfImage.at(memory, BIAS + 0x20000)
    images = ElfImages(memory)
    assert images.at(BIAS) is None
    assert images.at(BIAS + 0x20000) is None


@pytest.mark.parametrize("count", [0, 1025, 0xFFFF])
def test_absurd_program_header_counts(count: int) -> None:
    header = Encoder().elf_header(3, 62, phoff=64, phnum=count)
    with pytest.raises(CorruptError, match="program headers"):
        ElfImage.at(Memory(FakeTarget({BIAS: header.ljust(1 << 20, b"\0")})), BIAS)


def test_a_dynamic_section_without_end() -> None:
    endless = struct.pack("<QQ", 1, 1) * (MAX_DYNAMIC_ENTRIES + 100)
    with pytest.raises(CorruptError, match="without end"):
        read_dynamic(Memory(FakeTarget({BIAS: endless})), BIAS)
    short = struct.pack("<QQQQ", 1, 7, 5, 9) + struct.pack("<QQ", 0, 0)
    assert read_dynamic(Memory(FakeTarget({BIAS: short})), BIAS) == ((1, 7), (5, 9))
    with pytest.raises(FaultError):
        read_dynamic(Memory(FakeTarget({BIAS: short[:32]})), BIAS)


def test_build_ids_among_other_notes() -> None:
    for platform in (X86_64, S390X):
        encoder = Encoder(64, platform.byteorder)
        notes = encoder.note(b"GNU", 1, bytes(16)) + encoder.note(b"stapsdt", 3, b"1" * 7)
        notes += encoder.note(b"GNU", 3, b"\xab\xcd\xef") + encoder.note(b"GNU", 3, b"second")
        prefix = "<" if platform is X86_64 else ">"
        assert find_build_id(notes, prefix) == "abcdef"
        assert find_build_id(notes[:-30], prefix) in (None, "abcdef")
        assert find_build_id(b"", prefix) is None
        assert find_build_id(b"\xff" * 64, prefix) is None


@pytest.mark.parametrize("style", ["sysv", "gnu"])
@pytest.mark.parametrize(
    "words",
    [(0, 0, 0, 0), (0xFFFFFFFF,) * 8, (1, 1, 1, 0, 1, 1, 1, 1), (1, 0, 0, 6, 0, 0, 0, 0), (1, 2, 1, 1, 1, 1, 1, 1)],
)
def test_absurd_hash_tables(compiled: Path, style: str, words: tuple[int, ...]) -> None:
    target = lay_out(compiled / f"lib{style}.so")
    image = ElfImage.at(Memory(target), BIAS)
    tag = 4 if style == "sysv" else 0x6FFFFEF5
    table = image.dynamic_address(tag)
    assert table is not None
    target.overwrite(table, struct.pack(f"<{len(words)}I", *words))
    damaged = ElfImage.at(Memory(target), BIAS)
    for ask in (lambda: damaged.find_symbol("third"), damaged.symbol_count, lambda: damaged.covering_symbol(BIAS)):
        try:
            ask()
        except DlwhyError:
            continue
    assert target.reads < 20_000


def test_a_dynamic_section_that_is_not_there_gives_no_name() -> None:
    process = process_of([Library("liba.so")])
    target, base = process.target(), process.base(process.library("liba.so"))
    assert ElfImage.at(Memory(target), base).read_soname() == "liba.so"
    target.forget(base + 0x1000, 0x10)
    assert ElfImage.at(Memory(target), base).read_soname() is None
