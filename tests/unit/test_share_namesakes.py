"""Are two files of one name told apart, as there are after the rename that dllshare advises?"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.commands.dllshare.document import share_document
from dlwhy.common.commands.dllshare.text import share_view
from dlwhy.common.errors import NotFoundError
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import render
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.model import Share
from dlwhy.common.windows.share import share_all, share_file
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import Module, write_image
from dlwhy.tests.synth.ntdump import Machine
from dlwhy.tests.synth.ntlayout import windows

OLD, NEW = 0x5700_0000, 0x5F00_0000
#: Where a 64-bit image of `write_image` has its directories, and where its debug directory has room.
DIRECTORIES, DEBUG = 0x98 + 112, 0x3000


def number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(text) from error


def image(stamp: int, kind: Optional[int] = None) -> bytes:
    """Write an image, with a debug entry of a kind; 16 says that the stamp is a hash."""
    content = bytearray(0x4000)
    write_image(content, Module("b.dll", timestamp=stamp), True)
    if kind is not None:
        struct.pack_into("<II", content, DIRECTORIES + 8 * 6, DEBUG, 28)
        struct.pack_into("<IIHHI", content, DEBUG, 0, stamp, 0, 0, kind)
    return bytes(content)


def machine(*contents: Optional[bytes]) -> Machine:
    """Have each process map another file of the same name."""
    made = Machine(windows("10.0.17763.379"))
    for index, content in enumerate(contents):
        process = made.process(100 + 4 * index, f"p{index}.exe")
        file = made.file("\\a\\b.dll")
        base = 0x1000_0000 * (index + 1)
        process.map(file.image(file.open()), base, base + 0x4000 + 0x1000 * index)
        if content is not None:
            process.write_user(base, content)
    return made


def ask(folder: Path, made: Machine, name: Optional[str] = "b.dll") -> tuple[Share, str]:
    dump_file = KernelDump(str(made.save(folder / "m.dmp")))
    share = share_all(dump_file) if name is None else share_file(dump_file, name, number)
    VALIDATOR.validate(json.loads(dump(share_document("dllshare", share))))
    return share, " ".join(render(share_view(share, False)).split())


@pytest.mark.parametrize("name", ["b.dll", None])
def test_they_are_told_apart_by_control_area_size_and_link_date(tmp_path: Path, name: Optional[str]) -> None:
    share, text = ask(tmp_path, machine(image(OLD), image(NEW, 2)), name)
    assert [(file.image_bytes, file.timestamp, file.link_time) for file in share.files] == [
        (0x4000, OLD, OLD),
        (0x5000, NEW, NEW),
    ]
    areas = [file.sections[0].control_area for file in share.files]
    for area, size, linked in zip(areas, ("0x4000", "0x5000"), ("2016-04-02 17:23:12", "2020-07-04 04:05:20")):
        assert f"{area >> 32:08x}`{area & 0xFFFFFFFF:08x} {size} {linked}" in text
    newest = f"{areas[1] >> 32:08x}`{areas[1] & 0xFFFFFFFF:08x}"
    assert f"2 files are named b.dll: that of control area {newest} is the newest by link date." in text
    for area, pid in zip(areas, (100, 104)):
        (chosen,) = ask(tmp_path, machine(image(OLD), image(NEW, 2)), f"{area:#x}")[0].files
        assert [mapping.pid for mapping in chosen.mappings] == [pid]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (image(OLD), "their link dates are the same"),
        (image(NEW, 16), "because not all link dates are"),
        (image(0), "because not all link dates are"),
        (None, "because not all link dates are"),
    ],
    ids=["same", "reproducible", "none", "unread"],
)
def test_which_is_newer_is_not_known(tmp_path: Path, other: Optional[bytes], said: str) -> None:
    assert (
        f"which is newer is not known{',' if 'because' in said else ':'} {said}"
        in ask(tmp_path, machine(image(OLD), other))[1]
    )


def test_a_stamp_that_is_a_hash_is_no_date(tmp_path: Path) -> None:
    share, text = ask(tmp_path, machine(image(OLD), image(NEW, 16)))
    assert (share.files[1].timestamp, share.files[1].link_time) == (NEW, None)
    assert "a hash, or not known (0x5f000000)" in text


def test_one_of_a_name_is_not_compared(tmp_path: Path) -> None:
    share, text = ask(tmp_path, machine(image(OLD)), None)
    assert [(file.image_bytes, file.timestamp) for file in share.files] == [(None, None)]
    assert "of one name" not in text
    (file,) = ask(tmp_path, machine(image(OLD)))[0].files
    assert (file.image_bytes, file.link_time) == (0x4000, OLD)
