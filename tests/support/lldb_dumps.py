"""What does an LLDB answer about dumps of Windows?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment

LLDB_SCRIPT = ROOT / "lldb_ext" / "dlwhy_lldb.py"
# Runs inside LLDB: one line of JSON for each dump and command.
ASK = """
import json, sys, lldb
def __lldb_init_module(debugger, session):
    interpreter = debugger.GetCommandInterpreter()
    def run(words):
        result = lldb.SBCommandReturnObject()
        interpreter.HandleCommand(words, result)
        return result.GetOutput() or "", result.GetError() or ""
    for path in sys.stdin.read().splitlines():
        run("target create --core " + json.dumps(path))
        for words in COMMANDS:
            sys.stdout.write("ANSWER " + json.dumps([path, words, *run(words)]) + "\\n")
"""


def without_target(text: str) -> Any:
    """Read a document, and leave out what differs between hosts."""
    document = json.loads(text)
    del document["target"]
    return document


def ask_lldb(
    version: str, commands: Sequence[str], paths: Sequence[str], folder: Path
) -> dict[tuple[str, str], tuple[str, str]]:
    """Ask an LLDB about dumps; return output and error by path and command."""
    script = folder / "ask_dlwhy.py"
    script.write_text(f"COMMANDS = {commands!r}\n{ASK}")
    found = lldbs.get(version)
    run = [*found.command, "--no-lldbinit", "--batch", "-o", f'command script import "{LLDB_SCRIPT}"']
    run += ["-o", f'command script import "{script}"']
    environment = clean_environment({**found.environment, "HOME": str(folder), "TERM": "dumb"})
    done = subprocess.run(
        run, input="\n".join(paths), capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    lines = [line[len("ANSWER ") :] for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    replies = {(path, words): (output, error) for path, words, output, error in map(json.loads, lines)}
    assert len(replies) == len(paths) * len(commands), done.stdout[-2000:] + done.stderr[-2000:]
    return replies
