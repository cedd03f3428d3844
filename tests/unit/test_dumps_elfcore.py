"""Does the core reader give what the core and its files hold, in every class and byte order, and nothing else?"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Optional

import pytest
from dlwhy.common.errors import DumpFormatError, FaultError
from dlwhy.common.linux.dumps.coretarget import CoreTarget
from dlwhy.common.linux.dumps.elfcore import ElfCore
from dlwhy.common.model import Module
from dlwhy.tests.fakes import snapshot, thread_pointers
from dlwhy.tests.synth.elfcore import ET_EXEC, Encoder, FileMapping, Segment, write_core

FORMS = pytest.mark.parametrize(
    ("bits", "byteorder"),
    [(64, "little"), (64, "big"), (32, "little"), (32, "big")],
    ids=["64le", "64be", "32le", "32be"],
)
BUILD_ID = bytes(range(0x20, 0x34))
TEXT = 0x40_0000
HEAP = 0x50_0000


def open_path(module: Module) -> Optional[BinaryIO]:
    try:
        return open(module.path, "rb")
    except OSError:
        return None


def opened(folder: Path, data: bytes, opener: Callable[[Module], Optional[BinaryIO]] = open_path) -> ElfCore:
    path = folder / "core"
    path.write_bytes(data)
    return ElfCore(str(path), opener)


def elf_file(encoder: Encoder, build_id: bytes = BUILD_ID, size: int = 0x3000) -> bytes:
    """Write a file that begins with an ELF header and a build-id, its other bytes telling where they are."""
    note = encoder.note(b"GNU", 3, build_id)
    header_size = 64 if encoder.bits == 64 else 52
    header = encoder.elf_header(3, 62, phoff=header_size, phnum=2)
    programs = encoder.program_header(1, 0, 0, size, size) + encoder.program_header(
        4, 0x200, 0x200, len(note), len(note)
    )
    start = (header + programs).ljust(0x200, b"\0") + note
    rest = b"".join(struct.pack("<I", at) for at in range(len(start) + -len(start) % 4, size, 4))
    return start.ljust(len(start) + -len(start) % 4, b"\0") + rest


@FORMS
def test_memory_and_notes(tmp_path: Path, bits: int, byteorder: str) -> None:
    encoder = Encoder(bits, byteorder)
    notes = encoder.note(b"CORE", 1, bytes(100)) + encoder.auxv({3: 0x400040, 7: 0x7000, 31: 0x1234})
    notes += encoder.files([FileMapping(TEXT, TEXT + 0x2000, 3, b"/usr/lib/libA.so")])
    core = opened(
        tmp_path,
        write_core(
            [Segment(HEAP, b"heap" * 1024, 0x1000), Segment(TEXT, b"text" * 1024, 0x1000)], notes, encoder=encoder
        ),
    )
    assert (core.pointer_size, core.is_64, core.prefix) == (
        bits // 8,
        bits == 64,
        "<" if byteorder == "little" else ">",
    )
    assert core.auxv == {3: 0x400040, 7: 0x7000, 31: 0x1234}
    assert [tuple(each) for each in core.files] == [(TEXT, TEXT + 0x2000, 0x3000, "/usr/lib/libA.so")]
    assert core.read(HEAP + 2, 6) == b"apheap"
    assert core.read(TEXT + 4092, 4) == b"text"
    for address, size in [(HEAP - 1, 2), (HEAP + 0xFFF, 2), (TEXT + 0x1000, 1), (0, 8), ((1 << bits) - 4, 8)]:
        with pytest.raises(FaultError):
            core.read(address, size)


@FORMS
def test_more_headers_than_16_bits_count(tmp_path: Path, bits: int, byteorder: str) -> None:
    encoder = Encoder(bits, byteorder)
    segments = [Segment(0x10000 + 0x10 * number, bytes([number % 251]) * 16) for number in range(65_600)]
    core = opened(tmp_path, write_core(segments, encoder=encoder, extended=True))
    assert core.read(0x10000 + 0x10 * 65_599, 16) == bytes([65_599 % 251]) * 16
    assert core.read(0x10000 + 0x10 * 65_534, 48) == b"".join(bytes([n % 251]) * 16 for n in range(65_534, 65_537))


def test_a_read_may_span_segments(tmp_path: Path) -> None:
    core = opened(tmp_path, write_core([Segment(HEAP + 0x1000, b"b" * 0x1000), Segment(HEAP, b"a" * 0x1000)]))
    assert core.read(HEAP + 0xFFC, 8) == b"aaaabbbb"


@FORMS
def test_pages_left_out_come_from_the_file(tmp_path: Path, bits: int, byteorder: str) -> None:
    encoder = Encoder(bits, byteorder)
    file = elf_file(encoder)
    path = tmp_path / "libA.so"
    path.write_bytes(file)
    mappings = [
        FileMapping(TEXT, TEXT + 0x1000, 0, os.fsencode(path)),
        FileMapping(TEXT + 0x1000, TEXT + 0x2000, 1, os.fsencode(path)),
        FileMapping(TEXT + 0x8000, TEXT + 0x9000, 2, os.fsencode(path)),
    ]
    segments = [
        Segment(TEXT, file[:0x1000], 0x1000),
        Segment(TEXT + 0x1000, b"", 0x1000),
        Segment(TEXT + 0x8000, b"changed!" * 16, 0x1000),
        Segment(TEXT + 0x9000, b"", 0x1000),  # bss: no file behind it
    ]
    core = opened(tmp_path, write_core(segments, encoder.files(mappings), encoder=encoder))
    assert core.read(TEXT + 0x1000, 0x1000) == file[0x1000:0x2000]
    assert core.read(TEXT + 0xFF0, 0x20) == file[0xFF0:0x1010]
    assert core.read(TEXT + 0x8000, 8) == b"changed!", "what was recorded goes before the file"
    assert core.read(TEXT + 0x8000 + 0x80, 8) == file[0x2080:0x2088]
    with pytest.raises(FaultError):
        core.read(TEXT + 0x9000, 4)
    with pytest.raises(FaultError):
        core.read(TEXT + 0x1FFC, 8)


@pytest.mark.parametrize("wrong", ["other build-id", "no build-id", "no ELF", "short", "missing", "unopened"])
def test_a_wrong_file_is_never_used(tmp_path: Path, wrong: str) -> None:
    encoder = Encoder()
    file = elf_file(encoder)
    path = tmp_path / "libA.so"
    contents = {
        "other build-id": elf_file(encoder, BUILD_ID[::-1]),
        "no build-id": file.replace(b"GNU\0" + BUILD_ID, b"XXX\0" + BUILD_ID),
        "no ELF": file.replace(b"\x7fELF", b"\x7fEXE"),
        "short": file[:40],
    }
    if wrong != "missing":
        path.write_bytes(contents.get(wrong, file))
    mappings = [
        FileMapping(TEXT, TEXT + 0x1000, 0, os.fsencode(path)),
        FileMapping(TEXT + 0x1000, TEXT + 0x2000, 1, os.fsencode(path)),
    ]
    data = write_core(
        [Segment(TEXT, file[:0x1000], 0x1000), Segment(TEXT + 0x1000, b"", 0x1000)], encoder.files(mappings)
    )
    core = opened(tmp_path, data, (lambda module: None) if wrong == "unopened" else open_path)
    with pytest.raises(FaultError):
        core.read(TEXT + 0x1000, 8)
    assert core.read(TEXT, 4) == b"\x7fELF"


def test_a_file_whose_header_was_not_recorded_is_not_used(tmp_path: Path) -> None:
    encoder = Encoder()
    path = tmp_path / "libA.so"
    path.write_bytes(elf_file(encoder))
    mappings = [FileMapping(TEXT, TEXT + 0x2000, 0, os.fsencode(path))]
    core = opened(tmp_path, write_core([Segment(TEXT, b"", 0x2000)], encoder.files(mappings)))
    with pytest.raises(FaultError):
        core.read(TEXT + 0x1000, 8)


def test_a_file_that_became_shorter_has_no_more_bytes(tmp_path: Path) -> None:
    encoder = Encoder()
    file = elf_file(encoder)
    path = tmp_path / "libA.so"
    path.write_bytes(file[:0x1800])
    mappings = [FileMapping(TEXT, TEXT + 0x3000, 0, os.fsencode(path))]
    core = opened(tmp_path, write_core([Segment(TEXT, file[:0x1000], 0x3000)], encoder.files(mappings)))
    assert core.read(TEXT + 0x17FC, 4) == file[0x17FC:0x1800]
    with pytest.raises(FaultError):
        core.read(TEXT + 0x17FC, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no ELF file"),
        (b"\x7fELF", "no ELF file"),
        (b"#!/bin/sh\n" * 20, "no ELF file"),
        (b"\x7fELF\x03\x01" + bytes(60), "no ELF file"),
        (write_core([], kind=ET_EXEC), "no core"),
        (write_core([])[:80], "cut off"),
        (write_core([Segment(HEAP, b"x" * 64)] * 3)[:130], "cut off"),
        (write_core([])[:56] + b"\0\0" + write_core([])[58:], "program headers"),
        (write_core([])[:54] + b"\xff\xff" + write_core([])[56:], "1 program header of 65535 bytes"),
        (write_core([])[:32] + b"\xff" * 8 + write_core([])[40:], "cut off"),
        (write_core([])[:40] + b"\xff" * 8 + write_core([])[48:56] + b"\xff\xff" + write_core([])[58:], "cut off"),
    ],
)
def test_what_is_no_core(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DumpFormatError, match=message) as caught:
        opened(tmp_path, data)
    assert str(tmp_path / "core") in str(caught.value)


def test_a_core_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DumpFormatError, match="No such file"):
        ElfCore(str(tmp_path / "core"), open_path)


def test_absurd_file_notes_are_ignored(tmp_path: Path) -> None:
    encoder = Encoder()
    for words in ([1 << 60, 4096], [3, 4096, 1, 2, 3], [], [1]):
        note = encoder.note(b"CORE", 0x46494C45, encoder.words(words))
        assert opened(tmp_path, write_core([Segment(HEAP, b"x")], note)).files == ()


def test_offsets_beyond_any_file(tmp_path: Path) -> None:
    """A hostile NT_FILE: the product of page and page size does not fit into an offset."""
    encoder = Encoder()
    file = elf_file(encoder)
    path = tmp_path / "libA.so"
    path.write_bytes(file)
    mappings = [
        FileMapping(TEXT, TEXT + 0x1000, 0, os.fsencode(path)),
        FileMapping(TEXT + 0x1000, TEXT + 0x2000, 1 << 55, os.fsencode(path)),
    ]
    notes = encoder.files(mappings)
    core = opened(tmp_path, write_core([Segment(TEXT, file[:0x1000], 0x1000)], notes))
    with pytest.raises(FaultError):
        core.read(TEXT + 0x1000, 8)


def test_a_mapped_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """A hostile NT_FILE may name what blocks when it is opened, or cannot be read at a place."""
    encoder = Encoder()
    path = tmp_path / "fifo"
    os.mkfifo(path)
    keeper = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # or open() itself would block this test
    mappings = [FileMapping(TEXT, TEXT + 0x2000, 0, os.fsencode(path))]
    data = write_core([Segment(TEXT, elf_file(encoder)[:0x1000], 0x2000)], encoder.files(mappings))
    (tmp_path / "core").write_bytes(data)
    target = CoreTarget(str(tmp_path / "core"))
    try:
        with pytest.raises(FaultError):
            target.read(TEXT + 0x1000, 8)
    finally:
        os.close(keeper)


def test_threads_of_a_real_core(rich_core: Path) -> None:
    target = CoreTarget(str(rich_core))
    try:
        threads = target.threads()
        pointers = {thread.lwp: target.registers(thread)["thread_pointer"] for thread in threads}
        assert len(pointers) == 3
        assert pointers == dict(thread_pointers(rich_core))
        assert target.platform == snapshot(rich_core).platform
        for pointer in pointers.values():
            assert int.from_bytes(target.read(pointer + 16, 8), "little") == pointer
        assert target.modules()[0].path == str(rich_core.parent / "main")
    finally:
        target.close()
