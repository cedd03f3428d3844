"""Does nothing that fails get past the guards, and is a bug described so that it can be found?"""

from __future__ import annotations

import os
import sys

import pytest
from dlwhy.common.commands.run import EXIT_BUG, EXIT_TARGET, EXIT_USAGE, Failure, attempt
from dlwhy.common.errors import ClosedOutputError, FaultError, NotFoundError, OutputError, UsageError
from dlwhy.common.guards import call_handler, describe_bug, event_bug, traceback_of, try_optional
from dlwhy.common.model import Platform

ANY = [ImportError, AttributeError, RecursionError, MemoryError, OSError, UnicodeError, FaultError(1, 2)]


def fail(error: BaseException | type[BaseException]) -> int:
    raise error


@pytest.mark.parametrize("error", [*ANY, SystemExit])
def test_an_optional_package(error: type[BaseException]) -> None:
    assert try_optional(lambda: fail(error), 7) == 7
    assert try_optional(lambda: 3, 7) == 3


def test_the_users_interrupt_is_no_failure_of_a_package() -> None:
    with pytest.raises(KeyboardInterrupt):
        try_optional(lambda: fail(KeyboardInterrupt), 7)
    with pytest.raises(KeyboardInterrupt):
        call_handler(lambda: fail(KeyboardInterrupt), 7, forbid)
    with pytest.raises(KeyboardInterrupt):
        attempt("dlstate", lambda: fail(KeyboardInterrupt))


@pytest.mark.parametrize("error", ANY)
def test_a_handler(error: type[Exception]) -> None:
    noted: list[Exception] = []
    assert call_handler(lambda: fail(error), 7, noted.append) == 7
    assert len(noted) == 1
    assert call_handler(lambda: 3, 7, noted.append) == 3
    assert len(noted) == 1


def test_a_handler_finds_no_code_in_the_current_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [".", "/a"])
    nothing: list[str] = []
    assert call_handler(lambda: list(sys.path), nothing, forbid) == ["/a"]


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (UsageError("wrong words"), "wrong words", EXIT_USAGE),
        (NotFoundError("none", ["a"]), "none; near: a", EXIT_USAGE),
        (FaultError(1, 2), "cannot read 2 bytes at 0x1", EXIT_TARGET),
        (UsageError("odd \udcff\n"), "odd \\xff\\n", EXIT_USAGE),
        (OutputError("cannot write: full"), "cannot write: full", EXIT_TARGET),
        (ClosedOutputError("gone"), "", 0),
    ],
)
def test_the_runner(error: Exception, message: str, status: int) -> None:
    failure = attempt("dlstate", lambda: fail(error))
    assert failure == Failure("dlstate", message, status)
    assert isinstance(failure, Failure)
    assert failure.text == (f"dlstate: {message}" if message else "")


def forbid(error: Exception) -> None:
    raise AssertionError("it did not fail") from error


def raised(error: ValueError) -> ValueError:
    try:
        raise error
    except ValueError as caught:
        return caught


def test_a_bug_names_the_last_line_of_ours() -> None:
    with pytest.raises(TypeError) as caught:
        Platform(1, 2, 3, 4, 5, 6, 7)  # type: ignore[call-arg,arg-type]
    text = describe_bug(caught.value)
    assert text.startswith("TypeError: ")
    assert text.partition(" (")[0] == f"TypeError: {caught.value}"
    here = os.path.join("tests", "unit", "test_guards.py")
    assert f" ({here}:" in text
    assert event_bug(caught.value).startswith(f"a bug in dlwhy: {text}: the event was not understood")
    assert describe_bug(raised(ValueError("a\n\tb"))).startswith(f"ValueError: a b ({here}:")
    assert describe_bug(ValueError()) == "ValueError"


@pytest.mark.parametrize(("value", "is_shown"), [("1", True), ("0", False), ("", False), (None, False)])
def test_a_traceback_for_who_asks(monkeypatch: pytest.MonkeyPatch, value: str | None, is_shown: bool) -> None:
    monkeypatch.delenv("DLWHY_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("DLWHY_DEBUG", value)
    error = raised(ValueError("\x1b[31m"))
    assert bool(traceback_of(error)) is is_shown
    failure = attempt("dlstate", lambda: fail(error))
    assert isinstance(failure, Failure)
    assert failure.status == EXIT_BUG
    lines = failure.text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert (len(lines) > 1) is is_shown
