"""Which in-flight opens and closes have returned, and what did they do?"""

from __future__ import annotations

from typing import Optional

from ...trace.events import Moment
from ...trace.watching import Watching
from ..loader.maps import Graph, LinkMap, is_same
from .descriptors import Descriptors
from .events import Pin
from .failures import StoredErrors
from .forecast import Forecast
from .operation import Closing, Opening, Operation
from .operations import Operations, instance_of
from .pins import find_cause, find_pinned
from .reading import Reading
from .stops import Stops
from .summary import Summary


class Progress:
    """Follows in-flight calls from event to event, and reports those that have returned."""

    def __init__(
        self,
        reading: Reading,
        watching: Watching,
        operations: Operations,
        stops: Stops,
        summary: Summary,
        descriptors: Optional[Descriptors],
        stored_errors: Optional[StoredErrors],
    ) -> None:
        """Create a tracker from the parts of a trace; ``stored_errors`` is used if no breakpoint sees errors."""
        self._reading = reading
        self._watching = watching
        self._operations = operations
        self._stops = stops
        self._summary = summary
        self._descriptors = descriptors
        self._stored_errors = stored_errors
        self._forecast = Forecast()

    def predict(self, closing: Closing, link_map: LinkMap) -> None:
        """Predict a close from the current snapshot."""
        own = self._operations.of_thread(closing.moment.tid)
        outer = next((op for op in own if isinstance(op, Closing)), None)
        prediction = self._forecast.predict(self._reading.examined, link_map, outer)
        closing.predict(link_map, prediction)
        if outer is not None:
            outer.note_remarked(prediction.adds)

    def advance(self, lwp: Optional[int], stack: Optional[int]) -> None:
        """Attribute what changed since the previous event, and finish the calls that have returned."""
        before = self._reading.take_changed()
        if before is not None:
            self._compare(before)
        ended = self._operations.ended(lwp, stack, self._reading.depth)
        for closing in self._operations.closings():
            if not closing.has_effect and closing.moment.tid != lwp:
                self._predict_again(closing)
        for operation in ended:
            self.finish(operation)
        if lwp is not None:
            self._operations.note_going_on()

    def _compare(self, before: Graph) -> None:
        """Attribute the changes since the previous snapshot."""
        process = self._reading.process
        exiting = self._reading.is_exiting
        changes = self._operations.assign(before, process, exiting=exiting)
        for opening, link_map in changes.added:
            if self._descriptors is not None:
                self._descriptors.note_birth(link_map, opening.open_before)
            self._stops.note_added(opening, instance_of(process, link_map))
        is_unseen = bool(changes.opens or changes.closes)
        if is_unseen and not exiting and not self._operations.is_raced(self._watching.number):
            self._summary.count_unseen(changes.opens, changes.closes)
            for closing in self._operations.closings() if changes.closes else ():
                closing.note_remarked(self._forecast.explain(before, process, closing))
        for link_map in find_pinned(before, process.graph):
            self._summary.tell(self._pin(link_map))
        process.forget_build_ids(changes.gone)

    def _predict_again(self, closing: Closing) -> None:
        """Predict a close that has not begun while another thread's operation changed something."""
        link_map = closing.link_map
        current = self._reading.process.graph.by_address.get(link_map.address) if link_map else None
        if link_map is None or current is None or not is_same(link_map, current) or closing.does_nothing:
            return
        closing.predict(current, closing.prediction._replace(goes={}, adds={}))
        self.predict(closing, current)

    def finish(self, operation: Operation) -> None:
        """Finish a call: report its event, and the descriptors that it leaked."""
        process = self._reading.process
        if isinstance(operation, Opening) and operation.library is None and operation.moment.raced:
            # A close by another thread can have taken the count back before it was looked at.
            maps = process.graph.by_address.values()
            found = next((m for m in maps if operation.is_for(m) and not m.is_proxy), None)
            if found is not None:
                operation.note_library(instance_of(process, found))
        if isinstance(operation, Opening) and operation.library is None:
            self._find_failure(operation)
        self._operations.remove(operation)
        self._summary.tell(operation.event(ended=not operation.is_doubtful))
        if self._descriptors is not None and isinstance(operation, Closing) and operation.went:
            moment = operation.moment._replace(within_event=operation.moment.number)
            for leak in self._descriptors.find_leaks(operation.went, operation.library, operation.open_before, moment):
                self._summary.tell(leak._replace(moment=moment._replace(number=self._watching.count())))

    def _find_failure(self, opening: Opening) -> None:
        """Find what libc keeps of a failed open; what it opens for itself is not kept."""
        if self._stored_errors is not None and opening.moment.initiated_by == "user" and not opening.is_doubtful:
            failure = self._stored_errors.find(self._reading.process, self._reading.tid(opening.moment.tid))
            if failure is not None:
                opening.note_failure(failure)

    def _pin(self, link_map: LinkMap) -> Pin:
        library = self._forecast.judge_lasting(self._reading.examined, link_map)
        openings = self._operations.openings()
        cause = find_cause(self._reading.process, link_map, library, openings)
        moment = Moment(self._watching.count(), self._watching.now(), 0)
        if openings:
            inside = openings[-1].moment
            moment = moment._replace(
                tid=inside.tid, caller=inside.caller, initiated_by=inside.initiated_by, within_event=inside.number
            )
        return Pin(moment, instance_of(self._reading.process, link_map), *cause)
