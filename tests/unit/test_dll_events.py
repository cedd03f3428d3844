"""Has each event of a trace of Windows' loader its keys in JSON, and is nothing lost in the sums without a word?"""

from __future__ import annotations

import json

import pytest
from dlwhy.common.commands.dlltrace.document import dump_dll_event
from dlwhy.common.model import Outcome
from dlwhy.common.trace.events import Moment, OpenResult, Site
from dlwhy.common.trace.ledger import MAX_LISTED
from dlwhy.common.windows.trace.events import DllClose, DllEvent, DllInstance, DllOpen, DllPin
from dlwhy.common.windows.trace.ledger import DllLedger
from dlwhy.tests.schema import validator_of

LIBRARY = DllInstance("libA.dll", "C:\\app\\libA.dll", 0x5000, 0x7FF8_0000_0000)
MAPPED = DllInstance("libB.dll", "libB.dll", 0, 0x7FF8_0001_0000)
MOMENT = Moment(3, 0.25, 4711, Site(0x1000, "prog.exe", "main"))
COMMON = {
    "schema": "dlwhy/1",
    "number": 3,
    "time": 0.25,
    "thread": {"lwp": 4711},
    "caller": {"address": "0x1000", "library": "prog.exe", "function": "main", "line": None},
    "by": "user",
    "inside": None,
    "at_exit": False,
    "raced": False,
    "library": {"name": "libA.dll", "path": "C:\\app\\libA.dll", "base": "0x7ff800000000", "entry": "0x5000"},
}
OPEN = DllOpen(MOMENT, "LdrLoadDll", "libA.dll", 2, OpenResult.LOADED, LIBRARY, (LIBRARY, MAPPED), (), 0, None, 1)
CLOSE = DllClose(
    moment=MOMENT,
    library=LIBRARY,
    outcome=Outcome.UNLOADS,
    predicted=(LIBRARY,),
    went=(LIBRARY, MAPPED),
    ended=True,
    status=0,
    count_before=1,
    detached=("libA.dll",),
)


@pytest.mark.parametrize(
    ("event", "own"),
    [
        (
            OPEN,
            {
                "event": "open",
                "requested": "libA.dll",
                "flags": 2,
                "space": 0,
                "result": "loaded",
                "added": ["libA.dll", "libB.dll"],
                "went": [],
                "function": "LdrLoadDll",
                "status": "0x00000000",
                "count_before": None,
                "count_after": 1,
            },
        ),
        (
            CLOSE,
            {
                "event": "close",
                "handle": None,
                "open_count": 1,
                "outcome": "unloads",
                "predicted": ["libA.dll"],
                "remarked": [],
                "adds": [],
                "at_least": [],
                "keeps": [],
                "went": ["libA.dll", "libB.dll"],
                "stayed": [],
                "surprises": ["libB.dll"],
                "exact": False,
                "status": "0x00000000",
                "count_before": 1,
                "count_after": None,
                "refusal": None,
                "detached": ["libA.dll"],
            },
        ),
        (
            DllPin(MOMENT, LIBRARY, "LdrAddRefDll"),
            {
                "event": "pin",
                "origin": "explicit",
                "symbols": [],
                "symbols_omitted": 0,
                "lookups": [],
                "function": "LdrAddRefDll",
            },
        ),
    ],
)
def test_an_event_as_json(event: DllEvent, own: dict[str, object]) -> None:
    document = json.loads(dump_dll_event(event))
    validator_of("dll_event").validate(document)
    assert document == {**COMMON, **own}


def test_a_free_whose_end_was_not_seen_tells_nothing_of_it() -> None:
    document = json.loads(dump_dll_event(CLOSE._replace(ended=False, went=())))
    assert (document["went"], document["exact"], document["stayed"], document["surprises"]) == (None, None, [], [])


def test_what_is_too_many_to_list_is_told() -> None:
    ledger = DllLedger()
    failed = DllOpen(MOMENT, "LdrLoadDll", "nosuch.dll", 0, OpenResult.FAILED)
    for _ in range(MAX_LISTED + 7):
        ledger.add(failed)
        ledger.add(CLOSE)
    assert (len(ledger.failures), len(ledger.mismatches)) == (MAX_LISTED, MAX_LISTED)
    assert [problem.where for problem in ledger.problems()] == ["failures", "mismatches"]
    totals = ledger.totals()
    assert (totals.failed, totals.closes, totals.mismatches, totals.unloaded) == tuple(
        factor * (MAX_LISTED + 7) for factor in (1, 1, 1, 2)
    )
