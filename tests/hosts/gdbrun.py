"""What does gdb answer at each stop of a fixture? One gdb process per run; answers come back in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from dlwhy.tests.covered import VARIABLE
from dlwhy.tests.hosts.scenario import Fixture, Json, Run

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "gdb_ext" / "dlwhy_gdb.py"
DRIVER = Path(__file__).resolve().parent / "gdb_driver.py"
# What a user's environment may say to gdb, the loader or the program under test.
UNWANTED = ("LD_", "DEBUGINFOD_", "PYTHON", "FIXTURE_", "STORY_", "NO_COLOR", "GCONV_PATH")
NO_DEBUG_INFO = "set debug-file-directory /nonexistent"
TIMEOUT = 180


@dataclass(frozen=True)
class Answers:
    """What gdb answered in one run, by stop."""

    folder: Path
    stops: tuple[int, ...]
    documents: Mapping[int, Json]
    output: str = field(repr=False)

    def document(self, stop: int, index: int) -> Json:
        """Return the answer to `dlstate LIBRARY --json` for the stop's library of that index."""
        return read_document(self.folder / f"{stop}.{index}.json")

    def plans(self, stop: int) -> Json:
        """Return the answer to `dlplan --all --json`."""
        return read_document(self.folder / f"{stop}.plans")

    def text(self, stop: int, index: Optional[int] = None) -> str:
        """Return the text answer for all libraries, or for the library of that index."""
        name = f"{stop}.txt" if index is None else f"{stop}.{index}.txt"
        return (self.folder / name).read_text(encoding="utf-8", errors="surrogateescape")

    def texts(self) -> Iterable[tuple[str, str]]:
        """Yield name and content of every text answer."""
        for path in sorted(self.folder.glob("*.txt")):
            yield path.name, path.read_text(encoding="utf-8", errors="surrogateescape")

    def cores(self) -> dict[int, Path]:
        """Return the core files by stop."""
        return {stop: self.folder / f"{stop}.core" for stop in self.stops}


def read_document(path: Path) -> Json:
    """Read an answer; text that is no JSON is itself the error. gdb's own warnings may stand before it."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    while lines and lines[0].startswith("warning: "):
        del lines[0]
    text = "\n".join(lines)
    try:
        document = json.loads(text)
    except ValueError:
        return {"error": f"no JSON: {text[:2000]}"}
    return document if isinstance(document, dict) else {"error": f"no object: {text[:2000]}"}


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what would change the run; what measures coverage is found first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(UNWANTED)}
    found = {**kept, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TERM": "dumb", **extra}
    if VARIABLE in os.environ:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ[VARIABLE], found.get("PYTHONPATH", "")]))
    return found


def run_environment(run: Run, build: Path) -> dict[str, str]:
    """Return what a run sets in the program's environment; one malloc arena, because each is 64 MB in a core."""
    return {"MALLOC_ARENA_MAX": "1", **{key: value.replace("$BUILD", str(build)) for key, value in run.environment}}


def libraries_at(fixture: Fixture, run: str) -> dict[str, list[str]]:
    """Return by stop the libraries of namespace 0 that are asked for by name."""
    asked: dict[str, list[str]] = {}
    for stop in fixture.stops:
        names = []
        for expected in fixture.expected(run, stop):
            if expected.library and expected.namespace == 0:
                names.append(Path(fixture.program).name if expected.library == "main" else expected.library)
        asked[str(stop)] = list(dict.fromkeys(names))
    return asked


