"""Which LLDBs are installed, do they load dlwhy, and how are they made to?"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional

from ..errors import SetupError, UnusableError
from .changes import Changes
from .checks import Check, check_packages, packages_script
from .files import is_readable
from .folders import ROOT, home_folder
from .init_files import write_block
from .pip import OLDEST_PYTHON, prepare_dependencies
from .programs import find_program, folders_on_path, output_of
from .report import dotted

LLDB_ENTRY_SCRIPT = ROOT / "lldb_ext" / "dlwhy_lldb.py"
EMBEDS = "import sys; print('embeds %d.%d' % sys.version_info[:2], hasattr(lldb, 'SBDebugger'))"


class Lldb(NamedTuple):
    """An LLDB on PATH: its Python works given ``variables`` in the environment, or fails with ``failure``."""

    path: str
    version: tuple[int, ...]
    python: Optional[tuple[int, ...]]
    variables: Mapping[str, str] = {}
    failure: str = ""


def find_lldbs() -> list[Lldb]:
    """Ask every LLDB on PATH for its version and its Python's."""
    return [ask_lldb(path) for path in lldb_paths()]


def lldb_paths() -> list[str]:
    """List the LLDBs on PATH; they are called lldb, lldb-14 and so on."""
    names: set[str] = set()
    for folder in folders_on_path():
        try:
            names.update(name for name in os.listdir(folder) if re.fullmatch(r"lldb(-\d+)?", name))
        except OSError:
            continue  # unreadable_folders reports it
    # lldb is a link to one of the others: one of the two is enough.
    paths = filter(None, map(find_program, sorted(names, reverse=True)))
    return sorted({os.path.realpath(path): path for path in paths}.values())


def ask_lldb(path: str) -> Lldb:
    """Ask an LLDB for its version and its Python's, and find the environment in which its Python works.

    Debian's LLDB 14 looks for its own modules in a wrong folder, and for others in that of the first python3 on PATH.
    """
    version = re.search(r"version (\d+(?:\.\d+)+)", output_of([path, "--version"]))
    found = Lldb(path, tuple(map(int, version[1].split("."))) if version else (), None)
    library = Path(os.path.realpath(path)).parent.parent / "lib"
    places = sorted(library.glob("python3*/*-packages/lldb/embedded_interpreter.py"))
    modules = [{}, *({"PYTHONPATH": str(place.parent.parent)} for place in places)]
    for more in ({}, {"PATH": os.pathsep.join(["/usr/bin", os.environ.get("PATH", "")])}):
        for variables in ({**each, **more} for each in modules):
            output = output_of([path, "--no-lldbinit", "--batch", "-o", f"script {EMBEDS}"], **variables)
            python = re.search(r"^embeds (\d+)\.(\d+) True", output, re.MULTILINE)
            if python:
                return found._replace(python=(int(python[1]), int(python[2])), variables=variables, failure="")
            # The last error says more than the first: it occurred with the right folder.
            errors = re.findall(r"^\w*Error: .*", output, re.MULTILINE)
            found = found._replace(failure=errors[0] if errors else "")
    return found


def lldb_python(lldb: Lldb) -> tuple[int, ...]:
    """Return the version of LLDB's Python.

    :raises UnusableError: if it is not good enough.
    """
    if lldb.python is None and "six" in lldb.failure:
        raise UnusableError(f"{lldb.path} cannot load its Python modules ({lldb.failure}): apt-get install python3-six")
    if lldb.python is None and lldb.failure:
        raise UnusableError(
            f"{lldb.path} cannot load its Python modules ({lldb.failure}): apt-get install {packaged(lldb)}"
        )
    if lldb.python is None:
        raise UnusableError(f"{lldb.path} was built without Python: install a full LLDB")
    if lldb.python < OLDEST_PYTHON:
        raise UnusableError(f"{lldb.path} embeds Python {dotted(lldb.python)}, dlwhy needs 3.9: install a newer LLDB")
    return lldb.python


def packaged(lldb: Lldb) -> str:
    """Return the Debian package of LLDB's Python modules."""
    return f"python3-lldb-{lldb.version[0] if lldb.version else 'VERSION'}"


def advice(lldb: Lldb) -> str:
    """Return how to start an LLDB whose Python needs environment variables."""
    settings = [f"PATH={value.split(os.pathsep)[0]}:$PATH" for name, value in lldb.variables.items() if name == "PATH"]
    settings += [f"{name}={value}" for name, value in lldb.variables.items() if name != "PATH"]
    return f"start it as: {' '.join(settings)} {Path(lldb.path).name}"


def lldb_init_files() -> list[Path]:
    """List the paths of the user's LLDB init file, the lldb program's preferred one first."""
    return [home_folder() / ".lldbinit-lldb", home_folder() / ".lldbinit"]


def lldb_init_file() -> Path:
    """Return the init file that LLDB reads: the one for the program lldb, if it exists, instead of the general one."""
    preferred, general = lldb_init_files()
    return preferred if os.path.exists(preferred) else general


def lldb_line() -> bytes:
    """Build the command that makes LLDB load dlwhy; LLDB evaluates text in backquotes."""
    entry = os.fsencode(LLDB_ENTRY_SCRIPT)
    if re.search(rb"[\n`]", entry):
        raise UnusableError(f"LLDB cannot import a file whose path holds a line end or `: {LLDB_ENTRY_SCRIPT}")
    return b'command script import "' + re.sub(rb'(["\\])', rb"\\\1", entry) + b'"'


def install_into_lldb(changes: Changes, lldbs: list[Lldb]) -> None:
    """Write LLDB's init file and fill the folders for the Pythons of all LLDBs."""
    pythons = {lldb.python for lldb in lldbs if lldb.python is not None and lldb.python >= OLDEST_PYTHON}
    if not pythons:
        lldb_python(lldbs[-1])
    for python in sorted(pythons):
        prepare_dependencies(changes, python)
    write_block(changes, lldb_init_file(), lldb_line())


def check_lldb(lldb: Lldb, is_only: bool) -> list[Check]:
    """Check an LLDB: its Python, our packages, our commands; a failure of one of several is a note."""
    name = Path(lldb.path).name
    bad = "FAIL" if is_only else "note"
    checks = [Check("ok", f"LLDB {dotted(lldb.version)} is {lldb.path}")]
    try:
        python = lldb_python(lldb)
    except SetupError as failure:
        what, _, remedy = str(failure).rpartition(": ")
        return [*checks, Check(bad, what, remedy)]
    checks.append(Check("ok", f"{name} embeds Python {dotted(python)}"))
    if lldb.variables:
        checks.append(Check(bad, f"{name} does not find its Python modules by itself", advice(lldb)))
    script = packages_script(python)
    output = output_of([lldb.path, "--no-lldbinit", "--batch", "-o", f"script {script}"], **lldb.variables)
    checks.append(check_packages(name, output))
    if not all(map(is_readable, lldb_init_files())):
        return checks  # LLDB could block forever; check_init_file says why
    output = output_of([lldb.path, "--batch", "-o", "help dlstate"], **lldb.variables)
    if "Usage: dlstate" in output:
        checks.append(Check("ok", f"{name} knows the command dlstate"))
    else:
        checks.append(Check("FAIL", f"{name} has no command dlstate", f"it says {output.strip()[-300:]!r}"))
    return checks
