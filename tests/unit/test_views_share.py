"""Is what dllshare finds put into the words of the golden file?

DLWHY_UPDATE_GOLDEN=1 pytest tests/unit/test_views_share.py        writes the golden file anew; read its diff
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dlwhy.common.commands.dllshare.text import share_view
from dlwhy.common.errors import NotFoundError
from dlwhy.common.model import Problem
from dlwhy.common.render.text import MAX_WIDTH, render
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.model import Share
from dlwhy.common.windows.share import share_all, share_file
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import TRUTH, build, busy
from dlwhy.tests.unit.goldens import golden


def no_number(text: str) -> int:
    raise NotFoundError(text)


def answers(folder: Path) -> dict[str, tuple[Share, bool]]:
    """Ask about every file of two machines."""
    seven = build(windows("6.1.7601.17514")).save(folder / "seven")
    ten = build(windows("10.0.19041.928", "i386")).save(folder / "ten", "bitmap")
    crowd = busy(windows("10.0.22000.318"), 30, 4, files=2, handles=2).save(folder / "crowd")
    found: dict[str, tuple[Share, bool]] = {}
    for name in TRUTH:
        share = share_file(KernelDump(str(seven)), name, no_number)
        found[f"Windows 7, {name}"] = (share, False)
        found[f"Windows 7, {name} -v"] = (share, True)
    found["x86, python35.dll"] = (share_file(KernelDump(str(ten)), "python35.dll", no_number), False)
    found["x86, several"] = (share_file(KernelDump(str(ten)), "*n*", no_number), False)
    found["x86, all"] = (share_all(KernelDump(str(ten))), False)
    found["x86, paged out"] = (share_file(KernelDump(str(ten)), "0x14000000", lambda text: int(text, 0)), False)
    crowded = share_file(KernelDump(str(crowd)), "library1.dll", no_number)
    found["many processes"] = (crowded, False)
    problems = (Problem("explorer.exe (1234)", "its handle table cannot be read: cannot read 8 bytes at 0x10"),)
    found["with a problem"] = (crowded._replace(problems=problems), False)
    return found


def stable(text: str) -> str:
    """Hide where the writer happens to put things, and the dump's folder."""
    text = re.sub(r"(fffffa80`?)[0-9a-f]{8}", r"\g<1>........", text)
    text = re.sub(r"\b(0x)?85[0-9a-f]{6}\b", r"\g<1>85......", text)
    return re.sub(r" \S*[/\\](seven|ten|crowd)\b", r" \1", text)


def test_golden(tmp_path: Path) -> None:
    texts = {name: stable(render(share_view(share, verbose))) for name, (share, verbose) in answers(tmp_path).items()}
    written = "\n".join(f"==== {name}\n{text}" for name, text in texts.items())
    assert written == golden("views_share", written)


def test_lists_fit_the_screen(tmp_path: Path) -> None:
    share, _ = answers(tmp_path)["many processes"]
    lines = render(share_view(share, verbose=False)).splitlines()
    listed = lines[next(i for i, line in enumerate(lines) if "also mapped by" in line) :]
    assert len(listed) > 5
    assert max(len(line) for line in listed) <= MAX_WIDTH


@pytest.mark.parametrize("verbose", [False, True])
def test_a_name_with_escape_codes_reaches_no_terminal(tmp_path: Path, verbose: bool) -> None:
    machine = build(windows("10.0.17763.379"))
    file = machine.file("\\evil\x1b]0;title\x07.dll")
    machine.processes[1].map(file.image(file.open()), 0x30000000, 0x30004000)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "*evil*", no_number)
    text = render(share_view(share, verbose))
    assert "\\x1b]0;title\\x07" in text
    assert "\x1b" not in text


def test_what_makes_an_answer_uncertain_is_said(tmp_path: Path) -> None:
    machine = build(windows("6.1.7601.17514"))
    machine.finish()
    table = machine.get(machine.processes[1].eprocess, "_EPROCESS", "ObjectTable")
    machine.put(table, "_HANDLE_TABLE", "TableCode", 3)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "python35.dll", no_number)
    (rename,) = (line for line in render(share_view(share, False)).splitlines() if line.startswith("  rename"))
    assert rename.endswith("not all handle tables could be read, so another opener can object")
