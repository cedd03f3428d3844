"""Do the unit tests notice when the rules are wrong?  Each rule is changed a little, and its tests are run.

    ~/.cache/dlwhy/test-venv-3.X/bin/python tests/mutation.py                    every mutant, in more than an hour
    ~/.cache/dlwhy/test-venv-3.X/bin/python tests/mutation.py --sample 60        as many of all, chosen by --seed
    ~/.cache/dlwhy/test-venv-3.X/bin/python tests/mutation.py common/linux/plan.py

No file is changed: in a process of its own, the changed module is what its tests import.  A mutant is killed when a
test fails, or does not end in time.  Constants of modules, messages and assertions are not changed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
UNIT = "tests/unit"

_GLIBC = ("test_analysis_plan.py", "test_analysis_state.py", "test_loaders_glibc.py", "test_tracer.py")
_DLLS = (
    *("test_dll_unload_rules.py", "test_dll_plan.py", "test_dll_tracer.py", "test_dll_state.py"),
    "test_dll_contradictions.py",
)

#: What is changed, files or folders, and the tests that should notice, those first that are quick.  Of a file that is
#: named after its folder, only its own tests are run.
SUBJECTS: Mapping[str, Sequence[str]] = {
    "common/linux/plan.py": (
        "test_plan_in_motion.py",
        "test_ranking.py",
        "test_contradictions.py",
        *_GLIBC,
        "test_musl.py",
        "test_examine.py",
    ),
    "common/linux/state": ("test_state_chains.py", "test_contradictions.py", *_GLIBC, "test_examine.py"),
    "common/linux/state/activity.py": ("test_examine_problems.py", "test_lock_holder.py", "test_activity.py"),
    "common/linux/state/changed_files.py": ("test_loaded_files.py",),
    "common/linux/state/closers.py": ("test_closers.py",),
    "common/linux/state/doubts.py": ("test_contradictions.py", "test_analysis_state.py", "test_state_chains.py"),
    "common/linux/state/examine.py": (
        "test_examine_problems.py",
        "test_examine.py",
        "test_musl.py",
        "test_activity.py",
        "test_analysis_state.py",
    ),
    "common/linux/state/files.py": ("test_loaded_files.py",),
    "common/linux/state/listed.py": ("test_linux_minidump.py",),
    "common/linux/state/matching.py": ("test_analysis_matching.py", "test_examine.py", "test_analysis_state.py"),
    "common/linux/state/musl.py": ("test_musl.py",),
    "common/linux/state/rebuild.py": ("test_rebuild_rules.py", "test_rebuild.py"),
    "common/linux/state/sole_roots.py": ("test_ranking.py",),
    "common/linux/state/tls.py": (
        "test_trace_registrations.py",
        "test_analysis_state.py",
        "test_tls_variables.py",
        "test_lost_threads.py",
    ),
    "common/linux/state/unfound.py": ("test_unfound.py", "test_examine_problems.py"),
    "common/linux/loader/collector.py": _GLIBC,
    "common/linux/loader/order.py": ("test_loaders_glibc_order.py", "test_analysis_plan.py", "test_ranking.py"),
    "common/windows/loader/unload.py": _DLLS,
    "common/windows/plan.py": ("test_dll_plan_rules.py", "test_dll_ranking.py", "test_dll_holders.py", *_DLLS),
}

#: These take most of the time, and are about that.
LEFT_OUT = "not (brief_state or bounded or long_chain or too_long or random_graphs)"

#: A run of the tests may take so many times as long as without a mutant, at least so many seconds.
TIMEOUT_FACTOR, LEAST_TIMEOUT = 5.0, 20.0

_COMPARISONS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}

#: What is changed in words, and how.
Change = tuple[str, Callable[[], None]]


class Mutant(NamedTuple):
    """The ``number``-th change of a file, where it is and what it is."""

    path: str
    number: int
    line: int
    what: str

    def __str__(self) -> str:
        """Write it as compilers write."""
        return f"{self.path}:{self.line}: {self.what}"


def mutants_of(path: str, source: str) -> list[Mutant]:
    """List all mutants of a file."""
    changes = _changes(ast.parse(source))
    return [Mutant(path, number, line, what) for number, (line, what, _) in enumerate(changes)]


def mutate(source: str, number: int) -> ast.Module:
    """Apply the change of that number."""
    tree = ast.parse(source)
    for index, (_, _, apply) in enumerate(_changes(tree)):
        if index == number:
            apply()
            break
    return ast.fix_missing_locations(tree)


def _changes(tree: ast.Module) -> Iterator[tuple[int, str, Callable[[], None]]]:
    for function in _functions(tree):
        for owner, node in _walk(function):
            for what, apply in (*_expression_changes(owner, node), *_statement_changes(owner, node)):
                yield getattr(node, "lineno", function.lineno), what, apply


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Find the functions of a module and its classes, without those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node)


def _walk(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Iterate over what is executed below a node, each with its owner."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, (ast.Assert, ast.Raise, ast.JoinedStr)):
                if isinstance(child, ast.Raise):
                    yield node, child
                continue
            if isinstance(child, ast.AST):
                yield node, child
                yield from _walk(child)


def _expression_changes(owner: ast.AST, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = _COMPARISONS[type(node.ops[0])]
        yield _put(node, "ops", [other()], f"{_name(node.ops[0])} becomes {other.__name__}")
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield _put(node, "op", swapped, f"{_name(node.op)} becomes {_name(swapped)}")
        for index, value in enumerate(node.values):
            rest = node.values[:index] + node.values[index + 1 :]
            yield _put(node, "values", rest, f"without '{ast.unparse(value)}'")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield _replace(owner, node, node.operand, f"without 'not' of '{ast.unparse(node.operand)}'")
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _OPERATORS:
        operator = _OPERATORS[type(node.op)]
        yield _put(node, "op", operator(), f"{_name(node.op)} becomes {operator.__name__}")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield _put(node, "value", not node.value, f"{node.value} becomes {not node.value}")
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield _put(node, "value", node.value + 1, f"{node.value} becomes {node.value + 1}")
    elif isinstance(node, (ast.List, ast.Tuple)) and any(isinstance(each, ast.Starred) for each in node.elts):
        yield _put(node, "elts", node.elts[::-1], f"'{ast.unparse(node)}' the other way round")
        for index, each in enumerate(node.elts):
            yield _put(node, "elts", node.elts[:index] + node.elts[index + 1 :], f"without '{ast.unparse(each)}'")
    elif isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            rest = node.ifs[:index] + node.ifs[index + 1 :]
            yield _put(node, "ifs", rest, f"without 'if {ast.unparse(test)}'")


def _statement_changes(owner: ast.AST, node: ast.AST) -> Iterator[Change]:
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        for value in (True, False):
            if not (value and isinstance(node, ast.While)):
                yield _put(node, "test", ast.Constant(value), f"'{ast.unparse(node.test)}' is {value}")
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield _put(node, "value", ast.Constant(None), f"returns None, not '{ast.unparse(node.value)}'")
    elif _can_go(node):
        yield _replace(owner, node, ast.Pass(), f"without '{ast.unparse(node)}'")


def _can_go(node: ast.AST) -> bool:
    """Return True if a statement can be left out, and something else than a NameError comes of it."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, (ast.Constant, ast.Yield))
    if isinstance(node, ast.Assign):
        return all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets)
    return isinstance(node, (ast.AugAssign, ast.Continue, ast.Break, ast.Raise, ast.Delete))


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _name(node: ast.AST) -> str:
    return type(node).__name__


