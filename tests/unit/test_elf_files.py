"""Does a file name its local functions only if it is the very one in memory, and does a damaged one just not?"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from dlwhy.common.files import open_first
from dlwhy.common.helper import shared_helper
from dlwhy.common.linux.elf.files import find_local_symbol, name_function
from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.linux.state.naming import missing_names
from dlwhy.common.memory import Memory
from dlwhy.tests.synth.loaded import BIAS, lay_out
from dlwhy.tests.synth.process import compile_file
from elftools.elf.elffile import ELFFile

SOURCE = """
static __attribute__((noinline)) int local(int x) { return x * 3; }
static int local_variable = 7;
int exported(int x) { return local(x) + local_variable++; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_file(tmp_path_factory.mktemp("files"), "liblocal.so", SOURCE, language="c")


def address_of(path: Path, name: str) -> int:
    with path.open("rb") as stream:
        (symbol,) = ELFFile(stream).get_section_by_name(".symtab").get_symbol_by_name(name)
        return BIAS + int(symbol["st_value"])


def loaded(path: Path, file: Path) -> ElfImage:
    """Load a library into memory; on disk there is another file in its place."""
    target = lay_out(path)
    target._files = {str(path): file}
    return ElfImage.at(Memory(target), BIAS)


def named(image: ElfImage, path: Path, address: int) -> str | None:
    return name_function(image.memory, image, str(path), BIAS, address)


def test_local_and_exported_functions(library: Path) -> None:
    image = loaded(library, library)
    local, exported = address_of(library, "local"), address_of(library, "exported")
    assert named(image, library, local) == "local"
    assert named(image, library, local + 1) == "local"
    assert named(image, library, exported) == "exported"
    assert named(image, library, BIAS + 0x20) is None, "the ELF header is no function"
    assert find_local_symbol(image.memory, image, str(library), "local_variable") == address_of(
        library, "local_variable"
    )
    assert find_local_symbol(image.memory, image, str(library), "no_such_variable") is None


@pytest.mark.parametrize("name", [b"lo\xffal", b"\xc3\xbcal "])
def test_a_name_of_any_bytes_stays_as_it_is(library: Path, tmp_path: Path, name: bytes) -> None:
    content = library.read_bytes()
    assert b"\0local\0" in content
    changed = tmp_path / "liblocal.so"
    changed.write_bytes(content.replace(b"\0local\0", b"\0" + name + b"\0"))
    found = named(loaded(library, changed), library, address_of(library, "local"))
    assert found is not None
    assert os.fsencode(found) == name


def test_another_build_is_not_believed(library: Path, tmp_path: Path) -> None:
    other = compile_file(
        tmp_path, "liblocal.so", SOURCE.replace("local(", "impostor("), "-Wl,--build-id=0xabcdef", language="c"
    )
    image = loaded(library, other)
    assert named(image, library, address_of(library, "local")) is None
    assert named(image, library, address_of(library, "exported")) == "exported", "memory itself knows this one"
    assert find_local_symbol(image.memory, image, str(library), "local_variable") is None


def test_without_build_id_no_file_is_believed(tmp_path: Path) -> None:
    path = compile_file(tmp_path, "libnoid.so", SOURCE, "-Wl,--build-id=none", language="c")
    assert named(loaded(path, path), path, address_of(path, "local")) is None


def test_a_stripped_or_missing_file(library: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", str(stripped), str(library)], check=True)
    for file in (stripped, tmp_path / "missing.so"):
        image = loaded(library, file)
        assert named(image, library, address_of(library, "local")) is None
        assert named(image, library, address_of(library, "exported")) == "exported"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sh_offset", (1 << 63) - 1),
        ("sh_offset", 1 << 63),
        ("sh_offset", (1 << 64) - 1),
        ("sh_size", (1 << 63) - 1),
        ("sh_size", 1 << 62),
        ("sh_size", 7),
        ("sh_entsize", 0),
        ("sh_entsize", 1),
        ("sh_link", 0xFFFFFFFF),
        ("sh_link", 0),
        ("sh_name", 0xFFFFFFFF),
        ("sh_type", 0xFFFFFFFF),
        ("sh_flags", 0x800),
    ],
)
@pytest.mark.parametrize("section", [".symtab", ".strtab", ".note.gnu.build-id", ".shstrtab"])
def test_damaged_section_headers(library: Path, tmp_path: Path, section: str, field: str, value: int) -> None:
    file = tmp_path / "damaged.so"
    shutil.copy(library, file)
    with library.open("rb") as stream:
        elf = ELFFile(stream)
        index = elf.get_section_index(section)
        place = elf["e_shoff"] + index * elf["e_shentsize"]
    offset, form = {
        "sh_name": (0, "<I"),
        "sh_type": (4, "<I"),
        "sh_flags": (8, "<Q"),
        "sh_offset": (24, "<Q"),
        "sh_size": (32, "<Q"),
        "sh_link": (40, "<I"),
        "sh_entsize": (56, "<Q"),
    }[field]
    with file.open("r+b") as out:
        out.seek(place + offset)
        out.write(struct.pack(form, value))
    image = loaded(library, file)
    answer = named(image, library, address_of(library, "local"))
    assert answer in (None, "local", "")
    find_local_symbol(image.memory, image, str(library), "local_variable")


