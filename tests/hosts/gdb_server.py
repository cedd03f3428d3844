"""Answer questions inside gdb until nobody asks any more. Run by gdb; the pipes are named in the environment.

A request is a line of JSON: ``{"pid": N | "core": FILE, "program": FILE, "commands": […], "save": FILE}``; the reply
holds what each command printed, or failed with.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gdb
from dlwhy.tests.hosts.mending import mend


def quote(text: str) -> str:
    """Quote an argument of a gdb command."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def run(command: str) -> dict[str, str]:
    """Run a command for what it prints."""
    try:
        return {"output": gdb.execute(command, to_string=True)}
    except gdb.error as error:
        return {"error": str(error)}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Open what is asked about, run the commands, and let it go again."""
    if request.get("program"):
        gdb.execute(f"file {quote(request['program'])}", to_string=True)
    live = "pid" in request
    gdb.execute(f"attach {request['pid']}" if live else f"core-file {request['core']}", to_string=True)
    try:
        replies = [run(command) for command in request["commands"]]
        if request.get("save"):
            said = gdb.execute(f"generate-core-file {request['save']}", to_string=True)
            mend(Path(request["save"]), said, request["pid"])
    finally:
        gdb.execute("detach" if live else "core-file", to_string=True)
        gdb.execute("file", to_string=True)
    return {"replies": replies}


def main() -> None:
    """Read requests, write replies."""
    numbers = [int(word) for word in os.environ["DLWHY_SERVER"].split(",")]
    for number in numbers:
        os.set_inheritable(number, False)
    gdb.execute("set pagination off")
    gdb.execute("set confirm off")
    with os.fdopen(numbers[0], encoding="utf-8") as requests, os.fdopen(numbers[1], "w", encoding="utf-8") as replies:
        for line in requests:
            try:
                reply = answer(json.loads(line))
            except (gdb.error, OSError) as error:
                reply = {"failure": str(error)}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


main()
