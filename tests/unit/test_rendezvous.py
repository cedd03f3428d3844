"""Is the loader's list found from the program alone, and is it said plainly where there is none?"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from dlwhy.common.errors import CorruptError, DlwhyError, UnsupportedError
from dlwhy.common.linux.loader.rendezvous import MAX_LIBRARIES, PublicMap, Rendezvous, find_rendezvous, image_of
from dlwhy.common.memory import Memory
from dlwhy.common.model import Module
from dlwhy.tests.fakes import X86_64, FakeTarget
from dlwhy.tests.synth.loaded import BIAS, lay_out
from dlwhy.tests.synth.process import compile_file
from elftools.elf.elffile import ELFFile

R_DEBUG = 0x7F00_0000_1000
MAPS = 0x5555_0000_0000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tmp_path_factory.mktemp("start")
    source = "int main(void) { return 0; }"
    compile_file(result, "dynamic", source, language="c")
    compile_file(result, "fixed", source, "-no-pie", language="c")
    compile_file(result, "static", source, "-static", language="c")
    compile_file(result, "static-pie", source, "-static-pie", language="c")
    return result


def program(
    path: Path, bias: int = BIAS, extra: dict[int, bytes] | None = None, *, modules: bool = False
) -> FakeTarget:
    """Load a program, with the auxiliary vector that the kernel would give it."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        header = elf.header
        bias = bias if header["e_type"] == "ET_DYN" else 0
        first = next(elf.iter_segments("PT_LOAD"))["p_vaddr"]
        auxv = {3: bias + first + header["e_phoff"], 4: header["e_phentsize"], 5: header["e_phnum"]}
    plain = lay_out(path, bias)
    return FakeTarget(
        {**dict(plain._segments), **(extra or {})},
        X86_64,
        auxv={} if modules else auxv,
        modules=[Module(str(path), bias + first)] if modules else (),
    )


def chain(*links: tuple[int, int, int]) -> dict[int, bytes]:
    """Make a struct r_debug, and maps 0x100 apart, each (number, l_next, l_prev)."""
    maps = bytearray(0x1000)
    for number, following, before in links:
        name = MAPS + 0x800 + 16 * number
        maps[0x800 + 16 * number :][:0] = b""
        text = f"lib{number}.so".encode()
        maps[0x800 + 16 * number : 0x800 + 16 * number + len(text)] = text
        words = (0x1000 * number, name, 0x2000 * number, following, before)
        maps[0x100 * number : 0x100 * number + 40] = struct.pack("<5Q", *words)
    debug = struct.pack("<5Q", 1, MAPS, 0, 0, 0).ljust(0x1000, b"\0")
    return {R_DEBUG: debug, MAPS: bytes(maps)}


def at(number: int) -> int:
    return MAPS + 0x100 * number


GOOD = ((0, at(1), 0), (1, at(2), at(0)), (2, 0, at(1)))


def start_of(path: Path, extra: dict[int, bytes], *, modules: bool = False) -> Rendezvous:
    """Find the list of a program whose DT_DEBUG has been filled in."""
    target = program(path, extra=extra, modules=modules)
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        dynamic = next(elf.iter_segments("PT_DYNAMIC"))
        bias = BIAS if elf.header["e_type"] == "ET_DYN" else 0
        index = [tag.entry.d_tag for tag in dynamic.iter_tags()].index("DT_DEBUG")
        target.overwrite(bias + dynamic["p_vaddr"] + 16 * index + 8, struct.pack("<Q", R_DEBUG))
    return find_rendezvous(Memory(target))


@pytest.mark.parametrize("name", ["dynamic", "fixed"])
@pytest.mark.parametrize("modules", [False, True], ids=["auxv", "modules"])
def test_the_whole_list(folder: Path, name: str, modules: bool) -> None:
    start = start_of(folder / name, chain(*GOOD), modules=modules)
    assert start.r_debug == R_DEBUG
    assert [(each.address, each.l_addr, each.l_name, each.l_ld) for each in start.maps] == [
        (at(number), 0x1000 * number, f"lib{number}.so", 0x2000 * number) for number in range(3)
    ]
    assert (start.complete, start.problems) == (True, ())


@pytest.mark.parametrize("name", ["static", "static-pie"])
def test_static_programs(folder: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="statically linked"):
        find_rendezvous(Memory(program(folder / name)))


@pytest.mark.parametrize("name", ["dynamic", "fixed"])
def test_before_the_loader_has_run(folder: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="has not run yet"):
        find_rendezvous(Memory(program(folder / name)))


def test_the_loader_has_run_but_has_no_list_yet(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="has not run yet"):
        start_of(folder / "dynamic", {R_DEBUG: bytes(0x1000)})


