"""How does install.py report to its user?"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ..errors import ClosedOutputError, OutputError
from ..host import write_to


def say(text: str) -> None:
    """Write a line at once, so that it is in order with the output of child processes.

    A closed pipe is ignored: the work continues without a reader.

    :raises OutputError: if it cannot be written for another reason, such as a full disk.
    """
    try:
        _write(sys.stdout, text)
    except ClosedOutputError:
        return  # nobody reads it any more; the installation continues


def print_error(text: str) -> None:
    """Write a line about a failure to the standard error, if that is possible."""
    try:
        _write(sys.stderr, f"install.py: {text}")
    except OutputError:
        return  # there is nowhere left to report it


def _write(stream: TextIO, text: str) -> None:
    try:
        write_to(stream, f"{text}\n")
    except OutputError:
        redirect_to_null(stream)
        raise


def redirect_to_null(stream: TextIO) -> None:
    """Redirect a broken stream to the null device: Python flushes it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def dotted(version: tuple[int, ...]) -> str:
    """Write a version as 3.11."""
    return ".".join(map(str, version))


def describe_os_error(error: OSError) -> str:
    """Return the system's error message with the file concerned."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
