"""Does the documented Python API answer the same in plain python, in `gdb -batch` and in `lldb --batch`?"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.errors import DlwhyError, NoTargetError, NotFoundError
from dlwhy.common.linux.model import HoldKind
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.debuggers import LLDB_SCRIPT
from dlwhy.tests.hosts.gdbrun import ROOT, SCRIPT, clean_environment
from dlwhy.tests.hosts.processes import started, stops_of
from dlwhy.tests.hosts.scenario import fixtures

SHAPE = "[(l.name, l.held, [h.kind.value for h in l.holds]) for l in {state}.libraries]"
REGISTER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("dlwhy", {init!r}, submodule_search_locations=[{root!r}])
sys.modules["dlwhy"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["dlwhy"])
"""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Run a program to a stop; give its process id, and a core of it."""
    core = tmp_path_factory.mktemp("api") / "core"
    fixture = fixtures()["tls_cpp"]
    with started([str(build(fixture) / fixture.program)], {}) as process:
        assert next(stops_of(process)) == 1
        words = ["gdb", "-nx", "-batch", "-p", str(process.pid), "-ex", f"generate-core-file {core}"]
        subprocess.run(words, check=True, capture_output=True, env=clean_environment({}))
        yield process.pid, core
    core.unlink()


def script(pid: int, core: Path) -> str:
    """Compose a script that uses the API and prints what it learns."""
    return (
        "import dlwhy\n"
        f"with dlwhy.open({pid}) as process, dlwhy.open({str(core)!r}) as core:\n"
        f"    print('LEARNT', [{SHAPE.format(state='process.state()')}, {SHAPE.format(state='core.state()')}])\n"
    )


def learnt(words: list[str], environment: dict[str, str]) -> object:
    """Run a program and return what the script in it printed."""
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=clean_environment(environment), check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("LEARNT ")]
    assert lines, f"{done.stdout}\n{done.stderr}"
    return ast.literal_eval(lines[0][len("LEARNT ") :])


def test_the_same_everywhere(waiting: tuple[int, Path], tmp_path: Path) -> None:
    pid, core = waiting
    with dlwhy.open(pid) as process, dlwhy.open(core) as dead:
        expected = [
            [(each.name, each.held, [hold.kind.value for hold in each.holds]) for each in examined.state().libraries]
            for examined in (process, dead)
        ]
    assert expected[0] == expected[1]
    register = REGISTER.format(init=str(ROOT / "__init__.py"), root=str(ROOT))
    plain = tmp_path / "plain.py"
    plain.write_text(register + script(pid, core))
    inside = tmp_path / "inside.py"
    inside.write_text(script(pid, core))
    assert learnt([sys.executable, "-I", str(plain)], {}) == expected
    assert learnt(["gdb", "-nx", "-batch", "-x", str(SCRIPT), "-x", str(inside)], {}) == expected
    for version in (lldbs.OLD, lldbs.NEW):
        found = lldbs.get(version)
        words = [*found.command, "--no-lldbinit", "--batch", "-o", f'command script import "{LLDB_SCRIPT}"']
        words += ["-o", f"script exec(open({str(inside)!r}).read())"]
        assert learnt(words, dict(found.environment)) == expected


def test_what_a_debugger_examines(waiting: tuple[int, Path], tmp_path: Path) -> None:
    """A script in a debugger examines what the debugger has."""
    _, core = waiting
    program = build(fixtures()["tls_cpp"]) / "main"
    script = tmp_path / "inside.py"
    script.write_text(f"import dlwhy\nprint('LEARNT', {SHAPE.format(state='dlwhy.open().state()')})\n")
    with dlwhy.open(core) as dead:
        expected = [(each.name, each.held, [hold.kind.value for hold in each.holds]) for each in dead.state().libraries]
    words = ["gdb", "-nx", "-batch", "-x", str(SCRIPT), "-ex", f"core-file {core}", "-x", str(script), str(program)]
    assert learnt(words, {}) == expected
    for version in (lldbs.OLD, lldbs.NEW):
        found = lldbs.get(version)
        words = [*found.command, "--no-lldbinit", "--batch", "-o", f'command script import "{LLDB_SCRIPT}"']
        words += ["-o", f"target create --core {core}", "-o", f"script exec(open({str(script)!r}).read())"]
        assert learnt(words, dict(found.environment)) == expected


def test_verdicts_are_objects(waiting: tuple[int, Path]) -> None:
    with dlwhy.open(waiting[0]) as process:
        library = process.library("libowed.so")
        assert library.held is True
        assert HoldKind.TLS_DESTRUCTORS in [hold.kind for hold in library.holds]
        assert [each.name for each in process.libraries("libdep*")] == ["libdep.so"]
        with pytest.raises(NotFoundError):
            process.library("libnothing.so")


def test_files_are_closed(waiting: tuple[int, Path]) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        for examined in (dlwhy.open(waiting[0]), dlwhy.open(waiting[1])):
            with examined as process:
                process.state()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(NoTargetError, match="no process"):
        dlwhy.open(2**22 + 1)
    (tmp_path / "core").write_bytes(b"nothing")
    with pytest.raises(DlwhyError, match="neither a core"):
        dlwhy.open(tmp_path / "core")
