"""Does the real engine know of a dump's exception what the shell knows, and refuse what the shell refuses?"""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.tests.lab.asking import ask_all, ask_shell, assert_equal, type_at_prompt
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.synth.minidump import WIN10, Raised, Unloaded
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import build
from dlwhy.tests.synth.windows import process, real_dumps, write

GONE = 0x5000_0000 + 0x10000 * 19
LINUX, MACOS = 0x8201, 0x8101


def crash(folder: Path, wide: bool = True, teb: bool = True, record: bool = True) -> Path:
    """Write the dump of a crash in an unloaded DLL, whose thread has run on into ntdll since."""
    made = process(WIN10, wide)
    made.registers.update(ip=made.loader.known["ntdll.dll"].base + 0x10, sp=made.stack_base - 0x1800)
    made.memory.number(made.stack_base - 0x7F8, 8 if wide else 4, made.loader.loaded[0].base + 0x1234)
    made.memory.number(made.stack_base - 0x700, 8 if wide else 4, GONE + 4)
    if not teb:
        made.memory.forget(made.teb, 0x4000)
    if not record:
        made.memory.forget(made.peb, 0x400)
    registers = {"ip": GONE + 0x42, "sp": made.stack_base - 0x800, "c": GONE + 5}
    raised = Raised(GONE + 0x42, registers, parameters=(8, GONE + 0x42))
    unloaded = None if teb or not record else (Unloaded("old19.dll", GONE),)
    return write(folder, made.dump(raised=raised, unloaded=unloaded))


@pytest.mark.parametrize(
    ("wide", "teb", "record"), [(True, True, True), (False, True, True), (True, False, True), (True, False, False)]
)
def test_every_place_says_the_same(lab: Lab, tmp_path: Path, wide: bool, teb: bool, record: bool) -> None:
    answers = ask_all(lab, crash(tmp_path, wide, teb, record), [["dllgone"], ["dllgone", f"{GONE + 0x42:#x}"]])
    assert_equal(answers)
    found = answers["prompt"][0]["crash"]
    assert found["words"][0]["module"] == ("old19.dll" if record else None)
    assert found["caller"]["module"] == "prog.exe"


@pytest.mark.parametrize("name", ["tiny-exe-fastfail.dmp", "tiny-exe-with-cet-xsave.dmp"])
def test_a_dump_of_a_real_windows(lab: Lab, name: str) -> None:
    for path in real_dumps(name):
        assert_equal(ask_all(lab, path, [["dllgone"]]))


def test_the_users_context_stays(lab: Lab, tmp_path: Path) -> None:
    typed = ["r rip", "!dllgone", "r rip", ".ecxr", "!dllgone @rip", "r rip"]
    before, _, after, _, answer, late = type_at_prompt(lab, ("-z", windows_path(crash(tmp_path))), typed)
    assert before == after
    assert f"{GONE + 0x42:#x} was old19.dll+0x42, which is unloaded." in answer
    assert f"rip={GONE + 0x42:016x}" in late


def test_a_dump_of_linux_is_refused(lab: Lab, tmp_path: Path) -> None:
    """The shell says what it lists."""
    write(tmp_path, process().dump(platform=LINUX))
    for text in type_at_prompt(lab, ("-z", windows_path(tmp_path / "x.dmp")), ["!dllstate", "!dllshare ntdll.dll"]):
        assert "is no minidump of Windows, but of a program of another system" in text


@pytest.mark.parametrize("kind", ["macos", "arm", "triage"])
def test_what_the_shell_refuses_is_refused(lab: Lab, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.dmp"
    if kind == "triage":
        build(windows("10.0.19041.3570")).save(path, "triage")
    elif kind == "macos":
        write(tmp_path, process().dump(platform=MACOS))
    else:
        write(tmp_path, process().dump(arch=5))
    shell = ask_shell(path, ["dllgone"])
    assert shell.returncode == 3
    expected = shell.stderr.strip().partition(": ")[2].replace(str(path), windows_path(path))
    typed = ["!dllshare ntdll.dll", "!dllstate", "!dllgone", "!dllplan ntdll.dll"]
    for text in type_at_prompt(lab, ("-z", windows_path(path)), typed):
        assert text.strip().rpartition("\n")[2].partition(": ")[2] == expected
