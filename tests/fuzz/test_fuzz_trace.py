"""Does a trace of a process that does absurd things, with memory that is garbage, end in bounded time and in words?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from dlwhy.common.commands.dltrace.document import dump_event, trace_document
from dlwhy.common.commands.dltrace.text import stop_view, trace_view
from dlwhy.common.linux.elf.unwind import REGISTERS
from dlwhy.common.linux.trace.entry_points import CONVENTIONS
from dlwhy.common.linux.trace.events import Event, Stop
from dlwhy.common.linux.trace.stops import TraceOptions
from dlwhy.common.linux.trace.summary import MAX_PROBLEMS
from dlwhy.common.linux.trace.tracer import begin
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import MAX_WIDTH, render
from dlwhy.common.target import Reaction
from dlwhy.tests.fakes import CoreTarget
from dlwhy.tests.fuzz.examples import examples
from dlwhy.tests.support.live import Arrival, Breakpoints
from hypothesis import given
from hypothesis import strategies as st

LIMIT_SECONDS = 30.0
CONVENTION = CONVENTIONS["x86_64"]
NAMES = (*CONVENTION.arguments, *REGISTERS["x86_64"].values())


class RunningCore(Breakpoints, CoreTarget):
    """A core that claims to run; its threads come to breakpoints when the test says so."""

    keeps_breakpoints = True

    def __init__(self, path: Path) -> None:
        Breakpoints.__init__(self)
        CoreTarget.__init__(self, path)

    def stack_pointer(self, lwp: int) -> Optional[int]:
        return None


def arrive(target: RunningCore, address: int, lwp: int, values: Sequence[int]) -> Reaction:
    """Let a thread come to a place with these values in its registers, zeros in the others."""
    return target.arrive(Arrival(address, lwp, {**dict.fromkeys(NAMES, 0), **dict(zip(NAMES, values))}))


# A value is a link_map of the process, its place on a stack, or anything.
VALUES = st.one_of(
    st.tuples(st.just("map"), st.integers(0, 30)),
    st.tuples(st.just("stack"), st.integers(-512, 512)),
    st.tuples(st.just("any"), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("any"), st.integers(0, 8)),
)
ARRIVALS = st.tuples(st.just("hit"), st.integers(0, 7), st.integers(0, 3), st.lists(VALUES, min_size=11, max_size=11))
DAMAGES = st.tuples(st.just("damage"), st.integers(0, 30), st.integers(0, 1200), st.binary(min_size=1, max_size=16))
LOSSES = st.tuples(st.just("lose"), st.integers(0, 30), st.integers(0, 1200), st.integers(1, 8192))
HEALINGS = st.tuples(st.just("heal"), st.just(0), st.just(0), st.just(0))


@examples(150)
@given(
    steps=st.lists(st.one_of(ARRIVALS, ARRIVALS, DAMAGES, LOSSES, HEALINGS), max_size=24),
    stop_when=st.sampled_from([None, "kept", "unloaded", "opened"]),
    libraries=st.sampled_from([(), ("lib*",), ("libnothing.so",)]),
    ends=st.booleans(),
)
def test_any_order_of_events(
    rich_core: Path, steps: list[tuple[Any, ...]], stop_when: Optional[str], libraries: tuple[str, ...], ends: bool
) -> None:
    began = time.process_time()
    events: list[Event] = []
    stops: list[Stop] = []
    target = RunningCore(rich_core)
    try:
        tracer = begin(target, TraceOptions(libraries, stop_when, tls=True), events.append, stops.append)
        maps = sorted(tracer._snapshot.process.graph.by_address)
        places = sorted(target.handlers)
        stack = target.core.auxv.get(25, 0) & ~0xFFF  # where AT_RANDOM points: the main thread's stack
        values = {
            "map": lambda number: maps[number % len(maps)],
            "stack": lambda number: stack + 8 * number,
            "any": lambda number: number,
        }
        for kind, which, place, what in steps:
            if kind == "hit":
                address = places[which % len(places)]  # where there is no breakpoint any more nothing happens
                arrive(target, address, 4711 + place, [values[each](number) for each, number in what])
            elif kind == "damage":
                target.overwrite(maps[which % len(maps)] + place, what)
            elif kind == "lose":
                target.forget(maps[which % len(maps)] + place, what)
            else:
                target.heal()
        target.alive = not ends
        for _ in range(2):
            trace = tracer.report()
            dump(trace_document("dltrace", trace))
            text = render(trace_view(trace, verbose=False))
            assert all(len(line) <= MAX_WIDTH for line in text.splitlines())
            assert render(trace_view(trace, verbose=True))
            assert len(trace.problems) <= MAX_PROBLEMS + len(tracer._snapshot.process.problems)
            tracer.stop()
    finally:
        target.close()
    for event in events:
        dump_event(event)
    for stop in stops:
        assert all(len(line) <= MAX_WIDTH for line in render(stop_view(stop)).splitlines())
    assert time.process_time() - began < LIMIT_SECONDS


def test_the_undamaged_process_is_traced(rich_core: Path) -> None:
    # An open and a close that never do anything: no more is seen, and nothing is wrong.
    events: list[Event] = []
    target = RunningCore(rich_core)
    tracer = begin(target, TraceOptions(tls=True), events.append, lambda _: None)
    stack = target.core.auxv[25] & ~0xFFF
    handle = next(iter(tracer._snapshot.process.graph.by_address))
    for address in sorted(target.handlers):
        assert arrive(target, address, 4711, [handle, 2, 0, 0, 0, 0, stack]) is Reaction.RESUME
    tracer.stop()
    trace = tracer.report()
    target.close()
    assert trace.watching is False
    assert [type(event).__name__ for event in events].count("Close") == 1


if TYPE_CHECKING:
    from dlwhy.common.target import LiveTarget

    _conforms: type[LiveTarget] = RunningCore
