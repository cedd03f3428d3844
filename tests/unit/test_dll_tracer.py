"""Is what each load and free of a DLL did told right, whatever the threads of the process do meanwhile?

The process is synthetic, and does what the test says; tests/lab traces real programs in the real engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from dlwhy.common.commands.dlltrace.document import dll_trace_document, dump_dll_event
from dlwhy.common.commands.dlltrace.text import dll_trace_view
from dlwhy.common.errors import LayoutError, UnsupportedError
from dlwhy.common.render.text import render
from dlwhy.common.windows.state import WindowsExamination
from dlwhy.common.windows.trace.events import DllClose, DllOpen, DllTrace
from dlwhy.common.windows.trace.tracer import DllTracer
from dlwhy.tests.schema import VALIDATOR, validator_of
from dlwhy.tests.support.limits import lower
from dlwhy.tests.support.live_windows import CURRENT_PROCESS, NOT_FOUND, SUCCESS, Script, Thread
from dlwhy.tests.support.told import place, told_dlls
from dlwhy.tests.synth.minidump import NTDLL, WIN7, WIN10, WINE, Form, Module
from dlwhy.tests.synth.windows import form_id

OTHER = 0x5C0


def script(form: Form = WIN10, *, imports: Sequence[str] = ()) -> Script:
    """Return a process that can load some DLLs."""
    return Script(
        Module("a.dll", ["b.dll", "c.dll"]),
        Module("b.dll"),
        Module("c.dll"),
        Module("user.dll", ["c.dll"]),
        Module("x.dll"),
        Module("static.dll"),
        Module("freer.dll", functions=["FreeLibrary"], imports=["c.dll"]),
        form=form,
        imports=imports,
    )


def counted(made: Script) -> dict[str, int]:
    """Return what the report counts, without what is 0."""
    return {name: value for name, value in made.report().totals._asdict().items() if value}


# -- loads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [WIN7, WIN10, WINE], ids=form_id)
def test_a_load_maps_or_counts_or_fails(form: Form) -> None:
    made = script(form)
    made.begin()
    assert made.main.load("a.dll") == SUCCESS
    made.main.load("C:\\app\\a.dll")
    assert made.main.load("no.dll") == NOT_FOUND
    assert told_dlls(made.events) == [
        "load a.dll ?-1: loaded + a.dll b.dll c.dll",
        "load C:\\app\\a.dll 1-2: already-loaded",
        "load no.dll ?-?: failed",
    ]
    report = made.report()
    assert (report.totals.opens, report.totals.opens_failed) == (3, 1)
    assert [failure.ntstatus for failure in report.opens_failed] == [NOT_FOUND]
    first = made.events[0]
    assert isinstance(first, DllOpen)
    assert place(first.header.caller) == "prog.exe:prog!code"


def test_a_dll_main_that_loads_another_one() -> None:
    made = script()
    made.begin()
    made.attaching["b.dll"] = lambda thread: thread.load("x.dll")
    made.main.load("a.dll")
    assert told_dlls(made.events) == [
        "in 1: load x.dll ?-1: loaded + x.dll",
        "load a.dll ?-1: loaded + a.dll b.dll c.dll",
    ]
    inner = made.events[0]
    assert isinstance(inner, DllOpen)
    assert place(inner.header.caller) == "b.dll:b!code"


def test_the_flags_are_passed_by_a_pointer_and_by_wine_themselves() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll", flags=2)
    pointer = made.target.text("")  # a length of 0, behind it a pointer
    made.target.strings[pointer - 0x7FF0_0000 : pointer - 0x7FF0_0000 + 4] = (0x800).to_bytes(4, "little")
    made.main.load("x.dll", flags=pointer)
    assert [event.flags for event in made.events if isinstance(event, DllOpen)] == [2, 0x800]


def test_a_name_that_cannot_be_read() -> None:
    made = script()
    made.begin()
    made.main.begin_load(None, work=lambda: made.load(made.main, "x.dll")).end()
    assert told_dlls(made.events) == ["load None ?-1: loaded + x.dll"]


def test_a_reference_that_is_added_is_a_load_of_what_is_there() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    made.main.add_ref("x.dll")
    assert told_dlls(made.events)[1:] == ["load x.dll 1-2: already-loaded by LdrAddRefDll"]


def test_a_handle_that_counts_is_one_load_and_one_that_does_not_is_none() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    made.main.get_handle("x.dll", 1)
    made.main.get_handle("x.dll", by_add_ref=False)
    made.main.get_handle("x.dll")
    assert told_dlls(made.events)[1:] == [
        "load x.dll 1-2: already-loaded by LdrGetDllHandleEx",
        "in 3: load x.dll 2-3: already-loaded by LdrAddRefDll",
    ]


def test_a_handle_of_what_is_not_loaded_is_no_failed_load() -> None:
    """Neither GetModuleHandleEx nor LoadLibraryEx with LOAD_LIBRARY_AS_DATAFILE loads a DLL, or fails to."""
    made = script()
    made.begin()
    assert made.main.get_handle("x.dll") == NOT_FOUND
    assert made.main.load("no.dll") == NOT_FOUND
    assert told_dlls(made.events) == ["load no.dll ?-?: failed"]
    assert counted(made) == {"opens": 1, "opens_failed": 1}


@pytest.mark.parametrize("how", ["LdrAddRefDll", "LdrGetDllHandleEx"])
def test_a_pin_is_told_once_with_what_did_it(how: str) -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    if how == "LdrAddRefDll":
        made.main.add_ref("x.dll", 1)
    else:
        made.main.get_handle("x.dll", 2, by_add_ref=False)
    assert told_dlls(made.events)[1:] == [f"pin x.dll by {how}"]
    report = made.report()
    assert len(report.pins) == 1
    (account,) = report.library_totals
    assert (account.path, account.pinned_now) == ("C:\\app\\x.dll", True)
    assert (account.open_count_now, account.loaded_now) == (None, True)


def test_a_pin_by_way_of_another_function_is_told_once() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    made.main.get_handle("x.dll", 2)
    assert [each for each in told_dlls(made.events) if "pin" in each] == ["in 2: pin x.dll by LdrAddRefDll"]


# -- frees ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [WIN7, WIN10, WINE], ids=form_id)
def test_the_last_free_unloads_what_was_predicted_and_detaches_in_order(form: Form) -> None:
    made = script(form)
    made.begin()
    made.main.load("a.dll")
    made.main.load("a.dll")
    made.main.free("a.dll")
    made.main.free("a.dll")
    assert made.loaded() == []
    going = "a.dll b.dll c.dll" if form is WIN10 else "a.dll c.dll b.dll"
    assert told_dlls(made.events)[2:] == [
        "free a.dll 2-1: keeps; stays a.dll b.dll c.dll",
        f"free a.dll 1-?: unloads - {going}; detached {going}",
    ]
    report = made.report()
    assert (report.totals.closes_predicted_exactly, report.totals.closes_compared, report.closes_mispredicted) == (
        2,
        2,
        (),
    )
    assert [(kept.dll.name, kept.times_kept) for kept in report.kept] == [("a.dll", 1)]


def test_what_another_dll_imports_stays() -> None:
    made = script()
    made.begin()
    made.main.load("user.dll")
    made.main.load("a.dll")
    made.main.free("a.dll")
    assert made.loaded() == ["user.dll", "c.dll"]
    close = made.events[-1]
    assert isinstance(close, DllClose)
    assert told_dlls([close]) == ["free a.dll 1-?: unloads - a.dll b.dll; detached a.dll b.dll; stays c.dll"]
    assert close.predicted_exactly


def test_a_free_of_what_is_pinned_or_belongs_to_the_program() -> None:
    made = script(imports=["static.dll"])
    made.main.load("x.dll")
    made.main.add_ref("x.dll", 1)
    made.begin()
    made.main.free("x.dll")
    made.main.free("static.dll")
    assert told_dlls(made.events) == [
        "free x.dll ?-?: pinned; stays x.dll",
        "free static.dll 1-1: pinned; stays static.dll",
    ]
    assert {account.name: account.closes_without_effect for account in made.report().library_totals} == {
        "x.dll": 1,
        "static.dll": 1,
    }


def test_a_free_of_what_is_not_loaded() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    base = made.base("x.dll")
    made.main.free("x.dll")
    assert made.main.begin_free(base).end() == NOT_FOUND
    assert told_dlls(made.events)[2:] == ["free ? ?-?: None"]
    # The handle of a file that is mapped as data is none of the loader's.
    made.main.begin_free(base | 1, work=lambda: SUCCESS).end()
    assert len(made.events) == 3


@pytest.mark.parametrize("form", [WIN7, WIN10, WINE], ids=form_id)
def test_a_dll_main_that_frees_another_one(form: Form) -> None:
    made = script(form)
    made.main.load("x.dll")
    made.begin()
    made.detaching["freer.dll"] = lambda thread: thread.free("x.dll")
    made.main.load("freer.dll")
    made.main.free("freer.dll")
    assert made.loaded() == []
    if form is WIN10:
        # Since Windows 8 each free unloads by itself.
        inner, then = "1-?: unloads - x.dll; detached x.dll", ""
    else:
        inner, then = "1-0: deferred", ", then - x.dll"
    assert told_dlls(made.events)[1:] == [
        f"in 2: free x.dll {inner}",
        f"free freer.dll 1-?: unloads - freer.dll c.dll{then}; detached freer.dll c.dll",
    ]
    outer = made.events[-1]
    assert isinstance(outer, DllClose)
    assert outer.may_unload_more == ("freer.dll",)
    assert made.report().closes_mispredicted == ()
    assert made.report().totals.closes_nested == 1


def test_what_a_detach_that_is_not_for_good_is() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")

    def work() -> int:
        # DLL_THREAD_DETACH of a thread that ends meanwhile.
        made.main.call_main(made.loader.known["x.dll"], 3)
        return made.free(made.main, made.base("x.dll"))

    made.main.begin_free(made.base("x.dll"), work=work).end()
    assert told_dlls(made.events)[-1] == "free x.dll 1-?: unloads - x.dll; detached x.dll"


def test_breakpoints_at_entry_points_go_before_the_modules_do() -> None:
    made = script()
    made.begin()
    made.main.load("a.dll")
    usual = set(made.target.handlers)
    call = made.main.begin_free(made.base("a.dll"))
    watched = {made.base(name) + 0x1000 for name in ("a.dll", "b.dll", "c.dll")}
    assert watched <= set(made.target.handlers)
    call.end()
    assert set(made.target.handlers) == usual


# -- when an end is seen --------------------------------------------------------------------------------------


def test_a_call_that_an_exception_left_is_over_when_its_frame_is_gone() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    with made.main.within("x.dll"):
        made.main.begin_free(made.base("x.dll")).leave()
    made.main.begin_load("a.dll").leave()
    with made.main.within("x.dll"), made.main.within("x.dll"):
        made.main.load("user.dll")
    assert told_dlls(made.events) == [
        "load x.dll ?-1: loaded + x.dll",
        "free x.dll 1-?: unloads - x.dll; not seen to end",
        "load a.dll ?-?: None",
        "load user.dll ?-1: loaded + user.dll c.dll",
    ]


def test_a_call_that_is_further_out_than_the_engine_unwinds_goes_on() -> None:
    made = script()
    made.begin()
    made.attaching["b.dll"] = lambda thread: thread.load("x.dll")
    made.main.unwinds = 2
    made.main.load("a.dll")
    assert told_dlls(made.events) == [
        "in 1: load x.dll ?-1: loaded + x.dll",
        "load a.dll ?-1: loaded + a.dll b.dll c.dll",
    ]


def test_an_inner_call_whose_return_was_missed_is_over_when_the_outer_one_returns() -> None:
    made = script()
    made.begin()

    def attach(thread: Thread) -> None:
        made.load(thread, "x.dll")
        thread.begin_load("x.dll")

    made.attaching["b.dll"] = attach
    made.main.load("a.dll")
    assert told_dlls(made.events) == [
        "in 1: load x.dll ?-?: None",
        "load a.dll ?-1: loaded + a.dll b.dll c.dll x.dll",
    ]


def test_a_thread_that_comes_twice_for_one_call_is_told_once() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    made.main.begin_free(made.base("x.dll")).leave()
    made.main.free("x.dll")
    assert told_dlls(made.events) == [
        "load x.dll ?-1: loaded + x.dll",
        "free x.dll 1-?: unloads - x.dll; detached x.dll",
    ]
    assert [event.header.number for event in made.events if isinstance(event, DllClose)] == [2]


def test_calls_without_end_are_not_followed_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, "common.windows.trace", "MAX_PENDING", 3)
    made = script()
    made.begin()
    made.main.unwinds = 1
    for _ in range(6):
        made.main.begin_load("x.dll")
    assert made.report().totals.end_not_seen == 3


def test_a_breakpoint_at_a_return_address_goes_with_the_last_call_that_needs_it() -> None:
    made = script()
    made.begin()
    usual = set(made.target.handlers)
    made.main.is_by_kernel32 = False
    outer = made.main.begin_load("x.dll")
    (place,) = set(made.target.handlers) - usual
    assert place == made.base("prog.exe") + 0x1200
    other = made.thread(OTHER)
    other.is_by_kernel32 = False
    inner = other.begin_load("x.dll")
    outer.end()
    assert place in made.target.handlers
    inner.end()
    assert set(made.target.handlers) == usual
    # Through kernel32 all calls pass: there it stays.
    made.main.is_by_kernel32 = True
    made.main.load("x.dll")
    assert len(set(made.target.handlers) - usual) == 1


# -- several threads ------------------------------------------------------------------------------------------


def test_two_threads_at_once_are_said_to_have_raced() -> None:
    made = script()
    other = made.thread(OTHER)
    made.begin()
    first = made.main.begin_load("x.dll")
    second = other.begin_load("user.dll")
    second.end()
    first.end()
    assert told_dlls(made.events) == [
        "raced: load user.dll ?-1: loaded + user.dll c.dll",
        "raced: load x.dll ?-1: loaded + x.dll",
    ]
    assert [event.header.tid for event in made.events if isinstance(event, DllOpen)] == [OTHER, made.main.lwp]


def test_with_several_threads_a_free_that_did_something_else_is_not_judged() -> None:
    made = script()
    other = made.thread(OTHER)
    made.begin()
    made.main.load("x.dll")
    other.load("x.dll")
    # The other thread's free was missed.
    made.loader.free("x.dll")
    made.main.begin_free(made.base("x.dll"), work=lambda: SUCCESS).end()
    report = made.report()
    assert told_dlls(made.events)[-1].startswith("raced: free x.dll 1-1: unloads - x.dll; mistaken in x.dll")
    assert (report.totals.closes_raced, report.closes_mispredicted) == (1, ())


def test_with_one_thread_a_free_that_did_something_else_is_a_mismatch() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    made.main.begin_free(made.base("x.dll"), work=lambda: SUCCESS).end()
    (mismatch,) = made.report().closes_mispredicted
    assert told_dlls([mismatch]) == ["free x.dll 1-1: unloads - x.dll; mistaken in x.dll"]


def test_modules_that_come_and_go_outside_of_calls_are_unseen() -> None:
    made = script()
    made.begin()
    made.load(made.main, "a.dll")
    made.free(made.main, made.base("a.dll"))
    assert counted(made) == {"opens_unseen": 3, "closes_unseen": 3}


# -- the end --------------------------------------------------------------------------------------------------


def test_a_process_that_shuts_down_frees_nothing_any_more() -> None:
    made = script()
    made.main.load("x.dll")
    made.begin()
    made.main.load("freer.dll")
    made.detaching["freer.dll"] = lambda thread: thread.begin_free(made.base("x.dll"), work=lambda: SUCCESS).end()
    made.main.shut_down()
    made.main.terminate()
    report = made.report()
    assert told_dlls(made.events)[-1].startswith("at exit: free x.dll 1-1: process-exiting")
    assert (report.end_reason, report.watching) == ("the process has ended", False)
    assert made.target.handlers == {}
    accounts = {account.name: account.open_count_now for account in report.library_totals}
    assert accounts == {"freer.dll": 1, "x.dll": 1}
    assert report.closes_mispredicted == ()


def test_another_process_that_is_terminated_is_another_one() -> None:
    made = script()
    tracer = made.begin()
    made.main.terminate(0x44)
    assert tracer.is_watching()
    made.main.terminate(CURRENT_PROCESS)
    assert not tracer.is_watching()


def test_a_process_that_ends_while_a_free_goes_on() -> None:
    made = script()
    made.begin()
    made.main.load("a.dll")
    made.main.begin_free(made.base("a.dll"))
    made.end("the process has ended, or was let go")
    report = made.report()
    assert report.totals.end_not_seen == 1
    assert report.end_reason == "the process has ended, or was let go"
    assert made.target.handlers == {}
    made.end("once more")
    assert made.report().end_reason == "the process has ended, or was let go"


def test_a_stopped_trace_leaves_nothing_behind_and_keeps_its_sums() -> None:
    made = script()
    tracer = made.begin()
    made.main.load("x.dll")
    tracer.note_stop("a breakpoint of yours")
    tracer.stop()
    tracer.note_stop("not any more")
    assert made.target.handlers == {}
    assert made.target.modules_changed == []
    report = made.report()
    assert (report.end_reason, report.watching) == ("stopped", False)
    assert [(problem.where, problem.message) for problem in report.problems] == [
        ("the debugger", "a breakpoint of yours")
    ]
    assert [(account.name, account.open_count_now) for account in report.library_totals] == [("x.dll", 1)]


# -- what is asked for, and what cannot be ---------------------------------------------------------------------


def test_only_events_about_the_dlls_that_were_asked_for() -> None:
    made = script()
    made.begin("B", "miss*")
    made.main.load("a.dll")
    made.main.load("x.dll")
    made.main.load("C:/elsewhere/missing.dll")
    made.main.free("x.dll")
    made.main.free("a.dll")
    assert [text.partition(":")[0] for text in told_dlls(made.events)] == [
        "load a.dll ?-1",
        "load C",
        "free a.dll 1-?",
    ]
    assert made.report().totals.opens == 2


def test_accounts_show_who_loaded_and_never_freed() -> None:
    made = script()
    made.main.load("x.dll")
    made.begin()
    made.main.load("x.dll")
    with made.main.within("x.dll"):
        made.main.load("x.dll")
    made.main.free("x.dll")
    (account,) = made.report().library_totals
    assert (account.name, account.open_count_at_start, account.open_count_now) == ("x.dll", 1, 2)
    assert sorted(place(calls.caller) for calls in account.opens_by_caller) == ["prog.exe:prog!code", "x.dll:x!code"]


@pytest.mark.parametrize("debugs", [False, True])
def test_a_bug_in_the_trace_itself_costs_what_was_going_on(debugs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLWHY_DEBUG", "1" if debugs else "")
    made = script()
    made.begin()
    said: list[str] = []
    made.target.say = said.append  # type: ignore[method-assign, assignment]
    loading = made.main.begin_load("a.dll")
    with monkeypatch.context() as patched:
        patched.setattr("dlwhy.common.windows.trace.tracer.load_counts", None)
        made.thread(OTHER).begin_load("x.dll").leave()
    loading.end()
    made.main.free("a.dll")
    (problem,) = made.report().problems
    assert problem.message.startswith("a bug in dlwhy: TypeError")
    assert [text.startswith("Traceback") for text in said] == [True] * debugs
    # What the load did can be what the event did that is lost.
    assert [text.partition(";")[0] for text in told_dlls(made.events)] == [
        "load a.dll ?-?: None + a b c",
        "free a.dll 1-?: unloads - a.dll b.dll c.dll",
    ]


def test_a_function_that_has_a_source_line_is_named_as_the_debugger_does() -> None:
    made = script()
    made.begin()
    made.target.find_line = lambda address: "prog.c:12"  # type: ignore[method-assign]
    made.main.load("x.dll")
    with made.main.within("x.dll"):
        made.target.find_symbol = lambda address: None  # type: ignore[method-assign]
        made.main.load("b.dll")
    sites = [event.header.caller for event in made.events]
    assert [(place(site), site and site.line) for site in sites] == [
        ("prog.exe:prog!code", "prog.c:12"),
        ("x.dll:None", "prog.c:12"),
    ]


def test_memory_that_cannot_be_read_is_a_problem_and_the_trace_goes_on() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    made.target.forget(made.main.frames[-1].sp - 0x2000, 0x2000)
    made.main.begin_free(made.base("x.dll"), work=lambda: SUCCESS).leave()
    made.target.heal()
    made.main.load("x.dll")
    report = made.report()
    assert report.watching
    assert [problem.where for problem in report.problems] == ["an event was not understood"]
    assert told_dlls(made.events)[-1] == "load x.dll 1-2: already-loaded"


@pytest.mark.parametrize("missing", ["LdrAddRefDll", "LdrLoadDll"])
def test_an_ntdll_without_one_of_the_functions(missing: str) -> None:
    made = script()
    exports = made.loader.known[NTDLL].exports
    made.loader.known[NTDLL].exports = {name: code for name, code in exports.items() if name != missing}
    made.target.update()
    if missing == "LdrLoadDll":
        with pytest.raises(LayoutError, match="exports no LdrLoadDll"):
            made.begin()
    else:
        made.begin()
        assert [problem.where for problem in made.report().problems] == ["ntdll.dll"]


def test_a_loader_that_does_not_list_ntdll() -> None:
    made = script()
    ntdll = made.loader.known[NTDLL]
    made.loader.loaded.remove(ntdll)
    made.loader.initialized.remove(ntdll)
    made.target.update()
    with pytest.raises(UnsupportedError):
        DllTracer(made.target, (), made.events.append)


def test_a_process_of_32_bit_code_is_refused() -> None:
    made = Script(Module("x.dll"), form=WIN7, wide=False)
    with pytest.raises(UnsupportedError, match="32-bit code cannot be traced yet"):
        made.begin()


def test_a_process_without_its_loaders_memory_is_refused() -> None:
    made = script()
    made.target.update()
    peb = made.target.peb()
    assert peb is not None
    made.target.forget(peb, 0x4000)
    with pytest.raises(UnsupportedError):
        DllTracer(made.target, (), made.events.append)


# -- what cannot be read --------------------------------------------------------------------------------------


def totals_of(report: DllTrace) -> dict[str, tuple[Any, ...]]:
    """Return what JSON says of each DLL: its count at the start and now, whether it is loaded, and whether pinned."""
    document = json.loads(json.dumps(dll_trace_document("dlltrace", report)))
    VALIDATOR.validate(document)
    keys = ("loadlibrary_count_at_start", "loadlibrary_count_now", "loaded_now", "pinned_now")
    return {each["name"]: tuple(each[key] for key in keys) for each in document["library_totals"]}


def test_a_count_whose_share_of_loads_is_unknown_is_null_and_not_the_whole_count() -> None:
    made = script(WIN7)
    for name in ("x.dll", "x.dll", "user.dll"):
        made.main.load(name)
    # Without its import table nobody can tell which counts it has raised.
    made.target.forget(made.base("user.dll"), 0x3000)
    made.begin("x.dll")
    made.main.free("x.dll")
    report = made.report()
    assert totals_of(report)["x.dll"] == (None, None, True, False)
    rows = [line.split() for line in render(dll_trace_view(report, verbose=False)).splitlines()]
    assert ["x.dll", "?", "0", "1", "?"] in rows


def test_flags_that_cannot_be_read_are_null() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll", flags=0x7000_0000_0000)
    (document,) = [json.loads(dump_dll_event(event)) for event in made.events]
    validator_of("dll_event").validate(document)
    assert document["flags"] is None


def test_what_is_not_loaded_any_more_has_no_count_and_says_so() -> None:
    made = script()
    made.main.load("x.dll")
    made.begin()
    made.main.load("a.dll")
    made.main.free("x.dll")
    assert totals_of(made.report()) == {"a.dll": (0, 1, True, False), "x.dll": (1, 0, False, False)}


def test_whether_it_is_loaded_is_unknown_while_the_lists_cannot_be_read() -> None:
    made = script()
    made.begin()
    made.main.load("x.dll")
    made.main.free("x.dll")
    made.main.load("a.dll")
    entries = WindowsExamination(made.target).loaders[0].entries.values()
    made.target.forget(next(each.address for each in entries if each.name == "a.dll"), 8)
    assert totals_of(made.report())["x.dll"] == (0, None, None, None)


def test_a_free_of_a_dll_whose_count_cannot_be_read_is_not_predicted() -> None:
    made = script()
    made.main.load("x.dll")
    made.begin()
    entries = WindowsExamination(made.target).loaders[0].entries.values()
    node = next(each.node for each in entries if each.name == "x.dll")
    assert node is not None
    made.target.forget(node.address, 0x40)
    made.main.free("x.dll")
    (document,) = [json.loads(dump_dll_event(event)) for event in made.events]
    validator_of("dll_event").validate(document)
    unknown = ("predicted_outcome", "refusal", "predicted_unloads", "may_unload_more", "kept")
    compared = ("unloaded_by_nested_closes", "predicted_but_kept", "unloaded_but_not_predicted", "predicted_exactly")
    assert {key: document[key] for key in (*unknown, *compared)} == dict.fromkeys((*unknown, *compared))
    assert [each["name"] for each in document["unloaded"]] == ["x.dll"]
    totals = made.report().totals
    assert (totals.closes_compared, totals.closes_not_predicted, totals.closes_mispredicted) == (0, 1, 0)
    assert "1 free: not all counts could be read" in render(dll_trace_view(made.report(), verbose=False))
