"""Do two generations of LLDB answer about a minidump of Windows exactly as the shell does?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.gdbrun import ROOT
from dlwhy.tests.support.lldb_dumps import ask_lldb, without_target
from dlwhy.tests.synth.minidump import WIN10, Process, Unloaded
from dlwhy.tests.synth.windows import FORMS, process, real_dumps, story

COMMANDS = (
    "dllstate --json",
    "dllstate --json libC.dll",
    "dllplan --json libA.dll --frees all",
    "dllgone --json",
    "dllgone --json 0x50130042",
)


def dumps(folder: Path) -> list[Path]:
    """Write a dump of every form, of both loaders, of a small one, and take the real ones that are here."""
    made: dict[str, bytes] = {}
    for form, wide in FORMS:
        made[f"{form.name}-{64 if wide else 32}"] = process(form, wide).dump()
    made["wow64"] = Process(story(WIN10, True), story(WIN10, False)).dump(unloaded=[Unloaded("x.dll", 0x6100_0000)])
    small = process()
    for module in small.loader.loaded:
        small.memory.forget(module.node, 0x50)
    made["small"] = small.dump(full=False)
    found = []
    for name, content in made.items():
        found.append(folder / f"{name}.dmp")
        found[-1].write_bytes(content)
    return [*found, *real_dumps("tiny-exe-with-cet-xsave.dmp"), *real_dumps("tiny-exe-fastfail.dmp")]


def ask_shell(path: Path, words: str) -> tuple[str, str]:
    run = [sys.executable, str(ROOT), "--dump", str(path), *words.split()]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[str, str]]:
    """Ask the shell about every dump."""
    paths = dumps(tmp_path_factory.mktemp("dumps"))
    return {(str(path), words): ask_shell(path, words) for path in paths for words in COMMANDS}


@pytest.mark.parametrize("version", [lldbs.OLD, lldbs.NEW])
def test_lldb_answers_as_the_shell(
    version: str, answers: dict[tuple[str, str], tuple[str, str]], tmp_path: Path
) -> None:
    paths = list(dict.fromkeys(path for path, _ in answers))
    replies = ask_lldb(version, COMMANDS, paths, tmp_path)
    for key, (expected, shell_error) in answers.items():
        output, error = replies[key]
        if expected:
            assert error == "", f"{key}: {error}"
            assert without_target(output) == without_target(expected), key
        else:
            # Both say the same of a library that is not there.
            assert shell_error.partition(": ")[2].strip() in error, key
    assert any(os.path.basename(path) == "wow64.dmp" for path in paths)
