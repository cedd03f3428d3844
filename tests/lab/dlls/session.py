"""Runs in the CPython 3.9 of the lab: the driver under the real engine, asked before each FreeLibrary.

Words: the folder of the package, then the program with its arguments as one word. Prints lines of JSON: for each
FreeLibrary the plan before it and the modules before and after it, for each wait the state and its dump, at the end the
log of what the DLLs were told.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Optional

import pykd

ROOT = sys.argv[1]
sys.path.insert(0, os.path.join(ROOT, "tests"))
import conftest  # noqa: E402, F401 - registers the package
from dlwhy.common.commands.dllplan.document import dll_plan_document  # noqa: E402
from dlwhy.common.commands.dllstate.document import dll_state_document  # noqa: E402
from dlwhy.common.memory import Memory  # noqa: E402
from dlwhy.common.render.json_types import DllstateDocument  # noqa: E402
from dlwhy.common.windows.pe import find_export  # noqa: E402
from dlwhy.common.windows.plan import plan_free  # noqa: E402
from dlwhy.common.windows.state import explain_dlls  # noqa: E402
from dlwhy.windbg_ext.target import ProcessTarget  # noqa: E402

MASK = (1 << 64) - 1


def number(text: str) -> int:
    return int(text, 0)


def state() -> DllstateDocument:
    return dll_state_document("dllstate", explain_dlls(ProcessTarget()))


def modules() -> list[str]:
    """List what the engine itself, which follows the process's module events, has as loaded."""
    return [image.path.replace("/", "\\").rsplit("\\", 1)[-1] for image in ProcessTarget().images()]


def say(what: str, document: object) -> None:
    sys.stdout.write(f"{what} {json.dumps(document)}\n")


def set_breakpoints() -> dict[Optional[int], str]:
    target = ProcessTarget()
    program = next(image for image in target.images() if image.path.lower().endswith("prog.exe"))
    stops: dict[Optional[int], str] = {}
    for name in ("before_free", "after_free", "at_wait"):
        address = find_export(Memory(target), program.base, name)
        stops[address] = name
        pykd.dbgCommand(f"bp {address:#x}")
    return stops


def run(command: str) -> None:
    pykd.startProcess(command)
    waits = 0
    stops = set_breakpoints()
    before: dict[str, Any] = {}
    while True:
        try:
            pykd.go()
            at = stops.get(pykd.reg("rip") & MASK)
        except pykd.DbgException:
            break
        if at == "before_free":
            handle = pykd.reg("rcx") & MASK
            plans = plan_free(ProcessTarget(), hex(handle), number)
            before = {"before": modules(), "plan": dll_plan_document("dllplan", plans)}
        elif at == "after_free":
            say("FREE", {**before, "after": modules()})
        elif at is None:
            sys.exit(pykd.dbgCommand(".lastevent; k"))  # the program itself fails: it would do so for ever
        elif at == "at_wait":
            dump = f"wait{waits}.dmp"
            waits += 1
            say("WAIT", {"dump": dump, "state": state()})
            pykd.dbgCommand(f".dump /ma /o {os.path.join(os.getcwd(), dump)}")
    with open("log.txt", encoding="ascii") as log:
        say("LOG", log.read().splitlines())


pykd.initialize()
run(sys.argv[2])
sys.stdout.flush()
