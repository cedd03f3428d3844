"""Does the documented Python API answer the same in plain python, in `gdb -batch` and in `lldb --batch`?"""

from __future__ import annotations

import ast
import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
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
from dlwhy.tests.support.documented import example

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
    gc.collect()  # what other tests left open is closed now, not while this one counts
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


# -- what only a debugger can do ---------------------------------------------------------------------------------------


def run_in(host: str, script: str, tmp_path: Path) -> str:
    """Run a script in a debugger that has stopped the story's program in main; return what is printed."""
    path = tmp_path / "script.py"
    path.write_text(script)
    program = str(build(fixtures()["story"]) / "progA")
    if host == "gdb":
        words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-x", str(SCRIPT)]
        words += ["-ex", "break main", "-ex", "run", "-x", str(path), program]
        environment: Mapping[str, str] = {}
    else:
        found = lldbs.get(host)
        words = [*found.command, "--no-lldbinit", "-b", "-o", f'command script import "{LLDB_SCRIPT}"']
        words += ["-o", "breakpoint set -n main", "-o", "run", "-o", f"command script import {path}", program]
        environment = found.environment
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=clean_environment(environment),
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout


HOSTS = ["gdb", lldbs.OLD, lldbs.NEW]


@pytest.mark.parametrize("host", HOSTS)
def test_the_trace_of_the_docs(host: str, tmp_path: Path) -> None:
    output = run_in(host, example("process.trace", "gdb.execute" if host == "gdb" else "HandleCommand"), tmp_path)
    assert re.search(r"^libB\.so 1$", output, re.MULTILINE), output


GO = {"gdb": "import gdb; go = lambda: gdb.execute('continue')"}
ASK = """
import dlwhy
with dlwhy.open() as process:
    here = process.library("$pc").name
    trace = process.trace("libB.so", tls=True, stop_when="kept")
    before = trace.is_watching
    go()
    closes = process.plan("libB.so").plans[0].outcome.value
    registered = [each.library.name for each in trace.report().tls_registrations]
    failures = []
    for ask in (process.dlls, process.dll_trace, lambda: process.library("nothing(")):
        try:
            ask()
        except dlwhy.DlwhyError as error:
            failures.append(type(error).__name__)
    watching = trace.is_watching
    go()
    trace.stop()
    kept = [each.library.name for each in trace.report().kept if each.library.name == "libB.so"]
    print("LEARNT", [here, before, closes, registered, failures, watching, trace.is_watching, kept])
"""


@pytest.mark.parametrize("host", HOSTS)
def test_what_is_selected_is_asked_again(host: str, tmp_path: Path) -> None:
    """After the process has run on, the same object tells what is there now; `$pc` is the debugger's."""
    go = GO.get(host, "import lldb; go = lambda: lldb.debugger.HandleCommand('process continue')")
    output = run_in(host, f"{go}\n{ASK}", tmp_path)
    assert "keeps libB.so." in output
    (line,) = (line for line in output.splitlines() if line.startswith("LEARNT "))
    failures = ["UnsupportedError", "UnsupportedError", "NotFoundError"]
    expected = ["progA", True, "not-open", ["libB.so"], failures, True, False, ["libB.so"]]
    assert ast.literal_eval(line[len("LEARNT ") :]) == expected


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_is_examined(host: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import dlwhy\ntry:\n    dlwhy.open().state()\nexcept dlwhy.NoTargetError as error:\n")
    with script.open("a") as stream:
        stream.write("    print('LEARNT', [str(error)])\n")
    if host == "gdb":
        said = learnt(["gdb", "-nx", "-batch", "-x", str(SCRIPT), "-x", str(script)], {})
    else:
        found = lldbs.get(host)
        words = [*found.command, "--no-lldbinit", "-b", "-o", f'command script import "{LLDB_SCRIPT}"']
        said = learnt([*words, "-o", f"command script import {script}"], dict(found.environment))
    assert str(said).startswith(("['no process and no core: use", "['no target: use target create"))


def test_where_only_the_module_of_lldb_is(tmp_path: Path) -> None:
    """A plain Python that has LLDB's module is run by no LLDB."""
    module = tmp_path / "lldb.py"
    module.write_text("debugger = None\n__getattr__ = lambda name: 0\n")
    path = tmp_path / "plain.py"
    ask = "import lldb, dlwhy\ntry:\n    dlwhy.open()\nexcept dlwhy.NoTargetError as error:\n"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        + REGISTER.format(init=str(ROOT / "__init__.py"), root=str(ROOT))
        + f"{ask}    print('LEARNT', [str(error)])\n"
    )
    said = learnt([sys.executable, "-I", str(path)], {})
    assert said == ["no LLDB runs this script: use script or command script import in LLDB"]
