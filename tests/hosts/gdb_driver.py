"""Take a fixture from stop to stop inside gdb and write down what dlstate answers. Run by gdb, told what by a file.

The answers go to files, because a debugger's screen mixes them with its own messages and the program's.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from pathlib import Path
from typing import Any, Optional, Union

import gdb
from dlwhy.tests.hosts.mending import mend

PLAN = json.loads(Path(os.environ["DLWHY_SCENARIO"]).read_text(encoding="utf-8"))
OUT = Path(PLAN["out"])


def quote(text: str) -> str:
    """Quote an argument of a gdb command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def answer(command: str) -> str:
    """Run a command; return its output, or what it failed with, as the JSON {"error": message}."""
    try:
        return str(gdb.execute(command, to_string=True))
    except gdb.error as error:
        return json.dumps({"error": str(error)})


def keep(stop: int, kind: str, text: str) -> None:
    """Write one output of one stop to its file."""
    (OUT / f"{stop}.{kind}").write_text(text, encoding="utf-8", errors="surrogateescape")


def record(stop: int) -> None:
    """Ask everything that is to be asked at a stop."""
    keep(stop, "json", answer("dlstate --json"))
    keep(stop, "txt", answer("dlstate"))
    keep(stop, "plans", answer("dlplan --all --json"))
    for index, library in enumerate(PLAN["libraries"].get(str(stop), [])):
        keep(stop, f"{index}.json", answer(f"dlstate {quote(library)} --json"))
        keep(stop, f"{index}.txt", answer(f"dlstate {quote(library)} -v"))
    if PLAN["mode"] == "core":
        return
    pid = gdb.selected_inferior().pid
    for name in ("maps", "smaps"):
        try:
            keep(stop, name, Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="surrogateescape"))
        except OSError as error:
            keep(stop, name, f"{error}\n")
    if PLAN["cores"] == "full":
        Path(f"/proc/{pid}/coredump_filter").write_text("0x7f", encoding="ascii")
    if PLAN["cores"]:
        core = OUT / f"{stop}.core"
        said = gdb.execute(f"generate-core-file {core}", to_string=True)
        mend(core, said, pid)


def number_of_stop() -> int:
    """Return which stop this is: the argument of stop_here."""
    frame = gdb.selected_frame()
    if frame.name() != "stop_here":
        raise RuntimeError(f"stopped at {frame.pc():#x} in {frame.name()!r}")
    value: Union[gdb.Value, int]
    try:
        value = frame.read_var("number")
    except ValueError:  # a stripped program
        value = gdb.parse_and_eval("(int) $rdi")
    return int(value)


def start_local() -> None:
    """Start the program, or stop it at its first instruction."""
    for name, value in PLAN["environment"].items():
        gdb.execute(f"set environment {name} {value}")
    for name in PLAN["unset"]:
        gdb.execute(f"unset environment {name}")
    gdb.execute("set startup-with-shell off")
    gdb.execute("starti" if PLAN["starti"] is not None else "run", to_string=True)


def start_remote() -> None:
    """Start the program under gdbserver, which stops it at its first instruction and sees its environment too."""
    variables = " ".join(f"{name}={value}" for name, value in PLAN["environment"].items())
    server = f"gdbserver --once --no-startup-with-shell - {PLAN['program']}"
    gdb.execute(f"target remote | env {variables} {server}", to_string=True)
    if PLAN["starti"] is None:
        gdb.execute("continue", to_string=True)


def alive() -> bool:
    """Whether there still is a process."""
    return bool(gdb.selected_inferior().threads())


def run_live() -> list[int]:
    """Go from stop to stop until the program ends."""
    gdb.Breakpoint("stop_here")
    # glibc's own signals, which gdb knows only where it could load a matching libthread_db.
    gdb.execute("handle SIG32 SIG33 SIG34 nostop noprint pass", to_string=True)
    (start_remote if PLAN["mode"] == "remote" else start_local)()
    stops = []
    if PLAN["starti"] is not None:
        record(PLAN["starti"])
        stops.append(PLAN["starti"])
        gdb.execute("continue", to_string=True)
    while alive():
        stop = number_of_stop()
        record(stop)
        stops.append(stop)
        gdb.execute("continue", to_string=True)
    return stops


def run_attached() -> list[int]:
    """Look at a process that waits at its stop."""
    gdb.execute(f"attach {PLAN['pid']}", to_string=True)
    record(PLAN["stop"])
    gdb.execute("detach", to_string=True)
    return [PLAN["stop"]]


def run_cores() -> list[int]:
    """Look at one core file after the other."""
    stops = []
    for stop, path in sorted(PLAN["core_files"].items(), key=lambda item: int(item[0])):
        gdb.execute(f"core-file {path}", to_string=True)
        record(int(stop))
        stops.append(int(stop))
    return stops


def exit_code() -> Optional[int]:
    """Return the program's exit status, None where it was ended by a signal or has none."""
    value = gdb.parse_and_eval("$_exitcode")
    return None if value.type.code == gdb.TYPE_CODE_VOID else int(value)


def main() -> None:
    """Do what the plan says and leave a status file."""
    status: dict[str, Any] = {"stops": [], "failure": None, "exit_code": None}
    try:
        gdb.execute("set pagination off")
        gdb.execute("set confirm off")
        if PLAN["program"]:
            gdb.execute(f"file {quote(PLAN['program'])}", to_string=True)
        modes = {"live": run_live, "remote": run_live, "attach": run_attached, "core": run_cores}
        status["stops"] = modes[PLAN["mode"]]()
        status["exit_code"] = exit_code()
    except (gdb.error, RuntimeError, OSError):
        status["failure"] = re.sub(r"(?m)^", "    ", traceback.format_exc())
    (OUT / "status.json").write_text(json.dumps(status), encoding="utf-8")
    if alive() and PLAN["mode"] in ("live", "remote"):
        gdb.execute("kill")


main()
