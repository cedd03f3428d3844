"""How is dlwhy installed for all debuggers and the shell, and how is that undone?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable

from ..errors import SetupError, UnusableError
from .changes import Changes
from .files import remove
from .folders import cache_folder, data_folder, private_folders
from .gdb import INSTALL_PACKAGES, find_gdb, init_files, install_into_gdb, require_gdb
from .init_files import remove_block
from .lldb import advice, find_lldbs, install_into_lldb, lldb_init_files
from .programs import unreadable_folders
from .report import in_words, say
from .shell import command_path, install_into_shell, read_command
from .windbg import install_into_windbg, windbg_script


def install(changes: Changes) -> int:
    """Make gdb and LLDB, those of them that are here, load dlwhy at their start; on Windows WinDbg."""
    if sys.platform == "win32":
        return install_into_windbg(changes)
    gdb, lldbs = find_gdb(), find_lldbs()
    if gdb is None and not lldbs:
        gdb = require_gdb(changes, INSTALL_PACKAGES)
    usable: list[str] = []
    failures: list[str] = []
    if (gdb is not None or not lldbs) and attempt(failures, install_into_gdb, changes, gdb):
        usable.append("gdb")
    if lldbs and attempt(failures, install_into_lldb, changes, lldbs):
        usable.append(Path(lldbs[-1].path).name)
    if not usable:
        raise SetupError("; ".join(failures))
    attempt(failures, install_into_shell, changes)
    failures += [f"PATH: {text}" for text in unreadable_folders()]
    if changes.count:
        lost = [lldb for lldb in lldbs if lldb.variables]
        failures += [f"{lldb.path} does not find its Python modules by itself: {advice(lldb)}" for lldb in lost]
    for text in failures:
        say(f"note: {text}")
    if changes.count == 0:
        say("dlwhy is installed already: nothing to do")
    elif not changes.dry_run:
        say(f"dlwhy is installed: start {' or '.join(usable)} and type: help dlstate")
        if read_command(command_path()) and str(command_path().parent) not in os.environ.get("PATH", "").split(":"):
            say(f"note: the shell finds {command_path()} when its folder is on PATH")
    return 0


def attempt(failures: list[str], action: Callable[..., None], *arguments: object) -> bool:
    """Carry out a part of a sub-command and tell whether that could be done; if not, keep the reason."""
    try:
        action(*arguments)
    except UnusableError as failure:
        failures.append(str(failure))
    except OSError as error:
        failures.append(in_words(error))
    else:
        return True
    return False


def paths() -> list[Path]:
    """List what is read, written or run in the folders of the user."""
    return [*init_files(), *lldb_init_files(), command_path(), data_folder(), cache_folder()]


def uninstall(changes: Changes) -> int:
    """Take our blocks out of the debuggers' init files, remove the shell's command, WinDbg's script and our folders."""
    failures: list[str] = []
    if os.path.exists(windbg_script()):
        changes.make(f"remove {windbg_script()}", windbg_script().unlink)
    for path in [*init_files(), *lldb_init_files()]:
        attempt(failures, remove_block, changes, path)
    if read_command(command_path()) is not None:
        attempt(failures, changes.make, f"remove {command_path()}", command_path().unlink)
    for folder in private_folders():
        attempt(failures, changes.make, f"remove {folder}", remove, folder)
    if failures:
        raise SetupError("; ".join(failures))
    if changes.count == 0:
        say("dlwhy is not installed: nothing to do")
    elif not changes.dry_run and data_folder().exists() and not any(data_folder().iterdir()):
        data_folder().rmdir()
    return 0
