"""How is dlwhy installed for all debuggers and the shell, and how is that undone?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .changes import Attempts, Changes
from .files import remove
from .folders import cache_folder, data_folder, private_folders
from .gdb import find_gdb, init_files, install_into_gdb
from .init_files import remove_block
from .lldb import advice, find_lldbs, install_into_lldb, lldb_init_files
from .programs import unreadable_folders
from .report import print_error, say
from .shell import command_path, install_into_shell, read_command
from .windbg import install_into_windbg, windbg_script


def install(changes: Changes) -> int:
    """Make the gdb and LLDBs that are installed, or on Windows WinDbg, load dlwhy when they start.

    Each part is tried even if others fail.
    """
    if sys.platform == "win32":
        return install_into_windbg(changes)
    gdb, lldbs = find_gdb(), find_lldbs()
    usable: list[str] = []
    attempts = Attempts()
    if (gdb is not None or not lldbs) and attempts.make(install_into_gdb, changes, gdb):
        usable.append("gdb")
    if lldbs and attempts.make(install_into_lldb, changes, lldbs):
        usable.append(Path(lldbs[-1].path).name)
    if not usable:
        attempts.notes_to_failures()
    attempts.make(install_into_shell, changes)
    notes = attempts.notes + [f"PATH: {text}" for text in unreadable_folders()]
    if changes.count:
        lost = [lldb for lldb in lldbs if lldb.variables]
        notes += [f"{lldb.path} does not find its Python modules by itself: {advice(lldb)}" for lldb in lost]
    for text in notes:
        say(f"note: {text}")
    if changes.count:
        print_next_steps(changes, usable)
    elif not attempts.failures:
        say("dlwhy is installed already: nothing to do")
    return end(attempts.failures)


def print_next_steps(changes: Changes, usable: list[str]) -> None:
    """Print how to start using what was installed."""
    if changes.dry_run:
        return
    if usable:
        say(f"dlwhy is installed: start {' or '.join(usable)} and type: help dlstate")
    if read_command(command_path()) and str(command_path().parent) not in os.environ.get("PATH", "").split(":"):
        say(f"note: the shell finds {command_path()} when its folder is on PATH")


def end(failures: list[str]) -> int:
    """Print each failure and return the exit status."""
    for text in failures:
        print_error(text)
    return int(bool(failures))


def paths() -> list[Path]:
    """Return the paths in the user's folders that are read, written or run."""
    return [*init_files(), *lldb_init_files(), command_path(), data_folder(), cache_folder()]


def uninstall(changes: Changes) -> int:
    """Remove our blocks from the init files, and the shell's command, WinDbg's script and our folders."""
    attempts = Attempts()
    if os.path.exists(windbg_script()):
        attempts.make(changes.make, f"remove {windbg_script()}", windbg_script().unlink)
    for path in [*init_files(), *lldb_init_files()]:
        attempts.make(remove_block, changes, path)
    if read_command(command_path()) is not None:
        attempts.make(changes.make, f"remove {command_path()}", command_path().unlink)
    for folder in private_folders():
        attempts.make(changes.make, f"remove {folder}", remove, folder)
    attempts.notes_to_failures()
    if attempts.failures:
        return end(attempts.failures)
    if changes.count == 0:
        say("dlwhy is not installed: nothing to do")
    elif not changes.dry_run and data_folder().exists() and not any(data_folder().iterdir()):
        data_folder().rmdir()
    return 0
