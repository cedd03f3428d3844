"""Do damaged cores and mangled names end in an answer or a DlwhyError, in bounded time?"""

from __future__ import annotations

import time
from typing import BinaryIO, Optional

import pytest
from dlwhy.common.errors import DlwhyError
from dlwhy.common.helper import shared_helper
from dlwhy.common.linux.dumps.elfcore import ElfCore
from dlwhy.common.linux.elf.demangle import demangle
from dlwhy.common.model import Module
from dlwhy.tests.fuzz.damages import DAMAGE, damaged
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.fuzz.mangled import MANGLED_PARTS
from dlwhy.tests.synth.elfcore import Encoder, FileMapping, Segment, write_core
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


@examples(500)
@given(name=st.one_of(st.lists(MANGLED_PARTS, max_size=60).map("".join), st.text(max_size=60).map("_Z".__add__)))
def test_any_name_is_demangled_or_kept(name: str) -> None:
    shared_helper().renew()
    began = time.process_time()
    assert isinstance(demangle(name), str)
    assert time.process_time() - began < LIMIT_SECONDS