def _put(node: ast.AST, field: str, value: object, what: str) -> Change:
    return what, lambda: setattr(node, field, value)


def _replace(owner: ast.AST, node: ast.AST, other: ast.AST, what: str) -> Change:
    def apply() -> None:
        for name, value in ast.iter_fields(owner):
            if value is node:
                setattr(owner, name, other)
            elif isinstance(value, list) and any(each is node for each in value):
                value[:] = [other if each is node else each for each in value]

    return what, apply


# -- running the tests ----------------------------------------------------------------------------------------


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import a changed module instead of the one that is in its file."""

    def __init__(self, mutant: Mutant) -> None:
        self._path = ROOT / mutant.path
        self._name = "dlwhy." + mutant.path[: -len(".py")].replace("/", ".")
        self._code = compile(mutate(self._path.read_text(encoding="utf-8"), mutant.number), str(self._path), "exec")

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        """Find that one module."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: object) -> None:
        """Have the usual one created."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the changed code."""
        exec(self._code, module.__dict__)


class Run(NamedTuple):
    """A process that runs tests: which mutant, since when, and where it puts temporary files."""

    mutant: Optional[Mutant]
    began: float
    deadline: float
    folder: Path


def start(mutant: Optional[Mutant], tests: Sequence[str], seconds: float, folder: Path) -> tuple[int, Run]:
    """Begin to run tests on a mutant in another process; gives its id."""
    began = time.monotonic()
    run = Run(mutant, began, began + seconds, folder)
    pid = os.fork()
    if pid:
        return pid, run
    status = 3
    try:
        os.setsid()
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.chdir(ROOT)
        if mutant is not None:
            sys.meta_path.insert(0, Mutated(mutant))
        import pytest

        words = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}", "-k", LEFT_OUT]
        status = int(pytest.main([*words, *(f"{UNIT}/{name}" for name in tests)]))
    finally:
        os._exit(status)
    raise AssertionError


