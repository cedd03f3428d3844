"""Which gdb is installed, does it load dlwhy, and how is it made to?"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional

from ..errors import SetupError, UnusableError
from .apt import require_packages
from .changes import Changes
from .checks import Check, check_init_file, check_packages, packages_script
from .files import is_readable
from .folders import ROOT, base_folder, home_folder
from .init_files import write_block
from .pip import OLDEST_PYTHON, prepare_dependencies
from .programs import find_program, isolated, output_of
from .report import dotted

ENTRY_SCRIPT = ROOT / "gdb_ext" / "dlwhy_gdb.py"
INSTALL_PACKAGES = {"gdb": "gdb"}


class Gdb(NamedTuple):
    """The gdb on PATH; ``python`` is the version it embeds, None without one."""

    path: str
    version: tuple[int, ...]
    python: Optional[tuple[int, ...]]


def find_gdb() -> Optional[Gdb]:
    """Ask the gdb on PATH for its version and its Python's."""
    path = find_program("gdb")
    if path is None:
        return None
    banner = output_of([path, "-nx", "--version"]).partition("\n")[0]
    version = re.search(r"\)\D*(\d+(?:\.\d+)+)", banner)
    asked = "python import sys; print('embeds %d.%d' % sys.version_info[:2])"
    python = re.search(r"embeds (\d+)\.(\d+)", output_of([path, "-nx", "-batch", "-ex", asked]))
    return Gdb(
        path,
        tuple(map(int, version[1].split("."))) if version else (),
        (int(python[1]), int(python[2])) if python else None,
    )


def require_gdb(changes: Changes, packages: Mapping[str, Optional[str]]) -> Optional[Gdb]:
    """Find a gdb that can load dlwhy, installing it if necessary; return None only in a dry run."""
    require_packages(changes, packages)
    gdb = find_gdb()
    if gdb is None and not changes.dry_run:
        raise SetupError("there is still no gdb on PATH")
    if gdb is not None:
        python_of(gdb)
    return gdb


def python_of(gdb: Gdb) -> tuple[int, ...]:
    """Return the version of gdb's Python.

    :raises UnusableError: if it is not good enough.
    """
    if gdb.python is None:
        raise UnusableError(
            f"{gdb.path} was built without Python: install a full gdb (in Debian: gdb, not gdb-minimal)"
        )
    if gdb.python < OLDEST_PYTHON:
        raise UnusableError(f"{gdb.path} embeds Python {dotted(gdb.python)}, dlwhy needs 3.9: install a newer gdb")
    return gdb.python


def init_files() -> list[Path]:
    """List the paths of the user's gdb init file, gdb's preferred one first."""
    return [base_folder("XDG_CONFIG_HOME", ".config") / "gdb" / "gdbinit", home_folder() / ".gdbinit"]


def init_file(gdb: Optional[Gdb]) -> Path:
    """Return the init file that this gdb reads: since gdb 11 (see its NEWS) the one below .config, if it exists."""
    preferred, classic = init_files()
    return preferred if os.path.exists(preferred) and (gdb is None or gdb.version >= (11,)) else classic


def gdb_line() -> bytes:
    """Build the command that makes gdb load dlwhy."""
    entry = os.fsencode(ENTRY_SCRIPT)
    if b"\n" in entry:
        raise UnusableError(f"gdb cannot source a file whose path holds a line end: {ENTRY_SCRIPT}")
    return b"source " + entry


def install_into_gdb(changes: Changes, gdb: Optional[Gdb]) -> None:
    """Write gdb's init file and fill the folder for its Python; install gdb first if it is missing."""
    gdb = gdb or require_gdb(changes, INSTALL_PACKAGES)
    if gdb is not None:
        prepare_dependencies(changes, python_of(gdb))
    write_block(changes, init_file(gdb), gdb_line())


def check_gdb(gdb: Optional[Gdb], needed: bool) -> Check:
    """Check that gdb is installed; it is required if there is no LLDB."""
    if gdb is None and not needed:
        return Check("note", "no gdb on PATH", "not needed; in Debian: apt-get install gdb")
    if gdb is None:
        return Check("FAIL", "no gdb on PATH", "python3 install.py install, or in Debian: apt-get install gdb")
    return Check("ok", f"gdb {dotted(gdb.version)} is {gdb.path}")


def check_python(gdb: Gdb) -> Check:
    """Check that gdb embeds a recent enough Python."""
    try:
        return Check("ok", f"gdb embeds Python {dotted(python_of(gdb))}")
    except SetupError as failure:
        what, _, remedy = str(failure).partition(": ")
        return Check("FAIL", what, remedy)


def check_dependencies(gdb: str, python: tuple[int, ...]) -> Check:
    """Check that the packages that dlwhy uses can be imported in gdb."""
    output = output_of([gdb, "-nx", "-batch", "-ex", f"python {packages_script(python)}"])
    return check_packages("gdb", output)


def check_gdb_start(gdb: Gdb) -> list[Check]:
    """Check that gdb loads dlwhy at start-up; gdb is not run if its init file could block it."""
    path = init_file(gdb)
    checks = [check_init_file("gdb", path, gdb_line())]
    return [*checks, check_command(gdb)] if is_readable(path) else checks


def check_command(gdb: Gdb) -> Check:
    """Check in a real gdb, with the user's init file, that the commands exist."""
    output = output_of([gdb.path, "-batch", "-ex", "help dlstate"])
    if "Usage: dlstate" not in output:
        return Check("FAIL", "gdb has no command dlstate", f"gdb says {output.strip()[-300:]!r}")
    return Check("ok", "gdb knows the command dlstate")


def check_attach(gdb: Gdb) -> Check:
    """Check that gdb can attach to a process of the user, by attaching to one."""
    ask = ["-ex", "python print('attached', gdb.selected_inferior().pid)"]
    with subprocess.Popen(isolated("-c", "import time; time.sleep(60)"), cwd=ROOT) as process:
        try:
            output = output_of(
                [gdb.path, "-nx", "-batch", "-iex", "set auto-solib-add off", "-p", f"{process.pid}", *ask]
            )
        finally:
            process.kill()
    if f"attached {process.pid}" in output:
        return Check("ok", "gdb can attach to your processes")
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and scope.read_text(encoding="ascii").strip() != "0":
        return Check(
            "note",
            "gdb cannot attach to running processes (programs started in gdb, and cores, are fine)",
            "sudo sysctl kernel.yama.ptrace_scope=0, or run gdb by sudo",
        )
    return Check("FAIL", "gdb cannot attach to processes", "allow ptrace; in a container: --cap-add=SYS_PTRACE")
