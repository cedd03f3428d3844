"""Is the instruction behind the call that takes the lock found, and only in code that is wholly understood?"""

from __future__ import annotations

from typing import Optional

import pytest
from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.linux.elf.unwind import Row
from dlwhy.common.linux.trace import lock_points
from dlwhy.common.linux.trace.lock_points import LockPoint, find_lock_point
from dlwhy.common.memory import Memory
from dlwhy.tests.fakes import I386
from dlwhy.tests.support.live_glibc import Script, Way

#: The start of _dl_close in Debian's glibc 2.36; the lock is 0x31a30 behind the second instruction.
OF_236 = "55 488d2d301a0300 53 4889fb 4889ef 4883ec08 ff153f0a0300 80bb3703000000"
#: Of _dl_open: a test and a jump are on the way, and the lock's address goes through r15.
OF_236_OPEN = (
    "4157 4156 4155 4154 55 4889fd 53 4881ec88000000 40f6c603 0f8490020000 4889cb 4c8d3da0840200 4989d6 4589c5"
    "8974240c 4d89cc 4c89ff ff15aa740200 4883fbff"
)
#: A frame of 0x18 bytes.
FRAME = Row((7, 0x20), {}, 16, False)


class Place:
    """ld.so with this code in it, under a frame that its tables describe."""

    def __init__(self, code: str) -> None:
        made = Script(in_rtld=Way.LOCKED)
        rtld = made.library("ld.so")
        self.code = bytes.fromhex(code)
        self.start = made.process.base(rtld) + 0x5000
        made.refresh()
        memory = made.target
        original = memory.read

        def read(address: int, size: int) -> bytes:
            if self.start <= address < self.start + 0x1000:
                return self.code.ljust(0x1000, b"\xcc")[address - self.start : address - self.start + size]
            return original(address, size)

        memory.read = read  # type: ignore[method-assign]
        self.image = ElfImage.at(Memory(memory), made.process.base(rtld))

    def find(self, monkeypatch: pytest.MonkeyPatch, lock: int, row: Optional[Row] = FRAME) -> object:
        """Find the point, with the same frame everywhere."""
        monkeypatch.setattr(lock_points, "find_row", lambda _image, _address: row)
        return find_lock_point(self.image, self.start, self.start + lock)


@pytest.mark.parametrize(
    ("code", "lock", "distance", "argument"),
    [(OF_236, 0x31A30 + 8, 25, "rbx"), (OF_236_OPEN, 0x284A0 + 40, 62, "rbp")],
)
def test_real_code(code: str, lock: int, distance: int, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(code)
    assert place.find(monkeypatch, lock) == LockPoint(place.start + distance, ("rsp", 0x18), argument)
    assert place.find(monkeypatch, lock + 8) is None  # another address


@pytest.mark.parametrize(
    "before",
    ["0f05", "c5f877", "e800000000", "c3", "ff1500000000", "cc", "ebfe"],
    ids=["syscall", "avx", "call", "return", "other call", "int3", "jump"],
)
def test_what_is_not_understood_is_not_watched(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(before + OF_236)
    assert place.find(monkeypatch, len(bytes.fromhex(before)) + 0x31A30 + 8) is None


@pytest.mark.parametrize("row", [None, FRAME._replace(cfa=None), FRAME._replace(cfa=(0, 0x20))])
def test_a_frame_whose_start_is_not_known(row: Optional[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place(OF_236).find(monkeypatch, 0x31A30 + 8, row) is None


def test_a_frame_whose_description_cannot_be_read() -> None:
    place = Place(OF_236)
    # ld.so has none of its own for that place.
    assert find_lock_point(place.image, place.start, place.start + 0x31A30 + 8) is None


def test_a_register_that_calls_do_not_preserve_has_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    to_rax = "4889f8"
    assert Place(to_rax + OF_236).find(monkeypatch, 3 + 0x31A30 + 8) is None


def test_other_processors_code_is_not_read() -> None:
    place = Place(OF_236)
    place.image.memory.platform = I386
    assert find_lock_point(place.image, place.start, place.start + 0x31A30 + 8) is None


@pytest.mark.parametrize("size", range(1, 21))
def test_code_that_ends_early(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(OF_236)
    place.code = place.code[:size]
    assert place.find(monkeypatch, 0x31A30 + 8) is None


@pytest.mark.parametrize(
    "before",
    [
        "f30f1efa",
        "64488b042528000000",
        "4c8b6424 10",
        "488b85 00010000",
        "0fb6c0",
        "48c7442408 01000000",
        "83 3d 00000000 01",
        "660f1f840000000000",
        "f7c601000000",
        "b8 01000000",
        "7502",
        "8b0425 00000000",
    ],
)
def test_other_instructions_on_the_way(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(bytes.fromhex(before))
    place = Place(before + OF_236)
    found = place.find(monkeypatch, size + 0x31A30 + 8)
    assert found == LockPoint(place.start + size + 25, ("rsp", 0x18), "rbx")
