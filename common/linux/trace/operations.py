"""Which of the opens and closes that go on is to thank for what has changed between two events?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Optional

from ...model import Outcome
from ...trace.events import Instance, Moment, OpenResult
from ..loader.maps import Graph, LinkMap, is_same
from ..model import Library
from ..state.naming import base_name
from ..state.process import GlibcProcess
from .descriptors import Snapshot
from .events import Close, Event, Open

#: For so many events after threads have opened and closed at once, differences cannot be assigned for sure.
_RACE_EVENTS = 16


class Operation:
    """An open or close that has begun and not been seen to end."""

    def __init__(self, moment: Moment, stack: int) -> None:
        self.moment = moment
        self.stack = stack
        self.has_effect = False
        self.is_counted = False
        #: An event was not understood meanwhile: it can have ended, and what it did can be lost.
        self.is_doubtful = False
        #: The word at ``stack`` where this is its return address.
        self.returns_to: Optional[int] = None
        self.open_before: Snapshot = {}
        self.went: dict[int, Instance] = {}

    def event(self, ended: bool) -> Event:
        """Give the event as it is known now."""
        raise NotImplementedError


class Opening(Operation):
    """A dlopen or dlmopen."""

    def __init__(self, moment: Moment, stack: int, requested: Optional[str], flags: int, space: int) -> None:
        super().__init__(moment, stack)
        self.requested = requested
        self.flags = flags
        self.space = space
        self.library: Optional[Instance] = None
        self.added: dict[int, Instance] = {}

    def event(self, ended: bool) -> Open:
        """Give the event: without a library it has failed, if it has ended."""
        result = OpenResult.UNKNOWN
        if self.library is not None:
            result = OpenResult.LOADED if self.library.link_map in self.added else OpenResult.COUNTED
        elif ended:
            result = OpenResult.FAILED
        return Open(
            self.moment,
            self.requested,
            self.flags,
            self.space,
            result,
            self.library,
            _by_name(self.added.values()),
            _by_name(self.went.values()),
        )


class Closing(Operation):
    """A close, with what was predicted of it."""

    def __init__(
        self, moment: Moment, stack: int, handle: int, link_map: Optional[LinkMap], library: Optional[Instance]
    ) -> None:
        super().__init__(moment, stack)
        self.handle = handle
        self.link_map = link_map
        self.library = library
        self.outcome = Outcome.NOT_OPEN
        self.predicted: dict[int, Instance] = {}
        self.remarked: dict[int, Instance] = {}
        self.adds: dict[int, Instance] = {}
        self.at_least: tuple[str, ...] = ()
        self.keeps: tuple[Library, ...] = ()

    @property
    def does_nothing(self) -> bool:
        """Tell whether the close is sure to leave everything as it is."""
        return self.outcome in (Outcome.EARLY_RETURN, Outcome.NOT_OPEN)

    def event(self, ended: bool) -> Close:
        """Give the event: what went is not known before it has ended."""
        return Close(
            self.moment,
            self.library,
            self.link_map.l_direct_opencount if self.link_map else 0,
            self.outcome,
            _by_name(self.predicted.values()),
            _by_name(self.remarked.values()),
            self.at_least,
            self.keeps,
            _by_name(self.went.values()) if ended else (),
            ended,
            _by_name(self.adds.values()),
            self.handle,
        )


def _by_name(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    return tuple(sorted(instances))


class Unexplained(NamedTuple):
    """How far open counts went up and down without an open or close that was seen."""

    opens: int
    closes: int


class Operations:
    """The opens and closes that have begun and not been seen to end, in the order in which they began."""

    def __init__(self, on_added: Callable[[Opening, LinkMap], None]) -> None:
        """Take what is called when an open has added a library."""
        self.running: list[Operation] = []
        #: The one whose thread has not gone on since it began.
        self.waiting: Optional[Operation] = None
        #: Up to which event differences cannot be assigned for sure.
        self.raced_until = 0
        #: Threads whose part in a race seems to be over, by an effect that may be another's; and until which event.
        self._doubtful: dict[int, int] = {}
        self._on_added = on_added

    def add(self, operation: Operation) -> None:
        """Add one that begins."""
        number = operation.moment.number
        self._doubtful.pop(operation.moment.lwp, None)
        others = [op for op in self.running if op.moment.lwp != operation.moment.lwp]
        if others or any(number <= until for until in self._doubtful.values()):
            for each in (*others, operation):
                each.moment = each.moment._replace(raced=True)
        if others:
            self.raced_until = number + _RACE_EVENTS
        self.running.append(operation)
        self.waiting = operation

    def remove(self, operation: Operation) -> None:
        """Remove one that has ended."""
        self.running.remove(operation)
        if operation.moment.raced:
            self._doubtful[operation.moment.lwp] = self.raced_until
        if self.waiting is operation:
            self.waiting = None

    def doubt(self) -> None:
        """Take the effect of nothing that goes on for known any more."""
        for operation in self.running:
            operation.is_doubtful = True

    def of_thread(self, lwp: int) -> list[Operation]:
        """List those of a thread, each within the one before."""
        return [op for op in self.running if op.moment.lwp == lwp]

    def openings(self) -> list[Opening]:
        """List the opens."""
        return [op for op in self.running if isinstance(op, Opening)]

    def closings(self) -> list[Closing]:
        """List the closes."""
        return [op for op in self.running if isinstance(op, Closing)]

    def has_ended(self, operation: Operation, lwp: Optional[int], stack: Optional[int], depth: int) -> bool:
        """Tell whether an operation has ended when a thread comes from a place on its stack; without one: at a stop.

        ``depth`` is how many of the operation's thread's go on, by the loader's lock: the first ones.  What cannot be
        told to have ended has not.
        """
        own = self.of_thread(operation.moment.lwp)
        if operation.moment.lwp == lwp and stack is not None:
            return operation.stack <= stack or own.index(operation) >= depth
        if own.index(operation) < depth:
            return False
        return operation.has_effect or operation is not own[-1] or (lwp is None and operation is not self.waiting)

    def assign(self, before: Graph, process: GlibcProcess, *, exiting: bool) -> Unexplained:
        """Find out which operation is to thank for each difference of two readings; gives what none is."""
        graph = process.graph
        opens = closes = 0
        for link_map in differing(before, graph):
            other = graph.by_address.get(link_map.address)
            if link_map.is_proxy:
                continue
            count = link_map.l_direct_opencount
            if other is None or not is_same(link_map, other):
                self._assign_gone(link_map, process)
                closes += max(0, count - self._lower(link_map, count))
                continue
            change = other.l_direct_opencount - count
            # Opens and closes of one library between two events cancel out; all are events themselves.
            if change < 0:
                closes += -change - self._lower(link_map, -change)
            elif change > 0:
                opens += change - self._raise(other, change, process, exiting)
        for link_map in differing(graph, before):
            if not is_same(link_map, before.by_address.get(link_map.address)) and not link_map.is_proxy:
                count = link_map.l_direct_opencount
                self._assign_added(link_map, process)
                opens += count - self._raise(link_map, count, process, exiting)
        return Unexplained(opens, closes)

    def _assign_gone(self, link_map: LinkMap, process: GlibcProcess) -> None:
        address = link_map.address
        closings = self.closings()
        by_prediction = [op for op in closings if address in op.predicted or address in op.remarked]
        in_namespace = [op for op in closings if op.library and op.library.namespace == link_map.l_ns]
        openings = self.openings()
        for operation in (*by_prediction, *in_namespace, *openings):
            operation.went[address] = instance_of(process, link_map)
            operation.has_effect = True
            return

    def _assign_added(self, link_map: LinkMap, process: GlibcProcess) -> None:
        openings = self.openings()
        if openings:
            openings[-1].added[link_map.address] = instance_of(process, link_map)
            self._on_added(openings[-1], link_map)

    def _lower(self, link_map: LinkMap, total: int) -> int:
        """Let closes of a library account for a lower count; gives for how much of it."""
        found = 0
        for operation in self.closings():
            same = operation.link_map is not None and is_same(operation.link_map, link_map)
            if same and not operation.is_counted and not operation.does_nothing and found < total:
                operation.has_effect = operation.is_counted = True
                found += 1
        return found

    def _raise(self, link_map: LinkMap, total: int, process: GlibcProcess, exiting: bool) -> int:
        """Let opens account for a higher count; gives for how much of it.

        At exit _dl_fini raises all counts, so that no close takes a library away from under it.
        """
        found = 0
        waiting = [op for op in reversed(self.openings()) if op.library is None]
        if exiting:
            waiting = [op for op in waiting if is_request_for(op, link_map)]
        for operation in sorted(waiting, key=lambda op: not is_request_for(op, link_map)):
            if found < total:
                operation.library = instance_of(process, link_map)
                operation.has_effect = True
                found += 1
        return found


def instance_of(process: GlibcProcess, link_map: LinkMap) -> Instance:
    """Describe a library as it is loaded now."""
    path = process.path(link_map)
    return Instance(base_name(path), path, link_map.l_ns, link_map.address, link_map.l_addr)


def differing(graph: Graph, other: Graph) -> Sequence[LinkMap]:
    """List the maps of a graph that another one has not, or has read anew."""
    maps = graph.by_address.values()
    found = set(maps).difference(other.by_address.values())
    return [link_map for link_map in maps if link_map in found] if found else ()


def is_request_for(opening: Opening, link_map: LinkMap) -> bool:
    """Tell whether an open asks for a library by its name."""
    return base_name(opening.requested or "") == base_name(link_map.name)
