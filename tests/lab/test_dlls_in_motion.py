"""Is it said of a process under Wine that it loads, unloads or exits, while a DllMain runs?"""

from __future__ import annotations

from pathlib import Path

from dlwhy.tests.lab.asking import document, type_at_prompt
from dlwhy.tests.lab.builds import compile_with_mingw
from dlwhy.tests.lab.windows import Lab, windows_path

SOURCE = Path(__file__).resolve().parent / "fixtures" / "motion.c"


def test_a_load_a_free_and_an_exit(lab: Lab, tmp_path: Path) -> None:
    compile_with_mingw(tmp_path / "motion.dll", [SOURCE], ["-DLIBRARY"])
    program = compile_with_mingw(tmp_path / "motion.exe", [SOURCE])
    asked = ("!dllstate motion.dll --json", "!dllplan motion.dll --json")
    typed = ["g", *asked, "g", *asked, "g", "g", *asked]
    answers = type_at_prompt(lab, ("-o", windows_path(program)), typed, folder=tmp_path)
    loading, unloading, exiting = (document(answers[place]) for place in (1, 4, 8))
    assert all(state["loader_lock_owner"] for state in (loading, unloading, exiting))
    assert [state["process_exiting"] for state in (loading, unloading, exiting)] == [False, False, True]
    (library,) = loading["libraries"]
    assert (library["held"], [hold["kind"] for hold in library["holds"]]) == (True, ["loading"])
    (library,) = unloading["libraries"]
    assert (library["held"], [hold["kind"] for hold in library["holds"]]) == (False, ["unloading"])
    assert [document(answers[place])["refusal"] for place in (5, 9)] == ["unloading", "process-exiting"]
    assert [document(answers[place])["remedy"] for place in (5, 9)] == [None, None]
    assert document(answers[5])["excess_closes"] == 0
