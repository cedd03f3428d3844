"""Which in-flight opens and closes have returned, and what did they do?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from ...model import Outcome
from ...trace.events import EventHeader
from ...trace.session import TraceSession
from ..loader.maps import Graph, LinkMap, is_same_library
from .call import UNPREDICTABLE, CloseCall, LoaderCall, OpenCall
from .descriptors import Descriptors
from .events import LACKS_STATIC_TLS, Pin
from .failures import StoredErrors
from .in_flight import InFlightCalls, changed_maps, instance_of
from .pins import find_new_nodelete, find_nodelete_cause
from .predictor import ClosePredictor
from .requested import find_requested
from .snapshot import LoaderSnapshot
from .stops import StopRules
from .summary import TraceSummary


class CallTracker:
    """Follows in-flight calls from event to event, and reports each that has returned."""

    def __init__(
        self,
        snapshot: LoaderSnapshot,
        session: TraceSession,
        in_flight: InFlightCalls,
        stops: StopRules,
        summary: TraceSummary,
        descriptors: Optional[Descriptors],
        stored_errors: Optional[StoredErrors],
        has_returned: Callable[[LoaderCall], bool],
        *,
        sees_errors: bool,
    ) -> None:
        """Create a tracker from the parts of a trace.

        :param stored_errors: used as long as no breakpoints see errors.
        :param has_returned: returns whether the stack of a call's thread shows that it has returned.
        :param sees_errors: breakpoints see the errors of all opens; can change.
        """
        self.sees_errors = sees_errors
        self._has_returned = has_returned
        self._snapshot = snapshot
        self._session = session
        self._in_flight = in_flight
        self._stops = stops
        self._summary = summary
        self._descriptors = descriptors
        self._stored_errors = stored_errors
        self._predictor = ClosePredictor()

    def predict(self, close_call: CloseCall, link_map: Optional[LinkMap]) -> None:
        """Predict a close from the current snapshot; ``link_map`` is None if the handle is not a library's."""
        if link_map is None and self._snapshot.process.graph.complete:
            return
        own = self._in_flight.of_thread(close_call.header.tid)
        outer = next((each for each in own if isinstance(each, CloseCall)), None)
        prediction = UNPREDICTABLE
        if link_map is not None:
            prediction = self._predictor.predict(self._snapshot.examined, link_map, outer)
        close_call.predict(link_map, prediction)
        if outer is not None and prediction.outcome is Outcome.UNKNOWN:
            outer.note_nested_unknown()
        elif outer is not None:
            outer.note_nested(prediction.for_outer_close)

    def advance(self, lwp: Optional[int], stack: Optional[int], *, has_lock: bool = False) -> None:
        """Attribute what changed since the previous event, and finish the calls that have returned.

        gdb lets the other threads run while it asks whether to stop at a breakpoint; if one comes to a breakpoint, gdb
        reports that later.  So what shows that another thread's call is over is read after its effect, and the lists
        once more after that: it can have done the rest since they were read.

        :param has_lock: as `InFlightCalls.ended` has it.
        """
        self._attribute()
        # As long as the lists cannot be read, what was in flight stays so: its effect is not seen.
        has_lock = has_lock and self._snapshot.process.graph.complete
        others = [call for call in self._in_flight.running() if call.header.tid != lwp]
        can_go_on = bool(others) and not has_lock
        if can_go_on:
            self._snapshot.reread_lock()
        ended = self._in_flight.ended(lwp, stack, self._snapshot.depth, has_lock=has_lock)
        ended += [call for call in others if call not in ended and self._has_returned(call)]
        if can_go_on and any(call in ended for call in others):
            self._snapshot.refresh()
            self._attribute()
            if lwp is not None and not self._snapshot.process.graph.complete:
                ended = [call for call in ended if call not in others]
        for call in ended:
            self.finish(call)
        if lwp is not None:
            self._in_flight.note_resumed()

    def _attribute(self) -> None:
        """Attribute what changed since the previous snapshot."""
        before = self._snapshot.take_previous()
        if before is not None:
            self._compare(before)
        self._count_passing(before)

    def _compare(self, before: Graph) -> None:
        """Attribute the changes since the previous snapshot."""
        process = self._snapshot.process
        exiting = self._snapshot.is_exiting
        changes = self._in_flight.attribute_changes(before, process, exiting=exiting)
        for open_call, link_map in changes.added:
            if self._descriptors is not None:
                self._descriptors.note_load(link_map, open_call.open_before)
            self._stops.note_added(open_call, instance_of(process, link_map))
        is_unseen = bool(changes.opens or changes.closes)
        if is_unseen and not exiting and not self._in_flight.are_raced():
            self._summary.count_unseen(changes.opens, changes.closes)
            for close_call in self._in_flight.close_calls() if changes.closes else ():
                close_call.note_nested(self._predictor.explain(before, process, close_call))
        for link_map in find_new_nodelete(before, process.graph):
            self._summary.tell(self._pin(link_map))
        process.forget_build_ids(changes.gone)

    def _count_passing(self, before: Optional[Graph]) -> None:
        """Count libraries that an open and a close that were not seen loaded and unloaded since the previous snapshot.

        An open that is failing can have loaded and unloaded some itself.
        """
        loads = self._snapshot.take_loads()
        if loads <= 0:
            return
        graph = self._snapshot.process.graph
        new = 0
        if before is not None:
            fresh = changed_maps(graph, before)
            new = sum(not is_same_library(m, before.by_address.get(m.address)) for m in fresh)
        is_failing = any(open_call.library is None for open_call in self._in_flight.open_calls())
        if loads > new and not is_failing and not self._in_flight.are_raced():
            self._summary.count_unseen(loads - new, loads - new)

    def finish(self, call: LoaderCall) -> None:
        """Finish a call: report its event, and the descriptors that it leaked."""
        process = self._snapshot.process
        if isinstance(call, OpenCall) and call.failure is None and (call.library is None or call.header.raced):
            self._find_failure(call)
        if isinstance(call, OpenCall) and call.header.raced:
            found = find_requested(process, call.request, call.header.caller)
            library = instance_of(process, found[0]) if len(found) == 1 else None
            is_found = process.graph.complete and len(found) < 2
            call.decide(library, is_found=is_found, is_failure_seen=self.sees_errors)
        elif isinstance(call, OpenCall) and call.library is not None and call.other_counts:
            self._summary.count_unseen(call.other_counts, 0)
        self._note_static_tls(call)
        self._in_flight.remove(call)
        self._summary.tell(call.event(ended=not call.is_uncertain))
        if call.header.raced and isinstance(call, CloseCall):
            self._summary.count_unloaded(len(call.unloaded))
        if self._descriptors is not None and isinstance(call, CloseCall) and call.unloaded:
            header = call.header._replace(within_event=call.header.number)
            for leak in self._descriptors.find_leaks(call.unloaded, call.library, call.open_before, header):
                self._summary.tell(leak._replace(header=header._replace(number=self._session.count())))

    def tell_failed(self, open_call: OpenCall) -> None:
        """Report an open that has failed before it was in flight."""
        if open_call.failure is None:
            self._find_failure(open_call)
        self._note_static_tls(open_call)
        self._summary.tell(open_call.event(ended=True))

    def _find_failure(self, open_call: OpenCall) -> None:
        """Find the error that libc stored for a failed open; errors of its own opens are not stored."""
        if self.sees_errors or self._stored_errors is None:
            return
        if open_call.header.initiated_by == "user" and not open_call.is_uncertain:
            failure = self._stored_errors.find(self._snapshot.process, self._snapshot.tid(open_call.header.tid))
            if failure is not None:
                open_call.note_failure(failure)

    def _note_static_tls(self, call: LoaderCall) -> None:
        """Record what is left of the static TLS block if an open has failed for lack of it."""
        if isinstance(call, OpenCall) and call.failure and LACKS_STATIC_TLS in (call.failure.text or ""):
            call.note_static_tls(self._snapshot.examined.static_tls())

    def _pin(self, link_map: LinkMap) -> Pin:
        library = self._predictor.verdict_on_permanent(self._snapshot.examined, link_map)
        open_calls = self._in_flight.open_calls()
        cause = find_nodelete_cause(self._snapshot.process, link_map, library, open_calls)
        header = EventHeader(self._session.count(), self._session.now(), 0)
        if any(open_call.header.raced for open_call in open_calls):
            header = header._replace(raced=True)
            cause = cause._replace(lookups=None)
        elif open_calls:
            inside = open_calls[-1].header
            header = header._replace(
                tid=inside.tid, caller=inside.caller, initiated_by=inside.initiated_by, within_event=inside.number
            )
        return Pin(header, instance_of(self._snapshot.process, link_map), *cause)
