"""Does a traced process stop at the opens and closes that were asked for, and at no others?"""

from __future__ import annotations

from typing import Optional

import pytest
from dlwhy.common.target import Reaction
from dlwhy.tests.support.live_glibc import Script, Thread
from dlwhy.tests.support.told import told
from dlwhy.tests.synth.glibc import Library

CODE = {"code": 0x18}


def script(when: Optional[str], *libraries: str) -> Script:
    """Return a process that is being traced, and stops at something."""
    made = Script(
        Library("liba.so", needs=["libb.so"], functions=CODE),
        Library("libb.so", functions=CODE),
        Library("libc1.so", needs=["libb.so"], functions=CODE),
        Library("libx.so", functions=CODE),
        Library("libpinned.so", elf_nodelete=True),
        Library("libneedy.so", needs=["libpinned.so"]),
    )
    made.begin(*libraries, stop_when=when)
    return made


def stops(made: Script) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return why it stopped, at what, and for which libraries."""
    return [(stop.when, told([stop.event])[0], stop.libraries) for stop in made.stops]


def test_without_a_reason_nothing_stops() -> None:
    made = script(None)
    call = made.main.begin_open("liba.so")
    assert call.reaction is Reaction.RESUME
    handle = call.end()
    call = made.main.begin_close(handle)
    assert call.reaction is Reaction.RESUME
    call.end()
    assert made.stops == []


# -- kept -----------------------------------------------------------------------------------------------------


def test_kept_is_what_a_last_close_leaves_there_against_expectation() -> None:
    made = script("kept")
    handle = made.main.dlopen("liba.so")
    made.library("liba.so").owed = 1  # a thread owes it a destructor
    call = made.main.begin_close(handle)
    assert call.reaction is Reaction.STOP
    call.end()
    assert stops(made) == [
        ("kept", "close liba.so 1: keeps; stays liba.so libb.so; not seen to end", ("liba.so", "libb.so"))
    ]


def test_kept_is_not_what_another_library_that_is_open_needs() -> None:
    made = script("kept")
    made.main.dlopen("libc1.so")
    handle = made.main.dlopen("liba.so")
    assert made.main.begin_close(handle).reaction is Reaction.RESUME
    assert made.stops == []


def test_kept_is_what_was_closed_itself_although_another_one_needs_it() -> None:
    made = script("kept")
    made.main.dlopen("liba.so")
    handle = made.main.dlopen("libb.so")
    assert made.main.begin_close(handle).reaction is Reaction.STOP
    assert [stop.libraries for stop in made.stops] == [("libb.so",)]


def test_kept_is_not_a_dependency_that_is_nodelete() -> None:
    made = script("kept")
    made.constructors["libneedy.so"] = lambda thread: setattr(made.library("libpinned.so"), "nodelete", True)
    made.known["libneedy.so"].functions = CODE
    handle = made.main.dlopen("libneedy.so")
    assert made.main.begin_close(handle).reaction is Reaction.RESUME
    made.main.dlopen("libpinned.so")
    assert made.main.begin_close(made.handle("libpinned.so")).reaction is Reaction.STOP
    assert [stop.libraries for stop in made.stops] == [("libpinned.so",)]


def test_kept_of_the_libraries_that_were_asked_for_expected_or_not() -> None:
    made = script("kept", "libb.so")
    made.main.dlopen("libc1.so")
    handle = made.main.dlopen("liba.so")
    assert made.main.begin_close(handle).reaction is Reaction.STOP
    assert [stop.libraries for stop in made.stops] == [("libb.so",)]


def test_a_close_that_is_not_the_last_one_keeps_nothing() -> None:
    made = script("kept")
    handle = made.main.dlopen("liba.so")
    made.main.dlopen("liba.so")
    assert made.main.begin_close(handle).reaction is Reaction.RESUME


# -- unloaded -------------------------------------------------------------------------------------------------


def test_unloaded_is_what_the_close_is_about_to_unload() -> None:
    made = script("unloaded", "libb.so")
    handle = made.main.dlopen("liba.so")
    other = made.main.dlopen("libx.so")
    assert made.main.begin_close(other).end() == 0
    call = made.main.begin_close(handle)
    assert call.reaction is Reaction.STOP
    call.end()
    assert stops(made) == [("unloaded", "close liba.so 1: unloads - liba.so libb.so; not seen to end", ("libb.so",))]


def test_unloaded_by_a_close_within_another_one() -> None:
    made = script("unloaded", "libx.so")
    other = made.main.dlopen("libx.so")
    reactions = []

    def work(thread: Thread) -> None:
        call = thread.begin_close(other)
        reactions.append(call.reaction)
        call.end()

    made.destructors["liba.so"] = work
    made.main.dlclose(made.main.dlopen("liba.so"))
    assert reactions == [Reaction.STOP]
    assert [stop.libraries for stop in made.stops] == [("libx.so",)]


# -- opened ---------------------------------------------------------------------------------------------------


def test_opened_by_name_stops_before_it_is() -> None:
    made = script("opened", "liba*")
    assert made.main.begin_open("libx.so").end()
    call = made.main.begin_open("/usr/lib/liba.so")
    assert call.reaction is Reaction.STOP
    call.end()
    # What is there already counts too.
    assert made.main.begin_open("liba.so").reaction is Reaction.STOP
    assert [(stop.when, stop.libraries) for stop in made.stops] == [("opened", ("liba.so",))] * 2


@pytest.mark.parametrize("with_close", [True, False])
def test_opened_as_a_dependency_stops_at_the_next_event(with_close: bool) -> None:
    made = script("opened", "libb.so")
    handle = made.main.dlopen("liba.so")
    call = made.main.begin_close(handle) if with_close else made.main.begin_open("libx.so")
    assert call.reaction is Reaction.STOP
    assert [stop.libraries for stop in made.stops] == [("libb.so",)]
    call.end()
    # Once only.
    assert made.main.begin_open("libx.so").reaction is Reaction.RESUME


def test_opened_by_name_is_not_told_once_more_as_what_has_come() -> None:
    made = script("opened", "libb.so")
    assert made.main.begin_open("libb.so").end()
    assert made.main.begin_open("libx.so").end()
    assert [stop.libraries for stop in made.stops] == [("libb.so",)]


def test_opened_as_a_dependency_and_by_name_right_after_is_one_stop() -> None:
    made = script("opened", "libb.so")
    made.main.dlopen("liba.so")
    assert made.main.begin_open("libb.so").end()
    assert made.main.begin_open("libx.so").end()
    assert [stop.libraries for stop in made.stops] == [("libb.so",)]


def test_without_names_any_open_stops_and_no_dependency_besides() -> None:
    made = script("opened")
    assert made.main.begin_open("liba.so").reaction is Reaction.STOP
    assert [stop.libraries for stop in made.stops] == [("liba.so",)]
    assert made.main.begin_open(None).reaction is Reaction.RESUME
