"""Can a core be opened however it was kept?"""

from __future__ import annotations

import bz2
import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import dlwhy
import pytest
from dlwhy.common import unpack
from dlwhy.common.api import Examination, FileHost
from dlwhy.common.cli import main
from dlwhy.common.commands.arguments import byte_count
from dlwhy.common.errors import DumpFormatError, NotFoundError, UnsupportedError
from dlwhy.common.open import open_core, open_coredump, open_dump
from dlwhy.common.target import Target
from dlwhy.tests.synth.elfcore import Encoder, Segment, write_core

COMPRESSORS = {
    "zstd": ["zstd", "-q"],
    "lz4": ["lz4", "-q"],
    "xz": ["xz", "-0", "-k"],
    "gzip": ["gzip", "-1", "-k"],
    "bzip2": ["bzip2", "-1", "-k"],
}
SUFFIXES = {"zstd": "zst", "lz4": "lz4", "xz": "xz", "gzip": "gz", "bzip2": "bz2"}
OPENERS: list[Callable[[str], object]] = [dlwhy.open, open_core, open_dump]
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def opened(target: Target) -> Examination:
    return Examination(FileHost(target))


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_compressed_core(rich_core: Path, tmp_path: Path, name: str) -> None:
    plain = tmp_path / "core"
    shutil.copy(rich_core, plain)
    words = [*COMPRESSORS[name], str(plain)]
    packed = f"core.{SUFFIXES[name]}"
    subprocess.run([*words, str(tmp_path / packed)] if name == "lz4" else words, check=True)
    with dlwhy.open(rich_core) as expected, dlwhy.open(tmp_path / packed) as found:
        assert found.state().libraries == expected.state().libraries


def test_compressed_core_that_is_cut_off(rich_core: Path, tmp_path: Path) -> None:
    subprocess.run(["zstd", "-q", str(rich_core), "-o", str(tmp_path / "whole.zst")], check=True)
    whole = (tmp_path / "whole.zst").read_bytes()
    (tmp_path / "cut.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DumpFormatError):
        dlwhy.open(tmp_path / "cut.zst")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zstd", "(?i)decoding error|corrupt|checksum"),
        ("xz", "Compressed data is corrupt"),
        ("gzip", "(invalid compressed data|crc error)"),
        ("bzip2", "Data integrity error when decompressing"),
    ],
)
def test_a_damaged_one_is_told_in_one_line_without_the_program(tmp_path: Path, name: str, expected: str) -> None:
    plain = tmp_path / "core"
    plain.write_bytes(random.Random(1).randbytes(4000))
    subprocess.run([*COMPRESSORS[name], str(plain)], check=True)
    packed = tmp_path / f"core.{SUFFIXES[name]}"
    data = bytearray(packed.read_bytes())
    data[12:40] = bytes(28)
    packed.write_bytes(data)
    with packed.open("rb") as source:
        flaw = unpack.unpack([name, "-dc"], source, "core", lambda _: None).flaw
    assert re.match(expected, flaw), flaw


