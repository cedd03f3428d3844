"""Has each event of a trace of Windows' loader its keys in JSON, and is nothing lost in the sums without a word?"""

from __future__ import annotations

import json

import pytest
from dlwhy.common.commands.dlltrace.document import dump_dll_event
from dlwhy.common.model import Outcome
from dlwhy.common.trace.events import EventHeader, OpenResult, Site
from dlwhy.common.trace.ledger import MAX_LISTED, CountsAtStart
from dlwhy.common.windows.trace.events import DllClose, DllEvent, DllInstance, DllOpen, DllPin
from dlwhy.common.windows.trace.ledger import DllLedger
from dlwhy.tests.schema import validator_of

LIBRARY = DllInstance("libA.dll", "C:\\app\\libA.dll", 0x5000, 0x7FF8_0000_0000, 0x4000, 0x6543_2100)
MAPPED = DllInstance("libB.dll", None, 0, 0x7FF8_0001_0000)
MOMENT = EventHeader(3, 0.25, 4711, Site(0x1000, "prog.exe", "main"))
LISTED = {
    "name": "libA.dll",
    "path": "C:\\app\\libA.dll",
    "base": "0x7ff800000000",
    "range": ["0x7ff800000000", "0x7ff800004000"],
    "ldr_entry": "0x5000",
    "timestamp": 0x6543_2100,
}
NOT_LISTED = {
    "name": "libB.dll",
    "path": None,
    "base": "0x7ff800010000",
    "range": None,
    "ldr_entry": None,
    "timestamp": None,
}
COMMON = {
    "schema": "dlwhy/1",
    "number": 3,
    "time_seconds": 0.25,
    "thread": {"tid": 4711},
    "caller": {"address": "0x1000", "library": "prog.exe", "function": "main", "line": None},
    "within_event": None,
    "at_exit": False,
    "raced": False,
    "library": LISTED,
}
OPEN = DllOpen(MOMENT, "LdrLoadDll", "libA.dll", 2, OpenResult.LOADED, LIBRARY, (LIBRARY, MAPPED), (), 0, None, 1)
CLOSE = DllClose(
    header=MOMENT,
    library=LIBRARY,
    predicted_outcome=Outcome.UNLOADS,
    predicted_unloads=(LIBRARY,),
    unloaded_by_nested_closes=(),
    unloaded=(LIBRARY, MAPPED),
    ntstatus=0,
    load_count_before=1,
    got_process_detach=("libA.dll",),
)


@pytest.mark.parametrize(
    ("event", "own"),
    [
        (
            OPEN,
            {
                "event": "open",
                "ntdll_function": "LdrLoadDll",
                "requested": "libA.dll",
                "flags": 2,
                "result": "loaded",
                "ntstatus": "0x00000000",
                "loaded": [LISTED, NOT_LISTED],
                "unloaded": [],
                "load_count_before": None,
                "load_count_after": 1,
            },
        ),
        (
            CLOSE,
            {
                "event": "close",
                "load_count_before": 1,
                "load_count_after": None,
                "ntstatus": "0x00000000",
                "predicted_outcome": "unloads",
                "refusal": None,
                "predicted_unloads": ["libA.dll"],
                "may_unload_more": [],
                "kept": [],
                "unloaded": [LISTED, NOT_LISTED],
                "unloaded_by_nested_closes": [],
                "predicted_but_kept": [],
                "unloaded_but_not_predicted": ["libB.dll"],
                "predicted_exactly": False,
                "got_process_detach": ["libA.dll"],
            },
        ),
        (DllPin(MOMENT, LIBRARY, "LdrAddRefDll"), {"event": "pin", "ntdll_function": "LdrAddRefDll"}),
    ],
)
def test_an_event_as_json(event: DllEvent, own: dict[str, object]) -> None:
    document = json.loads(dump_dll_event(event))
    validator_of("dll_event").validate(document)
    assert document == {**COMMON, **own}


def test_a_free_whose_end_was_not_seen_tells_nothing_of_it() -> None:
    document = json.loads(
        dump_dll_event(CLOSE._replace(unloaded_by_nested_closes=None, unloaded=None, got_process_detach=None))
    )
    validator_of("dll_event").validate(document)
    told = {key for key, value in document.items() if value is None}
    of_the_end = {"unloaded", "unloaded_by_nested_closes", "got_process_detach"}
    compared = {"predicted_exactly", "predicted_but_kept", "unloaded_but_not_predicted"}
    assert told >= of_the_end | compared
    assert document["predicted_unloads"] == ["libA.dll"]


def test_what_is_not_known_is_null() -> None:
    header = MOMENT._replace(tid=0)
    opened = json.loads(dump_dll_event(OPEN._replace(header=header, ntdll_function="LdrAddRefDll", flags=None)))
    closed = json.loads(dump_dll_event(CLOSE._replace(predicted_outcome=Outcome.UNKNOWN)))
    endless = json.loads(dump_dll_event(OPEN._replace(result=OpenResult.UNKNOWN, library=None)))
    for each in (opened, closed, endless):
        validator_of("dll_event").validate(each)
    assert (opened["thread"], opened["flags"]) == (None, None)
    assert (endless["result"], endless["loaded"], endless["unloaded"]) == (None, None, None)
    assert (closed["predicted_outcome"], closed["refusal"]) == (None, None)


def test_what_is_too_many_to_list_is_told() -> None:
    ledger = DllLedger(CountsAtStart({}, complete=True))
    failed = DllOpen(MOMENT, "LdrLoadDll", "nosuch.dll", 0, OpenResult.FAILED)
    for _ in range(MAX_LISTED + 7):
        ledger.add(failed)
        ledger.add(CLOSE)
    assert (len(ledger.opens_failed), len(ledger.closes_mispredicted)) == (MAX_LISTED, MAX_LISTED)
    assert [problem.where for problem in ledger.problems()] == ["opens_failed", "closes_mispredicted"]
    totals = ledger.totals()
    assert (totals.opens_failed, totals.closes, totals.closes_mispredicted, totals.libraries_unloaded) == tuple(
        factor * (MAX_LISTED + 7) for factor in (1, 1, 1, 2)
    )
