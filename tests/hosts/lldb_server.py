"""Answer questions inside LLDB until nobody asks any more, as gdb_server.py does inside gdb."""

from __future__ import annotations

import json
import os
from typing import Any

import lldb


class Failure(Exception):
    """Say that a command of LLDB's own failed."""


def run(debugger: Any, command: str) -> dict[str, str]:
    """Run a command for what it prints."""
    result = lldb.SBCommandReturnObject()
    # LLDB 14 runs a command inside of `command script import` with the context that was there before.
    process = debugger.GetSelectedTarget().GetProcess()
    context = lldb.SBExecutionContext(process if process.IsValid() else debugger.GetSelectedTarget())
    debugger.GetCommandInterpreter().HandleCommand(command, context, result, False)
    if result.Succeeded():
        return {"output": result.GetOutput() or ""}
    return {"error": (result.GetError() or "").strip()}


def must(debugger: Any, command: str) -> None:
    """Run a command that has to succeed."""
    reply = run(debugger, command)
    if "error" in reply:
        raise Failure(f"{command}: {reply['error']}")


def quote(text: str) -> str:
    """Quote an argument of an LLDB command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def answer(debugger: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Open what is asked about, run the commands, and let it go again."""
    program = quote(request["program"]) if request.get("program") else ""
    live = "pid" in request
    if live:
        if program:
            must(debugger, f"target create {program}")
        must(debugger, f"process attach --pid {request['pid']}")
    else:
        must(debugger, f"target create --core {quote(request['core'])} {program}")
    try:
        return {"replies": [run(debugger, command) for command in request["commands"]]}
    finally:
        if live:
            must(debugger, "process detach")
        must(debugger, "target delete --all")


def __lldb_init_module(debugger: Any, _: dict[str, Any]) -> None:
    """Read requests, write replies."""
    numbers = [int(word) for word in os.environ["DLWHY_SERVER"].split(",")]
    for number in numbers:
        os.set_inheritable(number, False)
    debugger.SetAsync(False)
    with os.fdopen(numbers[0], encoding="utf-8") as requests, os.fdopen(numbers[1], "w", encoding="utf-8") as replies:
        for line in requests:
            try:
                reply = answer(debugger, json.loads(line))
            except (Failure, OSError) as error:
                reply = {"failure": str(error)}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
