"""How much of each file do the tests execute, in gdb and LLDB too?

    ~/.cache/dlwhy/test-venv-3.X/bin/python tests/covered.py                  all tests
    ~/.cache/dlwhy/test-venv-3.X/bin/python tests/covered.py -- -k dlstate    some tests: what follows -- goes to pytest
    ~/.cache/dlwhy/test-venv-3.X/bin/python tests/covered.py --sample         the quick tests that CI measures

Lines and branches; a file below its floor in coverage_floors.json is a failure, and ``--write`` takes the figures for
new floors, less a little.  A debugger's Python finds a module ``sitecustomize`` on PYTHONPATH, which begins to measure
before anything of ours is imported.  What runs under Wine is not measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ROOT / "tests" / "coverage_floors.json"
#: Names the folder that children find on PYTHONPATH (tests/hosts/gdbrun.py).
VARIABLE = "DLWHY_COVERAGE"
MEASURED = ("common", "gdb_ext", "lldb_ext", "windbg_ext")
#: The tests of CI's sample: of traces, plans and verdicts.  And the files whose floors it has.
SAMPLE_TESTS = (
    "tests/unit/test_activity.py",
    "tests/unit/test_analysis_*.py",
    "tests/unit/test_closers.py",
    "tests/unit/test_contradictions.py",
    "tests/unit/test_dll_callers.py",
    "tests/unit/test_dll_contradictions.py",
    "tests/unit/test_dll_in_motion.py",
    "tests/unit/test_dll_plan.py",
    "tests/unit/test_dll_plan_rules.py",
    "tests/unit/test_dll_ranking.py",
    "tests/unit/test_dll_tracer.py",
    "tests/unit/test_dll_unload_rules.py",
    "tests/unit/test_dll_unread.py",
    "tests/unit/test_examine.py",
    "tests/unit/test_examine_problems.py",
    "tests/unit/test_in_flight.py",
    "tests/unit/test_incremental.py",
    "tests/unit/test_ledger.py",
    "tests/unit/test_link_map.py",
    "tests/unit/test_linux_minidump.py",
    "tests/unit/test_loaded_files.py",
    "tests/unit/test_loaders_*glibc*.py",
    "tests/unit/test_loaders_tls.py",
    "tests/unit/test_lock_*.py",
    "tests/unit/test_lost_threads.py",
    "tests/unit/test_musl.py",
    "tests/unit/test_never_closed.py",
    "tests/unit/test_plan_in_motion.py",
    "tests/unit/test_ranking.py",
    "tests/unit/test_rebuild.py",
    "tests/unit/test_rebuild_rules.py",
    "tests/unit/test_requested.py",
    "tests/unit/test_root_counts.py",
    "tests/unit/test_state_chains.py",
    "tests/unit/test_static_tls.py",
    "tests/unit/test_tls_variables.py",
    "tests/unit/test_trace*.py",
    "tests/unit/test_unfound.py",
)
#: Of these, what takes most of the time.
SAMPLE_LEAVES_OUT = "not (too_long or random_graphs)"
SAMPLE_FILES = (
    "common/linux/plan.py",
    "common/linux/loader/collector.py",
    "common/linux/loader/incremental.py",
    "common/linux/loader/incremental_tls.py",
    "common/linux/loader/maps.py",
    "common/linux/loader/musl.py",
    "common/linux/loader/order.py",
    "common/linux/loader/tls.py",
    "common/linux/loader/tls_lists.py",
    "common/linux/state/",
    "common/linux/trace/",
    "common/trace/",
    "common/windows/plan.py",
    "common/windows/loader/unload.py",
    "common/windows/trace/",
)
#: So much below the measured figure is a floor: what races or depends on the system's files makes it vary.
SLACK = 1

#: Runs in every Python that finds it; where Python is not ended, the C library calls back.
SITECUSTOMIZE = """
import os

if "COVERAGE_PROCESS_START" in os.environ:
    import coverage

    measuring = coverage.process_startup()
    # LLDB ends without ending its Python.
    if measuring is not None and "lldb" in os.path.basename(os.path.realpath("/proc/self/exe")):
        import ctypes

        @ctypes.CFUNCTYPE(None)
        def save():
            measuring.stop()
            measuring.save()

        # Not atexit, which is no function that a library exports.
        ctypes.CDLL(None).__cxa_atexit(save, None, None)
"""
CONFIGURATION = """
[run]
branch = true
parallel = true
data_file = {folder}/data
source =
    {sources}
