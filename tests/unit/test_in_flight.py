"""Is a close judged while another thread may still be within an open?"""

from __future__ import annotations

from dlwhy.common.linux.loader.maps import LinkMap
from dlwhy.common.linux.model import Library
from dlwhy.common.linux.trace.call import CallStart, CloseCall, ClosePrediction, OpenCall
from dlwhy.common.linux.trace.events import LibraryInstance
from dlwhy.common.linux.trace.in_flight import InFlightCalls
from dlwhy.common.linux.trace.request import OpenRequest
from dlwhy.common.model import Layout, Outcome
from dlwhy.common.structs import Structure
from dlwhy.common.trace.events import EventHeader


def opening(number: int, lwp: int) -> OpenCall:
    beginning = CallStart(EventHeader(number, 0.0, lwp, None, "user", None), 0x7FF0, None, {})
    return OpenCall(beginning, OpenRequest("libA.so", 1, -2))


def test_calls_of_several_threads_race() -> None:
    operations = InFlightCalls()
    first, second = opening(1, 100), opening(2, 200)
    operations.add(first)
    operations.add(second)
    assert first.header.raced
    assert second.header.raced
    assert operations.are_raced()
    operations.remove(second)
    operations.remove(first)
    assert not operations.are_raced()
    third = opening(3, 100)
    operations.add(third)
    assert not third.header.raced


def test_what_seems_to_be_the_effect_of_a_call_that_raced_does_not_end_it() -> None:
    operations = InFlightCalls()
    first, second = opening(1, 100), opening(2, 200)
    operations.add(first)
    first.has_effect = True
    assert operations.ended(200, 0x9000, lambda _: 0) == [first]
    operations.add(second)
    second.has_effect = True
    assert operations.ended(300, 0x9000, lambda _: 0) == []
    assert operations.ended(200, 0x9000, lambda _: 0) == [second]


def test_a_prediction_that_is_made_again_keeps_nothing_of_the_one_before() -> None:
    library = LibraryInstance("libA.so", "/opt/app/libA.so", 0, 0x5000, 0x7000, 0x7000, 0x8000)
    closing = CloseCall(CallStart(EventHeader(1, 0.0, 100), 0x7FF0, None, {}), 0x5000, None, library)
    count = LinkMap(0x5000, b"", Structure(Layout("link_map", 0, {}), "<"))
    count.l_direct_opencount = 2
    stays = Library("libA.so", "/opt/app/libA.so", None, None, 0x7000, 0x7000, 0x8000, 0, 0x5000, {}, held=True)
    # Its last close, then another thread has opened it once more before it began.
    closing.predict(count, ClosePrediction(Outcome.KEEPS, {}, {}, ("libA.so",), (stays,)))
    closing.predict(count, ClosePrediction(Outcome.KEEPS, {}, {}, (), ()))
    event = closing.event(ended=True)
    assert (event.kept, event.may_unload_more, event.open_count_before) == ((), (), 2)
