"""How are failures of optional packages, and of breakpoint handlers, contained?

``except Exception`` is used here and in the command runner, ``common/commands/run.py``, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from .imports import ROOT, OwnImports

_T = TypeVar("_T")


def try_optional(use: Callable[[], _T], otherwise: _T) -> _T:
    """Return ``use()``, or ``otherwise`` if the optional package that it uses is absent or fails in any way.

    An import can fail by more than ImportError: elftools imports pdb, whose imports fail inside LLDB 19 by
    AttributeError; some packages exit if they do not support the version of Python.
    """
    try:
        return use()
    except (Exception, SystemExit):  # noqa: BLE001 - costs what the package gives, never the answer
        return otherwise


def call_handler(handle: Callable[[], _T], otherwise: _T, on_failure: Callable[[Exception], None]) -> _T:
    """Return the result of an event handler, or ``otherwise`` if it fails in any way.

    A debugger stops the process at a breakpoint whose handler raises.  ``on_failure`` records the exception.
    """
    try:
        with OwnImports():
            return handle()
    except Exception as error:  # noqa: BLE001 - becomes a problem of the report
        on_failure(error)
        return otherwise


def describe_bug(error: BaseException) -> str:
    """Describe an unexpected exception: its class, its text, and the innermost line of our code."""
    where = ""
    trace = error.__traceback__
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if path.startswith(ROOT + os.sep):
            where = f" ({path[len(ROOT) + 1 :]}:{trace.tb_lineno})"
        trace = trace.tb_next
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def event_bug(error: BaseException) -> str:
    """Return the message for an event that an unexpected exception left unprocessed."""
    return (
        f"a bug in dlwhy: {describe_bug(error)}: the event was not understood, and what was going on then is not "
        "known; please report it with the traceback, which DLWHY_DEBUG=1 in the environment shows"
    )


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback if DLWHY_DEBUG=1 is in the environment, else an empty text."""
    if os.environ.get("DLWHY_DEBUG") != "1":
        return ""
    import traceback

    return "".join(traceback.format_exception(type(error), error, error.__traceback__))
