"""What is said of cores that others made: those among the tests of elfutils and of pyelftools?

elfutils' source comes from the archive that apt is configured with, by a list of its own, pyelftools' from pip's index.
"""

from __future__ import annotations

import bz2
import hashlib
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common import cli
from dlwhy.tests.hosts.glibcs import KEYRING, apt, cached_tree, mirror

pytestmark = pytest.mark.matrix

LIMIT_SECONDS = 5.0
ET_CORE = 4

#: The archives: of Debian 12's elfutils 0.188, and of pyelftools 0.33.
HASHES = {
    "elfutils_0.188.orig.tar.bz2": "fb8b0e8d0802005b9a309c60c1d8de32dd2951b56f0c3a3cb56d21ce01595dff",
    "pyelftools-0.33.tar.gz": "660d82dcbeb8e83d1702bd97f223f761625da06111c0cc988eac6b8ab0c1b61f",
}

STATIC = "the program is statically linked"
ARCHITECTURE = "an architecture that is not supported"
NO_PROGRAM = "the core lacks the program's headers"
UNNAMED = "has neither the program's headers nor the names of its files"
NO_HEADERS = "the main program's ELF headers cannot be read"
NO_LOADER = "the core lacks the headers of the dynamic loader"
NO_LAYOUT = "no known layout of glibc's loader fits this process"

#: How many libraries each core's answer has, or the sentence that refuses it.
EXPECTED = {
    "backtrace.aarch64.core": STATIC,
    "backtrace.aarch64.fp.core": STATIC,
    "backtrace.i386.core": STATIC,
    "backtrace.i386.fp.core": STATIC,
    "backtrace.ppc.core": STATIC,
    "backtrace.ppc64le.fp.core": STATIC,
    "backtrace.s390.core": STATIC,
    "backtrace.s390x.core": STATIC,
    "backtrace.sparc.core": ARCHITECTURE,
    "backtrace.x32.core": ARCHITECTURE,
    "backtrace.x86_64.core": STATIC,
    "backtrace.x86_64.fp.core": STATIC,
    "core_linux32.elf": 4,
    "core_linux32_qemu_mips.elf": ARCHITECTURE,
    "core_linux64.elf": 4,
    "core_simple64.elf": NO_PROGRAM,
    "linkmap-cut.core": NO_LAYOUT,
    "test-core.core": NO_PROGRAM,
    "testcore-rtlib": 6,
    "testcore-rtlib-ppc": NO_LOADER,
    "testfile-backtrace-demangle.core": 7,
    "testfile-m68k-core": ARCHITECTURE,
    "testfile-phdrs.elf": NO_HEADERS,
    "testfile-riscv64-core": NO_LAYOUT,
    "testfile-x32-core": ARCHITECTURE,
    "testfile61": UNNAMED,
    "testfile62": "it is cut off: the file has 16064 bytes",
    "testfile63": UNNAMED,
    "testfile65": STATIC,
    "testfile66.core": "no layouts of glibc for architecture ppc64",
    "testfile67": STATIC,
    "testfile68": STATIC,
    "testfile69.core": "the dynamic loader is neither glibc's nor musl's, or its ELF header is not in memory",
    "testfile70.core": "the dynamic loader has not run yet",
    "testfile71": 4,
    "testfile_aarch64_core": NO_PROGRAM,
    "testfile_i686_core": 4,
    "testfiledwarfinlines.core": 7,
}

#: The same of those whose program is beside them.
WITH_PROGRAM = {"test-core.core": ("test-core.exec", NO_LOADER)}


def download(folder: Path) -> None:
    """Fetch the two archives into a folder."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    (folder / "sources.list").write_text(f"deb-src {signed}{mirror()} bookworm main\n", encoding="ascii")
    apt(folder, "update")
    apt(folder, "source", "--download-only", "elfutils")
    words = ["download", "-q", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), "pyelftools==0.33"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)


def unpack_tests(tree: Path) -> None:
    """Put the ELF cores among the tests, and the programs that are asked for, into a folder."""
    download(tree.parent)
    tree.mkdir()
    programs = {program for program, _ in WITH_PROGRAM.values()}
    for archive, digest in HASHES.items():
        (path,) = tree.parent.rglob(archive)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, archive
        for name, data in members(path):
            if is_core(data) or name in programs:
                (tree / name).write_bytes(data)


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive by their own names, decompressed."""
    with tarfile.open(archive) as opened:
        for member in opened:
            stream = opened.extractfile(member) if member.isfile() and "/test" in member.name else None
            if stream is not None:
                name, data = member.name.rpartition("/")[2], stream.read()
                yield (name[:-4], bz2.decompress(data)) if name.endswith(".bz2") and data else (name, data)


def is_core(data: bytes) -> bool:
    """Tell whether a file is an ELF core."""
    kind = int.from_bytes(data[16:18], "big" if data[5:6] == b"\2" else "little")
    return data[:4] == b"\x7fELF" and kind == ET_CORE


@pytest.fixture(scope="module")
def cores() -> Path:
    digest = hashlib.sha256("".join(HASHES.values()).encode()).hexdigest()[:12]
    return cached_tree(f"public-cores-{digest}", unpack_tests)


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str, float]:
    """Return the exit status, what was printed and complained, and the seconds that it took."""
    begin = time.monotonic()
    status = cli.main([*words, "dlstate"])
    seconds = time.monotonic() - begin
    printed = capsys.readouterr()
    return status, printed.out, printed.err, seconds


def test_the_list_is_whole(cores: Path) -> None:
    assert {path.name for path in cores.iterdir()} == {*EXPECTED, *(program for program, _ in WITH_PROGRAM.values())}


@pytest.mark.parametrize("name", EXPECTED)
def test_an_answer_or_a_refusal(cores: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    check(capsys, cores / name, None, EXPECTED[name])


@pytest.mark.parametrize("name", WITH_PROGRAM)
def test_with_its_program(cores: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    program, expected = WITH_PROGRAM[name]
    check(capsys, cores / name, cores / program, expected)


def check(capsys: pytest.CaptureFixture[str], core: Path, program: Optional[Path], expected: object) -> None:
    words = ["--exe", str(program)] if program else []
    status, answer, complaint, seconds = ask(capsys, "--core", str(core), *words)
    assert seconds < LIMIT_SECONDS
    if isinstance(expected, int):
        # Files of these old systems are not here, and the answer names that as a problem.
        assert (status, complaint) == (4, "")
        assert answer.startswith(f"{expected} libraries: {expected} stay loaded, 0 can go.\n")
    else:
        assert (status, answer) == (3, "")
        assert complaint.startswith("dlstate: ")
        assert str(expected) in complaint
