"""Do damaged files and names end in None or a DlwhyError, in bounded time: cores, symbol files, mangled names?"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import BinaryIO, Optional

import pytest
from dlwhy.common.errors import DlwhyError
from dlwhy.common.linux.dumps.elfcore import ElfCore
from dlwhy.common.linux.elf.demangle import demangle
from dlwhy.common.linux.elf.files import name_function
from dlwhy.common.linux.elf.image import Image
from dlwhy.common.memory import Memory
from dlwhy.common.model import Module
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.fuzz.damages import DAMAGE, damaged
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.synth.elfcore import Encoder, FileMapping, Segment, write_core
from dlwhy.tests.synth.process import compile_file
from hypothesis import given
from hypothesis import strategies as st

LIMIT_SECONDS = 20.0
BASE = 0x10000


def small_core(mapped: str) -> bytes:
    """Write a core of which nearly every byte is structure."""
    encoder = Encoder()
    notes = encoder.auxv({3: BASE + 64, 4: 56, 5: 2, 9: BASE})
    notes += encoder.files([FileMapping(BASE, BASE + 0x3000, 0, mapped.encode())])
    return write_core([Segment(BASE, b"\x7fELF" + bytes(60), 0x1000), Segment(BASE + 0x1000, b"", 0x2000)], notes)


@examples(400)
@given(damage=DAMAGE, cut=st.floats(0, 1))
def test_damaged_core(tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[float, bytes]], cut: float) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged-core"
    data = damaged(small_core(str(path)), damage)
    path.write_bytes(data[: int(len(data) * cut)] if cut < 0.5 else data)

    def open_image(_: Module) -> Optional[BinaryIO]:
        return path.open("rb")

    began = time.process_time()
    try:
        core = ElfCore(str(path), open_image)
    except DlwhyError:
        return
    try:
        places = {BASE, BASE + 0x800, BASE + 0x1000, BASE + 0x2FF0, *(file.start for file in core.files)}
        for address in places:
            try:
                assert len(core.read(address, 32)) == 32
            except DlwhyError:
                continue
    finally:
        core.close()
    assert time.process_time() - began < LIMIT_SECONDS


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a library with local functions, and a compressed section."""
    folder = tmp_path_factory.mktemp("symbols")
    source = "static __attribute__((noinline)) int local(int x) { return x * 3; } int open_(int x) { return local(x); }"
    return compile_file(folder, "libnames.so", source, "-gz=zlib", language="c")


def test_the_undamaged_file_names_its_function(library: Path) -> None:
    memory, image, address = loaded(library)
    assert name_function(memory, image, str(library), BASE, address) == "local"


def loaded(path: Path) -> tuple[Memory, Image, int]:
    """Lay a file out in memory as the loader does, and find the address of its local function."""
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as stream:
        elf = ELFFile(stream)
        segments = {}
        for segment in elf.iter_segments("PT_LOAD"):
            start = segment["p_vaddr"] - segment["p_vaddr"] % 4096
            pad = segment["p_vaddr"] - start
            segments[BASE + start] = (bytes(pad) + segment.data() + bytes(8192))[:8192]
        symbol = elf.get_section_by_name(".symtab").get_symbol_by_name("local")[0]
        value = int(symbol["st_value"])
    memory = Memory(FakeTarget(segments, files={str(path): path}))
    return memory, Image.at(memory, BASE), BASE + value


@examples(300)
@given(damage=DAMAGE, headers=st.lists(st.tuples(st.integers(0, 2**31), st.binary(min_size=1, max_size=8)), max_size=4))
def test_damaged_symbol_file(
    library: Path,
    tmp_path_factory: pytest.TempPathFactory,
    damage: list[tuple[float, bytes]],
    headers: list[tuple[int, bytes]],
) -> None:
    memory, image, address = loaded(library)
    path = tmp_path_factory.getbasetemp() / "damaged.so"
    shutil.copy(library, path)
    data = bytearray(damaged(path.read_bytes(), damage[:2]))
    table = int.from_bytes(library.read_bytes()[40:48], "little")
    for place, new in headers:  # the section headers decide most
        at = table + place % (len(data) - table)
        data[at : at + len(new)] = new[: len(data) - at]
    path.write_bytes(data)
    memory.target._files[str(path)] = path  # type: ignore[attr-defined]
    began = time.process_time()
    name = name_function(memory, image, str(path), BASE, address)
    assert name is None or isinstance(name, str)
    assert time.process_time() - began < LIMIT_SECONDS


MANGLED_PARTS = st.sampled_from(
    [
        "_Z",
        "_ZN",
        "_R",
        "N",
        "K",
        "S",
        "St",
        "Ss",
        "S_",
        "S0_",
        "S1_",
        "T_",
        "T0_",
        "I",
        "E",
        "i",
        "v",
        "P",
        "R",
        "O",
        "1a",
        "3foo",
        "C1",
        "D0",
        "L_Z",
        "Xsr",
        "Dp",
        "J",
        "F",
        "M",
        "A1_",
        "A_",
        "17h0123456789abcdefE",
        "B1_",
        "Cs",
        "Nv",
        "NvC",
        "Bs_",
        "B_",
        "Y",
        "X",
        "u4caf-dma",
        "IC",
        "Kj",
        "Kh",
        "p",
        "G0_",
        "D1_",
        ".",
        "$LT$",
        "$u20$",
        "..",
        "9999",
        "99999999999",
    ]
)


@examples(500)
@given(name=st.one_of(st.lists(MANGLED_PARTS, max_size=60).map("".join), st.text(max_size=60).map("_Z".__add__)))
def test_any_name_is_demangled_or_kept(name: str) -> None:
    began = time.process_time()
    assert isinstance(demangle(name), str)
    assert time.process_time() - began < LIMIT_SECONDS