def with_huge_table(library: Path, file: Path) -> None:
    """Give a file a symbol table of 3 GB, all of it a hole: 24 KiB on disk."""
    shutil.copy(library, file)
    change_section(file, ".symtab", 24, "<QQ", file.stat().st_size, 3 << 30)
    os.truncate(file, file.stat().st_size + (3 << 30))


def with_compressed_table(library: Path, file: Path) -> None:
    """Give a file a symbol table that is compressed, 300 KiB for 320 MiB."""
    packer = zlib.compressobj(9)
    body = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(320)), packer.flush()])
    data = struct.pack("<IIQQ", 1, 0, 320 << 20, 8) + body
    data += bytes(-len(data) % 24)
    shutil.copy(library, file)
    change_section(file, ".symtab", 8, "<QQQQ", 0x800, 0, file.stat().st_size, len(data))
    with file.open("ab") as stream:
        stream.write(data)


def change_section(file: Path, section: str, offset: int, form: str, *values: int) -> None:
    with file.open("rb") as stream:
        elf = ELFFile(stream)
        place = elf["e_shoff"] + elf.get_section_index(section) * elf["e_shentsize"]
    with file.open("r+b") as out:
        out.seek(place + offset)
        out.write(struct.pack(form, *values))


@pytest.mark.parametrize("damage", [with_huge_table, with_compressed_table])
def test_a_huge_symbol_table(library: Path, tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    """It costs the names that only the file has, and neither our memory nor our time."""
    import resource

    file = tmp_path / "huge.so"
    damage(library, file)
    image = loaded(library, file)
    shared_helper().renew()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    assert named(image, library, address_of(library, "local")) is None
    assert named(image, library, address_of(library, "exported")) == "exported"
    assert find_local_symbol(image.memory, image, str(library), "local_variable") is None
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10, "in KiB"
    assert shared_helper().missing > 0
    assert [problem.where for problem in missing_names()] == ["names"]
    shared_helper().renew()
    assert missing_names() == ()


@pytest.mark.parametrize("what", ["directory", "empty", "fifo"])
def test_what_is_no_file(library: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "thing"
    keeper = -1
    if what == "directory":
        path.mkdir()
    elif what == "empty":
        path.touch()
    else:
        os.mkfifo(path)
        keeper = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        os.write(keeper, b"\x7fELF" * 1000)
    try:
        assert named(loaded(library, path), library, address_of(library, "exported")) == "exported"
    finally:
        if keeper >= 0:
            os.close(keeper)


def test_open_first(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"second")
    stream = open_first([str(tmp_path / "a"), str(tmp_path), str(tmp_path / "b")])
    assert stream is not None
    with stream:
        assert stream.read() == b"second"
    assert open_first([]) is None
    assert open_first([str(tmp_path / "a")]) is None


def test_a_path_with_a_zero_byte() -> None:
    """Names come from the target, and open() takes not every name."""
    assert open_first(["/tmp/a\0b"]) is None


def test_files_below_a_root(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"outside")
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "usr" / "libA.so").write_bytes(b"library")
    stream = open_first(["/missing", "/usr", "/usr/./libA.so"], str(root))
    assert stream is not None
    with stream:
        assert stream.read() == b"library"
    for path in ("/../secret", "/usr/../../secret", str(tmp_path / "secret"), "/usr/libA.so\0"):
        assert open_first([path], str(root)) is None, path