@pytest.mark.parametrize(
    ("links", "seen", "message"),
    [
        (((0, at(0), 0),), 1, "loops"),
        (((0, at(1), 0), (1, at(0), at(0))), 2, "loops"),
        (((0, at(1), 0), (1, at(2), at(0)), (2, at(1), at(1))), 3, "loops"),
        (((0, at(1), 0), (1, 0x1234_5678_0000, at(0))), 2, "cannot be read"),
        (((0, at(1), 0), (1, 0xFFFF_FFFF_FFFF_FFF8, at(0))), 2, "cannot be read"),
        (((0, at(1), 0), (1, at(2), at(2)), (2, 0, at(2))), 1, "l_prev"),
        (((0, at(1), at(2)), (1, 0, at(1))), 0, "l_prev"),
    ],
)
def test_a_damaged_list(folder: Path, links: tuple[tuple[int, int, int], ...], seen: int, message: str) -> None:
    start = start_of(folder / "dynamic", chain(*links))
    assert len(start.maps) == seen
    assert not start.complete
    assert [message in problem.message for problem in start.problems] == [True]


@pytest.mark.parametrize("links", [((0, at(1), 0), (1, at(2), at(2)), (2, 0, at(1))), ((0, at(1), 7), (1, 0, at(0)))])
def test_one_damaged_link_back_does_not_end_the_list(folder: Path, links: tuple[tuple[int, int, int], ...]) -> None:
    start = start_of(folder / "dynamic", chain(*links))
    assert (len(start.maps), start.complete) == (len(links), True)


def test_a_list_without_end(folder: Path) -> None:
    count = 200_000
    maps = b"".join(
        struct.pack(
            "<5Q", 0, 0, 0, MAPS + 40 * (index + 1) if index + 1 < count else 0, MAPS + 40 * (index - 1) if index else 0
        )
        for index in range(count)
    )
    start = start_of(folder / "dynamic", {R_DEBUG: chain()[R_DEBUG], MAPS: maps})
    assert not start.complete
    assert f"more than {MAX_LIBRARIES}" in start.problems[0].message


def test_r_debug_or_headers_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(CorruptError, match="r_debug"):
        start_of(folder / "dynamic", {})
    with pytest.raises(CorruptError, match="headers cannot be read"):
        find_rendezvous(Memory(FakeTarget({})))
    with pytest.raises(CorruptError, match=r"AT_PHDR.*0x1000"):
        find_rendezvous(Memory(FakeTarget({}, auxv={3: 0x1000, 4: 56, 5: 10})))


@pytest.mark.parametrize(
    "auxv", [{3: BIAS, 4: 0, 5: 0}, {3: BIAS, 4: 56, 5: 1 << 40}, {3: 1 << 64, 4: 56, 5: 3}, {3: -1}]
)
def test_absurd_auxiliary_vectors(auxv: dict[int, int]) -> None:
    with pytest.raises(DlwhyError):
        find_rendezvous(Memory(FakeTarget({BIAS: bytes(8192)}, auxv=auxv)))


def test_the_fixtures_are_what_they_say(folder: Path) -> None:
    for name in ("static", "static-pie"):
        text = subprocess.run(["readelf", "-lW", str(folder / name)], capture_output=True, text=True, check=True).stdout
        assert "INTERP" not in text


def header_of_prelinked(base: int, dynamic: int) -> bytes:
    """Return the header of a file that prelink has given addresses of its own."""
    start = b"\x7fELF\2\1\1".ljust(24, b"\0") + struct.pack("<QQ", 0, 64)
    loads = [(1, 5, 0, base, base, 0x1000, 0x1000, 0x1000), (1, 6, 0x1000, dynamic, dynamic, 0x100, 0x100, 0x1000)]
    headers = [*loads, (2, 6, 0x1000, dynamic, dynamic, 0x100, 0x100, 8)]
    return (
        start.ljust(54, b"\0")
        + struct.pack("<HHxxxxxx", 56, 3)
        + b"".join(struct.pack("<IIQQQQQQ", *each) for each in headers)
    )


@pytest.mark.parametrize("moved", [0, 0x5000])
def test_the_header_of_a_prelinked_library_is_found(moved: int) -> None:
    """Its l_addr is how far it was moved, not where it is."""
    base, dynamic = 0x3DFFA00000, 0x3DFFC20000
    data = header_of_prelinked(base, dynamic).ljust(0x1000, b"\0")
    memory = Memory(FakeTarget({base + moved: data}, X86_64))
    image = image_of(memory, PublicMap(memory, 0x1000, moved, 0, dynamic + moved))
    assert (image.bias, image.load_range()[0]) == (moved, base + moved)
    for wrong in (PublicMap(memory, 0x1000, moved, 0, dynamic + moved + 8), PublicMap(memory, 0x1000, 1, 0, dynamic)):
        with pytest.raises(DlwhyError):
            image_of(memory, wrong)