def wait(running: dict[int, Run]) -> tuple[Run, Optional[int]]:
    """Wait for one of several processes to end; gives its exit status, None where it took too long."""
    while True:
        for pid, run in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            is_late = time.monotonic() > run.deadline
            if ended == 0 and not is_late:
                continue
            if ended == 0:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            del running[pid]
            shutil.rmtree(run.folder, ignore_errors=True)
            return run, None if ended == 0 else os.waitstatus_to_exitcode(status)
        time.sleep(0.01)


def subjects(wanted: Sequence[str]) -> dict[str, Sequence[str]]:
    """Find the files, of those that are wanted, with their tests."""
    found: dict[str, Sequence[str]] = {}
    for subject, tests in SUBJECTS.items():
        path = ROOT / subject
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(ROOT).as_posix()
            if file.name != "__init__.py" and (not wanted or any(name.startswith(each) for each in wanted)):
                found[name] = tests
    return found


def measure(tests: Iterable[Sequence[str]], folder: Path) -> dict[Sequence[str], float]:
    """Run each set of tests on what is there, and measure the seconds."""
    taken: dict[Sequence[str], float] = {}
    for names in tests:
        pid, run = start(None, names, 600, folder / "as-it-is")
        _, status = wait({pid: run})
        taken[names] = time.monotonic() - run.began
        if status != 0:
            raise SystemExit(f"mutation.py: without a mutant the tests fail: {' '.join(names)}")
    return taken


def run_all(mutants: Sequence[Mutant], tests: Mapping[str, Sequence[str]], jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Run the tests on each mutant; gives whether it was killed, in the order in which that is known."""
    import hypothesis  # noqa: F401 - what all need is imported once
    import pytest  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="dlwhy-mutation-") as name:
        folder = Path(name)
        seconds = measure(dict.fromkeys(tests[mutant.path] for mutant in mutants), folder)
        running: dict[int, Run] = {}
        waiting = list(enumerate(mutants))[::-1]
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    number, mutant = waiting.pop()
                    chosen = tests[mutant.path]
                    timeout = max(LEAST_TIMEOUT, TIMEOUT_FACTOR * seconds[chosen])
                    pid, run = start(mutant, chosen, timeout, folder / str(number))
                    running[pid] = run
                run, status = wait(running)
                assert run.mutant is not None
                yield run.mutant, status != 0
        finally:
            for pid in running:
                os.killpg(pid, signal.SIGKILL)


def report(results: Mapping[Mutant, bool]) -> str:
    """Sum up by file."""
    lines = []
    groups = {path: path for path in sorted({mutant.path for mutant in results})}
    for title, path in (*groups.items(), ("in all", "")):
        killed = [is_killed for mutant, is_killed in results.items() if mutant.path.startswith(path)]
        lines.append(f"{title:40} {sum(killed):5} of {len(killed):5} killed, {100 * sum(killed) / len(killed):5.1f} %")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Make mutants, run the tests, tell which survive; 1 if fewer are killed than was asked for."""
    parser = argparse.ArgumentParser(description="Change the rules a little, and see whether a test fails.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="only files whose path begins so (all)")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="choose others")
    parser.add_argument("--floor", type=float, default=0.0, metavar="PERCENT", help="fail below this score")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    options = parser.parse_args(arguments)
    tests = subjects(options.files)
    mutants = [m for path in tests for m in mutants_of(path, (ROOT / path).read_text(encoding="utf-8"))]
    if not mutants:
        parser.error("no such files")
    if options.sample is not None and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    results: dict[Mutant, bool] = {}
    for mutant, is_killed in run_all(mutants, tests, options.jobs):
        results[mutant] = is_killed
        if not is_killed:
            print(f"survived: {mutant}", flush=True)
    print(report(results))
    return int(100 * sum(results.values()) / len(results) < options.floor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