def run_gdb(out: Path, plan: Mapping[str, Any], *, debug_info: bool = True, early: Iterable[str] = ()) -> Answers:
    """Run gdb with a plan for the driver; raise AssertionError with gdb's output when it came to no good end."""
    out.mkdir(parents=True)
    defaults: dict[str, Any] = {
        "out": str(out),
        "starti": None,
        "libraries": {},
        "environment": {},
        "unset": ["LINES", "COLUMNS", "DLWHY_SCENARIO"],
        "cores": "",
    }
    (out / "plan.json").write_text(json.dumps({**defaults, **plan}), encoding="utf-8")
    commands = ["set debuginfod enabled off", "set auto-load safe-path /", *early]
    if not debug_info:
        commands.append(NO_DEBUG_INFO)
    words = ["gdb", "-nx", "-batch"]
    for command in commands:
        words += ["-iex", command]
    words += ["-x", str(SCRIPT), "-x", str(DRIVER)]
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        cwd=out,
        env=clean_environment({"DLWHY_SCENARIO": str(out / "plan.json")}),
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"gdb did not end within {TIMEOUT} s:\n{output}") from None
    status_file = out / "status.json"
    assert status_file.exists(), f"gdb left no status (exit status {process.returncode}):\n{output}"
    status = json.loads(status_file.read_text(encoding="utf-8"))
    assert status["failure"] is None, f"{status['failure']}\n{output}"
    assert "Traceback (most recent call last)" not in output, output
    documents = {stop: read_document(out / f"{stop}.json") for stop in status["stops"]}
    return Answers(out, tuple(status["stops"]), documents, output)


def run_live(
    out: Path,
    build: Path,
    fixture: Fixture,
    run: Run,
    *,
    debug_info: bool = True,
    remote: bool = False,
    cores: str = "usual",
    environment: Optional[Mapping[str, str]] = None,
    early: Iterable[str] = (),
) -> Answers:
    """Run a fixture's program in gdb, ask at every stop, and leave a core file of each.

    ``cores`` is "usual" for what gdb dumps by default, "full" for all memory, "" for none.
    """
    plan = {
        "mode": "remote" if remote else "live",
        "program": str(build / fixture.program),
        "environment": {**run_environment(run, build), "FIXTURE_WITNESS": "1", **(environment or {})},
        "starti": fixture.starti,
        "libraries": libraries_at(fixture, run.name),
        "cores": cores,
    }
    return run_gdb(out, plan, debug_info=debug_info, early=early)


def run_cores(
    out: Path,
    build: Path,
    fixture: Fixture,
    run: Run,
    cores: Mapping[int, Path],
    *,
    debug_info: bool = True,
    early: Iterable[str] = (),
) -> Answers:
    """Ask the same of core files."""
    plan = {
        "mode": "core",
        "program": str(build / fixture.program),
        "core_files": {str(stop): str(path) for stop, path in cores.items()},
        "libraries": libraries_at(fixture, run.name),
    }
    return run_gdb(out, plan, debug_info=debug_info, early=early)


def run_attached(out: Path, fixture: Fixture, run: Run, stop: int, program: Path, pid: int) -> Answers:
    """Ask the same of a process that is attached to while it waits at a stop."""
    plan = {
        "mode": "attach",
        "program": str(program),
        "pid": pid,
        "stop": stop,
        "libraries": libraries_at(fixture, run.name),
    }
    return run_gdb(out, plan)


def comparable(document: Json) -> Json:
    """Return a document without what may differ between a process and its core.

    That is the target and where offsets came from, and of a thread all but its id: a debugger numbers the threads
    anew, and a core has no thread names.  A process can also be continued.
    """

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            if "tid" in value:
                return {"tid": value["tid"]}
            return {key: strip(each) for key, each in value.items() if key not in ("target", "layout")}
        if isinstance(value, str):
            return value.partition("; continue to main")[0]
        if isinstance(value, list):
            return [strip(each) for each in value]
        return value

    stripped: Json = strip(document)
    return stripped


def witnessed(output: str, stop: int) -> list[tuple[int, str]]:
    """Return base and path of what dl_iterate_phdr listed at a stop, the main program first."""
    found = []
    for line in output.splitlines():
        words = line.split(" ", 3)
        if words[:2] == ["witness", str(stop)]:
            found.append((int(words[2], 16) if words[2] != "0" else 0, words[3]))
    return found
