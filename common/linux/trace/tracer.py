"""Which close did not unload, who opened, and who never closed?  Watched as it happens.

A state machine that knows no debugger: it is told when a thread is about to enter the loader's open or close, and reads
the loader's lists then.  Nothing tells when an operation ends, since a breakpoint for that would double the cost, and
most closes unload nothing; so the next event tells: an operation has ended if its thread comes again from a place no
deeper in the stack, and lies around the next one if from a deeper place.  What an operation did is the difference
between the lists of two events.

Sources: glibc's elf/dl-close.c (a close within a close is put off, and marks again), elf/dl-open.c.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Optional

from ...errors import DlwhyError, FaultError, NoTargetError, UnsupportedError
from ...guards import call_handler, event_bug, traceback_of
from ...memory import Memory
from ...model import Problem, TargetInfo
from ...target import Hit, LiveProcess, Reaction, Subscription
from ...trace.events import Instance, Moment, Site
from ...trace.ledger import Ledger
from ..dumps.procfs import find_inner_id
from ..elf.unwind import REGISTERS
from ..loader.follow import GraphFollower
from ..loader.maps import Graph, LinkMap, is_same
from ..loader.roots import LT_EXECUTABLE, LT_LOADED
from ..loader.start import Start
from ..state.examine import examine
from ..state.naming import missing_names, target_info
from ..state.process import GlibcProcess
from ..state.verdict import GlibcExamination
from .callers import Callers
from .calls import CONVENTIONS, Entry, Places, find_function, find_places
from .descriptors import MAKERS, Descriptors, name_call, read_path
from .events import Event, Pin, Registration, Trace
from .forecast import Forecast
from .operations import Closing, Opening, Operation, Operations, instance_of, is_request_for
from .pins import find_cause, find_pinned
from .stops import Options, Stop, Stops

EXITED = "the process ended"
ANOTHER_PROGRAM = "the process executed another program"

AT_RANDOM = 25

#: A trace that meets more problems than this is of no use.
MAX_PROBLEMS = 50
_MAX_NAME = 4096


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
    """A trace of one process."""

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
        self.ending: Optional[str] = None
        self._unended: tuple[Event, ...] = ()
        self._sink = sink
        self._examined = examined
        self._info: TargetInfo = target_info(examined.process.memory)
        process = examined.process
        self._follower = GraphFollower(process.memory, process.layouts, process.private.rtld_global)
        arch = examined.process.memory.platform.arch
        if arch not in CONVENTIONS:
            raise UnsupportedError(f"tracing on {arch} is not supported")
        self._callers = Callers(target, CONVENTIONS[arch], examined.process.private.rtld_map.address)
        maps = [m for m in examined.process.graph.by_address.values() if not m.is_proxy]
        self.ledger = Ledger(_open_counts(examined.process, (m for m in maps if m.l_type != LT_LOADED)))
        for link_map in maps:
            if link_map.l_type == LT_LOADED and link_map.l_direct_opencount:
                self.ledger.begin(self._instance(link_map), link_map.l_direct_opencount)
        self._problems: dict[Problem, None] = dict.fromkeys(examined.process.problems)
        self._random = examined.process.memory.target.auxv().get(AT_RANDOM, 0)
        self._identity = self._read_identity()
        self._begun = time.monotonic()
        self._seconds: Optional[float] = None
        self._number = 0
        self._operations = Operations(self._note_added)
        self._forecast = Forecast()
        self._stops = Stops(options, announce)
        self._compared: Graph = examined.process.graph
        self._was_running = False
        self._exiting = False
        self._tids: dict[int, int] = {}
        self._makers: dict[int, str] = {}
        self._subscriptions: list[Subscription] = []
        self._places: Optional[Places] = None
        self._descriptors = self._watch_descriptors() if options.fds else None

    # -- beginning and end -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Set the breakpoints.

        :raises UnsupportedError: if there is no place for them.
        """
        examined = self._examined
        memory, private = examined.process.memory, examined.process.private
        # What ld.so calls itself by is found by unwinding.
        in_rtld = self.target.keeps_breakpoints and memory.platform.arch in REGISTERS
        places = find_places(memory, examined.process.layouts, private, examined.process.graph, in_rtld=in_rtld)
        self._places = places
        entries = {address: entry.value for address, entry in places.entries.items()}
        watched: list[tuple[Mapping[int, str], Callable[[Hit], Reaction]]] = [(entries, self._on_entry)]
        leave = find_function([private.libc], "_exit")
        if leave:
            watched.append(({leave: "_exit"}, self._on_exit))
        if self.options.tls:
            register = find_function([private.libc], "__cxa_thread_atexit_impl")
            if register is None:
                raise UnsupportedError("this glibc has no __cxa_thread_atexit_impl: it is older than 2.18")
            watched.append(({register: "__cxa_thread_atexit_impl"}, self._on_registration))
        if self._descriptors is not None and self.options.libraries:
            makers = {find_function([private.libc], name): name for name in MAKERS}
            self._makers = {address: name for address, name in makers.items() if address is not None}
            watched.append((self._makers, self._on_descriptor))
        for names, handler in watched:
            self._subscriptions.append(self.target.add_breakpoint(tuple(names), self._guarded(names, handler)))
        self._subscriptions.append(self.target.on_end(self._on_end))

    def _guarded(self, names: Mapping[int, str], handler: Callable[[Hit], Reaction]) -> Callable[[Hit], Reaction]:
        """Let nothing that goes wrong at a breakpoint stop the process; ``names`` are those of the places."""

        def handle(hit: Hit) -> Reaction:
            where = "a breakpoint"

            def act() -> Reaction:
                nonlocal where
                where = f"{names[hit.address]} in thread {hit.lwp}"
                return handler(hit)

            return call_handler(act, Reaction.RESUME, lambda error: self._fail(where, error))

        return handle

    def _watch_descriptors(self) -> Descriptors:
        pid = self.target.pid
        if self._info.kind != "live" or pid is None:
            raise UnsupportedError("descriptors can be watched only in a process on this machine")
        return Descriptors(pid)

    def stop(self) -> None:
        """Take the breakpoints back, and settle what has begun, as far as that can be seen."""
        if self.is_watching():
            self.settle()
            self.end("it was stopped")

    def end(self, why: str) -> None:
        """Note that there is nothing to watch any more."""
        if self.ending is not None:
            return
        self.ending = why
        self._seconds = time.monotonic() - self._begun
        for subscription in self._subscriptions:
            subscription.remove()
        self._subscriptions.clear()
        self._unended = self._running()
        for event in reversed(self._unended):
            self._emit(event)
        self._operations.running.clear()

    def _running(self) -> tuple[Event, ...]:
        return tuple(operation.event(ended=False) for operation in self._operations.running)

    def _on_end(self, why: str) -> None:
        call_handler(lambda: self._hear_of_end(why), None, lambda error: self._fail("the end of the process", error))

    def _hear_of_end(self, why: str) -> None:
        """Hear from the debugger that there is nothing to watch; new symbols look to gdb like another program."""
        if why != ANOTHER_PROGRAM or self._read_identity() != self._identity:
            self.end(why)

    def is_watching(self) -> bool:
        """Tell whether the trace goes on; not every debugger tells when a process has ended."""
        if not self.target.is_alive():
            self.end(EXITED)
        return self.ending is None

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
        self._look()
        self._advance(None, None)
        for operation in self._operations.running[::-1]:
            if self._has_returned(operation):
                self._finish(operation)

    def _has_returned(self, operation: Operation) -> bool:
        """Tell, while the process stands, whether the stack shows that an open or close is over."""
        stack = self.target.stack_pointer(operation.moment.lwp)
        # At its own place it has not begun.
        if stack is not None and stack > operation.stack:
            return True
        saved = self._callers.saved_return(self._examined.process.memory, operation.stack)
        return None not in (saved, operation.returns_to) and saved != operation.returns_to

    def report(self) -> Trace:
        """Give the sums of all events."""
        if self.is_watching():
            self.settle()
        places = self._places
        assert places is not None
        seconds = self._seconds if self._seconds is not None else time.monotonic() - self._begun
        ledger = self.ledger
        return Trace(
            self._info,
            self._examined.process.loader_info(),
            self.ending is None,
            self.ending,
            seconds,
            places.opens_by,
            places.closes_by,
            ledger.totals(),
            ledger.accounts_with(
                _open_counts(self._examined.process, self._examined.process.graph.by_address.values())
            ),
            ledger.kept(),
            tuple(ledger.mismatches),
            tuple(ledger.pins),
            tuple(ledger.registrations),
            tuple(ledger.leaks),
            (*self._problems, *ledger.problems(), *missing_names()),
            tuple(event for event in self._unended or self._running() if self._stops.is_about(event)),
            tuple(ledger.vain),
            self.options.libraries,
        )

    def _add_problem(self, where: str, message: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems[Problem(where, message)] = None

    # -- what happens ------------------------------------------------------------------------------------------

    def _on_entry(self, hit: Hit) -> Reaction:
        """See a thread about to open or close."""
        assert self._places is not None
        entry = self._places.entries[hit.address]
        self._look()
        stack = self._callers.stack(hit)
        self._forget_repeated(hit, entry, stack)
        self._advance(hit.lwp, stack)
        if entry in (Entry.DL_CLOSE, Entry.DLCLOSE):
            return self._begin_close(hit, entry, stack)
        return self._begin_open(hit, entry, stack)

    def _forget_repeated(self, hit: Hit, entry: Entry, stack: int) -> None:
        """Forget a close whose first instruction is about to be executed once more.

        A signal that comes at a breakpoint is handled first; then the thread is at the breakpoint again.
        """
        last = next(reversed(self._operations.of_thread(hit.lwp)), None)
        if entry not in (Entry.DL_CLOSE, Entry.DLCLOSE) or not isinstance(last, Closing) or last.moment.raced:
            return
        link_map = last.link_map
        if last.stack != stack or last.does_nothing or last.has_effect or link_map is None:
            return
        if self._callers.argument(hit, self._examined.process.memory, 0) == link_map.address:
            now = self._examined.process.graph.by_address.get(link_map.address)
            if now is not None and is_same(link_map, now) and now.l_direct_opencount == link_map.l_direct_opencount:
                self._operations.running.remove(last)

    def _on_exit(self, hit: Hit) -> Reaction:
        """See the process about to end, when nothing more is opened or closed: what can have ended has."""
        self._look()
        self._operations.waiting = None
        self._advance(None, None)
        return Reaction.RESUME

    def _fail(self, where: str, error: Exception) -> None:
        """Note that an event could not be read; where there will be none any more, end.

        A bug of ours can have left the event half understood: the end of nothing that goes on is known any more.
        """
        if str(error) == ANOTHER_PROGRAM:
            self.end(ANOTHER_PROGRAM)
        elif isinstance(error, DlwhyError):
            self._add_problem(where, str(error))
        else:
            self._operations.doubt()
            self._add_problem(where, event_bug(error))
            trace = traceback_of(error)
            if trace:
                self.target.say(trace)

    def _look(self) -> None:
        """Read the lists again.

        :raises UnsupportedError: if the process executes another program, even the same one once more.
        """
        if self._read_identity() != self._identity:
            raise UnsupportedError(ANOTHER_PROGRAM)
        self._examined = self._examined.later(self._follower)

    def _read_identity(self) -> Optional[bytes]:
        """Read the random bytes that the kernel gives to each program that it starts."""
        try:
            return self.target.read(self._random, 16) if self._random else None
        except FaultError:
            return None

    def _moment(self, hit: Hit, stack: int, caller: Optional[Site], by: str) -> Moment:
        self._number += 1
        around = [op for op in self._operations.of_thread(hit.lwp) if op.stack > stack]
        inside = around[-1].moment.number if around else None
        return Moment(self._number, self._now(), hit.lwp, caller, by, inside, self._exiting)

    def _add_operation(self, operation: Operation) -> None:
        operation.returns_to = self._callers.saved_return(self._examined.process.memory, operation.stack)
        if self._descriptors is not None:
            operation.open_before = self._descriptors.read()
        self._operations.add(operation)

    def _now(self) -> float:
        return round(time.monotonic() - self._begun, 6)

    def _note_exit(self) -> bool:
        """Note whether the program's finalisers run: _dl_fini takes its l_init_called back first of all."""
        maps = self._examined.process.graph.namespaces[0].maps
        main = next((m for m in maps if m.l_type == LT_EXECUTABLE), None)
        is_running = bool(main and main.field("l_init_called"))
        self._was_running = self._was_running or is_running
        self._exiting = self._was_running and not is_running
        return self._exiting

    def _instance(self, link_map: LinkMap) -> Instance:
        return instance_of(self._examined.process, link_map)

    # -- closes ------------------------------------------------------------------------------------------------

    def _begin_close(self, hit: Hit, entry: Entry, stack: int) -> Reaction:
        examined = self._examined
        found = self._callers.find(hit, examined.process, entry, stack)
        handle = self._callers.argument(hit, examined.process.memory, 0)
        link_map = examined.process.graph.by_address.get(handle)
        site = self._callers.name(examined.process, found.pc)
        moment = self._moment(hit, stack, site, found.by)
        closing = Closing(moment, stack, handle, link_map, self._instance(link_map) if link_map else None)
        if link_map is not None:
            self._predict(closing, link_map)
        self._add_operation(closing)
        stop = self._stops.find_at_close(closing, self._operations.closings())
        if closing.does_nothing:
            self._finish(closing)
        return self._stops.react(stop, closing)

    def _predict(self, closing: Closing, link_map: LinkMap) -> None:
        own = self._operations.of_thread(closing.moment.lwp)
        outer = next((op for op in own if isinstance(op, Closing)), None)
        self._forecast.predict(self._examined, closing, link_map, outer)

    # -- opens -------------------------------------------------------------------------------------------------

    def _begin_open(self, hit: Hit, entry: Entry, stack: int) -> Reaction:
        examined = self._examined
        memory = examined.process.memory
        arguments = [self._callers.argument(hit, memory, i) for i in range(4 if entry is Entry.DL_OPEN else 3)]
        if entry is Entry.DL_OPEN:
            name, flags, space = arguments[0], arguments[1], arguments[3]
        elif entry is Entry.DLMOPEN:
            name, flags, space = arguments[1], arguments[2], arguments[0]
        else:
            # dlopen itself asks for the caller's namespace, or for the program in the base namespace.
            name, flags, space = arguments[0], arguments[1], -2 if arguments[0] else 0
        found = self._callers.find(hit, examined.process, entry, stack)
        site = self._callers.name(examined.process, found.pc)
        requested: Optional[str] = None
        if name:
            try:
                requested = memory.c_string(name, _MAX_NAME)
            except DlwhyError:
                requested = "?"
        moment = self._moment(hit, stack, site, found.by)
        bits = 8 * memory.pointer_size
        signed = space - (1 << bits) if space > 0 and space >> (bits - 1) else space
        # The bits above are the loader's own (__RTLD_DLOPEN, __RTLD_SPROF and such), not the caller's.
        opening = Opening(moment, stack, requested or None, flags & 0xFFFF, signed)
        self._add_operation(opening)
        return self._stops.react(self._stops.find_at_open(opening), opening)

    # -- what came of it ---------------------------------------------------------------------------------------

    def _advance(self, lwp: Optional[int], stack: Optional[int]) -> None:
        """Compare with the lists of the event before, and end what has ended; without a thread: at a stop."""
        graph = self._examined.process.graph
        if graph.complete:
            before, self._compared = self._compared, graph
            self._note_exit()
            if before is not graph:
                self._compare(before)
        # Else another thread has been stopped while it changed the lists: the next event will compare.
        running = self._operations.running
        ended = [op for op in running if self._operations.has_ended(op, lwp, stack, self._depth(op.moment.lwp))]
        for operation in running:
            if isinstance(operation, Closing) and not operation.has_effect and operation.moment.lwp != lwp:
                self._predict_again(operation)
        for operation in ended:
            self._finish(operation)
        if lwp is not None:
            self._operations.waiting = None

    def _compare(self, before: Graph) -> None:
        """Explain the differences from the lists of the event before."""
        examined = self._examined
        unseen = self._operations.assign(before, examined.process, exiting=self._exiting)
        if any(unseen) and not self._exiting and self._number > self._operations.raced_until:
            self.ledger.count_unseen(*unseen)
            for closing in self._operations.closings() if unseen.closes else ():
                self._forecast.explain(before, examined.process, closing)
        for link_map in find_pinned(before, examined.process.graph):
            self._emit(self._pin(link_map))

    def _note_added(self, opening: Opening, link_map: LinkMap) -> None:
        if self._descriptors is not None:
            self._descriptors.note_birth(link_map, opening.open_before)
        self._stops.note_added(opening, self._instance(link_map))

    def _depth(self, lwp: int) -> int:
        """Tell how many of a thread's operations go on, by the loader's lock."""
        lock = self._examined.process.lock
        is_owner = lock.is_held and (lock.owner is None or lock.owner == self._tid(lwp))
        return max(1, lock.depth) if is_owner else 0

    def _tid(self, lwp: int) -> int:
        """Give a thread's id as the process itself knows it, which in a container is another one."""
        if lwp not in self._tids:
            pid = self.target.pid
            inner = find_inner_id(pid, lwp) if pid is not None and self._info.kind == "live" else None
            self._tids[lwp] = lwp if inner is None else inner
        return self._tids[lwp]

    def _predict_again(self, closing: Closing) -> None:
        """Predict a close that has not begun while another thread's operation changed something."""
        link_map = closing.link_map
        current = self._examined.process.graph.by_address.get(link_map.address) if link_map else None
        if link_map is None or current is None or not is_same(link_map, current) or closing.does_nothing:
            return
        closing.predicted, closing.adds = {}, {}
        closing.link_map = current
        self._predict(closing, current)

    def _finish(self, operation: Operation) -> None:
        """Settle an operation."""
        if isinstance(operation, Opening) and operation.library is None and operation.moment.raced:
            # A close by another thread can have taken the count back before it was looked at.
            maps = self._examined.process.graph.by_address.values()
            found = next((m for m in maps if is_request_for(operation, m) and not m.is_proxy), None)
            operation.library = self._instance(found) if found else None
        self._operations.remove(operation)
        self._emit(operation.event(ended=not operation.is_doubtful))
        if self._descriptors is not None and isinstance(operation, Closing) and operation.went:
            moment = operation.moment._replace(inside=operation.moment.number)
            for leak in self._descriptors.find_leaks(operation.went, operation.library, operation.open_before, moment):
                self._number += 1
                self._emit(leak._replace(moment=moment._replace(number=self._number)))

    def _emit(self, event: Event) -> None:
        if self._stops.is_about(event):
            self.ledger.add(event)
            self._sink(event)
        else:
            self.ledger.add_unasked(event)

    # -- NODELETE ----------------------------------------------------------------------------------------------

    def _pin(self, link_map: LinkMap) -> Pin:
        library = self._forecast.judge_lasting(self._examined, link_map)
        openings = self._operations.openings()
        during = openings[-1] if openings else None
        cause = find_cause(self._examined.process, link_map, library, openings)
        self._number += 1
        inside = during.moment if during else None
        moment = Moment(
            self._number,
            self._now(),
            inside.lwp if inside else 0,
            inside.caller if inside else None,
            inside.by if inside else "user",
            inside.number if inside else None,
        )
        return Pin(moment, self._instance(link_map), *cause)

    # -- TLS destructors ---------------------------------------------------------------------------------------

    def _on_registration(self, hit: Hit) -> Reaction:
        """See ``__cxa_thread_atexit_impl (func, obj, dso_symbol)`` about to register a destructor."""
        examined = self._examined
        memory = Memory(self.target)
        function, subject, symbol = (self._callers.argument(hit, memory, i) for i in range(3))
        pc = self._callers.return_address(hit, memory)
        if any(examined.process.find_map(address) is None for address in (function, symbol, pc)):
            self._look()  # for names only: what has changed is found at the next event
            examined = self._examined
        site = self._callers.name(examined.process, self._callers.behind(hit, examined.process, pc))
        kept = examined.process.find_map(symbol) or examined.process.graph.namespaces[0].maps[0]
        code = self._callers.name(examined.process, function, before=0) or Site(function)
        library = self._instance(kept)
        owner = code.library if code.library != library.name else None
        moment = self._moment(hit, self._callers.stack(hit), site, "user")
        self._emit(Registration(moment, library, code, subject, owner))
        return Reaction.RESUME

    # -- descriptors -------------------------------------------------------------------------------------------

    def _on_descriptor(self, hit: Hit) -> Reaction:
        """See a call of a function that makes a descriptor."""
        assert self._descriptors is not None
        memory = Memory(self.target)
        pc = self._callers.return_address(hit, memory)
        if self._examined.process.find_map(pc) is None:
            self._look()
        found = name_call(self._callers, self._examined.process, pc)
        if found is not None and self._stops.is_wanted(self._examined.process.path(found[0])):
            index = MAKERS[self._makers[hit.address]]
            path = None if index is None else read_path(memory, self._callers.argument(hit, memory, index))
            self._descriptors.note_call(*found, path)
        return Reaction.RESUME


def _open_counts(process: GlibcProcess, maps: Iterable[LinkMap]) -> dict[tuple[str, int], int]:
    """Give open counts by path and namespace."""
    return {(process.path(m), m.l_ns): m.l_direct_opencount for m in maps if not m.is_proxy}
