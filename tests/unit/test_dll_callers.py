"""Is an export that is only the nearest one before a call named so, by x64's own record of functions?"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.memory import Memory
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.state import WindowsExamination
from dlwhy.common.windows.trace.callers import is_nearest_export
from dlwhy.tests.synth.minidump import EXE, KERNEL32, WIN10, Loader, Module, Process
from dlwhy.tests.synth.windows import write

# Exports at 0x1000 (aaa) and 0x1040 (bbb); the functions of the exception directory, each with its unwind information.
DIRECTORIES, TABLE, UNWIND, CHAINED = 0x98 + 112, 0x3000, 0x3100, 0x3200
PLAIN = struct.pack("<BBBB", 1, 0, 0, 0)


def plug(functions: bytes, unread: Optional[int] = None) -> Process:
    loader = Loader(WIN10)
    loader.define(Module("plug.dll", exports={"aaa": b"\x90", "bbb": b"\x90"}))
    loader.start(Module(EXE, [KERNEL32]))
    base = loader.load("plug.dll").base
    made = Process(loader)
    made.memory.write(base + DIRECTORIES + 8 * 3, struct.pack("<II", TABLE, len(functions)))
    made.memory.write(base + TABLE, functions)
    made.memory.write(base + UNWIND, PLAIN)
    # Flags of a chain, one code of padded 2, and the parent.
    chained = struct.pack("<BBBB4x3I", 1 | 4 << 3, 0, 1, 0, 0x1040, 0x1060, UNWIND)
    made.memory.write(base + CHAINED, chained)
    if unread is not None:
        made.memory.forget(base + unread, 4)
    return made


def is_near(folder: Path, made: Process, rva: int, function: str) -> bool:
    target = MinidumpTarget(str(write(folder, made.dump())))
    entry = WindowsExamination(target).loaders[0].find_entry("plug.dll")
    assert entry is not None
    return is_nearest_export(Memory(target), entry, entry.base + rva, function)


FUNCTIONS = (
    struct.pack("<3I", 0x1000, 0x1030, UNWIND)
    + struct.pack("<3I", 0x1040, 0x1060, UNWIND)
    + struct.pack("<3I", 0x1080, 0x10A0, UNWIND)
    + struct.pack("<3I", 0x1100, 0x1140, CHAINED)
)


@pytest.mark.parametrize(
    ("rva", "function", "near"),
    [
        (0x1008, "aaa+0x8", False),
        (0x1050, "bbb+0x10", False),
        # Between two functions, in a local one, and in the second part of bbb.
        (0x1034, "aaa+0x34", True),
        (0x1088, "bbb+0x48", True),
        (0x1120, "bbb+0xe0", False),
        # A function of a PDB, one that begins there, and one that is elsewhere.
        (0x1088, "local+0x8", False),
        (0x1040, "bbb", False),
        (0x1088, "bbb+0x40", False),
        (0x1008, "aaa+0xzz", False),
    ],
)
def test_which_exports_are_only_the_nearest(tmp_path: Path, rva: int, function: str, near: bool) -> None:
    assert is_near(tmp_path, plug(FUNCTIONS), rva, function) == near


def test_without_functions_every_export_is_only_the_nearest(tmp_path: Path) -> None:
    assert is_near(tmp_path, plug(b""), 0x1008, "aaa+0x8")
    assert is_near(tmp_path, plug(FUNCTIONS, TABLE + 24), 0x1008, "aaa+0x8")
    assert is_near(tmp_path, plug(FUNCTIONS, CHAINED), 0x1120, "bbb+0xe0")


def test_a_chain_without_end(tmp_path: Path) -> None:
    made = plug(FUNCTIONS)
    base = made.loader.known["plug.dll"].base
    made.memory.write(base + CHAINED, struct.pack("<BBBB4x3I", 1 | 4 << 3, 0, 1, 0, 0x1040, 0x1060, CHAINED))
    assert not is_near(tmp_path, made, 0x1120, "bbb+0xe0")
