"""Is every trace put into the words of the golden file, in at most 100 columns, and into valid JSON?

DLWHY_UPDATE_GOLDEN=1 pytest tests/unit/test_views_trace.py        writes the golden file anew; read its diff
"""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest
from dlwhy.common.commands.dltrace.document import dump_event, trace_document
from dlwhy.common.commands.dltrace.text import started_view, stop_view, trace_view
from dlwhy.common.linux.model import Library, StaticTls
from dlwhy.common.linux.trace.events import (
    Close,
    DescriptorLeak,
    Event,
    KeptLibrary,
    LibraryInstance,
    Open,
    Pin,
    Stop,
    TlsRegistration,
    Trace,
)
from dlwhy.common.model import Outcome, Problem
from dlwhy.common.render.fit import compact, cut, fit_table
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.library_words import STATIC_TLS_REMEDY
from dlwhy.common.render.text import MAX_WIDTH, render
from dlwhy.common.trace.events import Calls, EventHeader, LibraryTotals, OpenResult, Site, Totals
from dlwhy.tests.schema import VALIDATOR, validator_of
from dlwhy.tests.synth.answers import HOLDS, LINK_MAP, destructor, library, owed, state
from dlwhy.tests.unit.goldens import golden

LONG_LIBRARY = "libcompany_product_subsystem_component_plugin_for_something_with_a_very_long_name-17.so.4.2"
LONG_FUNCTION = (
    "company::product::(anonymous namespace)::Registry<std::map<std::string, std::vector<company::Entry, "
    "std::allocator<company::Entry> > >, 17>::operator()(std::function<void (company::Entry const&)>, int)"
)
LONG_PATH = "/opt/company/product/releases/2026-11/x86_64/" + "deeply/nested/" * 8 + "plugins/libother.so"

MUST_CLOSE = Site(0x555555555303, "progA", "must_close", "fixture.h:63")
MAIN = Site(0x5555555553FA, "progA", "main", None)
UNKNOWN = Site(0x7FFFF0001234)
LONG_SITE = Site(0x7FFFF7000000, LONG_LIBRARY, LONG_FUNCTION, f"{'registry_of_entries_' * 3}.cpp:1234")


def instance(name: str = "libA.so", namespace: int = 0) -> LibraryInstance:
    return LibraryInstance(
        name, f"/opt/app/{name}", namespace, LINK_MAP, 0x7FFFF7A00000, 0x7FFFF7A00000, 0x7FFFF7A04000
    )


def header(
    number: int, caller: Optional[Site] = MUST_CLOSE, by: str = "user", inside: Optional[int] = None
) -> EventHeader:
    return EventHeader(number, number / 8, 4711, caller, by, inside)


STAYS = library(owed(destructor(7)), name="libB.so")
LONG_STAYS = library(HOLDS["relocation"], name=LONG_LIBRARY)
CLOSE = Close(header(4), instance(), 1, Outcome.UNLOADS, (instance(),), kept=(STAYS,), unloaded=(instance(),))
EARLY = Close(header(6, None), instance("libC.so"), 3, Outcome.NO_EFFECT, kept=(STAYS,), unloaded=())
WRONG = Close(
    header(9, UNKNOWN),
    instance("libD.so"),
    1,
    Outcome.UNLOADS,
    (instance("libD.so"), instance("libE.so")),
    unloaded=(instance("libD.so"), instance("libF.so")),
)
VAIN = Close(header(10, MAIN), instance("libG.so"), 0, Outcome.NOT_OPEN, unloaded=())
LONG_CLOSE = Close(header(7, LONG_SITE), instance(LONG_LIBRARY), 1, Outcome.KEEPS, kept=(LONG_STAYS,), unloaded=())
OPEN = Open(header(1, MAIN), "libA.so", 1, -2, OpenResult.LOADED, instance(), (instance(), instance("libB.so")))
ABSENT = Open(header(2, MAIN, "libc"), "libother.so", 5, -2, OpenResult.NOT_LOADED)
FAILED = Open(header(2, MAIN, "libc"), "libmissing.so", 1, -2, OpenResult.FAILED)
PINS = (
    Pin(header(3, None, inside=1), instance("libB.so"), "unique-symbol", ("a", "b"), ("libA.so",), 40),
    Pin(header(5, None), instance("libC.so"), "elf-flag"),
    Pin(header(8, None), instance("libD.so"), None),
)
DESTRUCTOR = Site(0x7FFFF7A01139, "libB.so", "Tally::~Tally()", "libb.cpp:9")
REGISTRATIONS = (
    TlsRegistration(
        header(2, Site(0x7FFFF7A01160, "libB.so", "libb_add", "libb.cpp:13")), instance("libB.so"), DESTRUCTOR, 8
    ),
    TlsRegistration(header(3, MAIN), instance("progA"), DESTRUCTOR._replace(library="libX.so"), 16),
)
LEAKS = (
    DescriptorLeak(header(8), instance("libfds.so"), 5, "/dev/null", (Site(1, "libfds.so", "open_one", None), MAIN)),
    DescriptorLeak(header(9), instance("libfds.so"), 6, "socket:[4711]"),
)


