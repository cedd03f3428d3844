"""Which close did not unload, who opened, and who never closed?  Observed at breakpoints.

A state machine that knows no debugger: it is told when a thread is about to enter the loader's open or close, and reads
the loader's lists then.  Nothing tells when an operation ends, since a breakpoint for that would double the cost, and
most closes unload nothing; so the next event tells: an operation has ended if its thread comes again from a place no
deeper in the stack, and lies around the next one if from a deeper place.  What an operation did is the difference
between the lists of two events.

Sources: glibc's elf/dl-close.c (a close within a close is put off, and marks again), elf/dl-open.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Optional

from ...errors import DlwhyError, NoTargetError, UnsupportedError
from ...guards import call_handler, event_bug, traceback_of
from ...memory import Memory
from ...target import Hit, LiveProcess, Reaction
from ...trace.events import Moment, Site
from ...trace.watching import Watching
from ..elf.unwind import REGISTERS
from ..loader.maps import is_same
from ..loader.start import Start
from ..state.examine import examine
from ..state.process import GlibcProcess
from ..state.verdict import GlibcExamination
from .callers import Callers
from .calls import CONVENTIONS, Entry, find_function, find_places
from .descriptors import MAKERS, Descriptors, name_call, read_path
from .events import Event, Stop, TlsRegistration, Trace
from .failures import StoredErrors, find_raisers, read_failure
from .operation import Beginning, Closing, Opening, Operation
from .operations import Operations, instance_of
from .progress import Progress
from .reading import ANOTHER_PROGRAM, Reading
from .registrations import REGISTER, read_registration
from .request import RTLD_NOLOAD, read_request
from .stops import Options, Stops
from .summary import Summary

EXITED = "the process ended"


def begin(
    target: LiveProcess, options: Options, sink: Callable[[Event], None], announce: Callable[[Stop], None]
) -> Tracer:
    """Begin a trace; each event goes to ``sink`` when it has ended, each wanted stop is announced.

    :raises UnsupportedError: if the process cannot be traced.
    """

    def of_glibc(process: GlibcProcess) -> Tracer:
        return Tracer(target, GlibcExamination.of(process), options, sink, announce)

    def of_musl(_memory: Memory, _start: Start) -> Tracer:
        raise UnsupportedError("musl never unloads, by design: there is no close to trace")

    tracer, _ = examine(target, of_glibc, of_musl)
    tracer.start()
    return tracer


class Tracer:
    """A trace of one process: handles the hits of its breakpoints."""

    def __init__(
        self,
        target: LiveProcess,
        examined: GlibcExamination,
        options: Options,
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
        self._reading = Reading(target, examined)
        self._watching = Watching()
        self._operations = Operations()
        self._stops = Stops(options, announce)
        self._summary = Summary(process, options.libraries, self._stops, sink)
        self._descriptors = self._watch_descriptors() if options.fds else None
        libc = process.private.libc
        self._raisers = find_raisers(
            libc, process.private.rtld, process.layouts.version, in_rtld=target.keeps_breakpoints
        )
        stored_errors = None if self._raisers else StoredErrors.of(libc)
        self._progress = Progress(
            self._reading,
            self._watching,
            self._operations,
            self._stops,
            self._summary,
            self._descriptors,
            stored_errors,
        )
        self._makers: Mapping[int, str] = {}
        # What ld.so calls itself by is found by unwinding.
        in_rtld = target.keeps_breakpoints and arch in REGISTERS
        self._places = find_places(process.memory, process.layouts, process.private, process.graph, in_rtld=in_rtld)

    # -- beginning and end -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Set the breakpoints.

        :raises UnsupportedError: if there is no place for them.
        """
        libc = [self._reading.process.private.libc]
        entries = {address: entry.value for address, entry in self._places.entries.items()}
        watched: list[tuple[Mapping[int, str], Callable[[Hit], Reaction]]] = [(entries, self._on_entry)]
        leave = find_function(libc, "_exit")
        if leave:
            watched.append(({leave: "_exit"}, self._on_exit))
        if self._raisers:
            watched.append((self._raisers, self._on_error))
        if self.options.tls:
            register = find_function(libc, REGISTER)
            if register is None:
                raise UnsupportedError(f"this glibc has no {REGISTER}: it is older than 2.18")
            watched.append(({register: REGISTER}, self._on_registration))
        if self._descriptors is not None and self.options.libraries:
            makers = {find_function(libc, name): name for name in MAKERS}
            self._makers = {address: name for address, name in makers.items() if address is not None}
            watched.append((self._makers, self._on_descriptor))
        for names, handler in watched:
            self._watching.keep(self.target.add_breakpoint(tuple(names), self._guarded(names, handler)))
        self._watching.keep(self.target.on_end(self._on_end))

    def _guarded(self, names: Mapping[int, str], handler: Callable[[Hit], Reaction]) -> Callable[[Hit], Reaction]:
        """Wrap a handler so that no failure in it stops the process; ``names``: of the breakpoints."""

        def handle(hit: Hit) -> Reaction:
            where = "a breakpoint"

            def act() -> Reaction:
                nonlocal where
                where = f"{names[hit.address]} in thread {hit.lwp}"
                self._reading.process.memory.renew_allowance()
                return handler(hit)

            return call_handler(act, Reaction.RESUME, lambda error: self._fail(where, error))

        return handle

    def _fail(self, where: str, error: Exception) -> None:
        """Record that an event could not be read; end the trace if there can be no more events.

        A bug of ours can have left the event half understood: the end of nothing that goes on is known any more.
        """
        if str(error) == ANOTHER_PROGRAM:
            self.end(ANOTHER_PROGRAM)
        elif isinstance(error, DlwhyError):
            self._summary.add_problem(where, str(error))
        else:
            self._operations.doubt()
            self._summary.add_problem(where, event_bug(error))
            trace = traceback_of(error)
            if trace:
                self.target.say(trace)

    def _watch_descriptors(self) -> Descriptors:
        pid = self.target.pid
        if self.target.kind != "live" or pid is None:
            raise UnsupportedError("descriptors can be watched only in a process on this machine")
        return Descriptors(pid)

    def stop(self) -> None:
        """Remove the breakpoints, and finish what has returned as far as can be seen."""
        if self.is_watching():
            self.settle()
            self.end("it was stopped")

    def end(self, why: str) -> None:
        """End the trace for a reason."""
        if self._watching.end(why):
            self._summary.tell_unended(self._operations.end_all())

    def _on_end(self, why: str) -> None:
        call_handler(lambda: self._hear_of_end(why), None, lambda error: self._fail("the end of the process", error))

    def _hear_of_end(self, why: str) -> None:
        """Handle the debugger's report that the process has ended; gdb reports newly loaded symbols alike."""
        if why != ANOTHER_PROGRAM or not self._reading.is_same_program():
            self.end(why)

    def is_watching(self) -> bool:
        """Return True while the trace runs; not every debugger reports that a process has ended."""
        if not self.target.is_alive():
            self.end(EXITED)
        return self._watching.ending is None

    def settle(self) -> None:
        """Read the lists while the process stands, and end what has ended.

        :raises NoTargetError: if the debugger has another process selected.
        """

        def fail(error: Exception) -> None:
            if isinstance(error, NoTargetError):
                raise error
            self._fail("loader", error)

        call_handler(self._settle, None, fail)

    def _settle(self) -> None:
        self._reading.look()
        self._progress.advance(None, None)
        for operation in reversed(self._operations.running()):
            if self._has_returned(operation):
                self._progress.finish(operation)

    def _has_returned(self, operation: Operation) -> bool:
        """Return True if a stopped thread's stack shows that a call has returned."""
        stack = self.target.stack_pointer(operation.moment.tid)
        # At its own place it has not begun.
        if stack is not None and stack > operation.stack:
            return True
        saved = self._callers.saved_return(self._reading.process.memory, operation.stack)
        return None not in (saved, operation.returns_to) and saved != operation.returns_to

    def report(self) -> Trace:
        """Return the report on all events so far."""
        if self.is_watching():
            self.settle()
        return self._summary.report(self._reading.process, self._watching, self._places, self._operations.unended())

    # -- opens and closes --------------------------------------------------------------------------------------

    def _on_entry(self, hit: Hit) -> Reaction:
        """Handle a thread about to open or close a library."""
        entry = self._places.entries[hit.address]
        self._reading.look()
        stack = self._callers.stack(hit)
        is_close = entry in (Entry.DL_CLOSE, Entry.DLCLOSE)
        if is_close:
            self._forget_repeated(hit, stack)
        self._progress.advance(hit.lwp, stack)
        return self._begin_close(hit, entry, stack) if is_close else self._begin_open(hit, entry, stack)

    def _forget_repeated(self, hit: Hit, stack: int) -> None:
        """Discard a close whose first instruction is about to be executed again.

        A signal that comes at a breakpoint is handled first; then the thread is at the breakpoint again.
        """
        last = self._operations.find_unbegun_close(hit.lwp, stack)
        link_map = last.link_map if last else None
        if last is None or link_map is None:
            return
        process = self._reading.process
        if self._callers.argument(hit, process.memory, 0) == link_map.address:
            now = process.graph.by_address.get(link_map.address)
            if now is not None and is_same(link_map, now) and now.l_direct_opencount == link_map.l_direct_opencount:
                self._operations.forget(last)

    def _begin_close(self, hit: Hit, entry: Entry, stack: int) -> Reaction:
        process = self._reading.process
        handle = self._callers.argument(hit, process.memory, 0)
        link_map = process.graph.by_address.get(handle)
        library = instance_of(process, link_map) if link_map else None
        closing = Closing(self._beginning(hit, entry, stack), handle, link_map, library)
        if link_map is not None:
            self._progress.predict(closing, link_map)
        self._operations.add(closing)
        stop = self._stops.find_at_close(closing, self._operations.closings())
        if closing.does_nothing:
            self._progress.finish(closing)
        return self._stops.react(stop, closing)

    def _begin_open(self, hit: Hit, entry: Entry, stack: int) -> Reaction:
        request = read_request(self._callers, hit, self._reading.process.memory, entry)
        opening = Opening(self._beginning(hit, entry, stack), request)
        self._operations.add(opening)
        return self._stops.react(self._stops.find_at_open(opening), opening)

    def _beginning(self, hit: Hit, entry: Entry, stack: int) -> Beginning:
        process = self._reading.process
        found = self._callers.find(hit, process, entry, stack)
        moment = self._moment(hit, stack, self._callers.name(process, found.pc), found.by)
        returns_to = self._callers.saved_return(process.memory, stack)
        return Beginning(moment, stack, returns_to, {} if self._descriptors is None else self._descriptors.read())

    def _moment(self, hit: Hit, stack: int, caller: Optional[Site], by: str) -> Moment:
        now, inside = self._watching.now(), self._operations.around(hit.lwp, stack)
        return Moment(self._watching.count(), now, hit.lwp, caller, by, inside, self._reading.is_exiting)

    def _on_exit(self, hit: Hit) -> Reaction:
        """Handle the process about to exit: every call that can have returned has."""
        self._reading.look()
        self._operations.note_going_on()
        self._progress.advance(None, None)
        return Reaction.RESUME

    # -- what an open fails with -------------------------------------------------------------------------------

    def _on_error(self, hit: Hit) -> Reaction:
        """Handle an error that ld.so raises, in an open or in another call of the thread; no list has changed."""
        own = self._operations.of_thread(hit.lwp)
        opening = own[-1] if own else None
        if isinstance(opening, Opening) and opening.failure is None:
            memory = Memory(self.target)
            if self._is_within(opening, hit, memory):
                failure = read_failure(self._callers, hit, memory, self._raisers[hit.address])
                if failure is not None:
                    opening.note_failure(failure)
        return Reaction.RESUME

    def _is_within(self, opening: Opening, hit: Hit, memory: Memory) -> bool:
        """Return True if a thread is within an open, as far as its stack shows.

        After one by RTLD_NOLOAD that found nothing, which raises no error, a dlsym can fail from the same place.
        """
        if self._callers.stack(hit) >= opening.stack:
            return False
        if opening.returns_to is None:
            return not opening.request.flags & RTLD_NOLOAD
        return self._callers.saved_return(memory, opening.stack) == opening.returns_to

    # -- what else makes a library stay, or leave something behind ---------------------------------------------

    def _on_registration(self, hit: Hit) -> Reaction:
        """Handle a thread about to register a TLS destructor."""
        found = read_registration(hit, Memory(self.target), self._reading, self._callers)
        moment = self._moment(hit, self._callers.stack(hit), found.caller, "user")
        self._summary.tell(TlsRegistration(moment, found.library, found.function, found.object, found.owner))
        return Reaction.RESUME

    def _on_descriptor(self, hit: Hit) -> Reaction:
        """Handle a call of a function that creates a descriptor."""
        assert self._descriptors is not None
        memory = Memory(self.target)
        pc = self._callers.return_address(hit, memory)
        if self._reading.process.find_map(pc) is None:
            self._reading.look()
        process = self._reading.process
        found = name_call(self._callers, process, pc)
        if found is not None and self._stops.is_wanted(process.path(found[0])):
            index = MAKERS[self._makers[hit.address]]
            path = None if index is None else read_path(memory, self._callers.argument(hit, memory, index))
            self._descriptors.note_call(*found, path)
        return Reaction.RESUME
