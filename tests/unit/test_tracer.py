"""Is what each open and close did told right, whatever the threads of the process do meanwhile?

The process is synthetic, and does what the test says; real programs are traced in tests/trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Optional

import pytest
from dlwhy.common.commands.dltrace.document import dump_event, trace_document
from dlwhy.common.commands.dltrace.text import trace_view
from dlwhy.common.errors import NoTargetError, UnsupportedError
from dlwhy.common.linux.loader.maps import GraphReader
from dlwhy.common.linux.trace.events import Close, Open, Pin, Trace
from dlwhy.common.linux.trace.snapshot import ANOTHER_PROGRAM
from dlwhy.common.linux.trace.stops import TraceOptions
from dlwhy.common.linux.trace.tracer import EXITED, begin
from dlwhy.common.render.text import render
from dlwhy.common.target import Reaction
from dlwhy.tests.schema import VALIDATOR, validator_of
from dlwhy.tests.support.live_glibc import (
    DL_OPEN,
    LIBC_FUNCTIONS,
    NEW_NAMESPACE,
    RANDOM,
    RTLD_NOLOAD,
    RTLD_NOW,
    Script,
    Thread,
    Way,
)
from dlwhy.tests.support.told import place, told
from dlwhy.tests.synth.glibc import NOTE, Library

CODE = {"code": 0x18}
#: No library has its map there.
NO_HANDLE = 0x1000


@pytest.fixture(params=list(Way), ids=[way.name.lower() for way in Way])
def in_rtld(request: pytest.FixtureRequest) -> Way:
    """Have breakpoints in ld.so, also where it has the lock, or where libc passes on to it."""
    assert isinstance(request.param, Way)
    return request.param


@pytest.fixture(params=[Way.EXPORTED, Way.IN_RTLD], ids=["exported", "in_rtld"])
def unlocked(request: pytest.FixtureRequest) -> Way:
    """Have breakpoints in ld.so or outside, but not where it has the lock."""
    assert isinstance(request.param, Way)
    return request.param


def script(in_rtld: int = Way.IN_RTLD) -> Script:
    """Return a process that can load some libraries."""
    return Script(
        Library("liba.so", needs=["libb.so"], functions=CODE),
        Library("libb.so", functions=CODE),
        Library("libc1.so", needs=["libb.so"], functions=CODE),
        Library("libx.so", functions=CODE),
        Library("liby.so", functions=CODE),
        Library("libpinned.so", elf_nodelete=True),
        Library("libspace.so", needs=["libc.so.6"], functions=CODE),
        in_rtld=in_rtld,
    )


def counted(made: Script) -> dict[str, int]:
    """Return what the report counts, without what is 0."""
    return {name: value for name, value in made.report().totals._asdict().items() if value}


# -- opens ----------------------------------------------------------------------------------------------------


def test_an_open_loads_or_counts_or_fails(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen("/usr/lib/liba.so")
    made.main.dlopen("liba.so")
    made.main.dlopen("libb.so")
    assert made.main.dlopen("libmissing.so") == 0
    made.main.dlopen("libx.so")
    assert counted(made) == {"opens": 5, "opens_failed": 1}
    assert told(made.events) == [
        "open /usr/lib/liba.so: loaded liba.so + liba.so libb.so",
        "open liba.so: already-loaded",
        "open libb.so: already-loaded",
        "open libmissing.so: failed",
        "open libx.so: loaded + libx.so",
    ]
    first = made.events[0]
    assert isinstance(first, Open)
    assert (first.flags, first.requested_namespace, first.header.tid) == (RTLD_NOW, -2, 4711)
    base = made.process.base(made.library("liba.so"))
    assert first.library is not None
    assert (first.library.base, first.library.start) == (base, base)
    assert (first.library.end or 0) > base
    assert place(first.header.caller) == "main:main"


def test_an_open_of_the_program_itself(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen(None)
    made.report()
    assert told(made.events) == ["open the program: already-loaded main"]
    assert isinstance(made.events[0], Open)
    assert made.events[0].requested_namespace == (-2 if in_rtld else 0)


def test_a_constructor_that_opens(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.constructors["libb.so"] = lambda thread: thread.dlopen("libx.so")
    made.begin()
    made.main.dlopen("liba.so")
    made.report()
    assert told(made.events) == [
        "open liba.so: loaded + liba.so libb.so",
        "in 1: open libx.so: loaded + libx.so",
    ]
    assert place(made.events[1].header.caller) == "libb.so:code"


def test_what_libc_opens_for_itself_is_libcs(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("libx.so", by_libc=True)
    made.main.dlclose(handle, by_libc=True)
    made.report()
    assert told(made.events) == [
        "by libc: open libx.so: loaded + libx.so",
        "by libc: close libx.so 1: unloads - libx.so",
    ]
    assert [place(event.header.caller) for event in made.events] == ["main:main", "main:main"]


def test_a_failed_open_that_makes_the_collector_find_something(unlocked: Way) -> None:
    made = script(unlocked)
    handle = made.main.dlopen("libx.so")
    made.library("libx.so").opencount = 0
    made.begin()

    def fail() -> int:
        made.process.libraries.remove(made.library("libx.so"))
        return 0

    assert handle
    made.main.dlopen("libmissing.so", work=fail)
    made.report()
    assert told(made.events) == ["open libmissing.so: failed - libx.so"]


def test_a_name_that_cannot_be_read(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen("?")
    made.target.forget(made.target.string(b"libx.so"), 0x100)
    made.main.dlopen("libx.so")
    made.report()
    assert told(made.events) == ["open ?: failed", "open ?: loaded libx.so + libx.so"]
    assert [event.requested for event in made.events if isinstance(event, Open)] == ["?", None]


def test_a_namespace_of_its_own_comes_and_goes(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    first = made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    assert made.loaded(1) == ["libspace.so", "libc.so.6", "ld.so"]
    counts = made.main.dlopen("libspace.so", namespace=1)
    assert counts == first
    made.main.dlclose(first)
    made.main.dlclose(first)
    second = made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    made.main.dlclose(second)
    made.report()
    # ld.so's entry in a namespace stands for ld.so, which stays: it is never told.
    assert told(made.events) == [
        "open libspace.so: loaded + libc.so.6 libspace.so",
        "open libspace.so: already-loaded",
        "close libspace.so 2: keeps",
        "close libspace.so 1: unloads - libc.so.6 libspace.so",
        "open libspace.so: loaded + libc.so.6 libspace.so",
        "close libspace.so 1: unloads - libc.so.6 libspace.so",
    ]
    assert [event.requested_namespace for event in made.events if isinstance(event, Open)] == [-1, 1, -1]
    assert {account.namespace for account in made.report().library_totals} == {1, 2}


# -- closes ---------------------------------------------------------------------------------------------------


def test_a_close_lowers_the_count_and_the_last_one_unloads(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("liba.so")
    made.main.dlopen("liba.so")
    made.main.dlclose(handle)
    made.main.dlclose(handle)
    assert counted(made) == {
        "opens": 2,
        "closes": 2,
        "closes_that_unloaded": 1,
        "libraries_unloaded": 2,
        "closes_predicted_exactly": 2,
        "closes_compared": 2,
    }
    assert told(made.events)[2:] == ["close liba.so 2: keeps", "close liba.so 1: unloads - liba.so libb.so"]
    close = made.events[3]
    assert isinstance(close, Close)
    assert (close.handle, close.predicted_exactly) == (handle, True)


def test_a_last_close_that_keeps_says_what_stays_and_why(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    first = made.main.dlopen("liba.so")
    other = made.main.dlopen("libc1.so")
    below = made.main.dlopen("libb.so")
    made.main.dlclose(below)
    made.main.dlclose(first)
    report = made.report()
    assert told(made.events)[3:] == [
        "close libb.so 1: keeps; stays libb.so",
        "close liba.so 1: unloads - liba.so; stays libb.so",
    ]
    (kept,) = report.kept
    assert (kept.library.name, kept.times_kept) == ("libb.so", 2)
    assert [hold.chain for hold in kept.library.holds] == [("libc1.so", "libb.so")]
    made.main.dlclose(other)
    made.report()
    assert told(made.events)[-1] == "close libc1.so 1: unloads - libb.so libc1.so"
    assert [verdict.chain for verdict in made.report().kept[0].library.holds] == [("libc1.so", "libb.so")]


def test_a_close_of_what_is_nodelete_returns_early(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("libpinned.so")
    made.main.dlclose(handle)
    made.main.dlclose(handle)
    made.report()
    assert told(made.events) == [
        "in 1: pin libpinned.so: elf-flag",
        "open libpinned.so: loaded + libpinned.so",
        "close libpinned.so 1: no-effect; stays libpinned.so",
        "close libpinned.so 1: no-effect; stays libpinned.so",
    ]
    (account,) = made.report().library_totals
    assert (account.closes_without_effect, account.open_count_now) == (2, 1)


def test_a_close_of_no_link_map_has_ended_where_that_is_seen() -> None:
    made = Script(Library("libx.so"))
    made.begin()
    made.main.dlclose(NO_HANDLE)
    made.main.dlopen("libx.so")
    assert told(made.events) == ["close ? 0: not-open"]
    made.main.begin_close(0)
    # SIGSEGV in _dl_close: the debugger stops there, and then the process is gone.
    report = made.report()
    assert told(report.end_not_seen) == ["close ? 0: not-open; not seen to end"]
    made.end("the process ended")
    close = made.events[-1]
    assert isinstance(close, Close)
    assert (close.handle, close.ended) == (0, False)
    document = json.loads(dump_event(close))
    assert (document["handle"], document["unloaded"], document["predicted_exactly"]) == ("0x0", None, None)
    report = made.report()
    assert [each.handle for each in report.closes_not_open] == [NO_HANDLE, 0]
    assert (report.totals.closes, report.totals.end_not_seen) == (2, 1)


def test_a_close_of_what_is_not_open_is_told_and_counted_apart(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("liba.so")
    assert made.main.dlclose(made.handle("libb.so")) == -1
    made.main.dlclose(handle)
    assert made.main.dlclose(handle) == -1
    report = made.report()
    assert told(made.events) == [
        "open liba.so: loaded + liba.so libb.so",
        "close libb.so 0: not-open; stays libb.so",
        "close liba.so 1: unloads - liba.so libb.so",
        "close ? 0: not-open",
    ]
    assert [close.handle for close in report.closes_not_open] == [made.handle("libb.so"), handle]
    (account,) = report.library_totals
    assert [calls.total for calls in account.closes_by_caller] == [1]


def test_a_destructor_that_closes_is_within_the_close(in_rtld: Way) -> None:
    made = script(in_rtld)
    other = made.main.dlopen("libx.so")
    made.destructors["liba.so"] = lambda thread: thread.dlclose(other)
    made.begin()
    handle = made.main.dlopen("liba.so")
    made.main.dlclose(handle)
    assert counted(made) == {
        "opens": 1,
        "closes": 2,
        "closes_nested": 1,
        "closes_that_unloaded": 1,
        "libraries_unloaded": 3,
        "closes_predicted_exactly": 1,
        "closes_compared": 2,
    }
    assert told(made.events)[1:] == [
        "close liba.so 1: unloads - liba.so libb.so, then - libx.so",
        "in 2: close libx.so 1: deferred, for the outer one - libx.so",
    ]
    assert place(made.events[2].header.caller) == "liba.so:code"


def test_a_destructor_that_opens_and_closes_again(in_rtld: Way) -> None:
    made = script(in_rtld)

    def work(thread: Thread) -> None:
        thread.dlclose(thread.dlopen("libx.so"))

    made.destructors["liba.so"] = work
    made.begin()
    made.main.dlclose(made.main.dlopen("liba.so"))
    made.report()
    assert told(made.events)[1:] == [
        "in 2: open libx.so: loaded + libx.so",
        "close liba.so 1: unloads - liba.so libb.so, then - libx.so",
        "in 2: close libx.so 1: deferred, for the outer one - libx.so",
    ]
    assert made.report().closes_mispredicted == ()


def test_libraries_whose_destructors_can_close_others_are_named(in_rtld: Way) -> None:
    made = Script(Library("liba.so", imports={"dlclose": "libc.so.6"}), Library("libb.so"), in_rtld=in_rtld)
    made.begin()
    made.main.dlclose(made.main.dlopen("liba.so"))
    made.main.dlclose(made.main.dlopen("libb.so"))
    made.report()
    assert [event.may_unload_more for event in made.events if isinstance(event, Close)] == [("liba.so",), ()]


def test_the_same_library_at_the_same_place_is_another_instance(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    for _ in range(3):
        handle = made.main.dlopen("libx.so")
        made.main.dlclose(handle)
    assert counted(made) == {
        "opens": 3,
        "closes": 3,
        "closes_that_unloaded": 3,
        "libraries_unloaded": 3,
        "closes_predicted_exactly": 3,
        "closes_compared": 3,
    }


def test_another_library_whose_map_lies_where_one_lay(in_rtld: Way) -> None:
    made = script(in_rtld)
    handle = made.main.dlopen("libx.so")
    made.begin()
    made.main.dlclose(handle)
    # malloc gives the same block to the next map.
    made.process.bases["liby.so"] = made.process.bases["libx.so"] + 0x100_0000
    made.process.maps["liby.so"] = handle
    assert made.main.dlopen("liby.so") == handle
    made.main.dlclose(handle)
    made.report()
    assert told(made.events) == [
        "close libx.so 1: unloads - libx.so",
        "open liby.so: loaded + liby.so",
        "close liby.so 1: unloads - liby.so",
    ]


# -- which file it was ----------------------------------------------------------------------------------------


def build_id(name: str) -> str:
    """Return the build-id that a synthetic library has."""
    return name.encode().ljust(20, b".").hex()


def test_what_came_and_what_has_gone_tell_their_build_ids(in_rtld: Way) -> None:
    made = script(in_rtld)
    handle = made.main.dlopen("liba.so")
    made.main.dlopen("liby.so")
    made.library("liby.so").opencount = 0  # garbage that no prediction names
    made.begin()
    made.main.dlopen("libx.so")
    made.main.dlclose(handle)
    made.report()
    opened, closed = made.events
    assert isinstance(opened, Open)
    assert isinstance(closed, Close)
    assert [each.build_id for each in opened.loaded] == [build_id("libx.so")]
    assert closed.library is not None
    assert closed.library.build_id == build_id("liba.so")
    gone = [("liba.so", build_id("liba.so")), ("libb.so", build_id("libb.so")), ("liby.so", build_id("liby.so"))]
    assert [(each.name, each.build_id) for each in closed.unloaded or ()] == gone
    assert closed.predicted_exactly


def test_a_file_that_was_built_anew_and_lies_where_the_old_one_lay_has_its_own_build_id(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlclose(made.main.dlopen("libx.so"))
    made.known["libx.so"].data = {NOTE + 16: b"built once more, now"}
    made.main.dlclose(made.main.dlopen("libx.so"))
    made.report()
    assert told(made.events) == ["open libx.so: loaded + libx.so", "close libx.so 1: unloads - libx.so"] * 2
    found = [event.library.build_id for event in made.events if event.library is not None]
    assert found == [build_id("libx.so")] * 2 + [b"built once more, now".hex()] * 2


def test_a_library_without_a_build_id_or_without_an_image_to_read(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.known["libx.so"].data = {NOTE + 8: b"\7"}  # a note of another type
    made.begin()
    made.main.dlclose(made.main.dlopen("libx.so"))
    handle = made.main.dlopen("liby.so")
    made.target.forget(made.process.base(made.library("liby.so")), 0x1000)
    made.main.dlclose(handle)
    made.report()
    assert counted(made) == {
        "opens": 2,
        "closes": 2,
        "closes_that_unloaded": 2,
        "libraries_unloaded": 2,
        "closes_predicted_exactly": 2,
        "closes_compared": 2,
    }
    assert {event.library.build_id for event in made.events if event.library} == {None}


@pytest.mark.parametrize("limit", [0, 16_384])
def test_build_ids_of_what_has_gone_are_not_kept_for_ever(
    limit: int, in_rtld: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlwhy.common.linux.state.build_ids.MAX_LIBRARIES", limit)
    made = script(in_rtld)
    made.begin()
    for _ in range(2):
        made.main.dlclose(made.main.dlopen("liba.so"))
    assert counted(made) == {
        "opens": 2,
        "closes": 2,
        "closes_that_unloaded": 2,
        "libraries_unloaded": 4,
        "closes_predicted_exactly": 2,
        "closes_compared": 2,
    }
    known = made.tracer._snapshot.process._build_ids._known
    assert set(known.values()) <= {build_id(name) for name in made.loaded()}


# -- when an end is seen --------------------------------------------------------------------------------------


def test_at_a_stop_what_has_returned_is_over_and_what_has_not_is_not(unlocked: Way) -> None:
    made = script(unlocked)
    made.begin()
    handle = made.main.dlopen("liba.so")
    call = made.main.begin_close(handle)
    assert told(made.report().end_not_seen) == ["close liba.so 1: unloads - liba.so libb.so; not seen to end"]
    assert told(made.events) == ["open liba.so: loaded + liba.so libb.so"]
    call.end()
    assert made.report().end_not_seen == ()
    assert told(made.events)[1:] == ["close liba.so 1: unloads - liba.so libb.so"]


def test_where_the_stack_pointer_is_not_known_the_return_address_tells(unlocked: Way) -> None:
    made = script(unlocked)
    made.begin()
    call = made.main.begin_open("libmissing.so")
    made.target.stacks[4711] = None
    assert len(made.report().end_not_seen) == 1
    call.end()
    made.main.clobber()
    made.target.stacks[4711] = None
    assert made.report().end_not_seen == ()
    assert told(made.events) == ["open libmissing.so: failed"]


def test_a_call_that_was_left_by_an_exception_is_over_when_the_thread_comes_again(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("libx.so")
    made.main.begin_open("liba.so").leave()
    made.main.dlclose(handle)
    made.report()
    assert told(made.events) == [
        "open libx.so: loaded + libx.so",
        "open liba.so: failed",
        "close libx.so 1: unloads - libx.so",
    ]


def test_a_thread_that_a_signal_brings_to_the_breakpoint_twice_closes_once(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("libx.so")
    made.main.dlopen("libx.so")
    made.main.begin_close(handle).leave()
    made.main.dlclose(handle)
    made.main.dlclose(handle)
    assert counted(made)["closes"] == 2
    assert told(made.events)[2:] == ["close libx.so 2: keeps", "close libx.so 1: unloads - libx.so"]


def test_a_close_from_the_same_place_with_another_handle_is_another_close(unlocked: Way) -> None:
    made = script(unlocked)
    made.begin()
    first, second = made.main.dlopen("libx.so"), made.main.dlopen("liby.so")
    made.main.begin_close(first).leave()
    made.main.dlclose(second)
    made.report()
    # The first one did nothing as far as can be seen: what was predicted of it is wrong, and is told so.
    assert told(made.events)[2:] == [
        "close libx.so 1: unloads - libx.so; mistaken in libx.so",
        "close liby.so 1: unloads - liby.so",
    ]


def test_a_call_whose_thread_has_ended_is_over(unlocked: Way) -> None:
    made = script(unlocked)
    made.begin()
    made.thread(4712).begin_open("libx.so")
    made.target.stacks[4712] = None
    assert made.report().end_not_seen == ()
    assert told(made.events) == ["open libx.so: failed"]


# -- the end --------------------------------------------------------------------------------------------------


def test_the_end_of_the_process_while_a_close_goes_on(unlocked: Way) -> None:
    made = script(unlocked)
    made.begin()
    call = made.main.begin_close(made.main.dlopen("liba.so"))
    assert call.reaction is Reaction.RESUME
    made.end("the process was killed")
    report = made.report()
    assert (report.watching, report.end_reason) == (False, "the process was killed")
    assert told(report.end_not_seen) == ["close liba.so 1: unloads - liba.so libb.so; not seen to end"]
    assert report.totals.end_not_seen == 1
    assert made.target.handlers == {}
    assert told(made.events)[-1] == "close liba.so 1: unloads - liba.so libb.so; not seen to end"
    assert made.report() == report


def test_a_debugger_that_does_not_tell_of_the_end(in_rtld: Way) -> None:
    made = script(in_rtld)
    tracer = made.begin()
    assert tracer.is_watching()
    made.target.alive = False
    assert not tracer.is_watching()
    assert made.report().end_reason == EXITED


def test_a_stopped_trace_leaves_nothing_behind(in_rtld: Way) -> None:
    made = script(in_rtld)
    tracer = made.begin(tls=True)
    made.main.dlopen("libx.so")
    made.refresh()
    tracer.stop()
    assert made.target.handlers == {}
    assert told(made.events) == ["open libx.so: loaded + libx.so"]
    assert tracer.report().end_reason == "it was stopped"
    made.end("the process ended")
    tracer.stop()
    assert tracer.report().end_reason == "it was stopped"


def test_another_program_ends_the_trace(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen("libx.so")
    made.execute()
    made.main.dlopen("liba.so")
    report = made.report()
    assert (report.watching, report.end_reason) == (False, ANOTHER_PROGRAM)
    assert told(made.events) == ["open libx.so: None"]
    assert made.target.handlers == {}


def test_new_symbols_of_the_same_program_are_no_other_program(in_rtld: Way) -> None:
    made = script(in_rtld)
    tracer = made.begin()
    made.target.tell_end(ANOTHER_PROGRAM)
    assert tracer.is_watching()
    made.execute()
    made.target.tell_end(ANOTHER_PROGRAM)
    assert not tracer.is_watching()


def test_at_exit_finalisers_close_and_no_count_is_unseen(in_rtld: Way) -> None:
    made = script(in_rtld)
    handle = made.main.dlopen("libx.so")
    made.begin()
    made.main.dlopen("liba.so")
    made.destructors["liba.so"] = lambda thread: thread.dlclose(handle)
    made.main.exit()
    report = made.report()
    assert told(made.events) == [
        "open liba.so: loaded + liba.so libb.so",
        "at exit: close libx.so 2: keeps",
    ]
    assert (report.totals.opens_unseen, report.totals.closes_unseen, report.totals.end_not_seen) == (0, 0, 0)
    assert report.end_reason == "the process ended"


def test_counts_that_change_without_a_call_are_unseen(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.main.dlopen("libx.so")
    made.begin()
    made.main.dlclose(NO_HANDLE)
    made.library("libx.so").opencount = 4
    made.main.dlclose(NO_HANDLE)
    made.library("libx.so").opencount = 2
    made.main.dlclose(NO_HANDLE)
    made.process.libraries.remove(made.library("libx.so"))
    totals = made.report().totals
    assert (totals.opens_unseen, totals.closes_unseen) == (3, 4)


def test_libraries_that_come_and_go_between_two_events_are_unseen(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlclose(NO_HANDLE)
    made.process.load_adds += 2
    made.main.dlclose(made.main.dlopen("libx.so"))
    assert (made.report().totals.opens_unseen, made.report().totals.closes_unseen) == (2, 2)
    # An open that fails can have loaded what it has unloaded.
    made.main.dlopen("libmissing.so")
    made.process.load_adds += 6
    made.main.dlclose(NO_HANDLE)
    made.main.exit()
    assert made.report().totals.opens_unseen == 2


def test_where_loads_are_not_counted_none_is_said_to_be_unseen(in_rtld: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphReader, "read_load_count", lambda self: None)
    made = script(in_rtld)
    made.begin()
    made.main.dlclose(NO_HANDLE)
    made.process.load_adds += 2
    made.main.dlclose(made.main.dlopen("libx.so"))
    assert made.report().totals.opens_unseen == 0


def test_libraries_that_come_and_go_at_exit_are_unseen(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.process.load_adds += 1
    made.main.exit()
    totals = made.report().totals
    assert (totals.opens_unseen, totals.closes_unseen) == (1, 1)


# -- several threads ------------------------------------------------------------------------------------------


def test_two_threads_that_open_at_once(unlocked: Way) -> None:
    made = script(unlocked)
    other = made.thread(4712)
    made.begin()
    first, second = made.main.begin_open("libx.so"), other.begin_open("liby.so")
    second.end()
    first.end()
    assert counted(made) == {"opens": 2}
    events = [event for event in made.events if isinstance(event, Open)]
    assert [(event.requested, event.library and event.library.name) for event in events] == [
        ("libx.so", "libx.so"),
        ("liby.so", "liby.so"),
    ]
    assert all(event.header.raced for event in events)
    assert [event.header.tid for event in events] == [4711, 4712]
    assert place(events[1].header.caller) == "main:worker"


def test_two_threads_that_close_at_once(unlocked: Way) -> None:
    made = script(unlocked)
    other = made.thread(4712)
    first, second = made.main.dlopen("libx.so"), made.main.dlopen("liby.so")
    made.begin()
    one, two = made.main.begin_close(first), other.begin_close(second)
    two.end()
    one.end()
    report = made.report()
    assert report.closes_mispredicted == ()
    assert (report.totals.closes_raced, report.totals.libraries_unloaded, report.totals.end_not_seen) == (2, 2, 0)
    assert told(made.events) == [
        "raced: close libx.so 0: None",
        "raced: close liby.so 0: None",
    ]


def test_a_close_that_waited_while_another_thread_opened_what_it_closes(unlocked: Way) -> None:
    made = script(unlocked)
    other = made.thread(4712)
    handle = made.main.dlopen("liba.so")
    made.begin()
    waiting = made.main.begin_close(handle)
    other.dlopen("liba.so")
    other.dlopen("libx.so")
    waiting.end()
    made.report()
    assert sorted(told(made.events)) == [
        "raced: close liba.so 0: None",
        "raced: open liba.so: opened",
        "raced: open libx.so: opened",
    ]


def test_an_open_whose_count_another_thread_took_back_before_it_was_looked_at(unlocked: Way) -> None:
    made = script(unlocked)
    other = made.thread(4712)
    handle = made.main.dlopen("libx.so")
    made.begin()
    one, two = made.main.begin_open("libx.so"), other.begin_close(handle)
    one.end()
    two.end()
    made.report()
    assert told(made.events) == [
        "raced: open libx.so: opened",
        "raced: close libx.so 0: None",
    ]
    assert made.report().closes_mispredicted == made.report().closes_not_open == ()


def test_a_probe_that_raced_can_have_found_the_library_or_not(unlocked: Way) -> None:
    made = script(unlocked)
    other = made.thread(4712)
    made.begin()
    one, two = made.main.begin_open("libx.so"), other.begin_open("liba.so", RTLD_NOLOAD, work=lambda: 0)
    two.end()
    one.end()
    assert counted(made) == {"opens": 2}
    assert told(made.events) == ["raced: open libx.so: opened", "raced: open liba.so: None"]


def test_a_thread_inside_a_constructor_while_another_one_waits(unlocked: Way) -> None:
    made = script(unlocked)
    other = made.thread(4712)
    waiting = []

    def construct(thread: Thread) -> None:
        waiting.append(other.begin_open("liby.so"))
        thread.dlopen("libx.so")

    made.constructors["liba.so"] = construct
    made.begin()
    made.main.dlopen("liba.so")
    waiting[0].end()
    made.report()
    events = [event for event in made.events if isinstance(event, Open)]
    assert [(event.requested, event.header.within_event) for event in sorted(events)] == [
        ("liba.so", None),
        ("liby.so", None),
        ("libx.so", 1),
    ]
    assert all(event.header.raced for event in events)
    # Which of them has loaded what cannot be told; that each has opened what it requested can.
    assert [event.result.value for event in events] == ["opened"] * 3
    assert [event.library and event.library.name for event in events] == [event.requested for event in events]
    assert [json.loads(dump_event(event))["loaded"] for event in events] == [None] * 3


def test_a_library_that_becomes_nodelete_while_threads_race_is_nobodys(unlocked: Way) -> None:
    made = script(unlocked)
    made.begin()
    one, two = made.main.begin_open("libpinned.so"), made.thread(4712).begin_open("libx.so")
    one.end()
    two.end()
    made.report()
    (pin,) = (event for event in made.events if isinstance(event, Pin))
    assert (pin.header.raced, pin.header.within_event, pin.header.caller, pin.looked_up_by) == (True, None, None, None)
    assert (pin.library and pin.library.name, pin.origin) == ("libpinned.so", "elf-flag")


@pytest.mark.parametrize(
    ("requested", "found"),
    [
        (None, "main"),
        ("libalias.so.1", "libx.so"),
        ("/opt/app/libx.so", "libx.so"),
        ("libother.so", None),
    ],
)
def test_what_an_open_that_raced_requested_is_found_by_its_names(
    requested: Optional[str], found: Optional[str], unlocked: Way
) -> None:
    made = script(unlocked)
    made.known["libx.so"].names = ["libalias.so.1"]
    handle = made.main.dlopen("libx.so")
    made.begin()
    one, two = made.main.begin_open(requested, work=lambda: handle), made.thread(4712).begin_open("liby.so")
    one.end()
    two.end()
    made.report()
    (event,) = (event for event in made.events if isinstance(event, Open) and event.requested != "liby.so")
    assert (event.library and event.library.name) == found


def test_an_open_that_raced_and_requested_what_two_libraries_are_called_has_not_failed(unlocked: Way) -> None:
    made = script(unlocked)
    made.known["libx.so"].names = made.known["liby.so"].names = ["libalias.so.1"]
    handle = made.main.dlopen("libx.so")
    made.main.dlopen("liby.so")
    made.begin()
    one, two = made.main.begin_open("libalias.so.1", work=lambda: handle), made.thread(4712).begin_open("liba.so")
    one.end()
    two.end()
    made.report()
    # Where errors are seen there was none.
    result = "None" if unlocked is Way.EXPORTED else "opened"
    assert sorted(told(made.events)) == ["raced: open liba.so: opened", f"raced: open libalias.so.1: {result}"]


def test_an_open_that_raced_and_raised_an_error_need_not_have_failed() -> None:
    made = script()
    made.main.dlopen("libx.so")
    made.begin()

    def refuse() -> int:
        made.raise_error(made.main, "libx.so", "undefined symbol: function")
        return 0

    one, two = made.main.begin_open("libx.so", work=refuse), made.thread(4712).begin_open("liby.so")
    one.end()
    two.end()
    made.report()
    # The error can be one of a constructor: the library is there.
    assert sorted(told(made.events)) == ["raced: open libx.so: None", "raced: open liby.so: opened"]


def test_what_is_unseen_is_not_counted_while_threads_race(unlocked: Way) -> None:
    made = script(unlocked)
    other = made.thread(4712)
    made.main.dlopen("libx.so")
    made.begin()
    one, two = made.main.begin_open("libx.so"), other.begin_open("liby.so")
    two.end()
    one.end()
    made.library("libx.so").opencount += 1
    assert made.report().totals.opens_unseen == 0
    made.library("libx.so").opencount += 1
    made.main.dlclose(NO_HANDLE)
    assert made.report().totals.opens_unseen == 1


class Meanwhile:
    """Takes steps of another thread while a hit is handled: each before the look at the process with its number."""

    def __init__(self, made: Script, steps: dict[int, Callable[[], object]]) -> None:
        self.steps = steps
        self._made = made
        self._looks = 0
        made.target.meanwhile = self

    def __call__(self) -> None:
        self._looks += 1
        step = self.steps.pop(self._looks, None)
        if step is not None:
            self._made.target.meanwhile = lambda: None
            step()
            self._made.refresh()
            self._made.target.meanwhile = self

    def end(self) -> bool:
        """Take the other steps; return True if there were none."""
        self._made.target.meanwhile = lambda: None
        was_done = not self.steps
        for _, step in sorted(self.steps.items()):
            step()
        return was_done


def judge_opens(made: Script) -> None:
    """Hold all opens against what they requested, and the counts against what was done: all calls were seen."""
    report = made.report()
    events = [event for event in made.events if isinstance(event, Open)]
    assert all(event.library and event.library.name == event.requested for event in events), told(made.events)
    assert (report.totals.opens_unseen, report.totals.closes_unseen, report.totals.end_not_seen) == (0, 0, 0)
    assert report.closes_mispredicted == report.closes_not_open == ()
    assert report.opens_failed == ()


@pytest.mark.parametrize("name", ["libx.so", "liba.so"])
def test_an_open_that_returns_while_the_hit_of_another_thread_is_handled(name: str, unlocked: Way) -> None:
    # gdb lets the other threads run meanwhile.
    was_done, look = True, 0
    while was_done:
        look += 1
        made = script(unlocked)
        made.main.dlopen("libx.so")
        made.main.dlopen("liby.so")
        made.begin()
        other = made.thread(4712).begin_open(name)
        meanwhile = Meanwhile(made, {look: other.end})
        opening = made.main.begin_open("liby.so")
        was_done = meanwhile.end()
        handle = opening.end()
        judge_opens(made)
        made.main.dlclose(handle)
        judge_opens(made)
    assert look > 5


def test_a_close_that_goes_on_while_the_hit_of_another_thread_is_handled(unlocked: Way) -> None:
    def close_in_steps(first: int, second: int) -> bool:
        made = script(unlocked)
        thread = made.thread(4712)
        handle = made.main.dlopen("liba.so")
        made.main.dlopen("liby.so")
        made.begin()
        closing = thread.begin_close(handle)

        def begin() -> None:
            made.process.lock = (thread.lwp, 1)
            made.library("liba.so").opencount = 0

        def end() -> None:
            for name in ("liba.so", "libb.so"):
                made.process.libraries.remove(made.library(name))
            made.process.lock = (0, 0)
            closing.leave()

        meanwhile = Meanwhile(made, {first: begin, second: end})
        opening = made.main.begin_open("liby.so")
        was_done = meanwhile.end()
        opening.end()
        judge_opens(made)
        assert made.report().totals.libraries_unloaded == 2, told(made.events)
        return was_done

    first = 1
    while close_in_steps(first, first + 1):
        second = first + 2
        while close_in_steps(first, second):
            second += 1
        first += 1
    assert first > 5


@pytest.mark.parametrize("names", [[], ["libalias.so.1"]])
def test_a_count_that_rises_is_not_an_opens_that_requests_something_else(names: list[str], in_rtld: Way) -> None:
    made = script(in_rtld)
    made.known["libx.so"].names = names
    handle = made.main.dlopen("libx.so")
    made.main.dlopen("liby.so")
    made.begin()

    def work() -> int:
        with made.locked(made.main):
            made.take_lock(made.main, DL_OPEN, 0)
            made.library("libx.so").opencount += 1
        return handle

    made.main.dlopen("libalias.so.1", work=work)
    report = made.report()
    # Without such a name it may be that of an open that was not seen, or an auditor may have changed the request.
    result = "already-loaded libx.so" if names else "None"
    assert told(made.events) == [f"open libalias.so.1: {result}"]
    assert report.totals.opens_unseen == 0


def test_a_count_that_rises_while_an_open_gets_its_own_library_is_of_one_that_was_not_seen(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.main.dlopen("libx.so")
    made.begin()

    def construct(_: Thread) -> None:
        made.library("libx.so").opencount += 1

    made.constructors["liby.so"] = construct
    made.main.dlopen("liby.so")
    report = made.report()
    assert told(made.events) == ["open liby.so: loaded + liby.so"]
    assert report.totals.opens_unseen == 1


# -- several threads, seen where they have the lock -----------------------------------------------------------


def test_who_has_the_lock_has_waited_for_all_before() -> None:
    made = script(Way.LOCKED)
    other = made.thread(4712)
    handle = made.main.dlopen("liba.so")
    made.begin()
    closing, opening = made.main.begin_close(handle), other.begin_open("liba.so")
    again = made.thread(4713).begin_open("libx.so")
    opening.end()
    closing.end()
    again.end()
    other.dlclose(handle)
    report = made.report()
    # In the order in which they took the lock, not in which they came to it; each as if it were alone.
    assert told(made.events) == [
        "open liba.so: already-loaded",
        "close liba.so 2: keeps",
        "open libx.so: loaded + libx.so",
        "close liba.so 1: unloads - liba.so libb.so",
    ]
    assert [event.header.tid for event in made.events] == [4712, 4711, 4713, 4712]
    assert (report.totals.closes_raced, report.totals.closes_predicted_exactly) == (0, 2)
    assert place(made.events[2].header.caller) == "main:worker"


def test_an_open_that_waits_while_a_constructor_opens_is_not_within_it() -> None:
    made = script(Way.LOCKED)
    waiting = []

    def construct(thread: Thread) -> None:
        waiting.append(made.thread(4712).begin_open("liby.so"))
        thread.dlopen("libx.so")

    made.constructors["liba.so"] = construct
    made.begin()
    made.main.dlopen("liba.so")
    waiting[0].end()
    made.report()
    assert told(sorted(made.events)) == [
        "open liba.so: loaded + liba.so libb.so",
        "in 1: open libx.so: loaded + libx.so",
        "open liby.so: loaded + liby.so",
    ]


def test_an_open_that_fails_before_it_takes_the_lock_is_told() -> None:
    made = script(Way.LOCKED)
    made.begin()

    def refuse() -> int:
        made.raise_error(made.main, "libx.so", "invalid mode for dlopen()", code=22)
        return 0

    for _ in range(2):
        made.main.begin_open("libx.so", 0, work=refuse).end()
    made.main.dlopen("liby.so")
    made.main.begin_open("libx.so", 0, work=refuse).end()
    report = made.report()
    assert told(made.events) == [
        "open libx.so: failed",
        "open libx.so: failed",
        "open liby.so: loaded + liby.so",
        "open libx.so: failed",
    ]
    error = "libx.so: invalid mode for dlopen(): Invalid argument"
    assert [(each.error, each.errno) for each in report.opens_failed] == [(error, 22)] * 3


def test_an_open_that_waits_for_the_lock_at_the_end_has_no_result() -> None:
    made = script(Way.LOCKED)
    made.begin()
    made.main.begin_open("libx.so")
    made.end("the process ended")
    assert told(made.events) == ["open libx.so: None"]
    assert made.report().totals.end_not_seen == 1


def test_a_signal_at_the_breakpoints_of_an_open_makes_it_no_second_one() -> None:
    made = script(Way.LOCKED)
    made.begin()
    made.main.begin_open("libx.so", work=lambda: 0).leave()
    opening = made.main.begin_open("libx.so")
    opening.end()
    made.report()
    assert told(made.events) == ["open libx.so: loaded + libx.so"]


def test_a_signal_behind_the_lock_of_an_open_makes_it_no_second_one() -> None:
    made = script(Way.LOCKED)
    made.begin()

    def arrive_twice() -> int:
        made.take_lock(made.main, DL_OPEN, 0)
        return made.open(made.main, "libx.so", RTLD_NOW, 0)

    made.main.begin_open("libx.so", work=arrive_twice).end()
    made.report()
    assert told(made.events) == ["open libx.so: loaded + libx.so"]


def test_an_open_that_was_on_its_way_to_the_lock_when_the_trace_began() -> None:
    made = script(Way.LOCKED)
    opening = made.main.begin_open("libx.so")
    made.begin()
    opening.end()
    made.report()
    # What it requested was in registers that the code behind the lock no longer has.
    assert told(made.events) == ["open ?: loaded libx.so + libx.so"]
    assert place(made.events[0].header.caller) == "main:main"


def test_what_is_not_watched_outside_the_loader_is_said_when_breakpoints_leave_it() -> None:
    made = script(Way.LOCKED)
    libc = made.library("libc.so.6")
    libc.functions = {name: 8 for name in ("do_dlopen", "do_dlclose", *LIBC_FUNCTIONS) if name != "dlclose"}
    made.target.keeps_breakpoints = False
    made.begin()
    assert made.report().problems == ()
    made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    assert [problem.where for problem in made.report().problems] == ["dlclose"]


def test_breakpoints_leave_the_loader_before_a_namespace_comes() -> None:
    made = script(Way.LOCKED)
    made.target.keeps_breakpoints = False
    made.begin()
    made.main.dlclose(made.main.dlopen("libx.so"))
    waiting = made.thread(4712).begin_open("liby.so")
    handle = made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    waiting.end()
    made.main.dlclose(handle)
    report = made.report()
    assert report.closes_by.startswith("dlclose")
    assert report.closes_by.endswith("but not those by code in namespaces that came later")
    assert (report.totals.opens, report.totals.closes, report.totals.end_not_seen) == (3, 2, 0)


# -- what is predicted ----------------------------------------------------------------------------------------


def test_a_close_within_another_namespace_that_no_breakpoint_sees_is_explained_afterwards() -> None:
    made = script(in_rtld=False)
    outer = made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    inner = made.main.dlopen("libx.so", namespace=1)
    # libc of that namespace is not libc of the first one.
    made.destructors["libspace.so"] = lambda thread: made.close(thread, inner)
    made.begin()
    made.main.dlclose(NO_HANDLE)
    made.main.dlclose(outer)
    report = made.report()
    assert told(made.events)[1:] == ["close libspace.so 1: unloads - libc.so.6 libspace.so, then - libx.so"]
    assert (report.totals.closes_unseen, report.closes_mispredicted) == (1, ())


def test_what_stays_is_judged_anew_when_something_else_keeps_it(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    other = made.main.dlopen("libc1.so")
    made.main.dlclose(made.main.dlopen("liba.so"))
    made.main.dlclose(made.main.dlopen("liba.so"))
    made.main.dlopen("libb.so")
    made.main.dlclose(other)
    made.report()
    chains = [
        [hold.chain or hold.kind.value for hold in library.holds]
        for event in made.events
        if isinstance(event, Close)
        for library in event.kept or ()
    ]
    assert chains == [[("libc1.so", "libb.so")], [("libc1.so", "libb.so")], ["open-count"]]


def test_what_stays_is_judged_anew_when_what_binds_it_has_changed(in_rtld: Way) -> None:
    made = Script(
        Library("libuser.so", imports={"one": None, "two": None}, bound_to=["libp.so"]),
        Library("libp.so", symbols={"one": (0x2000, 8), "two": (0x2010, 8)}),
        in_rtld=in_rtld,
    )
    made.main.dlopen("libp.so")
    made.main.dlopen("libuser.so")
    made.library("libp.so").opencount = 0
    made.begin()
    user = made.library("libuser.so")
    for bound in ({"one": "libp.so", "two": None}, {"one": "libp.so", "two": None}, {"one": None, "two": "libp.so"}):
        user.imports = bound
        made.main.dlclose(made.main.dlopen("libp.so"))
    made.main.dlopen("libmissing.so")
    symbols = [
        library.holds[0].symbols for event in made.events if isinstance(event, Close) for library in event.kept or ()
    ]
    assert symbols == [("one",), ("one",), ("two",)]


def test_a_library_of_the_start_that_is_closed_stays_as_that(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("libc.so.6")
    made.main.dlclose(handle)
    (kept,) = made.report().kept
    assert [hold.kind.value for hold in kept.library.holds] == ["startup"]
    assert told(made.events)[-1] == "close libc.so.6 1: keeps; stays libc.so.6"


def test_what_goes_with_a_close_need_not_be_what_was_closed(in_rtld: Way) -> None:
    made = script(in_rtld)
    handle = made.main.dlopen("liba.so")
    made.main.dlopen("libx.so")
    made.library("libx.so").opencount = 0  # garbage that no close has collected
    made.library("liba.so").owed = 1
    made.begin()
    made.main.dlclose(handle)
    made.report()
    assert told(made.events) == ["close liba.so 1: keeps - libx.so; stays liba.so libb.so"]


# -- memory that cannot be read -------------------------------------------------------------------------------


def test_lists_that_cannot_be_read_at_an_event_are_a_problem_and_the_trace_goes_on(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen("libx.so")
    made.target.forget(made.process.base(made.library("ld.so")), 0x5000)
    made.main.dlopen("liby.so")
    made.target.heal()
    made.main.dlclose(made.handle("libx.so"))
    report = made.report()
    assert report.watching
    assert {problem.where for problem in report.problems} == {
        "_dl_open in thread 4711" if in_rtld else "dlopen in thread 4711"
    }
    assert told(made.events) == ["open libx.so: loaded + libx.so liby.so", "close libx.so 1: unloads - libx.so"]


def test_what_a_close_does_is_unknown_while_not_all_libraries_can_be_read(in_rtld: Way) -> None:
    made = script(in_rtld)
    handles = [made.main.dlopen(name) for name in ("liba.so", "libx.so", "liby.so")]
    made.begin()
    made.target.forget(made.handle("libx.so"), 8)
    made.main.dlclose(handles[0])
    made.main.dlclose(handles[2])
    made.target.heal()
    made.main.dlclose(handles[1])
    closes = [json.loads(dump_event(event)) for event in made.events if isinstance(event, Close)]
    unknown = ("predicted_outcome", "predicted_unloads", "predicted_by_nested_closes", "predicted_for_outer_close")
    compared = ("may_unload_more", "kept", "predicted_but_kept", "unloaded_but_not_predicted", "predicted_exactly")
    for document, is_unknown in zip(closes, (True, True, False)):
        validator_of("event").validate(document)
        assert {key: document[key] is None for key in (*unknown, *compared)} == dict.fromkeys(
            (*unknown, *compared), is_unknown
        )
    report = made.report()
    assert (report.totals.closes_compared, report.totals.closes_not_predicted) == (1, 2)
    assert report.closes_not_open == report.closes_mispredicted == ()
    assert report.kept == ()
    assert "2 closes: not all libraries could be read" in render(trace_view(report, verbose=False))


def test_what_a_nested_close_adds_is_unknown_while_not_all_libraries_can_be_read(in_rtld: Way) -> None:
    made = script(in_rtld)
    inner, unread = made.main.dlopen("libx.so"), made.main.dlopen("liby.so")

    def close(thread: Thread) -> None:
        made.target.forget(unread, 8)
        thread.dlclose(inner)
        made.target.heal()

    made.destructors["liba.so"] = close
    made.begin()
    made.main.dlclose(made.main.dlopen("liba.so"))
    made.report()
    outer = next(event for event in made.events if isinstance(event, Close) and event.header.within_event is None)
    assert [each.name for each in outer.predicted_unloads or ()] == ["liba.so", "libb.so"]
    assert outer.predicted_by_nested_closes is None


def test_whether_a_library_is_still_there_is_unknown_while_not_all_can_be_read(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.main.dlopen("liba.so")
    made.begin()
    handle = made.main.dlopen("libx.so")
    made.main.dlclose(handle)
    (before, _) = totals_of(made.report())
    assert before == {"liba.so": (1, 1, True), "libx.so": (0, 0, False)}
    made.target.forget(made.handle("liba.so"), 8)
    after, text = totals_of(made.report())
    assert after == {"liba.so": (1, None, None), "libx.so": (0, None, None)}
    assert "liba.so" in text


def totals_of(report: Trace) -> tuple[dict[str, tuple[Any, ...]], str]:
    """Return what JSON says of each library: its count at the start and now, and whether it is loaded; and the text."""
    document = json.loads(json.dumps(trace_document("dltrace", report)))
    VALIDATOR.validate(document)
    keys = ("open_count_at_start", "open_count_now", "loaded_now")
    found = {each["name"]: tuple(each[key] for key in keys) for each in document["library_totals"]}
    return found, render(trace_view(report, verbose=True))


def test_lists_that_cannot_be_read_at_a_stop_or_at_the_exit(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen("libx.so")
    made.target.forget(made.process.base(made.library("ld.so")), 0x5000)
    assert [problem.where for problem in made.report().problems] == ["loader"]
    made.main.call_libc("_exit", 0)
    assert [problem.where for problem in made.report().problems] == ["loader", "_exit in thread 4711"]
    assert told(made.report().end_not_seen) == ["open libx.so: None"]


def test_a_process_whose_random_bytes_cannot_be_read_is_traced_all_the_same(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.target.forget(RANDOM, 16)
    made.begin()
    made.main.dlopen("libx.so")
    made.report()
    assert told(made.events) == ["open libx.so: loaded + libx.so"]


def test_an_event_whose_stack_cannot_be_read(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    handle = made.main.dlopen("libx.so")
    made.target.forget(made.main.sp - 0x1000, 0x2000)
    made.main.dlclose(handle)
    made.target.heal()
    report = made.report()
    if in_rtld:
        # The arguments are in registers; who called is on the stack.
        assert told(made.events)[-1] == "by libc: close libx.so 1: unloads - libx.so"
        assert made.events[-1].header.caller is None
    else:
        assert [problem.where for problem in report.problems] == ["dlclose in thread 4711"]


def test_an_error_in_an_open_whose_stack_could_not_be_read(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    for flags in (RTLD_NOW, RTLD_NOW | RTLD_NOLOAD):
        made.target.forget(made.main.sp - 0x1000, 0x2000)
        opening = made.main.begin_open("libmissing.so", flags)
        made.target.heal()
        opening.end()
    made.main.dlopen("libx.so")
    report = made.report()
    if in_rtld:
        assert told(made.events)[:2] == ["open libmissing.so: failed", "open libmissing.so: not-loaded"]
        # Without the return address it can be the error of a later call, if an open need not raise one.
        errors = [failure.error for failure in report.opens_failed]
        assert errors == ["libmissing.so: cannot open shared object file: No such file or directory"]
    else:
        assert {problem.where for problem in report.problems} == {"dlopen in thread 4711"}


@pytest.mark.parametrize("debugs", [False, True])
def test_a_bug_in_the_trace_itself_costs_one_event(in_rtld: Way, debugs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLWHY_DEBUG", "1" if debugs else "")
    made = script(in_rtld)
    made.begin()
    said: list[str] = []
    made.target.say = said.append  # type: ignore[method-assign, assignment]
    handle = made.main.dlopen("libx.so")
    opening = made.main.begin_open("liby.so")
    with monkeypatch.context() as patched:
        patched.setattr("dlwhy.common.linux.trace.tracer.read_request", None)
        made.thread(4712).begin_open("libmissing.so").leave()
    opening.end()
    made.main.dlclose(handle)
    report = made.report()
    (problem,) = report.problems
    assert problem.where == f"{'_dl_open' if in_rtld else 'dlopen'} in thread 4712"
    assert problem.message.startswith("a bug in dlwhy: TypeError")
    assert [text.startswith("Traceback") for text in said] == [True] * debugs
    # What is lost is that one open; those that went on then end as they do.
    assert told(made.events) == [
        "open libx.so: loaded + libx.so",
        "open liby.so: loaded + liby.so",
        "close libx.so 1: unloads - libx.so",
    ]


def test_another_process_is_selected_at_a_stop(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()

    def refuse(*_: int) -> bytes:
        raise NoTargetError("another process is selected")

    made.target.read = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(NoTargetError):
        made.tracer.report()


def test_problems_are_not_listed_without_end(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.target.forget(made.process.base(made.library("ld.so")), 0x5000)
    for number in range(60):
        made.thread(5000 + number).begin_open("libx.so").leave()
    made.target.heal()
    assert len(made.report().problems) == 50


def test_a_map_that_a_thread_is_just_adding_is_not_taken_for_the_state(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen("liba.so")
    call = made.main.begin_open("libx.so")
    # Another thread comes while the list is shorter than it says.
    head = made.process.base(made.library("ld.so")) + 0x2000
    made.target.overwrite(head + 8, (9).to_bytes(4, "little"))
    made.thread(4712).begin_open("libmissing.so").end()
    made.target.heal()
    call.end()
    made.report()
    events = [
        "open liba.so: loaded + liba.so libb.so",
        "raced: open libx.so: opened",
        "raced: open libmissing.so: failed",
    ]
    if in_rtld == Way.LOCKED:
        # Whoever has the lock sees no change under way: the list is damaged, and who did what is unknown.
        events[:2] = ["raced: open liba.so: opened", "open libx.so: loaded + libx.so"]
    assert sorted(told(made.events)) == sorted(events)


# -- what is asked for ----------------------------------------------------------------------------------------


def test_only_events_about_the_libraries_that_were_asked_for(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin("libb*")
    first = made.main.dlopen("liba.so")
    other = made.main.dlopen("libx.so")
    made.main.dlclose(other)
    made.main.dlclose(first)
    report = made.report()
    assert told(made.events) == ["open liba.so: loaded + liba.so libb.so", "close liba.so 1: unloads - liba.so libb.so"]
    assert [account.name for account in report.library_totals] == ["liba.so"]
    assert (report.totals.opens, report.totals.closes, report.filter) == (1, 1, ("libb*",))


def test_accounts_show_who_opened_and_never_closed(in_rtld: Way) -> None:
    made = script(in_rtld)
    before = made.main.dlopen("libx.so")
    made.begin()
    made.main.dlopen("libx.so")
    made.thread(4712).dlopen("libx.so")
    made.main.dlclose(before)
    (account,) = [each for each in made.report().library_totals if each.name == "libx.so"]
    assert (account.open_count_at_start, account.open_count_now, account.at_start) == (1, 2, False)
    assert {place(calls.caller): calls.total for calls in account.opens_by_caller} == {"main:main": 1, "main:worker": 1}
    assert [calls.total for calls in account.closes_by_caller] == [1]


def test_what_was_loaded_at_the_start_is_said_so(in_rtld: Way) -> None:
    made = script(in_rtld)
    made.begin()
    made.main.dlopen("libc.so.6")
    (account,) = made.report().library_totals
    assert (account.name, account.at_start, account.open_count_at_start, account.open_count_now) == (
        "libc.so.6",
        True,
        0,
        1,
    )


# -- what cannot be traced ------------------------------------------------------------------------------------


def test_a_process_whose_loader_has_no_functions_to_break_at() -> None:
    made = Script()
    made.library("libc.so.6").functions = {}
    made.library("libc.so.6").code = {}
    made.library("ld.so").functions = {}
    made.refresh()
    with pytest.raises(UnsupportedError, match="neither _dl_close nor dlclose can be found"):
        begin(made.target, TraceOptions(), made.events.append, made.stops.append)


def test_without_the_functions_of_libc_itself_those_of_ld_so_do() -> None:
    made = Script(Library("libx.so"), in_rtld=False)
    made.library("libc.so.6").code = {}
    made.begin()
    made.main.dlclose(NO_HANDLE)
    made.main.dlopen("libx.so", by_libc=True)
    made.main.dlopen("libx.so")
    report = made.report()
    assert (report.opens_by, report.closes_by) == ("dlopen and dlmopen", "dlclose")
    assert told(made.events) == ["close ? 0: not-open", "open libx.so: already-loaded"]
    assert report.totals.opens_unseen == 1


def test_the_report_of_a_process_that_opens_nothing(in_rtld: Way) -> None:
    made = script(in_rtld)
    tracer = made.begin()
    report = tracer.report()
    assert report.watching
    assert report.end_reason is None
    assert report.loader.version == "2.40"
    assert report.library_totals == ()
    assert report.duration_seconds >= 0
    assert ("_dl_open" in report.opens_by, "dlopen" in report.opens_by) == (True, not in_rtld)
