"""What is right with the installation, and what is not?"""

from __future__ import annotations

import sys

from .apt import is_installed
from .checks import Check, check_init_file, print_checks
from .gdb import check_attach, check_dependencies, check_gdb, check_gdb_start, check_python, find_gdb
from .lldb import check_lldb, find_lldbs, lldb_init_file, lldb_line
from .pip import OLDEST_PYTHON
from .programs import find_program, unreadable_folders
from .shell import check_shell
from .windbg import check_windbg


def doctor() -> int:
    """Check the installation, printing a line for each check; return 1 if something is broken."""
    if sys.platform == "win32":
        return print_checks(check_windbg())
    gdb, lldbs = find_gdb(), find_lldbs()
    checks = [check_gdb(gdb, needed=not lldbs)]
    if gdb is not None:
        checks.append(check_python(gdb))
        if gdb.python is not None and gdb.python >= OLDEST_PYTHON:
            checks.append(check_dependencies(gdb.path, gdb.python))
        checks += check_gdb_start(gdb)
        checks.append(check_attach(gdb))
    for lldb in lldbs:
        checks += check_lldb(lldb, is_only=gdb is None and len(lldbs) == 1)
    if any(lldb.python is not None for lldb in lldbs):
        checks.append(check_init_file("LLDB", lldb_init_file(), lldb_line()))
    if not lldbs:
        checks.append(Check("note", "no LLDB on PATH", "not needed; in Debian: apt-get install lldb"))
    checks += [check_shell(), check_debug_symbols()]
    checks += [Check("note", f"PATH: {text}", "what is in there is not found") for text in unreadable_folders()]
    return print_checks(checks)


def check_debug_symbols() -> Check:
    """Check for glibc's debug symbols, which dlwhy can do without."""
    if find_program("dpkg-query") is None:
        return Check("note", "no dpkg to ask for glibc's debug symbols", "dlwhy does not need them")
    if is_installed("libc6-dbg", None):
        return Check("ok", "libc6-dbg is installed")
    return Check("note", "libc6-dbg is not installed", "not needed; to have it: apt-get install libc6-dbg")
