"""What does install.py tell its user, and how?"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ..errors import ClosedOutputError, OutputError
from ..host import write_to


def say(text: str) -> None:
    """Write a line at once, so that it stands in order with the output of child processes.

    A reader that has gone stops no work.

    :raises OutputError: if it cannot be written, as to a full disk.
    """
    try:
        _write(sys.stdout, text)
    except ClosedOutputError:
        return  # nothing is lost: nobody reads it any more, and what is to be installed goes on


def print_error(text: str) -> None:
    """Write a line about what could not be done to the standard error, if that takes it."""
    try:
        _write(sys.stderr, f"install.py: {text}")
    except OutputError:
        return  # there is nowhere left to say so


def _write(stream: TextIO, text: str) -> None:
    try:
        write_to(stream, f"{text}\n")
    except OutputError:
        redirect_to_null(stream)
        raise


def redirect_to_null(stream: TextIO) -> None:
    """Redirect a broken stream to nowhere: Python flushes it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def dotted(version: tuple[int, ...]) -> str:
    """Write a version as 3.11."""
    return ".".join(map(str, version))


def describe_os_error(error: OSError) -> str:
    """Return what the system refused, and for which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
