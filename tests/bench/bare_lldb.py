"""Run inside LLDB: breakpoints where a trace has them, with a callback that only says no."""

from __future__ import annotations

from typing import Any

from dlwhy.common.errors import UnsupportedError
from dlwhy.common.linux.state.examine import examine
from dlwhy.common.linux.trace.entry_points import EntryPoints, find_entry_points
from dlwhy.lldb_ext.target import LldbTarget


def go_on(_frame: Any, _location: Any, _extra: Any, _session: Any) -> bool:
    """Let the process go on."""
    return False


def refuse(*_: object) -> EntryPoints:
    """Have no musl here."""
    raise UnsupportedError("musl")


def __lldb_init_module(debugger: Any, session: dict[str, Any]) -> None:
    chosen = debugger.GetSelectedTarget()
    places, _ = examine(
        LldbTarget(chosen),
        lambda process: find_entry_points(
            process.memory, process.layouts, process.private, process.graph, in_rtld=True
        ),
        refuse,
    )
    session["go_on"] = go_on
    for place in places.entries:
        chosen.BreakpointCreateByAddress(place).SetScriptCallbackFunction("bare_lldb.go_on")