disable_warnings = no-data-collected, module-not-measured, module-not-imported, couldnt-parse
[report]
exclude_also =
    if TYPE_CHECKING:
    @overload
    raise NotImplementedError
    \\.\\.\\.$
"""


def prepare(folder: Path) -> dict[str, str]:
    """Write what children need; gives the environment of a run that is measured."""
    found = importlib.util.find_spec("coverage")
    if found is None or found.origin is None:
        raise SystemExit("covered.py: this Python has no package coverage: python3 install.py test installs it")
    children = folder / "children"
    children.mkdir()
    # That package alone: a debugger must not find other packages of this environment.
    (children / "coverage").symlink_to(Path(found.origin).parent)
    (children / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    configuration = folder / "coverage.ini"
    sources = "\n    ".join(str(ROOT / name) for name in MEASURED)
    configuration.write_text(CONFIGURATION.format(folder=folder, sources=sources), encoding="utf-8")
    return {
        **os.environ,
        VARIABLE: str(children),
        "COVERAGE_PROCESS_START": str(configuration),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(children), os.environ.get("PYTHONPATH", "")])),
    }


def measure(folder: Path, arguments: Sequence[str]) -> tuple[int, dict[str, float]]:
    """Run pytest; gives its exit status, and for each file the percentage of its lines and branches."""
    environment = prepare(folder)
    # Not "-m pytest": that puts the checkout on sys.path.
    pytest = str(Path(sys.executable).parent / "pytest")
    status = subprocess.run([sys.executable, pytest, *arguments], cwd=ROOT, env=environment, check=False).returncode
    tool = [sys.executable, "-m", "coverage"]
    rc = f"--rcfile={environment['COVERAGE_PROCESS_START']}"
    quiet = {key: value for key, value in environment.items() if key not in ("COVERAGE_PROCESS_START", "PYTHONPATH")}
    subprocess.run([*tool, "combine", "-q", rc], cwd=folder, env=quiet, check=True)
    written = folder / "coverage.json"
    subprocess.run([*tool, "json", "-q", rc, "-o", str(written)], cwd=folder, env=quiet, check=True)
    files = json.loads(written.read_text(encoding="utf-8"))["files"]
    found = {Path(name): each["summary"]["percent_covered"] for name, each in files.items()}
    return status, {path.resolve().relative_to(ROOT).as_posix(): percent for path, percent in sorted(found.items())}


def find_below(found: Mapping[str, float], floors: Mapping[str, int]) -> list[str]:
    """Say which files are below their floors, or have none."""
    wrong = [
        f"{name}: {found.get(name, 0):.1f} % is below its floor of {floor} %"
        for name, floor in floors.items()
        if found.get(name, 0) < floor
    ]
    return wrong + [f"{name}: has no floor; --write gives it one" for name in found if name not in floors]


def chosen(found: Mapping[str, float], is_sample: bool) -> dict[str, float]:
    """Choose the files that have floors."""
    return {name: each for name, each in found.items() if not is_sample or name.startswith(SAMPLE_FILES)}


def sample_arguments() -> list[str]:
    """List pytest's arguments for the quick tests."""
    files = [path for pattern in SAMPLE_TESTS for path in sorted(ROOT.glob(pattern))]
    return ["-q", "-k", SAMPLE_LEAVES_OUT, *(str(path.relative_to(ROOT)) for path in files)]


def compare_with_floors(found: Mapping[str, float], key: str, *, writes: bool) -> int:
    """Compare with the floors of that name, or write them; 1 if a file is below."""
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))
    if writes:
        floors[key] = {name: max(0, int(percent) - SLACK) for name, percent in found.items()}
        FLOORS.write_text(json.dumps(floors, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    wrong = find_below(found, floors[key])
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, compare with the floors."""
    parser = argparse.ArgumentParser(description="Measure which lines and branches the tests execute.")
    parser.add_argument("--sample", action="store_true", help="the quick tests, and the files that they are about")
    parser.add_argument("--write", action="store_true", help="take what was measured for the new floors")
    parser.add_argument("pytest_arguments", nargs="*", metavar="PYTEST_ARGUMENT")
    options = parser.parse_args(arguments)
    given = sample_arguments() if options.sample else list(options.pytest_arguments)
    with tempfile.TemporaryDirectory(prefix="dlwhy-coverage-") as folder:
        status, measured = measure(Path(folder), given)
    found = chosen(measured, options.sample)
    for name, percent in found.items():
        print(f"{percent:6.1f} %  {name}")
    if options.sample:
        return status or compare_with_floors(found, "sample", writes=options.write)
    # Of some tests there are no floors.
    return status or (0 if given else compare_with_floors(found, "whole", writes=options.write))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
