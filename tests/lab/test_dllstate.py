"""Does the real engine say of a process's DLLs what the shell says, on dumps of every form and live?"""

from __future__ import annotations

from pathlib import Path

import pytest
from dlwhy.tests.lab.asking import ask_all, ask_shell, assert_equal, comparable, document, type_at_prompt
from dlwhy.tests.lab.builds import compile_with_mingw
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.synth.minidump import WIN7, WIN10, WIN11, WINE, XP, Form, Process
from dlwhy.tests.synth.ntimage import compile_kernel
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntprocess import PID, machine
from dlwhy.tests.synth.windows import FORMS, form_id, process, real_dumps, story, write

QUESTIONS = (["dllstate"], ["dllstate", "libC.dll"], ["dllplan", "libA.dll"], ["dllgone"])
HERE = Path(__file__).resolve().parent


# In the default run each rule of the loader once, and both architectures.
DEFAULT = [(XP, False), (WIN7, True), (WIN10, True), (WIN11, False), (WINE, True)]


@pytest.mark.parametrize(
    ("form", "wide"),
    [*DEFAULT, *(pytest.param(*each, marks=pytest.mark.matrix) for each in FORMS if each not in DEFAULT)],
    ids=form_id,
)
def test_every_place_says_the_same(lab: Lab, tmp_path: Path, form: Form, wide: bool) -> None:
    dump = write(tmp_path, process(form, wide).dump())
    answers = ask_all(lab, dump, QUESTIONS)
    assert_equal(answers)
    state, (asked,) = answers["prompt"][0], answers["prompt"][1]["libraries"]
    assert len(state["libraries"]) == 12
    assert asked["held"] is True


def test_both_loaders_of_a_process_of_32_bit_code(lab: Lab, tmp_path: Path) -> None:
    dump = write(tmp_path, Process(story(WIN10, True), story(WIN10, False)).dump())
    answers = ask_all(lab, dump, [["dllstate"], ["dllgone"]])
    assert_equal(answers)
    assert {each["loader"] for each in answers["prompt"][0]["libraries"]} == {"native", "wow64"}


def test_a_dump_of_an_arm64(lab: Lab, tmp_path: Path) -> None:
    loader = story(WIN11)
    loader.arm64 = True
    made = Process(loader)
    made.registers["lr"] = 0x5013_0044
    start = loader.known["liba.dll"].base + 0x1100
    answers = ask_all(lab, write(tmp_path, made.dump(starts={0x5BC: start})), [["dllstate", "libA.dll"], ["dllgone"]])
    assert_equal(answers)
    assert [each["kind"] for each in answers["prompt"][0]["libraries"][0]["holds"][0]["holders"]] == ["thread"]
    assert [each["register"] for each in answers["prompt"][1]["unloaded"][-1]["pointers"]] == ["lr"]


@pytest.mark.parametrize("name", ["tiny-exe-fastfail.dmp", "tiny-exe-with-cet-xsave.dmp"])
def test_a_dump_of_a_real_windows(lab: Lab, name: str) -> None:
    for dump in real_dumps(name):
        assert_equal(ask_all(lab, dump, [["dllstate"], ["dllstate", "ntdll.dll"], ["dllgone"]]))


def test_a_process_of_a_kernel_dump(lab: Lab, tmp_path: Path) -> None:
    """By its id, and as the process that the user has made current."""
    image = compile_kernel(windows("10.0.19041.3570"), tmp_path)
    built = machine(process(WIN10, True), image=image)
    dump = built.save(tmp_path / "MEMORY.DMP")
    (eprocess,) = (each.eprocess for each in built.processes if each.pid == PID)
    expected = comparable(document(ask_shell(dump, ["dllstate", "-p", str(PID), "--json"]).stdout))
    typed = [f"!dllstate -p 0n{PID} --json", f".process /p {eprocess:x}", "!dllstate --json", "!dllplan libA --json"]
    by_id, _, current, plan = type_at_prompt(lab, ("-z", windows_path(dump)), typed, tmp_path)
    assert len(expected["libraries"]) == 12
    assert comparable(document(by_id)) == comparable(document(current)) == expected
    planned = ask_shell(dump, ["dllplan", "libA", "-p", str(PID), "--json"])
    assert comparable(document(plan)) == comparable(document(planned.stdout))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a program that loads DLLs, and stops."""
    folder = tmp_path_factory.mktemp("program")
    source = HERE / "fixtures" / "loads.c"
    for name in ("libb", "libc"):
        compile_with_mingw(folder / f"{name}.dll", [source], ["-DLIBRARY"])
    compile_with_mingw(folder / "liba.dll", [source], ["-DLIBRARY", "-DNEEDS_B", str(folder / "libb.dll")])
    return compile_with_mingw(folder / "loads.exe", [source])


def test_a_process_and_its_dump(lab: Lab, program: Path) -> None:
    questions = ["dllstate", "dllstate libb.dll", "dllplan liba.dll", "dllgone"]
    dump = program.parent / "loads.dmp"
    # The program stops by itself, with its DLLs loaded.
    typed = ["g", *(f"!{question} --json" for question in questions), f".dump /ma /o {windows_path(dump)}"]
    _, *live, _ = type_at_prompt(lab, ("-o", windows_path(program)), typed, folder=program.parent)
    answers = ask_all(lab, dump, [question.split() for question in questions])
    assert_equal({**answers, "live": [document(text) for text in live]})
    state = {each["name"]: each for each in answers["prompt"][0]["libraries"]}
    counts = {name: state[name]["fields"]["ObsoleteLoadCount"] for name in ("liba.dll", "libb.dll", "libc.dll")}
    assert counts == {"liba.dll": 2, "libb.dll": 2, "libc.dll": 0xFFFF}
    kinds = {name: [hold["kind"] for hold in state[name]["holds"]] for name in counts}
    assert kinds == {"liba.dll": ["load-count"], "libb.dll": ["load-count", "dependency"], "libc.dll": ["pinned"]}
    assert comparable(document(live[0]))["problems"] == answers["shell"][0]["problems"]


def test_the_users_thread_stays_selected(lab: Lab, tmp_path: Path) -> None:
    made = process()
    made.add_thread(8)
    made.add_thread(12)
    dump = write(tmp_path, made.dump())
    _, before, _, _, after = type_at_prompt(
        lab, ("-z", windows_path(dump)), ["~1s", "? @$tid", "!dllgone", "!dllstate", "? @$tid"]
    )
    assert before == after


def test_the_users_processor_mode_stays(lab: Lab, tmp_path: Path) -> None:
    # In a process of 32-bit code the engine begins in 32-bit mode, in which it cuts addresses off.
    dump = write(tmp_path, Process(story(WIN10, True), story(WIN10, False)).dump())
    typed = [".effmach amd64", "!dllstate --json", ".effmach x86", ".effmach", "!dllstate --json", ".effmach"]
    _, wide, _, before, narrow, after = type_at_prompt(lab, ("-z", windows_path(dump)), typed)
    assert "x86" in before
    assert after == before
    assert comparable(document(narrow)) == comparable(document(wide))