def account(
    name: str, opens: int, closes: int, left: Optional[int], site: Site = MAIN, early: int = 0
) -> LibraryTotals:
    made = (Calls(site, "user", opens),) if opens else ()
    undone = (Calls(site, "libc", closes),) if closes else ()
    return LibraryTotals(name, f"/opt/app/{name}", 0, 0, made, undone, early, left or 0, left is not None)


def trace(kept: tuple[KeptLibrary, ...] = (), accounts: tuple[LibraryTotals, ...] = (), **more: object) -> Trace:
    """Make a report."""
    made = state()
    given = {"watching": True, "end_reason": None, "totals": Totals(), **more}
    by = ("_dl_open, by _rtld_global_ro", "_dl_close, by _rtld_global_ro")
    first = Trace(made.target, made.loader, True, None, 12.34, *by, Totals(), accounts, kept, (), (), (), ())
    return first._replace(**given)  # type: ignore[arg-type]


FULL = trace(
    (KeptLibrary(STAYS, 3, CLOSE), KeptLibrary(library(HOLDS["nodelete-unique-symbol"], name="libC.so"), 1, EARLY)),
    (account("libB.so", 5, 2, 3), account("libC.so", 3, 1, 2, early=4), account("libA.so", 1, 1, None)),
    totals=Totals(9, 1, 8, 2, 3, 2, 5, 1, 1, 1, 1, 2, 1, 6),
    closes_mispredicted=(WRONG,),
    pins=PINS,
    tls_registrations=REGISTRATIONS,
    descriptor_leaks=LEAKS,
    problems=(Problem("_dl_close in thread 4711", "cannot read 8 bytes at 0x10"),),
    end_not_seen=(OPEN,),
    closes_not_open=(VAIN, VAIN._replace(library=None), VAIN._replace(library=None, handle=0x4711000), VAIN),
)
LONG = trace(
    (KeptLibrary(LONG_STAYS, 3, LONG_CLOSE),),
    tuple(account(f"{number}{LONG_LIBRARY}", 2, 1, 1, LONG_SITE) for number in range(6)),
    watching=False,
    end_reason="the process executed another program",
    opens_by="dlopen and dlmopen, and libc's own call of _dl_open",
    closes_by="dlclose, and libc's own call of _dl_close",
    totals=Totals(123456, 1234, 123456, 23456, 345678, 12345, 99999, 1234, closes_compared=123456),
    closes_mispredicted=(
        WRONG._replace(library=instance(LONG_LIBRARY), predicted_unloads=tuple(map(instance, "abcdefgh"))),
    ),
    pins=(PINS[0]._replace(library=instance(LONG_LIBRARY), looked_up_by=(LONG_LIBRARY,) * 5),),
    tls_registrations=(REGISTRATIONS[0]._replace(destructor=LONG_SITE),),
    descriptor_leaks=(LEAKS[0]._replace(descriptor_target=LONG_PATH, opened_at=(LONG_SITE,) * 3),),
    end_not_seen=(LONG_CLOSE, OPEN._replace(requested=LONG_PATH)),
    closes_not_open=(LONG_CLOSE,),
)
MANY = trace(
    tuple(KeptLibrary(library(HOLDS["open-count"], name=f"lib{n:02}.so"), 1, CLOSE) for n in range(20)),
    tuple(account(f"lib{n:02}.so", 2, 1, 1) for n in range(20)),
    totals=Totals(40, 0, 20, closes_compared=20),
    closes_mispredicted=tuple(WRONG._replace(header=header(n)) for n in range(1, 21)),
    pins=PINS[1:2] * 20,
    tls_registrations=tuple(
        REGISTRATIONS[0]._replace(destructor=DESTRUCTOR._replace(address=n, function=None)) for n in range(20)
    ),
    descriptor_leaks=tuple(LEAKS[1]._replace(descriptor_target=f"socket:[{n}]") for n in range(20)),
    end_not_seen=(OPEN, CLOSE) * 10,
    closes_not_open=tuple(VAIN._replace(library=instance(f"lib{n:02}.so")) for n in range(20)),
)
MISSING = "cannot open shared object file: No such file or directory"
FAILING = trace(
    opens_failed=(
        FAILED._replace(error=f"libmissing.so: {MISSING}", errno=2),
        FAILED._replace(header=header(7, MAIN, "libc"), error=f"libmissing.so: {MISSING}", errno=2),
        FAILED._replace(error=f"{LONG_PATH}: {MISSING}", errno=2),
        FAILED._replace(error=f"libmissing.so: undefined symbol: {'symbol' * 30}"),
        FAILED._replace(error="out of memory"),
        FAILED,
        *(FAILED._replace(requested=f"lib{n:02}.so", error=f"lib{n:02}.so: file too short") for n in range(15)),
    ),
    totals=Totals(22, 19, opens_not_loaded=2),
)

