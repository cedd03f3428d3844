"""Which arguments does a command take, and how are their values checked?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ..errors import UsageError


class Argument(NamedTuple):
    """An argument, in the terms of ``argparse.ArgumentParser.add_argument``.

    ``completes_libraries`` asks hosts to complete the names of loaded libraries; only one of the options with the same
    ``choice`` can be given.
    """

    flags: tuple[str, ...]
    options: Mapping[str, Any]
    completes_libraries: bool = False
    choice: str = ""


def argument(*flags: str, completes_libraries: bool = False, choice: str = "", **options: Any) -> Argument:
    """Define an argument."""
    return Argument(flags, options, completes_libraries, choice)


PROCESS_ARGUMENT = argument(
    "-p",
    "--process",
    metavar="PID",
    help="in a kernel's memory: this process (0n decimal, 0x hex), not the current",
)

#: The arguments that every command takes in addition to its own.
OUTPUT_ARGUMENTS = (
    argument("-v", "--verbose", action="store_true", help="add addresses, expressions and where offsets came from"),
    argument("--json", action="store_true", help="print one JSON document (schema dlwhy/1)"),
    argument("--color", choices=("auto", "always", "never"), default="auto", help="colour the text (default: auto)"),
)


def byte_count(text: str) -> int:
    """Parse a number of bytes such as ``500M``; K, M, G and T are powers of 1024.

    :raises ArgumentTypeError: if it is not such a number, or 0.
    """
    power = "KMGT".find(text[-1:].upper()) + 1 if text else 0
    digits = text[:-1] if power else text
    number = int(digits) if digits.isdecimal() else 0
    if number < 1:
        from argparse import ArgumentTypeError  # WinDbg's prompt has no such option

        raise ArgumentTypeError(f"'{text}' is no size such as 500M or 16G")
    return number << 10 * power


def number_or_all(option: str, text: str) -> Optional[int]:
    """Return the value of an option that counts; None stands for 'all'.

    :raises UsageError: if it is neither a number of at least 1 nor 'all'.
    """
    if text == "all":
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"{option} takes a number from 1 on, or 'all', not '{text}'")
    return number


def process_id(text: Optional[str]) -> Optional[int]:
    """Return the number of PROCESS_ARGUMENT, None if it was not passed.

    :raises UsageError: if it is not a number.
    """
    if text is None:
        return None
    try:
        return int(text[2:], 10) if text.startswith("0n") else int(text, 0)
    except ValueError as error:
        raise UsageError(f"-p (--process) takes a process id, not '{text}'") from error
