"""How is a process traced by a debugger that attaches to it, from there to its end?"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.debuggers import GDB, LLDB_SCRIPT
from dlwhy.tests.hosts.gdbrun import SCRIPT, clean_environment
from dlwhy.tests.hosts.scenario import Json

TIMEOUT = 120


@dataclass
class Traced:
    """What a trace left: a line for each event, the report, and all that the debugger wrote."""

    folder: Path
    output: str = ""
    report: Json = field(default_factory=dict)

    def events(self, kind: Optional[str] = None) -> list[dict[str, Any]]:
        """Read the log."""
        lines = (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        return [each for each in found if kind in (None, each["event"])]


def gdb_commands(folder: Path, options: str) -> list[str]:
    """Return gdb's commands from the attach on."""
    start = f"dltrace start {options} --log {folder / 'log.jsonl'}"
    # glibc's own signals, which gdb knows only where it could load a matching libthread_db.
    quiet = "handle SIG32 SIG33 SIG34 SIGUSR1 SIGHUP SIGCHLD nostop noprint pass"
    return [quiet, start, f"shell touch {folder / 'tracing'}", "continue", "dltrace report --json"]


def words_of(host: str, pid: int, folder: Path, options: str) -> tuple[list[str], Mapping[str, str]]:
    """Return a debugger's command line, and what its environment must say."""
    if host == GDB:
        words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load safe-path /"]
        words += ["-iex", "set pagination off", "-x", str(SCRIPT), "-p", str(pid)]
        for command in gdb_commands(folder, options):
            words += ["-ex", command]
        return words, {}
    lldb = lldbs.get(host.rpartition("-")[2])
    words = [*lldb.command, "--no-lldbinit", "--batch", "-o", f'command script import "{LLDB_SCRIPT}"']
    start = f"dltrace start {options} --log {folder / 'log.jsonl'}"
    signals = "process handle -s false -n false -p true SIGUSR1 SIGHUP SIGCHLD SIGCONT"
    tracing = f"script open({str(folder / 'tracing')!r}, 'w').close()"
    for command in (f"process attach -p {pid}", signals, start, tracing, "process continue", "dltrace report --json"):
        words += ["-o", command]
    return words, lldb.environment


@contextmanager
def traced(host: str, pid: int, folder: Path, options: str = "") -> Iterator[Traced]:
    """Trace a process within the ``with`` statement, in which it must end; the result is filled in at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    result = Traced(folder)
    words, environment = words_of(host, pid, folder, options)
    with (folder / "debugger.log").open("wb") as output:
        debugger = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=clean_environment(environment),
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + TIMEOUT
        while not (folder / "tracing").exists():
            assert debugger.poll() is None, f"the debugger ended:\n{read(folder)}"
            assert time.monotonic() < deadline, f"the debugger does not begin:\n{read(folder)}"
            time.sleep(0.01)
        yield result
        debugger.wait(TIMEOUT)
    finally:
        debugger.kill()
        debugger.wait()
    result.output = read(folder)
    result.report = document_in(result.output)


def read(folder: Path) -> str:
    """Read what a debugger wrote."""
    return (folder / "debugger.log").read_text(encoding="utf-8", errors="replace")


def document_in(output: str) -> Json:
    """Find the last JSON document in what a debugger wrote."""
    start = output.rfind('{\n  "schema"')
    assert start >= 0, f"no report in:\n{output[-4000:]}"
    document, _ = json.JSONDecoder().raw_decode(output[start:])
    assert isinstance(document, dict)
    return document


def names(instances: Sequence[Any]) -> list[str]:
    """Sort names."""
    return sorted(instances)


def comparable(value: Any) -> Any:
    """Leave out what differs between runs and debuggers: times, threads, addresses, and the reading of line tables."""
    if isinstance(value, dict):
        left_out = {
            "time_seconds",
            "duration_seconds",
            "thread",
            "address",
            "link_map",
            "handle",
            "line",
            "expression",
            "object",
        }
        left_out |= {"value", "base", "load_bias", "range", "error", "errno"}
        return {key: comparable(each) for key, each in value.items() if key not in left_out}
    if isinstance(value, list):
        return [comparable(each) for each in value]
    return value