TRACES = {
    "nothing so far": trace(),
    "nothing at all": trace(watching=False, end_reason="the process ended"),
    "everything": FULL,
    "long names": LONG,
    "many": MANY,
    "failed opens": FAILING,
}
STOPS = {
    "kept": Stop("kept", CLOSE, ("libB.so",)),
    "kept, with long names": Stop("kept", LONG_CLOSE, (LONG_LIBRARY,)),
    "kept, six of them": Stop(
        "kept",
        CLOSE._replace(kept=tuple(STAYS._replace(name=f"lib{n}.so") for n in range(6))),
        tuple(f"lib{n}.so" for n in range(6)),
    ),
    "unloaded": Stop("unloaded", CLOSE, ("libA.so",)),
    "unloaded, no library": Stop("unloaded", CLOSE._replace(library=None), ("libA.so", "libB.so")),
    "opened": Stop("opened", OPEN, ("libA.so",)),
    "opened before": Stop("opened", FAILED, ("libB.so",)),
    "opened before a close": Stop("opened", CLOSE, ("libB.so",)),
    "opened, with a long path": Stop("opened", OPEN._replace(requested=LONG_PATH), ("libother.so",)),
    "opened, a caller not known": Stop("opened", OPEN._replace(header=header(1, None)), ("libA.so",)),
}


def texts() -> dict[str, str]:
    """Write every sample."""
    found = {}
    for name, each in TRACES.items():
        found[name] = render(trace_view(each, verbose=False))
        found[f"{name} -v"] = render(trace_view(each, verbose=True))
    for name, stop in STOPS.items():
        found[f"stop: {name}"] = render(stop_view(stop))
    found["start"] = render(started_view(trace(), ()))
    found["start, libraries"] = render(started_view(trace(), ("libA.so", LONG_LIBRARY)))
    return found


def test_golden() -> None:
    written = "\n".join(f"==== {name}\n{text}" for name, text in texts().items())
    assert written == golden("views_trace", written)


def test_no_line_is_too_long() -> None:
    for name, text in texts().items():
        if not name.endswith("-v"):
            assert [line for line in text.splitlines() if len(line) > MAX_WIDTH] == [], name


def test_everything_is_shown_with_v() -> None:
    text = " ".join(texts()["long names -v"].split())
    for name in (LONG_LIBRARY, LONG_PATH, LONG_FUNCTION, LONG_SITE.line or "", "a, b"):
        assert name in text
    many = " ".join(texts()["many -v"].split())
    assert "more" not in many.replace("once more than", "")
    assert all(many.count(f"lib{n:02}.so") >= 3 for n in range(20))


@pytest.mark.parametrize("name", TRACES)
def test_json_follows_the_schema(name: str) -> None:
    VALIDATOR.validate(json.loads(dump(trace_document("dltrace", TRACES[name]))))


def test_events_follow_the_schema() -> None:
    event = validator_of("event")
    for each in (OPEN, ABSENT, FAILED, CLOSE, EARLY, WRONG, LONG_CLOSE, *PINS, *REGISTRATIONS, *LEAKS):
        event.validate(json.loads(dump_event(each)))


def json_of(event: Event) -> Any:
    document = json.loads(dump_event(event))
    validator_of("event").validate(document)
    return document


def test_what_is_not_known_is_null() -> None:
    assert json_of(OPEN._replace(requested=""))["requested"] == "", "the program itself"
    assert json_of(OPEN._replace(requested="?"))["requested"] == "?", "a name like any other"
    assert json_of(OPEN._replace(requested=None))["requested"] is None
    named = render(trace_view(trace(opens_failed=(FAILED._replace(requested=None),)), verbose=False))
    assert "Failed: dlopen(?) by " in named
    assert json_of(VAIN)["open_count_before"] == 0
    assert json_of(VAIN._replace(library=None, open_count_before=None))["open_count_before"] is None
    assert json_of(PINS[0]._replace(header=EventHeader(3, 0.5, 0)))["thread"] is None
    opening = json_of(OPEN._replace(result=OpenResult.UNKNOWN, library=None, loaded=()))
    assert (opening["result"], opening["loaded"], opening["unloaded"]) == (None, None, None)
    running = json_of(CLOSE._replace(unloaded=None))
    assert (running["predicted_unloads"], running["unloaded"]) == (["libA.so"], None)
    for key in ("predicted_exactly", "predicted_but_kept", "unloaded_but_not_predicted"):
        assert running[key] is None


