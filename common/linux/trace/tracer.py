"""Which close did not unload, who opened, and who never closed?  Observed at breakpoints.

A state machine without a debugger: it runs when a thread is about to enter the loader's open or close, and reads the
loader's lists.  No breakpoint marks the return, which would double the cost of calls that mostly unload nothing.  A
call has returned if its thread hits a breakpoint at the same or a higher stack address, or holds the loader's lock less
deeply than the call would; without such a hit, if the call does not hold the lock and its effect was seen.  At a lower
stack address the new call is nested in it, if the lock agrees.  At a stop of the process the threads' stacks are read,
too.  What a call did is the difference between the snapshots of two events.

Where the debugger keeps a breakpoint in ld.so, and its code is understood (`lock_points`), calls are seen where they
have just taken the loader's lock.  Then threads cannot race: the order of these hits is the order of the calls, and
when a thread has the lock, the calls of all others are over.  gdb 13 to 17 loses breakpoints in ld.so when a namespace
is unloaded; there they are replaced as soon as one is requested.

Sources: glibc's elf/dl-close.c (a nested close is deferred, and makes the outer one mark again), elf/dl-open.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Optional, Union

from ...errors import DlwhyError, NoTargetError, UnsupportedError
from ...guards import call_handler, event_bug, traceback_of
from ...memory import Memory
from ...model import Problem
from ...target import Hit, LiveLinuxTarget, Reaction, Subscription
from ...trace.events import EventHeader, Site
from ...trace.session import TraceSession
from ..elf.unwind import REGISTERS
from ..loader.maps import is_same_library
from ..loader.rendezvous import Rendezvous
from ..state.examine import examine
from ..state.process import GlibcProcess
from ..state.verdict import GlibcExamination
from .arrivals import Arrival, Arrivals
from .call import CallStart, CloseCall, LoaderCall, OpenCall
from .callers import Caller, Callers
from .descriptors import DESCRIPTOR_FUNCTIONS, Descriptors, name_call, read_path
from .entry_points import (
    CALLERS_NAMESPACE,
    CONVENTIONS,
    NEW_NAMESPACE,
    EntryPoint,
    EntryPoints,
    find_entry_points,
    find_function,
)
from .events import Event, Stop, TlsRegistration, Trace
from .failures import StoredErrors, find_raisers, read_failure
from .in_flight import InFlightCalls, instance_of
from .lock_points import LockPoint
from .registrations import REGISTER, read_registration
from .request import RTLD_NOLOAD, OpenRequest, read_request
from .snapshot import ANOTHER_PROGRAM, LoaderSnapshot
from .stops import StopRules, TraceOptions
from .summary import TraceSummary
from .tracker import CallTracker

EXITED = "the process ended"

_CLOSES = (EntryPoint.DL_CLOSE, EntryPoint.DL_CLOSE_LOCKED, EntryPoint.DLCLOSE)


def begin(
    target: LiveLinuxTarget, options: TraceOptions, sink: Callable[[Event], None], announce: Callable[[Stop], None]
) -> Tracer:
    """Begin a trace.

    :param target: a live process that runs glibc's loader.
    :param sink: receives each event, an open or close once it has returned.
    :param announce: called before the process stops for a reason of ``options``.
    :raises UnsupportedError: if the process cannot be traced.
    :raises LayoutError: if no known layout of glibc fits.
    """

    def of_glibc(process: GlibcProcess) -> Tracer:
        return Tracer(target, GlibcExamination.of(process), options, sink, announce)

    def of_musl(_memory: Memory, _start: Rendezvous) -> Tracer:
        raise UnsupportedError("musl never unloads, by design: there is no close to trace")

    tracer, _ = examine(target, of_glibc, of_musl)
    tracer.start()
    return tracer


class Tracer:
    """A trace of one process: handles the hits of its breakpoints."""

    def __init__(
        self,
        target: LiveLinuxTarget,
        examined: GlibcExamination,
        options: TraceOptions,
        sink: Callable[[Event], None],
        announce: Callable[[Stop], None],
    ) -> None:
        self.target = target
        self.options = options
        process = examined.process
        arch = process.memory.platform.arch
        if arch not in CONVENTIONS:
            raise UnsupportedError(f"tracing on {arch} is not supported")
        self._callers = Callers(target, CONVENTIONS[arch], process.private.rtld_map.address)
        self._snapshot = LoaderSnapshot(target, examined)
        self._session = TraceSession()
        self._in_flight = InFlightCalls()
        self._stops = StopRules(options, announce)
        self._summary = TraceSummary(process, options.libraries, self._stops, sink)
        self._descriptors = self._watch_descriptors() if options.fds else None
        self._entry_points, self._fallback = self._find_entry_points(process)
        self._entries = {**(self._fallback or self._entry_points).entries, **self._entry_points.entries}
        libc, rtld, version = process.private.libc, process.private.rtld, process.layouts.version
        stays_in_rtld = target.keeps_breakpoints
        self._raisers = find_raisers(libc, rtld, version, in_rtld=stays_in_rtld or self._fallback is not None)
        self._lasting_raisers = find_raisers(libc, rtld, version, in_rtld=stays_in_rtld)
        self._tracker = CallTracker(
            self._snapshot,
            self._session,
            self._in_flight,
            self._stops,
            self._summary,
            self._descriptors,
            None if self._lasting_raisers else StoredErrors.of(libc),
            lambda call: self._has_returned(call.header.tid, call),
            sees_errors=bool(self._raisers),
        )
        self._makers: Mapping[int, str] = {}
        self._arrivals = Arrivals()
        #: The breakpoints that are given up when a namespace is requested, and those that take their place.
        self._given_up: list[Subscription] = []
        self._kept_ready: list[Subscription] = []
        for problem in self._entry_points.problems:
            self._summary.add_problem(*problem)

    def _find_entry_points(self, process: GlibcProcess) -> tuple[EntryPoints, Optional[EntryPoints]]:
        """Find where to watch opens and closes, and where after a namespace is requested; None: at the same places."""

        def find(in_rtld: bool) -> EntryPoints:
            return find_entry_points(process.memory, process.layouts, process.private, process.graph, in_rtld=in_rtld)

        # The callers of ld.so's own functions are found by unwinding, for which not every architecture has a table.
        can_unwind = process.memory.platform.arch in REGISTERS
        if self.target.keeps_breakpoints or not can_unwind:
            return find(in_rtld=can_unwind), None
        outside = find(in_rtld=False)
        points = find(in_rtld=True) if len(process.graph.namespaces) == 1 else outside
        return (points, outside) if points.locked else (outside, None)

    @property
    def process(self) -> GlibcProcess:
        """Return the process as last read."""
        return self._snapshot.process

    # -- start and end -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Set the breakpoints.

        :raises UnsupportedError: if a breakpoint is not possible, or a function to break at is missing.
        """
        libc = [self._snapshot.process.private.libc]
        self._given_up.append(self._watch(self._entry_points.functions, self._on_entry))
        if self._fallback is not None:
            self._kept_ready.append(self._watch(self._fallback.functions, self._on_entry, enabled=False))
        if self._raisers:
            raisers = self._watch(self._raisers, self._on_error)
            if self._raisers != self._lasting_raisers:
                self._given_up.append(raisers)
        watched: list[tuple[Mapping[int, str], Callable[[Hit], Reaction]]] = []
        problems: list[Problem] = []
        leave = find_function(libc, "_exit", problems)
        if leave:
            watched.append(({leave: "_exit"}, self._on_exit))
        if self.options.tls:
            register = find_function(libc, REGISTER, problems)
            if register is not None:
                watched.append(({register: REGISTER}, self._on_registration))
            elif not any(problem.where == REGISTER for problem in problems):
                raise UnsupportedError(f"this glibc has no {REGISTER}: it is older than 2.18")
        if self._descriptors is not None and self.options.libraries:
            makers = {find_function(libc, name, problems): name for name in DESCRIPTOR_FUNCTIONS}
            self._makers = {address: name for address, name in makers.items() if address is not None}
            watched.append((self._makers, self._on_descriptor))
        for names, handler in watched:
            self._watch(names, handler)
        for problem in problems:
            self._summary.add_problem(*problem)
        self._session.keep(self.target.on_end(self._on_end))

    def _watch(
        self, functions: Mapping[int, str], handler: Callable[[Hit], Reaction], *, enabled: bool = True
    ) -> Subscription:
        """Set breakpoints; ``functions`` are the function at each."""
        guarded = self._guarded(functions, handler)
        subscription = self.target.add_breakpoint(tuple(functions), guarded, enabled=enabled)
        self._session.keep(subscription)
        return subscription

    def _guarded(self, names: Mapping[int, str], handler: Callable[[Hit], Reaction]) -> Callable[[Hit], Reaction]:
        """Wrap a handler so that no failure in it stops the process.

        :param names: the function at each breakpoint.
        """

        def handle(hit: Hit) -> Reaction:
            where = "a breakpoint"

            def act() -> Reaction:
                nonlocal where
                where = names[hit.address]
                where = f"{where} in thread {hit.lwp}"
                self._snapshot.process.memory.renew_allowance()
                return handler(hit)

            return call_handler(act, Reaction.RESUME, lambda error: self._fail(where, error))

        return handle

    def _fail(self, where: str, error: Exception) -> None:
        """Record that an event could not be read; end the trace if there can be no more events.

        A bug in dlwhy can leave an event half processed, so all in-flight calls become uncertain.
        """
        if str(error) == ANOTHER_PROGRAM:
            self.end(ANOTHER_PROGRAM)
        elif isinstance(error, DlwhyError):
            self._summary.add_problem(where, str(error))
        else:
            self._in_flight.mark_uncertain()
            self._summary.add_problem(where, event_bug(error))
            trace = traceback_of(error)
            if trace:
                self.target.say(trace)

    def _watch_descriptors(self) -> Descriptors:
        pid = self.target.pid
        if self.target.kind != "live" or pid is None:
            raise UnsupportedError("descriptors can be watched only in a process on this machine")
        return Descriptors(pid, watches_calls=bool(self.options.libraries))

    def stop(self) -> None:
        """Remove the breakpoints, and finish the calls that can be seen to have returned."""
        if self.is_watching():
            self.settle()
            self.end("it was stopped")

    def end(self, why: str) -> None:
        """End the trace for a reason."""
        if self._session.end(why):
            self._begin_all_arrivals()
            self._summary.tell_unended(self._in_flight.end_all())

    def _on_end(self, why: str) -> None:
        call_handler(lambda: self._handle_end(why), None, lambda error: self._fail("the end of the process", error))

    def _handle_end(self, why: str) -> None:
        """Handle the debugger's report that the process has ended; gdb reports newly loaded symbols the same way."""
        if why != ANOTHER_PROGRAM or not self._snapshot.is_same_program():
            self.end(why)

    def is_watching(self) -> bool:
        """Return True while the trace runs; end it if the process has ended, which not every debugger reports."""
        if not self.target.is_alive():
            self.end(EXITED)
        return self._session.ending is None

    def settle(self) -> None:
        """Read the lists while the process is stopped, and finish the calls that have returned.

        :raises NoTargetError: if the debugger has another process selected.
        """

        def fail(error: Exception) -> None:
            if isinstance(error, NoTargetError):
                raise error
            self._fail("loader", error)

        call_handler(self._settle, None, fail)

    def _settle(self) -> None:
        self._snapshot.refresh()
        self._tracker.advance(None, None)
        for lwp in self._arrivals.threads():
            arrival = self._arrivals.find(lwp)
            if arrival is not None and self._has_returned(lwp, arrival):
                self._arrivals.take(lwp)
                self._tell_unlocked(lwp, arrival)

    def _has_returned(self, lwp: int, call: Union[LoaderCall, Arrival]) -> bool:
        """Return True if a stopped thread's stack shows that a call has returned."""
        stack = self.target.stack_pointer(lwp)
        # At the same stack pointer it has not begun.
        if stack is not None and stack > call.stack:
            return True
        if stack is None and all(lwp != thread.lwp for thread in self.target.threads()):
            return True
        saved = self._callers.saved_return(self._snapshot.process.memory, call.stack)
        return None not in (saved, call.returns_to) and saved != call.returns_to

    def report(self) -> Trace:
        """Return the report on all events so far."""
        if self.is_watching():
            self.settle()
        return self._summary.report(
            self._snapshot.process, self._session, self._entry_points, self._in_flight.unended()
        )

    # -- opens and closes --------------------------------------------------------------------------------------

    def _on_entry(self, hit: Hit) -> Reaction:
        """Handle a thread about to open or close a library."""
        entry, point = self._entries[hit.address], self._entry_points.locked.get(hit.address)
        # First of all: an arrival that is left behind would be taken for an open that has failed.
        arrival = self._arrivals.take(hit.lwp) if point is not None else None
        if entry is EntryPoint.DL_OPEN and self._entry_points.locked:
            self._snapshot.glance()
            return self._on_arrival(hit)
        self._snapshot.refresh()
        return self._on_call(hit, entry, point, arrival)

    def _on_arrival(self, hit: Hit) -> Reaction:
        """Handle a thread about to wait for the loader's lock, for an open."""
        stack = self._callers.stack(hit)
        arrival = self._arrival(hit, EntryPoint.DL_OPEN, stack)
        before = self._arrivals.add(hit.lwp, arrival)
        if before is not None:
            self._tell_unlocked(hit.lwp, before)
        if self._fallback is not None and arrival.request.space == NEW_NAMESPACE:
            return self._leave_rtld(hit.lwp)
        return Reaction.RESUME

    def _arrival(self, hit: Hit, entry: EntryPoint, stack: int) -> Arrival:
        process = self._snapshot.process
        request = read_request(self._callers, hit, process.memory, entry)
        caller = self._callers.find(hit, process, entry, stack)
        return Arrival(stack, request, caller, self._callers.saved_return(process.memory, stack))

    def _on_call(self, hit: Hit, entry: EntryPoint, point: Optional[LockPoint], arrival: Optional[Arrival]) -> Reaction:
        """Handle a thread that begins an open or close, with ``point`` one that has the lock for it."""
        stack = self._callers.stack(hit, point)
        has_lock = point is not None and self._snapshot.depth(hit.lwp) > 0
        is_close = entry in _CLOSES
        if arrival is None and not is_close and point is not None and self._in_flight.has_open_at(hit.lwp, stack):
            return Reaction.RESUME  # a signal was handled, and the thread has come here once more
        if is_close:
            self._forget_repeated(hit, stack, point)
        self._tracker.advance(hit.lwp, stack, has_lock=has_lock)
        if arrival is not None and (is_close or arrival.stack != stack):
            self._tell_unlocked(hit.lwp, arrival)
            arrival = None
        if is_close:
            return self._begin_close(hit, entry, stack, point)
        if arrival is None and point is not None:
            # The thread was on its way when the trace began.
            caller = self._callers.find(hit, self._snapshot.process, entry, stack)
            arrival = Arrival(stack, OpenRequest(None, 0, CALLERS_NAMESPACE), caller, None)
        return self._begin_open(hit.lwp, arrival or self._arrival(hit, entry, stack))

    def _leave_rtld(self, lwp: int) -> Reaction:
        """Switch to the breakpoints outside ld.so, and begin the opens that wait for its lock.

        :param lwp: the thread that requests a namespace.
        """
        assert self._fallback is not None
        self._snapshot.refresh()
        self.target.exchange(self._given_up, self._kept_ready)
        self._entry_points, self._fallback = self._fallback, None
        self._tracker.sees_errors = bool(self._lasting_raisers)
        for problem in self._entry_points.problems:
            self._summary.add_problem(*problem)
        self._tracker.advance(lwp, None)
        return self._begin_all_arrivals()

    def _begin_all_arrivals(self) -> Reaction:
        """Start the opens whose threads have come to the loader, but were not seen to take its lock."""
        reactions = [self._begin_open(lwp, arrival) for lwp, arrival in self._arrivals.take_all()]
        return Reaction.STOP if Reaction.STOP in reactions else Reaction.RESUME

    def _forget_repeated(self, hit: Hit, stack: int, point: Optional[LockPoint]) -> None:
        """Discard a close whose first instruction is about to be executed again.

        A signal that arrives at a breakpoint is handled first; then the thread hits the breakpoint again.
        """
        last = self._in_flight.find_unstarted_close(hit.lwp, stack)
        link_map = last.link_map if last else None
        if last is None or link_map is None:
            return
        process = self._snapshot.process
        if self._callers.handle(hit, process.memory, point) == link_map.address:
            now = process.graph.by_address.get(link_map.address)
            if (
                now is not None
                and is_same_library(link_map, now)
                and now.l_direct_opencount == link_map.l_direct_opencount
            ):
                self._in_flight.forget(last)

    def _begin_close(self, hit: Hit, entry: EntryPoint, stack: int, point: Optional[LockPoint]) -> Reaction:
        process = self._snapshot.process
        handle = self._callers.handle(hit, process.memory, point)
        link_map = process.graph.by_address.get(handle)
        library = instance_of(process, link_map) if link_map else None
        caller = self._callers.find(hit, process, entry, stack)
        returns_to = self._callers.saved_return(process.memory, stack)
        close_call = CloseCall(self._call_start(hit.lwp, stack, caller, returns_to), handle, link_map, library)
        self._tracker.predict(close_call, link_map)
        self._in_flight.add(close_call)
        stop = self._stops.find_at_close(close_call, self._in_flight.close_calls())
        if close_call.does_nothing:
            self._tracker.finish(close_call)
        return self._stops.react(stop, close_call)

    def _begin_open(self, lwp: int, arrival: Arrival) -> Reaction:
        open_call = self._open_call(lwp, arrival)
        self._in_flight.add(open_call)
        if arrival.request.space == NEW_NAMESPACE:
            self._entry_points = self._entry_points.with_new_namespace()
        return self._stops.react(self._stops.find_at_open(open_call), open_call)

    def _open_call(self, lwp: int, arrival: Arrival) -> OpenCall:
        start = self._call_start(lwp, arrival.stack, arrival.caller, arrival.returns_to)
        open_call = OpenCall(start, arrival.request)
        if arrival.failure is not None:
            open_call.note_failure(arrival.failure)
        return open_call

    def _tell_unlocked(self, lwp: int, arrival: Arrival) -> None:
        """Report an open that has failed before it took the loader's lock."""
        self._tracker.tell_failed(self._open_call(lwp, arrival))

    def _call_start(self, lwp: int, stack: int, caller: Caller, returns_to: Optional[int]) -> CallStart:
        site = self._callers.name(self._snapshot.process, caller.pc)
        header = self._header(lwp, stack, site and site._replace(through=caller.through), caller.by)
        return CallStart(header, stack, returns_to, {} if self._descriptors is None else self._descriptors.read())

    def _header(self, lwp: int, stack: int, caller: Optional[Site], by: str) -> EventHeader:
        now, inside = self._session.now(), self._in_flight.enclosing_call(lwp, stack)
        return EventHeader(self._session.count(), now, lwp, caller, by, inside, self._snapshot.is_exiting)

    def _on_exit(self, hit: Hit) -> Reaction:
        """Handle the process about to exit: finish the calls that have returned."""
        self._snapshot.refresh()
        self._tracker.advance(hit.lwp, self._callers.stack(hit))
        return Reaction.RESUME

    # -- errors of opens ---------------------------------------------------------------------------------------

    def _on_error(self, hit: Hit) -> Reaction:
        """Handle an error that ld.so raises, in an open or another call of the thread; no list has changed."""
        memory = Memory(self.target)
        arrival = self._arrivals.find(hit.lwp)
        own = self._in_flight.of_thread(hit.lwp)
        open_call = own[-1] if own else None
        if arrival is not None:
            if self._is_within(arrival, hit, memory):
                failure = read_failure(self._callers, hit, memory, self._raisers[hit.address])
                self._arrivals.note_failure(hit.lwp, failure)
        elif isinstance(open_call, OpenCall) and open_call.failure is None and self._is_within(open_call, hit, memory):
            open_call.note_failure(read_failure(self._callers, hit, memory, self._raisers[hit.address]))
        return Reaction.RESUME

    def _is_within(self, open_call: Union[OpenCall, Arrival], hit: Hit, memory: Memory) -> bool:
        """Return True if a thread is within an open, as far as its stack shows.

        An open with RTLD_NOLOAD raises no error if the file exists and is not loaded.  Its return is not seen, and a
        dlsym after it can fail at the same stack address.
        """
        if self._callers.stack(hit) >= open_call.stack:
            return False
        if open_call.returns_to is None:
            return not open_call.request.flags & RTLD_NOLOAD
        return self._callers.saved_return(memory, open_call.stack) == open_call.returns_to

    # -- TLS destructors and file descriptors ------------------------------------------------------------------

    def _on_registration(self, hit: Hit) -> Reaction:
        """Handle a thread about to register a TLS destructor."""
        found = read_registration(hit, Memory(self.target), self._snapshot, self._callers)
        header = self._header(hit.lwp, self._callers.stack(hit), found.caller, "user")
        self._summary.tell(TlsRegistration(header, found.library, found.function, found.object))
        return Reaction.RESUME

    def _on_descriptor(self, hit: Hit) -> Reaction:
        """Handle a call of a function that creates a descriptor."""
        assert self._descriptors is not None
        memory = Memory(self.target)
        pc = self._callers.return_address(hit, memory)
        if self._snapshot.process.find_map(pc) is None:
            self._snapshot.refresh()
        process = self._snapshot.process
        found = name_call(self._callers, process, pc)
        if found is not None and self._stops.is_wanted(process.path(found[0]) or process.name(found[0])):
            index = DESCRIPTOR_FUNCTIONS[self._makers[hit.address]]
            path = None if index is None else read_path(memory, self._callers.argument(hit, memory, index))
            self._descriptors.note_call(*found, path)
        return Reaction.RESUME
