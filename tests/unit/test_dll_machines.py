"""Is a process in a kernel dump explained as the same process in a minidump?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dlwhy.common import cli
from dlwhy.common.errors import NotFoundError
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.gone import find_gone
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.share import share_all
from dlwhy.common.windows.state import explain_chosen_dlls, explain_dlls
from dlwhy.tests.synth import minidump
from dlwhy.tests.synth.minidump import WIN7, WIN10, WIN11, Form
from dlwhy.tests.synth.ntprocess import PID, machine
from dlwhy.tests.synth.windows import form_id, process, story, write


def ask(path: str, *words: str) -> int:
    return cli.main(["--dump", path, *words])


def number(text: str) -> int:
    raise NotFoundError(text)


@pytest.mark.parametrize(
    ("form", "wide"), [(WIN7, True), (WIN10, True), (WIN11, True), (WIN7, False), (WIN10, False)], ids=form_id
)
def test_a_process_of_a_kernel_dump(tmp_path: Path, form: Form, wide: bool) -> None:
    made = process(form, wide)
    small = MinidumpTarget(str(write(tmp_path, made.dump())))
    whole = KernelDump(str(machine(made).save(tmp_path / "MEMORY.DMP")))
    state = explain_dlls(whole, PID)
    expected = explain_dlls(small)
    assert state.dlls == expected.dlls
    assert state.rules == expected.rules
    assert state.loader.version == expected.loader.version
    assert state.target.pid == PID
    assert "process prog.exe (4712) of complete dump" in state.target.description
    assert (
        plan_free(whole, "libA.dll", number, None, PID).plans[0] == plan_free(small, "libA.dll", number, None).plans[0]
    )
    assert find_gone(whole, None, PID).unloaded == find_gone(small, None).unloaded


def test_the_32_bit_loader_in_a_kernel_dump(tmp_path: Path) -> None:
    made = minidump.Process(story(WIN10, True), story(WIN10, False))
    built = machine(made, wow64=True)
    process = next(each for each in built.processes if each.pid == PID)
    ldr, _, _ = made.heads[1]
    peb32 = ldr - ldr % 0x1000  # the PEB is the first thing in its heap
    member = "Wow64Process" if built.has("_EPROCESS", "Wow64Process") else "WoW64Process"
    built.put(built.get(process.eprocess, "_EPROCESS", member), "_EWOW64PROCESS", "Peb", peb32)
    whole = KernelDump(str(built.save(tmp_path / "MEMORY.DMP")))
    state = explain_dlls(whole, PID)
    assert [each.loader for each in state.rules] == ["native", "wow64"]
    assert len(state.dlls) == 24


def test_a_process_that_is_not_there(tmp_path: Path) -> None:
    whole = KernelDump(str(machine(process()).save(tmp_path / "MEMORY.DMP")))
    with pytest.raises(
        NotFoundError, match=r"no process has the id 99: give one by --process, in Python by pid; near: prog\.exe"
    ):
        explain_dlls(whole, 99)


def test_a_process_without_a_peb_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(machine(process()).save(tmp_path / "MEMORY.DMP"))
    assert ask(path, "dllstate", "--json") == 4
    document = json.loads(capsys.readouterr().out)
    assert document["loader"]["version"] == share_all(KernelDump(path)).loader.version == "10.0.19041"
    (said,) = (problem["message"] for problem in document["problems"] if problem["where"] == "PEB")
    assert said == "that of other.exe (2296) is not known: its DLLs are not known"
    assert ask(path, "dllstate") == 4
    told = capsys.readouterr().out
    assert "No module of it is known." in told
    assert "0 modules" not in told
    assert ask(path, "dllstate", "libA") == 4
    assert "not all are known" in capsys.readouterr().err


@pytest.mark.parametrize(("pid", "name"), [(4, "System"), (124, "Registry"), (1500, "MemCompression")])
def test_nothing_is_loaded_in_a_process_of_the_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pid: int, name: str
) -> None:
    built = machine(process())
    built.current = built.process(pid, name)
    path = str(built.save(tmp_path / "MEMORY.DMP"))
    assert ask(path, "dllstate") == 4
    said = capsys.readouterr().out
    assert f"{name} ({pid}) has none: it is a process of the kernel" in said
    with pytest.raises(NotFoundError, match="no loaded DLL matches 'libA'") as failure:
        explain_chosen_dlls(KernelDump(path), "libA", number)
    assert "not all are known" not in str(failure.value)


def test_a_process_that_has_exited(tmp_path: Path) -> None:
    built = machine(process())
    built.process(2500, "left.exe", exited=True)
    with pytest.raises(NotFoundError, match=r"the process left\.exe \(2500\) has exited, and its memory is gone"):
        explain_dlls(KernelDump(str(built.save(tmp_path / "MEMORY.DMP"))), 2500)


@pytest.mark.parametrize(("form", "wide"), [(WIN7, True), (WIN10, True), (WIN7, False)], ids=form_id)
def test_names_are_compared_with_those_of_the_mapped_files(tmp_path: Path, form: Form, wide: bool) -> None:
    made = process(form, wide)
    expected = explain_dlls(MinidumpTarget(str(write(tmp_path, made.dump()))))
    built = machine(made)
    owner = next(each for each in built.processes if each.pid == PID)
    program = next(dll for dll in expected.dlls if dll.list_positions.load == 0)
    built.put(owner.eprocess, "_EPROCESS", "SectionBaseAddress", program.base)
    top = max(dll.end for dll in expected.dlls)
    mapped = [(dll.start, dll.end, dll.name) for dll in expected.dlls]
    for start, end, name in (
        *mapped,
        (top, top + 0x10000, "apisetschema.dll"),
        (top + 0x20000, top + 0x30000, "x.dll"),
    ):
        path = "\\opt\\app\\" + ("libB.dll.old" if name == "libB.dll" else name)
        file = built.file(path)
        owner.map(file.image(file.open("R--", "r-d"), references=1), start & ~0xFFF, end + 0xFFF & ~0xFFF)
    state = explain_dlls(KernelDump(str(built.save(tmp_path / "MEMORY.DMP"))), PID)
    assert state.dlls == expected.dlls
    said = {problem.where: problem.message for problem in state.problems}
    assert said["libB.dll"] == "the loader's name is not that of the mapped file, libB.dll.old"
    assert "in no list of the loader's" in said["x.dll"]
    assert set(said) - {problem.where for problem in expected.problems} == {"libB.dll", "x.dll"}