def test_a_failure_for_lack_of_static_tls_says_who_has_it() -> None:
    lacking = FAILED._replace(error="./plug.so: cannot allocate memory in static TLS block")
    left = StaticTls(1664, 64, (("liba.so", 600), ("libb.so", 1000)), 0)

    def words(*failed: Open) -> str:
        return " ".join(render(trace_view(trace(opens_failed=failed), verbose=False)).split())

    found = words(lacking, lacking._replace(header=header(7), static_tls=left), FAILED._replace(header=header(8)))
    assert "after #7: 64 of 1664 bytes are free: 1000 in libb.so and 600 in liba.so." in found
    assert STATIC_TLS_REMEDY in found
    assert "after #2: how much is left is not known." in words(lacking)
    assert "Static TLS" not in words(FAILED._replace(error="out of memory"))
    assert json_of(lacking._replace(static_tls=left))["static_tls"] == {
        "size": 1664,
        "free": 64,
        "held": [{"library": "liba.so", "size": 600}, {"library": "libb.so", "size": 1000}],
        "lost": 0,
    }
    assert json_of(lacking)["static_tls"] is None


def test_what_came_and_went_can_be_told_apart() -> None:
    (gone,) = json_of(CLOSE._replace(unloaded=(instance()._replace(build_id="c0ffee"),)))["unloaded"]
    assert gone == {
        "name": "libA.so",
        "path": "/opt/app/libA.so",
        "namespace": 0,
        "link_map": f"{LINK_MAP:#x}",
        "base": "0x7ffff7a00000",
        "load_bias": "0x7ffff7a00000",
        "range": ["0x7ffff7a00000", "0x7ffff7a04000"],
        "build_id": "c0ffee",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("short<int>::name(int)", "short<int>::name(int)"),
        ("std::vector<int, std::allocator<int> >::push_back(int const&)", "std::vector<...>::push_back(...)"),
        ("std::vector<int, std::allocator<int> >::operator<(int const&)", "std::vector<...>::operator<(...)"),
        ("a::vector<int, std::allocator<int> >::operator()(int const&)", "a::vector<...>::operator()(...)"),
        (
            "a::vector<int, std::allocator<int> >::operator->() const volatile",
            "a::vector<...>::operator->() const volatile",
        ),
        (
            "a::(anonymous namespace)::vector<int, std::allocator<int> >::clear()",
            "a::(anonymous namespace)::vector<...>::clear()",
        ),
        ("<alloc::vec::Vec<T> as core::iter::FromIterator<T>>::from_iter", "<...>::from_iter"),
        ("what<is(this>supposed)to_be_and_why_is_it_so_long", "what<is(this>supposed)to_be_and_why_is_it_so_long"),
    ],
)
def test_long_functions_lose_their_arguments(name: str, expected: str) -> None:
    assert compact(name) == expected


def test_cells_are_cut_only_where_they_must_be() -> None:
    assert cut("abcdefghij", 10) == "abcdefghij"
    assert cut("abcdefghijk", 10) == "abc...hijk"
    assert cut("\x1b[1mabcdefghijk", 10) == "\\x1...hijk"
    rows = [("short", "x" * 80, str(number)) for number in range(3)]
    assert fit_table(("a", "b", "c"), rows).rows == tuple(rows)
    fitted = fit_table(("a", "b", "c"), [("y" * 90, "x" * 80, "1")]).rows
    assert [len(cell) for cell in fitted[0]] == [47, 47, 1]
    assert all(len("  ".join(row)) <= MAX_WIDTH for row in fitted)


def stays(held: Library) -> Stop:
    return Stop("kept", CLOSE._replace(kept=(held,)), (held.name,))


@pytest.mark.parametrize("name", HOLDS)
def test_every_reason_can_be_announced(name: str) -> None:
    text = render(stop_view(stays(library(HOLDS[name]))))
    assert text.startswith("dltrace: dlclose(libA.so) by must_close (fixture.h:63) in progA keeps libB.so.\n")
    assert "\n  libB.so stays: " in text
    assert all(len(line) <= MAX_WIDTH for line in text.splitlines())
