"""Which command runs dlwhy in the shell, and is it there?"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Optional

from ..errors import UnusableError
from .changes import Changes
from .checks import Check
from .files import read_file, write_command
from .folders import ROOT, home_folder
from .pip import prepare_dependencies
from .programs import output_of, this_python

COMMAND_MARK = "# written by dlwhy's install.py, which also removes it: python3 install.py uninstall\n"


def command_path() -> Path:
    """Return the path of the command dlwhy, in the folder of the user's own programs that Debian puts on PATH."""
    return home_folder() / ".local" / "bin" / "dlwhy"


def command_text() -> str:
    """Build the command; without site (-S), which dlwhy does not need, Python starts a third faster."""
    words = [this_python(), "-IS", str(ROOT / "__main__.py")]
    return f'#!/bin/sh\n{COMMAND_MARK}exec {shlex.join(words)} "$@"\n'


def read_command(path: Path) -> Optional[str]:
    """Read the command dlwhy; return None if it does not exist or is not ours."""
    try:
        text = (read_file(path) or b"").decode(errors="surrogateescape")
    except (OSError, UnusableError):
        return None
    return text if COMMAND_MARK in text else None


def install_into_shell(changes: Changes) -> None:
    """Write the command and fill the folder for its Python; a command that is not ours stays."""
    path = command_path()
    old = read_command(path)
    if old is None and os.path.lexists(path):
        raise UnusableError(f"{path} is not ours and stays; the shell's command is {this_python()} {ROOT}")
    prepare_dependencies(changes, sys.version_info[:2])
    if old != command_text():
        changes.make(f"write the command {path}", write_command, path, command_text())


def check_shell() -> Check:
    """Check that the shell's command runs this checkout."""
    path = command_path()
    if read_command(path) is None:
        where = "is not ours" if os.path.lexists(path) else "is not there"
        return Check("note", f"{path} {where}", f"the shell's command is python3 {ROOT}; python3 install.py install")
    output = output_of([str(path), "help", "dlstate"])
    if read_command(path) != command_text() or "Usage: dlstate" not in output:
        return Check("FAIL", f"{path} does not run this checkout", "python3 install.py install")
    return Check("ok", f"{path} runs dlwhy in the shell")