@pytest.mark.parametrize("name", ["gzip", "bzip2"])
def test_zeros_without_end_take_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Gzip takes 40 s of processor time for as many zeros as a core may be long, bzip2 30 s."""
    import resource  # Linux's alone

    monkeypatch.setattr(unpack, "MAX_SECONDS", 1)
    # The decompressors take compressed pieces behind one another: the same zeros need not be compressed each time.
    piece = 64 << 20
    core = write_core([Segment(0x1000, b"content", 0x1000)], Encoder().auxv({}))
    compress = gzip.compress if name == "gzip" else bz2.compress
    zeros = compress(bytes(piece), 1)
    (tmp_path / f"core.{SUFFIXES[name]}").write_bytes(compress(core.ljust(piece, b"\0"), 1) + zeros * 15)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    packed = tmp_path / f"core.{SUFFIXES[name]}"
    with packed.open("rb") as source:
        found = unpack.unpack([name, "-dc"], source, "core", lambda _: None)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (
        found.flaw
        == "it takes more than 1 second of processor time: allow more by --max-size SIZE, in Python by max_size"
    )
    assert 0 < found.size < 1 << 30
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4
    with packed.open("rb") as source:
        assert unpack.unpack([name, "-dc"], source, "core", lambda _: None, 64 << 30).size == 1 << 30


def test_a_core_that_is_no_longer_one_says_what_the_decompressor_said(rich_core: Path, tmp_path: Path) -> None:
    cut = tmp_path / "core"
    cut.write_bytes(rich_core.read_bytes()[:100000])
    subprocess.run([*COMPRESSORS["xz"], str(cut)], check=True)
    packed = tmp_path / "core.xz"
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(DumpFormatError, match="decompression: Unexpected end of input"):
        dlwhy.open(packed)


def test_missing_decompressor_is_named(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["zstd", "-q", str(rich_core), "-o", str(tmp_path / "core.zst")], check=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="install zstd"):
        dlwhy.open(tmp_path / "core.zst")


def test_a_few_bytes_are_no_kib(rich_core: Path, tmp_path: Path) -> None:
    (tmp_path / "core.gz").write_bytes(gzip.compress(rich_core.read_bytes(), 1))
    for size, words in ((1, "1 byte"), (10, "10 bytes"), (2048, "2 KiB")):
        with pytest.raises(DumpFormatError, match=f"more than {words}: allow more"):
            dlwhy.open(tmp_path / "core.gz", max_size=size)


DUMPS = pytest.mark.parametrize("start", [b"MDMP", b"PAGEDU64", b"PAGEDUMP", b"USERDU64"])


def refuse_as_core(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DumpFormatError, match="give it by --dump"):
        open_core(str(path))


@DUMPS
def test_a_dump_as_a_core_says_how_it_is_opened(tmp_path: Path, start: bytes) -> None:
    refuse_as_core(tmp_path / "prog.dmp", start + bytes(200))


@DUMPS
def test_a_packed_dump_as_a_core_says_how_it_is_opened(tmp_path: Path, start: bytes) -> None:
    refuse_as_core(tmp_path / "prog.dmp", gzip.compress(start + bytes(200)))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DumpFormatError, match="No such file"):
        dlwhy.open(tmp_path / "core")


def test_not_a_core() -> None:
    with pytest.raises(DumpFormatError, match="no core"):
        dlwhy.open("/proc/self/exe")


COREDUMPCTL = """#!/bin/sh
# What coredumpctl(1) does: `coredumpctl dump -- MATCH` writes the newest core to standard output.
[ "$1 $2" = "dump --" ] || exit 2
[ "$3" = progA ] || { echo "No coredumps found." >&2; exit 1; }
exec cat "$CORE"
"""


def test_core_out_of_coredumpctl(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "coredumpctl"
    program.write_text(COREDUMPCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CORE", str(rich_core))
    with dlwhy.open(rich_core) as expected, opened(open_coredump("progA")) as found:
        assert found.state().libraries == expected.state().libraries
    with pytest.raises(NotFoundError, match="No coredumps found"):
        open_coredump("progB")


def test_without_coredumpctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="--core"):
        open_coredump("progA")


# -- content that cannot be trusted ------------------------------------------------------------------------------------


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a program into PATH that stands for zstd and notes its process id; return a file for it to decompress."""
    program = folder / "zstd"
    program.write_text(f'#!/bin/sh\necho $$ > "{folder}/pid"\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    path = folder / "core.zst"
    path.write_bytes(ZSTD_MAGIC + bytes(100))
    return path


def has_ended(folder: Path) -> bool:
    return not Path(f"/proc/{(folder / 'pid').read_text().strip()}").exists()


def descriptors() -> list[str]:
    return sorted(os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if is_file(number))


def is_file(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def small_core(size: int = 1 << 20) -> bytes:
    """Write a core whose notes come first, as the kernel does, and memory that cannot be compressed."""
    return write_core([Segment(0x10000, random.Random(1).randbytes(size), size)], Encoder().auxv({3: 0x10040, 9: 1}))


def test_what_is_no_core_is_not_decompressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 KB can stand for gigabytes of zeros."""
    path = install(tmp_path, monkeypatch, "exec cat /dev/zero")
    before = descriptors()
    for open_file in OPENERS:
        with pytest.raises(DumpFormatError, match=r"no ELF file|no dump of Windows|neither a core .* nor a minidump"):
            open_file(str(path))
        assert has_ended(tmp_path)
    assert descriptors() == before


def test_an_executable_is_not_decompressed_as_a_core(tmp_path: Path) -> None:
    path = tmp_path / "core.gz"
    path.write_bytes(gzip.compress(Path("/proc/self/exe").read_bytes(), 1))
    with pytest.raises(DumpFormatError, match="an ELF file, but no core"):
        dlwhy.open(path)


def test_zeros_take_no_room(tmp_path: Path) -> None:
    core = small_core()
    path = tmp_path / "core.gz"
    with gzip.open(path, "wb", 1) as stream:
        stream.write(core + bytes(100) + b"x" + bytes((300 << 20) + 1234) + b"x" + bytes(5000))
    with dlwhy.open(path) as found:
        status = os.fstat(found._host.target()._core._file.fileno())  # type: ignore[attr-defined]
        assert status.st_size == len(core) + (300 << 20) + 6336
        assert status.st_blocks * 512 < 2 * len(core)
        stream = found._host.target()._core._file  # type: ignore[attr-defined]
        assert os.pread(stream.fileno(), len(core), 0) == core
        assert os.pread(stream.fileno(), 1 << 20, status.st_size - 5001) == b"x" + bytes(5000)
        assert os.pread(stream.fileno(), 200, len(core)) == bytes(100) + b"x" + bytes(99)


def test_room_is_bounded(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(tmp_path, monkeypatch, f'cat "{rich_core}"; exec cat /dev/urandom')
    with pytest.raises(DumpFormatError, match="takes up more than 20 MiB: allow more by --max-size SIZE"):
        dlwhy.open(str(path), max_size=20 << 20)
    assert has_ended(tmp_path)
    path = install(tmp_path, monkeypatch, f'cat "{rich_core}"; exec cat /dev/zero')
    with pytest.raises(DumpFormatError, match="holes included, more than 40 MiB: allow more by --max-size SIZE"):
        dlwhy.open(str(path), max_size=20 << 20)
    assert has_ended(tmp_path)


def test_room_is_the_users_to_give(rich_core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "core.gz"
    path.write_bytes(gzip.compress(rich_core.read_bytes(), 1))
    assert main(["--max-size", "64K", "--core", str(path), "dlstate"]) == 3
    assert "takes up more than 64 KiB: allow more by --max-size SIZE" in capsys.readouterr().err
    assert main(["--max-size=1g", "--core", str(path), "dlstate"]) == 0
    assert "libraries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("4G", 4 << 30), ("500m", 500 << 20), ("64K", 1 << 16), ("2T", 2 << 40)]
)
def test_sizes(text: str, number: int) -> None:
    assert byte_count(text) == number


@pytest.mark.parametrize("text", ["", "G", "0", "0K", "-1", "1.5G", "4GB", "x", "1 G G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no size such as 500M or 16G"):
        byte_count(text)


def test_a_program_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "SILENCE_SECONDS", 0.2)
    path = install(tmp_path, monkeypatch, "exec sleep 1000")
    with pytest.raises(DumpFormatError, match="wrote nothing for"):
        dlwhy.open(path)
    assert has_ended(tmp_path)


def test_a_program_that_talks(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is kept to 64 KiB, and the last line of that told where it fails."""
    path = install(tmp_path, monkeypatch, f'sleep 0.3; trap "" XFSZ; yes aaa >&2; cat "{rich_core}"; exit 1')
    with dlwhy.open(path) as found:
        assert "not all of it could be decompressed: a" in str(found._host.target().problems()[0])


def test_a_program_that_ends_late(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "ENDING_SECONDS", 0.2)
    path = install(tmp_path, monkeypatch, f'cat "{rich_core}"; exec >&-; exec sleep 1000')
    with dlwhy.open(path) as found:
        assert "not all of it could be decompressed" in str(found._host.target().problems()[0])
    assert has_ended(tmp_path)


def test_a_program_s_memory_is_bounded(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(tmp_path, monkeypatch, f'sleep 0.3; cat "{rich_core}"; ulimit -v >&2; exit 1')
    with dlwhy.open(path) as found:
        assert f"not all of it could be decompressed: {1 << 20}" in str(found._host.target().problems()[0])


def test_an_interrupt_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(tmp_path, monkeypatch, "exec sleep 1000")
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        dlwhy.open(path)
    timer.join()
    assert has_ended(tmp_path)


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_a_cut_off_core_of_the_kernels_is_used(tmp_path: Path, name: str) -> None:
    plain = tmp_path / "core"
    plain.write_bytes(small_core(4 << 20))
    packed = subprocess.run([*COMPRESSORS[name][:1], "-c", str(plain)], capture_output=True, check=True).stdout
    path = tmp_path / "cut"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    with dlwhy.open(path) as found:
        said = [problem.message for problem in found._host.target().problems()]
        assert said[0].startswith("it is cut off: ")
        assert said[1].startswith("not all of it could be decompressed: ")
        assert found._host.target().read(0x10000, 16) == small_core(4 << 20)[-(4 << 20) :][:16]


def test_what_follows_a_core_is_said(rich_core: Path, tmp_path: Path) -> None:
    path = tmp_path / "core.gz"
    path.write_bytes(gzip.compress(rich_core.read_bytes(), 1) + b"trailing garbage")
    assert main(["--core", str(path), "dlstate", "--json"]) in (0, 4)
    subprocess.run(["zstd", "-q", str(rich_core), "-o", str(tmp_path / "core.zst")], check=True)
    with (tmp_path / "core.zst").open("ab") as stream:
        stream.write(b"trailing garbage")
    with dlwhy.open(rich_core) as expected, dlwhy.open(tmp_path / "core.zst") as found:
        assert found.state().libraries == expected.state().libraries
        assert "not all of it could be decompressed" in str(found.state().problems)


def test_programs_of_the_current_folder_are_not_run(
    rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install(tmp_path, monkeypatch, f'exec cat "{rich_core}"')
    monkeypatch.chdir(tmp_path)
    for folders in ("", ".", os.pathsep, f".{os.pathsep}{os.pathsep}bin/.."):
        monkeypatch.setenv("PATH", folders)
        with pytest.raises(UnsupportedError, match="install zstd"):
            dlwhy.open(path)
    assert not (tmp_path / "pid").exists()


def folder_of(stream: BinaryIO) -> str:
    return os.path.dirname(os.readlink(f"/proc/self/fd/{stream.fileno()}"))


def test_where_it_is_kept(rich_core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "core.gz"
    path.write_bytes(gzip.compress(rich_core.read_bytes(), 1))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with dlwhy.open(path) as found:
        assert folder_of(found._host.target()._core._file) == "/var/tmp"  # type: ignore[attr-defined]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with dlwhy.open(path) as found:
        assert folder_of(found._host.target()._core._file) == str(tmp_path)  # type: ignore[attr-defined]
        assert [each.name for each in tmp_path.iterdir()] == ["core.gz"]


def test_no_room(rich_core: Path, tmp_path: Path) -> None:
    path = tmp_path / "core.gz"
    path.write_bytes(gzip.compress(rich_core.read_bytes(), 1))
    script = f'ulimit -f 100; exec "{sys.executable}" "{Path(dlwhy.__file__).parent}" --core "{path}" dlstate'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "cannot be decompressed (File too large): name a folder with more room by TMPDIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("open_file", OPENERS)
def test_a_pipe_is_not_waited_for(tmp_path: Path, open_file: Callable[[str], object]) -> None:
    os.mkfifo(tmp_path / "core")
    with pytest.raises(DumpFormatError, match="it is not a regular file"):
        open_file(str(tmp_path / "core"))
    with pytest.raises(DumpFormatError, match="it is not a regular file"):
        open_file("/dev/null")
    with pytest.raises(DumpFormatError, match="Is a directory"):
        open_file(str(tmp_path))
    with pytest.raises(DumpFormatError, match="a file of the kernel's"):
        open_file("/proc/version")
