"""Does a script ask by pykd, at the debugger's prompt and in a plain Python, as it asks elsewhere?"""

from __future__ import annotations

from pathlib import Path

import dlwhy
import pytest
from dlwhy.tests.lab.asking import type_at_prompt
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.support.documented import example
from dlwhy.tests.synth.windows import process, write

ROOT = Path(dlwhy.__file__).parent
REGISTER = """
import sys
sys.path.insert(0, {tests!r})
import conftest
"""
ASK = """
print("LEARNT", [(dll.name, dll.held) for dll in process.dlls().dlls])
print("LEARNT", [dll.name for dll in process.dll_plan("libA", "all").plans[0].unloads])
print("LEARNT", [gone.image.name for gone in process.gone(0x500A0010).unloaded])
for ask in (process.state, process.shares, process.trace):
    try:
        ask()
    except dlwhy.DlwhyError as error:
        print("LEARNT", type(error).__name__)
"""


def learnt(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("LEARNT ")]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("scripts"), process().dump())


@pytest.fixture(scope="module")
def expected(dump: Path) -> list[str]:
    """Say what the dump answers here, by no debugger."""
    with dlwhy.open(dump) as opened:
        held = [(dll.name, dll.held) for dll in opened.dlls().dlls]
        unloads = [dll.name for dll in opened.dll_plan("libA", "all").plans[0].unloads]
        gone = [each.image.name for each in opened.gone(0x500A0010).unloaded]
    return [f"LEARNT {each}" for each in (held, unloads, gone, *["UnsupportedError"] * 3)]


def run(lab: Lab, folder: Path, script: str) -> list[str]:
    """Run a script in the CPython 3.9 of Windows."""
    path = folder / "script.py"
    path.write_text(REGISTER.format(tests=windows_path(ROOT / "tests")) + script)
    found = lab.run_python(windows_path(path), folder=folder)
    assert not found.errors, found
    return found.output.splitlines()


def test_a_file_in_a_plain_python(lab: Lab, dump: Path, expected: list[str], tmp_path: Path) -> None:
    script = f"import dlwhy\nfrom pathlib import Path\nprocess = dlwhy.open(Path({windows_path(dump)!r}))\n{ASK}"
    assert run(lab, tmp_path, script) == expected


def test_the_engine_in_a_plain_python(lab: Lab, dump: Path, expected: list[str], tmp_path: Path) -> None:
    script = f"import dlwhy, pykd\npykd.initialize()\npykd.loadDump({windows_path(dump)!r})\n"
    found = learnt("\n".join(run(lab, tmp_path, f"{script}process = dlwhy.open()\n{ASK}")))
    assert found == expected


def test_the_engine_examines_nothing(lab: Lab, tmp_path: Path) -> None:
    script = (
        "import dlwhy, pykd\npykd.initialize()\ntry:\n    dlwhy.open().dlls()\nexcept dlwhy.NoTargetError as error:\n"
    )
    script += "    print(error)\ntry:\n    dlwhy.open(1)\nexcept dlwhy.UnsupportedError as error:\n    print(error)\n"
    none, refused = run(lab, tmp_path, script)
    assert none.startswith("no target: open a dump")
    assert refused == "a process of Windows is opened by pykd.attachProcess(pid), then dlwhy.open()"


def test_at_the_prompt(lab: Lab, dump: Path, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    more = 'print("LEARNT", process.dlls("libA+10").dlls[0].name)\n'
    path.write_text(f"import dlwhy\nprocess = dlwhy.open()\n{ASK}{more}")
    (output,) = type_at_prompt(lab, ("-z", windows_path(dump)), [f'!py -g "{windows_path(path)}"'])
    assert learnt(output) == [*expected, "LEARNT libA.dll"]


def test_the_trace_of_the_docs(lab: Lab, story: Path) -> None:
    script = example("process.dll_trace")
    program = windows_path(story / "prog.exe")
    command = f"{program} load a.dll load a.dll load c.dll free a.dll free a.dll"
    assert '"prog.exe"' in script
    lines = run(lab, story, script.replace('"prog.exe"', repr(command)))
    assert lines[-1] == "3 2 the process has ended"
