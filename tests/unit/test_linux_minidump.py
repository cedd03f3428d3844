"""Does a minidump of Linux answer with the libraries that it lists, and deny knowledge of what keeps them?"""

from __future__ import annotations

from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.errors import NotFoundError, UnsupportedError
from dlwhy.common.linux.dumps.minidump import LinuxMinidump
from dlwhy.tests.synth.breakpad import ARM64, MACOS, X86, Dump, Listed, Map

PROGRAM, LIBC, VDSO = 0x400000, 0x7F00_0000_0000, 0x7FFF_0000_0000
BUILD_ID = bytes(range(20))
MODULES = [
    Listed("/usr/bin/prog", PROGRAM, 0x4000, BUILD_ID),
    Listed("/lib/libc.so.6", LIBC, 0x20_0000, BUILD_ID[::-1]),
    Listed("linux-gate.so", VDSO, 0x2000),
]
MAPS = [
    Map(0, "", PROGRAM + 0x3000),
    Map(LIBC, "/lib/libc.so.6", LIBC + 0x1F_0000),
    Map(0x7F11_0000_0000, "/opt/libgone.so", 0x7F11_0000_3000),
]


def written(folder: Path, dump: Dump) -> Path:
    path = folder / "crash.dmp"
    path.write_bytes(dump.finish())
    return path


def whole(folder: Path, processor: int = 9) -> Path:
    dump = Dump(processor)
    keep = 0xFFFF_FFFF if processor == X86 else 0xFFFF_FFFF_FFFF_FFFF
    dump.modules([each._replace(base=each.base & keep) for each in MODULES])
    dump.maps([each._replace(l_addr=each.l_addr & keep, l_ld=each.l_ld & keep) for each in MAPS])
    return written(folder, dump)


@pytest.mark.parametrize(("processor", "arch"), [(9, "x86_64"), (ARM64, "aarch64"), (0x8003, "aarch64")])
def test_libraries_are_those_of_the_lists(tmp_path: Path, processor: int, arch: str) -> None:
    with dlwhy.open(whole(tmp_path, processor)) as dump:
        state = dump.state()
    assert (state.target.kind, state.target.os, state.target.arch) == ("dump", "linux", arch)
    found = [(each.name, each.path, each.base, each.load_bias, each.build_id) for each in state.libraries]
    assert found == [
        ("prog", "/usr/bin/prog", PROGRAM, 0, BUILD_ID.hex()),
        ("libc.so.6", "/lib/libc.so.6", LIBC, LIBC, BUILD_ID[::-1].hex()),
        ("linux-gate.so", None, VDSO, None, None),
        ("libgone.so", "/opt/libgone.so", None, 0x7F11_0000_0000, None),
    ]
    assert all(each.held is None and not each.holds for each in state.libraries)
    assert state.loader.kind is None
    (problem,) = state.problems
    assert "no state of the dynamic loader" in problem.message


def test_the_link_maps_of_32_bits(tmp_path: Path) -> None:
    target = LinuxMinidump(str(whole(tmp_path, X86)))
    maps = target.listed_maps()
    assert maps is not None
    assert [each.name for each in maps] == ["", "/lib/libc.so.6", "/opt/libgone.so"]
    assert maps[0].l_ld == PROGRAM + 0x3000


def test_one_library(tmp_path: Path) -> None:
    with dlwhy.open(whole(tmp_path)) as dump:
        library = dump.library("libc.so.6")
        assert library.held is None
        with pytest.raises(NotFoundError):
            dump.library("libnot.so")


def test_what_the_loader_alone_knows_is_refused(tmp_path: Path) -> None:
    with (
        dlwhy.open(whole(tmp_path)) as dump,
        pytest.raises(UnsupportedError, match="holds no state of the dynamic loader"),
    ):
        dump.plan("libc.so.6")


def test_without_lists(tmp_path: Path) -> None:
    with dlwhy.open(written(tmp_path, Dump())) as dump:
        state = dump.state()
    assert state.libraries == ()
    assert any("which there were is not known" in problem.message for problem in state.problems)


def test_a_list_that_announces_too_much(tmp_path: Path) -> None:
    dump = Dump()
    dump.modules(MODULES, announced=1 << 30)
    with dlwhy.open(written(tmp_path, dump)) as opened:
        state = opened.state()
    assert len(state.libraries) == 3
    assert any("1073741824 entries are announced" in problem.message for problem in state.problems)


def test_other_systems_and_processors(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="another system"):
        dlwhy.open(written(tmp_path, Dump(platform=MACOS)))
    with pytest.raises(UnsupportedError, match="processor 0x8002"):
        dlwhy.open(written(tmp_path, Dump(processor=0x8002)))
