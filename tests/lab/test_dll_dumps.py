"""Do the debugger's prompt, plain pykd, LLDB and the shell answer alike about dumps that the real engine wrote?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.lab.graphs import ROOT, run
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.lab.winform import to_windows_10
from dlwhy.tests.support.lldb_dumps import ask_lldb, without_target
from dlwhy.tests.support.naming import names_of

SCRIPT = (
    "load a.dll load a.dll load b.dll load x.dll load late.dll call late.dll load keeper.dll "
    "load loader.dll free loader.dll load pinned.dll pin pinned.dll wait"
)
COMMANDS = (
    "dllstate --json",
    "dllstate --json c.dll",
    "dllplan --json a.dll --frees all",
    "dllplan --json x.dll",
    "dllgone --json",
)
ENTRY = ROOT / "windbg_ext" / "dlwhy_windbg.py"


@pytest.fixture(scope="module")
def dumps(lab: Lab, story: Path) -> dict[str, Path]:
    """Let the engine dump the driver's process, and rewrite the dump to the form of Windows 10."""
    folder = story
    found = run(lab, folder, SCRIPT.split())
    wine, windows = folder / "wait0.dmp", folder / "windows.dmp"
    windows.write_bytes(to_windows_10(wine.read_bytes()))
    (folder / "live.json").write_text(json.dumps(found.waits[0]["state"]))
    return {"wine": wine, "windows": windows}


def in_shell(path: Path) -> dict[str, Any]:
    words = [sys.executable, str(ROOT), "--dump", str(path)]
    return {
        each: without_target(subprocess.run([*words, *each.split()], capture_output=True, check=False).stdout.decode())
        for each in COMMANDS
    }


def in_lldb(version: str, path: Path, folder: Path) -> dict[str, Any]:
    replies = ask_lldb(version, COMMANDS, [str(path)], folder)
    return {words: without_target(output) for (_, words), (output, _) in replies.items()}


def in_pykd(lab: Lab, path: Path, command: str) -> Any:
    outcome = lab.run_python(windows_path(ENTRY), "-z", windows_path(path), *command.split(), folder=path.parent)
    assert "{" in outcome.output, outcome.output + outcome.errors
    return without_target(outcome.output[outcome.output.index("{") :])


def at_prompt(lab: Lab, path: Path) -> dict[str, Any]:
    typed = [f".load {lab.bootstrapper}", f'!py -g "{windows_path(ENTRY)}" --install', *(f"!{c}" for c in COMMANDS)]
    answers = lab.run_prompt(["-z", windows_path(path)], typed)
    # The engine complains of missing symbols first, once.
    return {command: without_target(each[each.index("{") :]) for command, each in zip(COMMANDS, answers[2:])}


@pytest.mark.parametrize("form", ["wine", "windows"])
def test_every_host_answers_alike(lab: Lab, dumps: dict[str, Path], form: str, tmp_path: Path) -> None:
    path = dumps[form]
    expected = in_shell(path)
    assert [each["rule"] for each in expected["dllstate --json"]["rules"]] == ["wine" if form == "wine" else "win8"]
    assert expected["dllstate --json"]["problems"] == []
    for version in (lldbs.OLD, lldbs.NEW):
        assert in_lldb(version, path, tmp_path) == expected, version
    assert at_prompt(lab, path) == expected
    assert in_pykd(lab, path, COMMANDS[2]) == expected[COMMANDS[2]]


def test_the_dump_says_what_the_live_process_said(dumps: dict[str, Path]) -> None:
    live = json.loads((dumps["wine"].parent / "live.json").read_text())
    del live["target"]
    assert in_shell(dumps["wine"])["dllstate --json"] == live


def test_what_is_known_of_the_process(dumps: dict[str, Path]) -> None:
    for form, path in dumps.items():
        answers = in_shell(path)
        libraries = {library["name"]: library for library in answers["dllstate --json"]["libraries"]}
        holds = {name: [hold["kind"] for hold in library["holds"]] for name, library in libraries.items()}
        assert holds["prog.exe"] == ["main-program"]
        assert libraries["a.dll"]["holds"][0]["count"] == 2
        assert [hold["origin"] for hold in libraries["pinned.dll"]["holds"]] == ["explicit"]
        assert holds["msvcrt.dll"] == ["static-import"], form
        assert libraries["b.dll"]["holds"][0]["count"] == 2, "by the driver and in keeper's DllMain"
        plan = answers["dllplan --json a.dll --frees all"]
        assert names_of(plan["unloads"]) == ["a.dll"]
        gone = answers["dllgone --json"]["unloaded"]
        assert [each["name"] for each in gone] == ["loader.dll"]
    assert os.path.getsize(dumps["wine"]) == os.path.getsize(dumps["windows"])
