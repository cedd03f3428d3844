"""Is it said what is at an address that fits no library, and whether a name that none has can be one's all the same?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

import pytest
from dlwhy.common.commands.registry import commands_of
from dlwhy.common.commands.run import EXIT_PROBLEMS, EXIT_USAGE, Failure, attempt, run
from dlwhy.common.errors import IncompleteSearchError, NotFoundError
from dlwhy.common.linux.plan import plan_close
from dlwhy.common.linux.state.examine import explain_chosen
from dlwhy.common.linux.state.matching import select
from dlwhy.tests.fakes import FakeHost, FakeTarget
from dlwhy.tests.synth.glibc import Library, Process
from dlwhy.tests.synth.glibc_layouts import process_of

HANDLE = 0x5555_6000_0000


def made() -> Process:
    return process_of([Library("liba.so", opencount=1), Library("libb.so.2", opencount=1, soname="libb.so")])


def asked_for(target: FakeTarget, text: str, values: Optional[dict[str, int]] = None) -> str:
    """Ask dlstate and dlplan, which refuse alike; return their words."""
    evaluate = FakeHost(target, values).evaluate
    refusals = []
    for ask in (
        lambda: explain_chosen(target, lambda found: select(found, text, evaluate)),
        lambda: plan_close(target, text, evaluate),
    ):
        with pytest.raises(NotFoundError) as caught:
            ask()
        refusals.append((type(caught.value), str(caught.value)))
    assert refusals[0] == refusals[1]
    return refusals[0][1]


def status(target: FakeTarget, words: list[str]) -> int:
    """Return the exit status of a command."""
    command = commands_of("linux")[words[0]]
    outcome = attempt(words[0], lambda: run(FakeHost(target), command, words[1:]))
    return outcome.status if isinstance(outcome, Failure) else 0


def cut_list(process: Process, target: FakeTarget) -> None:
    target.forget(process.map_of("libb.so.2"), 8)


def lose_name(process: Process, target: FakeTarget) -> None:
    target.forget(process.base(process.library("libb.so.2")) + 0x700, 0x100)


def lose_headers(process: Process, target: FakeTarget) -> None:
    target.forget(process.base(process.library("libb.so.2")), 0x40)


@pytest.mark.parametrize(
    ("damage", "doubt"),
    [
        (cut_list, "but the list of libraries is not whole"),
        (lose_name, "but not all names of libraries are known"),
        (lose_headers, "but not all names of libraries are known"),
    ],
)
def test_a_name_that_is_not_found_can_be_that_of_what_was_not_read(
    damage: Callable[[Process, FakeTarget], None], doubt: str
) -> None:
    process = made()
    target = process.target()
    damage(process, target)
    text = asked_for(target, "libb.so")
    assert text.startswith("no loaded library matches 'libb.so'")
    assert doubt in text
    assert status(target, ["dlstate", "libb.so"]) == EXIT_PROBLEMS
    assert status(target, ["dlplan", "libb.so"]) == EXIT_PROBLEMS


def test_a_name_that_is_not_found_is_a_wrong_one_if_all_was_read() -> None:
    target = made().target()
    assert "but" not in asked_for(target, "libc5.so")
    assert status(target, ["dlstate", "libc5.so"]) == EXIT_USAGE
    with pytest.raises(NotFoundError) as caught:
        explain_chosen(target, lambda found: select(found, "libc5.so", FakeHost(target).evaluate))
    assert not isinstance(caught.value, IncompleteSearchError)


def test_several_that_match_are_too_many_also_in_a_list_that_is_not_whole() -> None:
    process = made()
    target = process.target()
    cut_list(process, target)
    with pytest.raises(NotFoundError, match="loaded libraries match"):
        plan_close(target, "lib*", FakeHost(target).evaluate)


def test_a_freed_handle_says_which_library_it_was() -> None:
    process = made()
    target = process.target()
    libname, name = HANDLE + 0x300, b"./plugins/libgone.so\0"
    words = [0x1111, 0x2222, 0x7000, 0, 0, HANDLE, 0, libname]
    block = (
        process.out.words(words).ljust(0x300, b"\0") + process.out.words((HANDLE + 0x340, 0)).ljust(0x40, b"\0") + name
    )
    target.overwrite(HANDLE, block.ljust(0x1000, b"\0"))
    values = {"handle": HANDLE, "&handle": process.base(process.libraries[0]) + 0x2000}
    text = asked_for(target, "&handle", values)
    recalled = f"{HANDLE:#x} was the handle of libgone.so, which has been unloaded since"
    assert text.endswith(f"'&handle': {recalled}")
    assert asked_for(target, "handle", values).endswith(f"'handle': {recalled}")
    assert asked_for(target, f"{HANDLE:#x}").endswith(f": {recalled}")
    # The size that malloc writes behind a freed block falls into the name.
    end = HANDLE + 0x350
    block = block[: end - HANDLE] + process.out.word(end - HANDLE + 16)
    target.overwrite(HANDLE, block.ljust(0x1000, b"\0"))
    text = asked_for(target, "&handle", values)
    assert f"{HANDLE:#x} was the handle of a library whose name begins with libgon, which" in text
    target.overwrite(HANDLE, b"A" * 0x1000)
    text = asked_for(target, "&handle", values)
    assert f"{HANDLE:#x} is no library's handle, or no longer (closed since?): it is memory of something else" in text


def test_a_handle_that_is_not_listed_may_be_one_if_not_all_are() -> None:
    process = made()
    target = process.target()
    libname = HANDLE + 0x300
    words = [0x1111, 0x2222, 0x7000, 0, 0, HANDLE, 0, libname]
    block = process.out.words(words).ljust(0x300, b"\0") + process.out.words((HANDLE + 0x340, 0)).ljust(0x40, b"\0")
    target.overwrite(HANDLE, (block + b"libgone.so\0").ljust(0x1000, b"\0"))
    cut_list(process, target)
    text = asked_for(target, f"{HANDLE:#x}")
    assert f"{HANDLE:#x} is, or was, the handle of libgone.so; but the list of libraries is not whole" in text


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "it is NULL, no library's handle"),
        (
            HANDLE,
            f"{HANDLE:#x} is no library's handle, or no longer (closed since?): nothing that could be read is there",
        ),
        (0x7F00_0030_0010, "0x7f0000300010 is no library's handle, or no longer (closed since?): it lies in liba.so"),
    ],
)
def test_what_is_no_handle_is_described(value: int, words: str) -> None:
    assert words in asked_for(made().target(), "&handle", {"handle": value, "&handle": 0x7F00_0000_0008})


def test_an_address_in_no_library_is_described() -> None:
    process = made()
    target = process.target()
    heap = process.map_of("liba.so") + 8
    assert f"'p': {heap:#x} lies in no library: it is memory of something else" in asked_for(target, "p", {"p": heap})
    assert "0x10 lies in no library: nothing that could be read is there" in asked_for(target, "0x10")
