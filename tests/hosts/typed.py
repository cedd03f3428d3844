"""What does a debugger write, given commands as a user types them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, LLDB_SCRIPT, SHELL
from dlwhy.tests.hosts.gdbrun import SCRIPT
from dlwhy.tests.support.children import output_of

NONE: Mapping[str, str] = {}
DEBUGGERS = [host for host in HOSTS if host != SHELL]


def debugger_words(
    host: str, commands: Sequence[str], program: Optional[Path] = None, *, with_dlwhy: bool = True
) -> tuple[list[str], Mapping[str, str]]:
    """Return a debugger's command line with dlwhy and these commands, and what its environment must say."""
    file = [] if program is None else [str(program)]
    if host == GDB:
        words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load safe-path /"]
        words += ["-iex", "set pagination off", *(["-x", str(SCRIPT)] if with_dlwhy else []), *file]
        return [*words, *(word for command in commands for word in ("-ex", command))], {}
    lldb = lldbs.get(host.rpartition("-")[2])
    words = [*lldb.command, "--no-lldbinit", "--batch", *file]
    words += ["-o", f'command script import "{LLDB_SCRIPT}"'] if with_dlwhy else []
    return [*words, *(word for command in commands for word in ("-o", command))], lldb.environment


def ask(
    host: str, commands: Sequence[str], folder: Path, variables: Mapping[str, str] = NONE, *, with_dlwhy: bool = True
) -> str:
    """Run commands in a debugger; return all that it wrote."""
    words, environment = debugger_words(host, commands, with_dlwhy=with_dlwhy)
    return output_of(words, folder, {**environment, "HOME": str(folder), **variables})
