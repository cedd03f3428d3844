"""How much does the shell command cost beside gdb and others? Prints figures, judges none: -m bench -s."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import dlwhy
import pytest
from dlwhy.common.api import Examination
from dlwhy.common.linux.state.examine import explain
from dlwhy.tests.hosts.build import cache_folder
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment
from dlwhy.tests.support.children import SYSTEM_PYTHON
from dlwhy.tests.support.many import build, loaded_program

LIBRARIES = 300
ROUNDS = 11
DRGN = """
import sys, drgn
program = drgn.Program()
(program.set_pid(int(sys.argv[2])) if sys.argv[1] == "pid" else program.set_core_dump(sys.argv[2]))
print(len([module.name for module, _ in program.loaded_modules()]))
"""

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run a program with 300 libraries."""
    with loaded_program(build("many", tmp_path_factory.mktemp("many")), LIBRARIES) as pid:
        yield pid


@pytest.fixture(scope="module")
def core(process: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let gdb write a core of it."""
    path = tmp_path_factory.mktemp("many") / "many.core"
    words = ["gdb", "-nx", "-batch", "-p", str(process), "-ex", f"generate-core-file {path}"]
    subprocess.run(words, check=True, capture_output=True, env=clean_environment({}))
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def drgn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[str]] | None:
    """Install drgn, where it can be had; return what makes a command line of it."""
    folder = cache_folder() / "drgn"
    if not folder.is_dir():
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target", str(folder)]
        if subprocess.run([*words, "drgn"], check=False).returncode:
            return None
    script = tmp_path_factory.mktemp("drgn") / "modules.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(folder)!r})\n{DRGN}")
    return lambda kind, what: [sys.executable, str(script), kind, what]


class Cost(NamedTuple):
    """What a run took, in seconds: by the clock, and of the processors, which other programs disturb less."""

    clock: float
    processors: float


def processor_time() -> float:
    """Return what this process and its children have had of the processors, in user and system mode."""
    every = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in every)


def cost(function: Callable[[], object]) -> Cost:
    """Run a function and return what it took."""
    begin, before = time.perf_counter(), processor_time()
    function()
    return Cost(time.perf_counter() - begin, processor_time() - before)


def ran(words: list[str]) -> None:
    """Run a command that prints something."""
    done = subprocess.run(words, capture_output=True, env=clean_environment({}), check=False)
    assert done.stdout.count(b"\n") > 0, done.stderr


def compare(commands: dict[str, list[str]], inside: dict[str, Callable[[], object]], unit: str) -> None:
    """Run commands and functions in turns; print the median of each and its ratio to one of them, by both times."""
    functions = {name: partial(ran, words) for name, words in commands.items()} | inside
    costs: dict[str, list[Cost]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            costs[name].append(cost(function))
    print(f"\n{'':<42} {'clock':>11}   ratio  {'user+sys':>11}   ratio")
    for name, taken in costs.items():
        line = f"{name:<42}"
        for kind in range(2):
            ratio = statistics.median(a[kind] / b[kind] for a, b in zip(taken, costs[unit]))
            line += f" {statistics.median(each[kind] for each in taken) * 1000:8.1f} ms  {ratio:6.3f}"
        print(line)


def gdb(*words: str) -> list[str]:
    """Return a command line of gdb that lists the libraries."""
    return ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", *words, "-ex", "info sharedlibrary"]


def shell(*words: str) -> list[str]:
    """Return a command line of ours, as install.py's command runs it."""
    return [SYSTEM_PYTHON, "-IS", str(ROOT / "__main__.py"), *words]


def state_of(examined: Examination) -> object:
    """Examine a process or core as dlstate does for its table, and let it go."""
    with examined:
        return explain(examined._host.target(), brief=True)


def test_live(process: int, drgn: Callable[[str, str], list[str]] | None) -> None:
    pid = str(process)
    unit = "gdb info sharedlibrary"
    commands = {
        unit: gdb("-p", pid),
        "dlwhy --pid dlstate": shell("--pid", pid, "dlstate"),
        "dlwhy --pid dlstate --json": shell("--pid", pid, "dlstate", "--json"),
        "dlwhy --pid dlstate lib7.so": shell("--pid", pid, "dlstate", "lib7.so"),
        "python3 CHECKOUT --pid dlstate": [SYSTEM_PYTHON, str(ROOT), "--pid", pid, "dlstate"],
        "python3 -c pass": [SYSTEM_PYTHON, "-c", "print()"],
        "pldd": ["pldd", pid],
        "eu-stack -p": ["eu-stack", "-p", pid],
        "eu-unstrip -n -p": ["eu-unstrip", "-n", "-p", pid],
    }
    if drgn is not None:
        commands["drgn, its list of modules"] = drgn("pid", pid)
    compare(commands, {"the same without Python's start": lambda: state_of(dlwhy.open(process))}, unit)


def test_core(process: int, core: Path, drgn: Callable[[str, str], list[str]] | None) -> None:
    unit = "gdb info sharedlibrary, live"
    path = str(core)
    commands = {
        unit: gdb("-p", str(process)),
        "gdb info sharedlibrary": gdb(f"/proc/{process}/exe", path),
        "dlwhy --core dlstate": shell("--core", path, "dlstate"),
        "dlwhy --core dlstate --json": shell("--core", path, "dlstate", "--json"),
        "eu-stack --core": ["eu-stack", f"--core={path}"],
        "eu-unstrip -n --core": ["eu-unstrip", "-n", f"--core={path}"],
    }
    if drgn is not None:
        commands["drgn, its list of modules"] = drgn("core", path)
    compare(commands, {"the same without Python's start": lambda: state_of(dlwhy.open(path))}, unit)


def test_help() -> None:
    unit = "python3 -c pass"
    # It prints something, as all that are timed here.
    compare({unit: [SYSTEM_PYTHON, "-c", "print()"], "dlwhy --help": shell("--help")}, {}, unit)
