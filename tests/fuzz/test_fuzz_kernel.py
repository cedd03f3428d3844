"""Does a damaged dump of a Windows machine end in an answer with problems or a DlwhyError, after bounded work?

Words are overwritten by other words of the same dump, which makes circles and structures that overlap, and by numbers
that are too large.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.commands.dllshare.document import share_document
from dlwhy.common.commands.dllshare.text import share_view
from dlwhy.common.errors import DlwhyError, NotFoundError
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import render
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.share import share_all, share_file
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import build
from hypothesis import given
from hypothesis import strategies as st

#: Ten times what an undamaged dump takes.
MAX_READS = 2000

KINDS = (
    ("6.1.7601.17514", "x86_64", "complete"),
    ("10.0.19041.3570", "x86_64", "bitmap"),
    ("10.0.22000.318", "x86_64", "ranges"),
    ("5.1.2600.5512", "i386", "complete"),
    ("6.1.7601.17514", "i386", "kernel"),
)
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0, 1, 2**32 - 1, 2**64 - 1, 2**63, 2**40])),
    ),
    min_size=1,
    max_size=40,
)


@functools.cache
def whole(kind: tuple[str, str, str], folder: Path) -> bytes:
    version, arch, form = kind
    return build(windows(version, arch)).save(folder / f"whole-{version}-{arch}", form).read_bytes()


def damaged(data: bytes, damage: list[tuple[float, float]], start: int) -> bytes:
    """Overwrite words behind ``start``: by the word at another place, or by a number."""
    result = bytearray(data)
    words = (len(data) - start) // 8 - 1
    for place, new in damage:
        at = start + int(place * words) * 8
        if isinstance(new, int):
            result[at : at + 8] = struct.pack("<Q", new)
        else:
            source = start + int(new * words) * 8
            result[at : at + 8] = data[source : source + 8]
    return bytes(result)


class Counting(KernelDump):
    """A dump that counts what is read from it."""

    reads = 0

    def read_physical(self, address: int, size: int) -> bytes:
        self.reads += 1
        return super().read_physical(address, size)


def examine(path: Path) -> None:
    message = ""
    target: Optional[Counting] = None
    try:
        target = Counting(str(path))
        shares = [share_all(target)]
        with contextlib.suppress(NotFoundError):
            shares.append(share_file(target, "python35.dll", _no_number))
        for share in shares:
            dump(share_document("dllshare", share))
            render(share_view(share, verbose=True))
    except DlwhyError as error:
        message = str(error)
    assert "\n" not in message
    if target is not None:
        assert target.reads < MAX_READS
        target.close()


def _no_number(text: str) -> int:
    raise NotFoundError(text)


@examples(400)
@given(kind=st.sampled_from(KINDS), damage=DAMAGE)
def test_damaged_memory(
    tmp_path_factory: pytest.TempPathFactory, kind: tuple[str, str, str], damage: list[tuple[float, float]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged-machine"
    path.write_bytes(damaged(whole(kind, folder), damage, 0x3000))
    examine(path)


@examples(200)
@given(kind=st.sampled_from(KINDS), damage=DAMAGE, cut=st.floats(0, 1))
def test_damaged_header(
    tmp_path_factory: pytest.TempPathFactory,
    kind: tuple[str, str, str],
    damage: list[tuple[float, float]],
    cut: float,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "damaged-machine"
    data = whole(kind, folder)
    head = damaged(data[:0x3000], damage, 8) + data[0x3000:]
    path.write_bytes(head[: int(len(data) * cut)] if cut < 0.5 else head)
    examine(path)
