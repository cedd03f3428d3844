"""Which programs are there, and what do they print?  None is looked for in the current folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Optional

from ..errors import SetupError
from .folders import ROOT
from .report import describe_os_error


def folders_on_path() -> list[str]:
    """List the folders on PATH that do not depend on the current folder: only they are searched for programs."""
    return [folder for folder in os.get_exec_path() if os.path.isabs(folder)]


def find_program(name: str) -> Optional[str]:
    """Find a program on PATH, never in the current folder; shutil.which looks there first on Windows."""
    endings = [*os.environ.get("PATHEXT", ".EXE").split(os.pathsep), ""] if sys.platform == "win32" else [""]
    for folder in [""] if os.path.isabs(name) else folders_on_path():
        for ending in endings:
            path = os.path.join(folder, name + ending)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    return None


def unreadable_folders() -> list[str]:
    """Return the folders on PATH that cannot be listed, each once, under its first name there."""
    folders: dict[str, str] = {}
    for folder in folders_on_path():
        folders.setdefault(os.path.realpath(folder), folder)
    found = []
    for folder in folders.values():
        try:
            os.scandir(folder).close()
        except PermissionError as error:
            found.append(describe_os_error(error))
        except OSError:
            continue  # on PATH, but does not exist
    return found


def output_of(command: list[str], **variables: str) -> str:
    """Run a command without input and return its output, errors included; empty if it does not exist."""
    program = find_program(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, **variables},
        )
    except OSError as error:
        return describe_os_error(error)
    except subprocess.TimeoutExpired as error:
        return f"{program} gave no answer in {error.timeout:g} seconds"
    return done.stdout.decode(errors="replace")


def run_or_fail(command: list[str], what: str, variables: Optional[Mapping[str, str]] = None) -> None:
    """Run a command quietly.

    :param variables: environment variables to set in addition to the current ones.
    :raises SetupError: if it fails; the message ends with the end of the command's output.
    """
    program = find_program(command[0])
    if program is None:
        raise SetupError(f"{what} failed: there is no {command[0]} on PATH")
    done = subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
    )
    if done.returncode:
        raise SetupError(f"{what} failed:\n{done.stdout.decode(errors='replace').strip()[-4000:]}")


def this_python() -> str:
    """Return the path of the running Python, which does not know it if it was started in certain ways."""
    if not os.path.isabs(sys.executable or ""):
        raise SetupError("this Python does not know its own path: start it by that, as in /usr/bin/python3 install.py")
    return sys.executable


def isolated(*words: str) -> list[str]:
    """Build a command for this Python that imports from Python's own folders only."""
    return [this_python(), "-I", *words]
