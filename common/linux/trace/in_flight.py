"""Which in-flight open or close caused each change between two snapshots?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

from ..loader.maps import Graph, LinkMap, is_same_library
from ..state.process import GlibcProcess
from .call import CloseCall, LoaderCall, OpenCall
from .events import Event, LibraryInstance
from .requested import is_requested


class Attribution(NamedTuple):
    """The differences between two events: the libraries that opens loaded, and all that were unloaded.

    ``opens`` and ``closes`` are by how much open counts rose and fell without an open or close that was seen.
    """

    added: Sequence[tuple[OpenCall, LinkMap]]
    gone: Sequence[LinkMap]
    opens: int
    closes: int


class InFlightCalls:
    """The in-flight opens and closes, in the order in which they began.

    A call is added when its thread hits the breakpoint and removed when it has returned.  Those of several threads
    race: which of them caused a change is unknown.
    """

    def __init__(self) -> None:
        self._running: list[LoaderCall] = []
        #: The call whose thread has not resumed since it began.
        self._waiting: Optional[LoaderCall] = None

    def add(self, call: LoaderCall) -> None:
        """Add a call that has begun."""
        others = [each for each in self._running if each.header.tid != call.header.tid]
        if others:
            for each in (*others, call):
                each.note_race()
        self._running.append(call)
        self._waiting = call

    def remove(self, call: LoaderCall) -> None:
        """Remove a call that has returned."""
        self._running.remove(call)
        if self._waiting is call:
            self._waiting = None

    def forget(self, call: LoaderCall) -> None:
        """Remove a call whose first instruction was not executed and is about to be reached again."""
        self._running.remove(call)

    def end_all(self) -> tuple[Event, ...]:
        """Remove all calls at the end of the trace; return their events as known so far."""
        events = self.unended()
        self._running.clear()
        return events

    def note_resumed(self) -> None:
        """Record that the latest call's thread has resumed."""
        self._waiting = None

    def are_raced(self) -> bool:
        """Return True if changes cannot be attributed, because calls of several threads are in flight."""
        return any(call.header.raced for call in self._running)

    def running(self) -> tuple[LoaderCall, ...]:
        """Return all in-flight calls."""
        return tuple(self._running)

    def unended(self) -> tuple[Event, ...]:
        """Return the events of all in-flight calls as known so far."""
        return tuple(call.event(ended=False) for call in self._running)

    def find_unstarted_close(self, lwp: int, stack: int) -> Optional[CloseCall]:
        """Return a thread's latest close if it began at this stack pointer and has had no effect yet, else None."""
        last = next(reversed(self.of_thread(lwp)), None)
        if not isinstance(last, CloseCall) or last.header.raced or last.stack != stack:
            return None
        return None if last.does_nothing or last.has_effect else last

    def has_open_at(self, lwp: int, stack: int) -> bool:
        """Return True if a thread's latest call is an open that began at this stack pointer and had no effect yet."""
        last = next(reversed(self.of_thread(lwp)), None)
        return isinstance(last, OpenCall) and last.stack == stack and not last.has_effect

    def enclosing_call(self, lwp: int, stack: int) -> Optional[int]:
        """Return the number of the innermost call of a thread that encloses a stack address, None without one."""
        found = [each.header.number for each in self.of_thread(lwp) if each.stack > stack]
        return found[-1] if found else None

    def mark_uncertain(self) -> None:
        """Mark all in-flight calls uncertain."""
        for call in self._running:
            call.mark_uncertain()

    def of_thread(self, lwp: int) -> list[LoaderCall]:
        """Return a thread's in-flight calls, outermost first."""
        return [each for each in self._running if each.header.tid == lwp]

    def open_calls(self) -> list[OpenCall]:
        """Return the in-flight opens."""
        return [each for each in self._running if isinstance(each, OpenCall)]

    def close_calls(self) -> list[CloseCall]:
        """Return the in-flight closes."""
        return [each for each in self._running if isinstance(each, CloseCall)]

    def ended(
        self, lwp: Optional[int], stack: Optional[int], depth: Callable[[int], int], *, has_lock: bool = False
    ) -> list[LoaderCall]:
        """Return the calls that have returned; one that cannot be shown to have returned is still in flight.

        :param lwp: the thread that hit a breakpoint, None at a stop.
        :param stack: its stack pointer.
        :param depth: returns how deeply a thread holds the loader's lock: this many of its calls, the outermost ones,
            have not returned.
        :param has_lock: it has just taken the lock for a call that is not in flight yet, so no other thread has it.
        """
        if has_lock:
            others = [each for each in self._running if each.header.tid != lwp]
            own = [each for each in self._running if each.header.tid == lwp]
            return [*others, *(each for each in own if self._has_ended(each, lwp, stack, depth(each.header.tid) - 1))]
        return [each for each in self._running if self._has_ended(each, lwp, stack, depth(each.header.tid))]

    def _has_ended(self, call: LoaderCall, lwp: Optional[int], stack: Optional[int], depth: int) -> bool:
        """Return True if a call has returned.

        If its own thread hit a breakpoint, the stack pointer and the lock decide.  Otherwise it must not hold the lock,
        and must have had an effect or have called another call; at a stop this is not required of a call whose thread
        has resumed since it began.  What seems to be the effect of a call that raced can be another one's.
        """
        own = self.of_thread(call.header.tid)
        if call.header.tid == lwp and stack is not None:
            return call.stack <= stack or own.index(call) >= depth
        if own.index(call) < depth:
            return False
        has_effect = call.has_effect and not call.header.raced
        return has_effect or call is not own[-1] or (lwp is None and call is not self._waiting)

    def attribute_changes(self, before: Graph, process: GlibcProcess, *, exiting: bool) -> Attribution:
        """Attribute each difference between two snapshots to an in-flight call."""
        graph = process.graph
        opens = closes = 0
        added: list[tuple[OpenCall, LinkMap]] = []
        gone: list[LinkMap] = []
        for link_map in changed_maps(before, graph):
            other = graph.by_address.get(link_map.address)
            if link_map.is_proxy:
                continue
            count = link_map.l_direct_opencount
            if other is None or not is_same_library(link_map, other):
                gone.append(link_map)
                self._attribute_unload(link_map, process)
                closes += max(0, count - self._attribute_closes(link_map, count))
                continue
            change = other.l_direct_opencount - count
            # Opens and closes of one library between two events cancel out, but each is an event itself.
            if change < 0:
                closes += -change - self._attribute_closes(link_map, -change)
            elif change > 0:
                opens += change - self._attribute_opens(other, change, process, exiting)
        for link_map in changed_maps(graph, before):
            if not is_same_library(link_map, before.by_address.get(link_map.address)) and not link_map.is_proxy:
                count = link_map.l_direct_opencount
                open_calls = self.open_calls()
                library = instance_of(process, link_map)  # in any case: its build-id is needed after the unload
                if open_calls:
                    open_calls[-1].note_added(library)
                    added.append((open_calls[-1], link_map))
                opens += count - self._attribute_opens(link_map, count, process, exiting)
        return Attribution(added, gone, opens, closes)

    def _attribute_unload(self, link_map: LinkMap, process: GlibcProcess) -> None:
        """Attribute an unloaded library to the likeliest in-flight call."""
        close_calls = self.close_calls()
        by_prediction = [each for each in close_calls if each.is_expected_to_unload(link_map.address)]
        in_namespace = [each for each in close_calls if each.library and each.library.namespace == link_map.l_ns]
        likely = next(iter((*by_prediction, *in_namespace, *self.open_calls())), None)
        if likely is not None:
            likely.note_gone(instance_of(process, link_map))

    def _attribute_closes(self, link_map: LinkMap, total: int) -> int:
        """Attribute a drop in open count to in-flight closes; return how much was attributed."""
        found = 0
        for call in self.close_calls():
            same = call.link_map is not None and is_same_library(call.link_map, link_map)
            if same and not call.is_counted and not call.does_nothing and found < total:
                call.note_count()
                found += 1
        return found

    def _attribute_opens(self, link_map: LinkMap, total: int, process: GlibcProcess, exiting: bool) -> int:
        """Attribute a rise in open count to in-flight opens; return how much was attributed.

        At exit _dl_fini raises all open counts, so that no close unloads a library during its finaliser.
        """
        waiting = [each for each in reversed(self.open_calls()) if each.library is None]
        own = [each for each in waiting if is_requested(process, link_map, each.request, each.header.caller)][:total]
        for call in own:
            call.note_library(instance_of(process, link_map))
        other = next((each for each in waiting if each not in own), None)
        if other is None or exiting or len(own) == total:
            return len(own)
        other.note_other_counts(total - len(own))
        return total


def instance_of(process: GlibcProcess, link_map: LinkMap) -> LibraryInstance:
    """Describe a library that is loaded, or was at the previous event."""
    name, path = process.name(link_map), process.path(link_map)
    start, end = process.extent(link_map)
    build_id = process.build_id(link_map)
    return LibraryInstance(name, path, link_map.l_ns, link_map.address, link_map.l_addr, start, end, build_id)


def changed_maps(graph: Graph, other: Graph) -> Sequence[LinkMap]:
    """Return the link maps of one graph that another lacks or has read again."""
    maps = graph.by_address.values()
    found = set(maps).difference(other.by_address.values())
    return [link_map for link_map in maps if link_map in found] if found else ()
