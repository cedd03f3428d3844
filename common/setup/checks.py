"""What can be wrong with an installation, and what is the remedy?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import SetupError
from .folders import private_folder
from .init_files import find_block, read_init
from .pip import listed, package_name
from .report import describe_os_error, say

# Requirements whose module has another name.
MODULE_NAMES = {"pyelftools": "elftools"}


class Check(NamedTuple):
    """The outcome of one of doctor's checks; ``remedy`` of a failure or a note is what the user can do."""

    kind: str
    what: str
    remedy: str = ""


def print_checks(checks: list[Check]) -> int:
    """Print the outcome of each check; return 1 if something is broken."""
    for check in checks:
        say(f"{check.kind:<4}  {check.what}" + (f": {check.remedy}" if check.remedy else ""))
    return int(any(check.kind == "FAIL" for check in checks))


def packages_script(python: tuple[int, ...]) -> str:
    """Build a line of Python that prints which packages a debugger's Python lacks."""
    modules = [MODULE_NAMES.get(name, name) for name in map(package_name, listed("dependencies"))]
    script = f"import importlib.util as u, sys; sys.path.append({str(private_folder(python))!r}); "
    return script + f"print('lacks', *[m for m in {modules!r} if not u.find_spec(m)])"


def check_packages(debugger: str, output: str) -> Check:
    """Return the outcome of the check, from the script's output."""
    lacking = re.search("^lacks(.*)", output, re.MULTILINE)
    if lacking is None or lacking[1].split():
        what = f"packages missing in {debugger}'s Python ({lacking[1].strip() if lacking else output.strip()})"
        return Check("FAIL", what, "python3 install.py install")
    return Check("ok", f"{debugger}'s Python has {', '.join(map(package_name, listed('dependencies')))}")


def check_init_file(debugger: str, path: Path, line: bytes) -> Check:
    """Check that the init file that a debugger reads loads this checkout."""
    try:
        found = find_block(path, read_init(path))
    except OSError as error:
        return Check("FAIL", describe_os_error(error))
    except SetupError as failure:
        return Check("FAIL", str(failure))
    if found is None:
        return Check("FAIL", f"{path} does not load dlwhy", "python3 install.py install")
    if found["body"].strip() != line:
        source = os.fsdecode(found["body"]).strip()
        return Check("FAIL", f"{path} loads another checkout ({source})", "python3 install.py install")
    return Check("ok", f"{path} loads dlwhy into {debugger}: {os.fsdecode(line)}")
