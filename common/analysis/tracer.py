"""Which close did not unload, who opened, and who never closed?  Watched as it happens.

A state machine that knows no debugger: it is told when a thread is about to enter the loader's open or close, and reads
the loader's lists then.  Nothing tells when an operation ends, since a breakpoint for that would double the cost, and
most closes unload nothing; so the next event tells: an operation has ended if its thread comes again from a place no
deeper in the stack, and lies around the next one if from a deeper place.  What an operation did is the difference
between the lists of two events.

Sources: glibc's elf/dl-close.c (a close within a close is put off, and marks again), elf/dl-open.c.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from ..dumps.procfs import find_inner_id
from ..errors import CorruptError, DlwhyError, FaultError, UnsupportedError
from ..loaders import glibc
from ..loaders.glibc import LT_EXECUTABLE, LT_LOADED, Graph, LinkMap
from ..loaders.glibc_calls import (
    CONVENTIONS,
    Entry,
    Places,
    find_function,
    find_places,
)
from ..loaders.start import Start
from ..memory import Memory
from ..model import Hold, HoldKind, Library, Outcome, Problem, TargetInfo
from ..target import Hit, LiveTarget, Reaction, Subscription
from .callers import Callers, is_same
from .descriptors import MAKERS, Descriptors, Snapshot, name_call, read_path
from .events import Close, Event, Instance, Moment, Open, OpenResult, Pin, Registration, Site, Trace
from .glibc_state import PERMANENT, GlibcExamination
from .ledger import Ledger
from .naming import base_name, target_info
from .plan import Planner
from .state import examine

EXITED = "the process ended"
ANOTHER_PROGRAM = "the process executed another program"

AT_RANDOM = 25

#: What a dependency stays by as one expects: it is open elsewhere, or stays for good.
_EXPECTED = PERMANENT | {HoldKind.OPEN_COUNT}
#: A trace that meets more problems than this is of no use.
MAX_PROBLEMS = 50
_MAX_NAME = 4096
#: For so many events after threads have opened and closed at once, differences cannot be assigned for sure.
_RACE_EVENTS = 16


class Options(NamedTuple):
    """What is traced: only ``libraries`` (names or patterns; none: all), and at what the process is to stop.

    ``tls`` watches registrations of TLS destructors, ``fds`` descriptors, with ``libraries`` also who opens them.
    """

    libraries: tuple[str, ...] = ()
    stop_when: Optional[str] = None
    tls: bool = False
    fds: bool = False


class Stop(NamedTuple):
    """Why the process stops: the word of ``stop_when``, the open or close, and the libraries that it is about."""

    when: str
    event: Event
    libraries: tuple[str, ...]


class _Operation:
    """An open or close that has begun and not been seen to end."""

    def __init__(self, moment: Moment, stack: int) -> None:
        self.moment = moment
        self.stack = stack
        self.has_effect = False
        self.is_counted = False
        self.open_before: Snapshot = {}
        self.went: dict[int, Instance] = {}

    def event(self, ended: bool) -> Event:
        """Give the event as it is known now."""
        raise NotImplementedError


class _Opening(_Operation):
    def __init__(self, moment: Moment, stack: int, requested: Optional[str], flags: int, space: int) -> None:
        super().__init__(moment, stack)
        self.requested = requested
        self.flags = flags
        self.space = space
        self.arguments: tuple[int, ...] = ()
        self.repeats: tuple[_Opening, ...] = ()
        self.library: Optional[Instance] = None
        self.added: dict[int, Instance] = {}

    def event(self, ended: bool) -> Open:
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


class _Closing(_Operation):
    def __init__(self, moment: Moment, stack: int, link_map: Optional[LinkMap], library: Optional[Instance]) -> None:
        super().__init__(moment, stack)
        self.link_map = link_map
        self.library = library
        self.outcome = Outcome.NOT_OPEN
        self.predicted: dict[int, Instance] = {}
        self.remarked: dict[int, Instance] = {}
        self.at_least: tuple[str, ...] = ()
        self.keeps: tuple[Library, ...] = ()

    @property
    def does_nothing(self) -> bool:
        """Tell whether the close is sure to leave everything as it is."""
        return self.outcome in (Outcome.EARLY_RETURN, Outcome.NOT_OPEN)

    def event(self, ended: bool) -> Close:
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
        )


def _by_name(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    return tuple(sorted(instances))


def begin(
    target: LiveTarget, options: Options, sink: Callable[[Event], None], announce: Callable[[Stop], None]
) -> Tracer:
    """Begin a trace; each event goes to ``sink`` when it has ended, each wanted stop is announced.

    :raises UnsupportedError: if the process cannot be traced.
    """

    def of_glibc(examined: GlibcExamination) -> Tracer:
        return Tracer(target, examined, options, sink, announce)

    def of_musl(_memory: Memory, _start: Start) -> Tracer:
        raise UnsupportedError("musl never unloads, by design: there is no close to trace")

    tracer, _ = examine(target, of_glibc, of_musl)
    tracer.start()
    return tracer


class Tracer:
    """A trace of one process."""

    def __init__(
        self,
        target: LiveTarget,
        examined: GlibcExamination,
        options: Options,
        sink: Callable[[Event], None],
        announce: Callable[[Stop], None],
    ) -> None:
        self.target = target
        self.options = options
        self.ending: Optional[str] = None
        self._sink = sink
        self._announce = announce
        self._examined = examined
        self._info: TargetInfo = target_info(examined.memory)
        self._reader = glibc.GraphReader(examined.memory, examined.layouts, examined.private.rtld_global)
        arch = examined.memory.platform.arch
        if arch not in CONVENTIONS:
            raise UnsupportedError(f"tracing on {arch} is not supported")
        self._callers = Callers(target, CONVENTIONS[arch], examined.private.rtld_map.address)
        self.ledger = Ledger(examined.graph)
        self._problems: dict[Problem, None] = dict.fromkeys(examined.problems)
        self._random = examined.memory.target.auxv().get(AT_RANDOM, 0)
        self._identity = self._read_identity()
        self._begun = time.monotonic()
        self._seconds: Optional[float] = None
        self._number = 0
        self._raced_until = 0
        self._operations: list[_Operation] = []
        self._waiting: Optional[_Operation] = None
        self._compared: Graph = examined.graph
        self._was_running = False
        self._exiting = False
        self._closers: dict[str, bool] = {}
        self._tids: dict[int, int] = {}
        self._lasting: dict[int, tuple[LinkMap, Library]] = {}
        self._makers: dict[int, str] = {}
        self._subscriptions: list[Subscription] = []
        self._places: Optional[Places] = None
        self._descriptors = self._watch_descriptors() if options.fds else None
        self._late: list[Instance] = []
        self._repeated: tuple[_Opening, ...] = ()

    # -- beginning and end -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Set the breakpoints.

        :raises UnsupportedError: if there is no place for them.
        """
        examined = self._examined
        memory, private = examined.memory, examined.private
        in_rtld = self.target.keeps_breakpoints
        places = find_places(memory, examined.layouts, private, examined.graph, in_rtld=in_rtld)
        self._places = places
        watched: list[tuple[Sequence[int], Callable[[Hit], Reaction]]] = [(tuple(places.entries), self._on_entry)]
        leave = find_function([private.libc], "_exit")
        if leave:
            watched.append(((leave,), self._on_exit))
        if self.options.tls:
            register = find_function([private.libc], "__cxa_thread_atexit_impl")
            if register is None:
                raise UnsupportedError("this glibc has no __cxa_thread_atexit_impl: it is older than 2.18")
            watched.append(((register,), self._on_registration))
        if self._descriptors is not None and self.options.libraries:
            makers = {find_function([private.libc], name): name for name in MAKERS}
            self._makers = {address: name for address, name in makers.items() if address is not None}
            watched.append((tuple(self._makers), self._on_descriptor))
        for addresses, handler in watched:
            self._subscriptions.append(self.target.add_breakpoint(addresses, self._guarded(handler)))
        self._subscriptions.append(self.target.on_end(self.end))

    def _guarded(self, handler: Callable[[Hit], Reaction]) -> Callable[[Hit], Reaction]:
        """Let a handler begin again when the user interrupts it, unless it has counted its event already."""

        def on_hit(hit: Hit) -> Reaction:
            number = self._number
            try:
                return handler(hit)
            except KeyboardInterrupt:
                self._add_problem("interrupt", "it came while events were read: one may be missing or counted wrongly")
                if self._number == number:
                    handler(hit)
                raise

        return on_hit

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
        for operation in reversed(self._operations):
            self._emit(operation.event(ended=False))
        self._operations.clear()

    def is_watching(self) -> bool:
        """Tell whether the trace goes on; not every debugger tells when a process has ended."""
        if not self.target.is_alive():
            self.end(EXITED)
        return self.ending is None

    def settle(self) -> None:
        """Read the lists while the process stands, and end what has ended."""
        try:
            self._look()
        except (FaultError, CorruptError, UnsupportedError) as error:
            self._fail("loader", error)
            return
        self._advance(None, None)

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
            self._examined.loader_info(),
            self.ending is None,
            self.ending,
            seconds,
            places.opens_by,
            places.closes_by,
            ledger.totals(),
            ledger.accounts(self._examined.graph),
            ledger.kept(),
            tuple(ledger.mismatches),
            tuple(ledger.pins),
            tuple(ledger.registrations),
            tuple(ledger.leaks),
            tuple(self._problems),
        )

    def _add_problem(self, where: str, message: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems[Problem(where, message)] = None

    # -- what happens ------------------------------------------------------------------------------------------

    def _on_entry(self, hit: Hit) -> Reaction:
        """See a thread about to open or close."""
        assert self._places is not None
        entry = self._places.entries[hit.address]
        try:
            self._look()
            stack = self._callers.stack(hit)
            self._forget_repeated(hit, entry, stack)
            self._advance(hit.lwp, stack)
            if entry in (Entry.DL_CLOSE, Entry.DLCLOSE):
                return self._begin_close(hit, entry, stack)
            return self._begin_open(hit, entry, stack)
        except (FaultError, CorruptError, UnsupportedError) as error:
            return self._fail(f"{entry.value} in thread {hit.lwp}", error)

    def _forget_repeated(self, hit: Hit, entry: Entry, stack: int) -> None:
        """Forget a call whose first instruction is about to be executed once more.

        A signal that comes at a breakpoint is handled first; then the thread is at the breakpoint again.  An open that
        has done nothing can have failed, too: it is put aside until the one that repeats it tells.
        """
        last = next((op for op in reversed(self._operations) if op.moment.lwp == hit.lwp), None)
        if isinstance(last, _Opening) and last.stack == stack and not last.moment.raced and not last.has_effect:
            before, after = self._compared.by_address, self._examined.graph.by_address
            is_same_call = last.arguments == self._open_arguments(hit, entry)
            if is_same_call and len(before) == len(after) and all(after.get(a) is m for a, m in before.items()):
                self._operations.remove(last)
                self._repeated = (*last.repeats, last)
            return
        if entry not in (Entry.DL_CLOSE, Entry.DLCLOSE) or not isinstance(last, _Closing) or last.moment.raced:
            return
        link_map = last.link_map
        if last.stack != stack or last.does_nothing or last.has_effect or link_map is None:
            return
        if self._callers.argument(hit, self._examined.memory, 0) == link_map.address:
            now = self._examined.graph.by_address.get(link_map.address)
            if now is not None and is_same(link_map, now) and now.l_direct_opencount == link_map.l_direct_opencount:
                self._operations.remove(last)

    def _on_exit(self, hit: Hit) -> Reaction:
        """See the process about to end, when nothing more is opened or closed: what can have ended has."""
        try:
            self._look()
            self._waiting = None
            self._advance(None, None)
        except (FaultError, CorruptError, UnsupportedError) as error:
            return self._fail(f"_exit in thread {hit.lwp}", error)
        return Reaction.RESUME

    def _fail(self, where: str, error: DlwhyError) -> Reaction:
        """Note that an event could not be read; where there will be none any more, end."""
        if str(error) == ANOTHER_PROGRAM:
            self.end(ANOTHER_PROGRAM)
        else:
            self._add_problem(where, str(error))
        return Reaction.RESUME

    def _look(self) -> None:
        """Read the lists again.

        :raises UnsupportedError: if the process executes another program, even the same one once more.
        """
        if self._read_identity() != self._identity:
            raise UnsupportedError(ANOTHER_PROGRAM)
        self._examined = self._examined.later(self._reader)

    def _read_identity(self) -> Optional[bytes]:
        """Read the random bytes that the kernel gives to each program that it starts."""
        try:
            return self.target.read(self._random, 16) if self._random else None
        except FaultError:
            return None

    def _moment(self, hit: Hit, caller: Optional[Site], by: str) -> Moment:
        self._number += 1
        around = [op for op in self._operations if op.moment.lwp == hit.lwp]
        inside = around[-1].moment.number if around else None
        return Moment(self._number, self._now(), hit.lwp, caller, by, inside, self._exiting)

    def _add_operation(self, operation: _Operation) -> None:
        if self._descriptors is not None:
            operation.open_before = self._descriptors.read()
        others = [op for op in self._operations if op.moment.lwp != operation.moment.lwp]
        for each in (*others, operation) if others else ():
            each.moment = each.moment._replace(raced=True)
            self._raced_until = operation.moment.number + _RACE_EVENTS
        self._operations.append(operation)
        self._waiting = operation

    def _now(self) -> float:
        return round(time.monotonic() - self._begun, 6)

    def _note_exit(self) -> bool:
        """Note whether the program's finalisers run: _dl_fini takes its l_init_called back first of all."""
        maps = self._examined.graph.namespaces[0].maps
        main = next((m for m in maps if m.l_type == LT_EXECUTABLE), None)
        is_running = bool(main and main.field("l_init_called"))
        self._was_running = self._was_running or is_running
        self._exiting = self._was_running and not is_running
        return self._exiting

    def _instance(self, link_map: LinkMap) -> Instance:
        path = self._examined.path(link_map)
        return Instance(base_name(path), path, link_map.l_ns, link_map.address, link_map.l_addr)

    # -- closes ------------------------------------------------------------------------------------------------

    def _begin_close(self, hit: Hit, entry: Entry, stack: int) -> Reaction:
        examined = self._examined
        found = self._callers.find(hit, examined, entry, stack)
        handle = self._callers.argument(hit, examined.memory, 0)
        link_map = examined.graph.by_address.get(handle)
        site = self._callers.name(examined, found.pc)
        moment = self._moment(hit, site, found.by)
        closing = _Closing(moment, stack, link_map, self._instance(link_map) if link_map else None)
        if link_map is not None:
            self._predict(closing, link_map)
        self._add_operation(closing)
        stop = self._find_stop_of_close(closing)
        if closing.does_nothing:
            self._finish(closing)
        return self._react(stop, closing)

    def _predict(self, closing: _Closing, link_map: LinkMap) -> None:
        examined = self._examined
        planner = Planner(examined)
        outcome, left, unloads = planner.predict(link_map)
        closing.outcome = outcome
        by_address = examined.graph.by_address
        going = {address: self._instance(by_address[address]) for address in unloads}
        outer = next((op for op in self._closings() if op.moment.lwp == closing.moment.lwp), None)
        if outcome is Outcome.DEFERRED and outer is not None:
            outer.remarked.update((a, i) for a, i in going.items() if a not in outer.predicted)
        else:
            closing.predicted = going
            closing.at_least = tuple(sorted(self._names_of_closers(planner, (by_address[a] for a in unloads))))
        if left == 0 or outcome is Outcome.EARLY_RETURN:
            closing.keeps = self._keeps(planner, link_map, left, unloads)

    def _closings(self) -> Iterator[_Closing]:
        return (op for op in self._operations if isinstance(op, _Closing))

    def _names_of_closers(self, planner: Planner, maps: Iterable[LinkMap]) -> Iterator[str]:
        for link_map in maps:
            if link_map.name not in self._closers:
                self._closers[link_map.name] = planner.can_close(link_map)
            if self._closers[link_map.name]:
                yield self._examined.name(link_map)

    def _keeps(self, planner: Planner, link_map: LinkMap, left: int, unloads: Sequence[int]) -> tuple[Library, ...]:
        """Judge what stays of a library and all that it needs, after its last close."""
        if link_map.l_type != LT_LOADED or link_map.nodelete:
            return (self._judge_lasting(link_map),)
        stays = [m for m in planner.closure(link_map) if m.address not in unloads]
        if not stays:
            return ()
        after = self._examined.after({link_map.address: left})
        return tuple(
            self._judge_lasting(m) if m.nodelete and m is not link_map else after.judge(m, identify=False)
            for m in stays
        )

    def _judge_lasting(self, link_map: LinkMap) -> Library:
        """Judge a library that stays for good; it does so once."""
        known = self._lasting.get(link_map.address)
        if known is None or not is_same(known[0], link_map):
            library = self._examined.judge(link_map, identify=False)
            # What else needs it changes, and does not matter.
            holds = tuple(hold for hold in library.holds if hold.kind in PERMANENT)
            known = (link_map, library._replace(holds=holds, holds_omitted=0))
            self._lasting[link_map.address] = known
        return known[1]

    # -- opens -------------------------------------------------------------------------------------------------

    def _open_arguments(self, hit: Hit, entry: Entry) -> tuple[int, ...]:
        count = {Entry.DL_OPEN: 4, Entry.DLOPEN: 2, Entry.DLMOPEN: 3}.get(entry, 0)
        return tuple(self._callers.argument(hit, self._examined.memory, index) for index in range(count))

    def _begin_open(self, hit: Hit, entry: Entry, stack: int) -> Reaction:
        examined = self._examined
        memory = examined.memory
        arguments = self._open_arguments(hit, entry)
        if entry is Entry.DL_OPEN:
            name, flags, space = arguments[0], arguments[1], arguments[3]
        elif entry is Entry.DLMOPEN:
            name, flags, space = arguments[1], arguments[2], arguments[0]
        else:
            # dlopen itself asks for the caller's namespace, or for the program in the base namespace.
            name, flags, space = arguments[0], arguments[1], -2 if arguments[0] else 0
        found = self._callers.find(hit, examined, entry, stack)
        site = self._callers.name(examined, found.pc)
        requested: Optional[str] = None
        if name:
            try:
                requested = memory.c_string(name, _MAX_NAME)
            except DlwhyError:
                requested = "?"
        moment = self._moment(hit, site, found.by)
        bits = 8 * memory.pointer_size
        signed = space - (1 << bits) if space > 0 and space >> (bits - 1) else space
        # The bits above are the loader's own (__RTLD_DLOPEN, __RTLD_SPROF and such), not the caller's.
        opening = _Opening(moment, stack, requested or None, flags & 0xFFFF, signed)
        opening.arguments = arguments
        opening.repeats, self._repeated = self._repeated, ()
        self._add_operation(opening)
        return self._react(self._find_stop_of_open(opening), opening)

    # -- what came of it ---------------------------------------------------------------------------------------

    def _advance(self, lwp: Optional[int], stack: Optional[int]) -> None:
        """Compare with the lists of the event before, and end what has ended; without a thread: at a stop."""
        graph = self._examined.graph
        if graph.complete:
            before, self._compared = self._compared, graph
            self._note_exit()
            if before is not graph:
                self._assign(before, graph)
                self._find_pins(before, graph)
        # Else another thread has been stopped while it changed the lists: the next event will compare.
        ended = [op for op in self._operations if self._has_ended(op, lwp, stack)]
        for operation in self._operations:
            if isinstance(operation, _Closing) and not operation.has_effect and operation.moment.lwp != lwp:
                self._predict_again(operation)
        for operation in ended:
            self._finish(operation)
        if lwp is not None:
            self._waiting = None

    def _has_ended(self, operation: _Operation, lwp: Optional[int], stack: Optional[int]) -> bool:
        """Tell whether an operation has ended; what cannot be told has not.

        The depth of the loader's lock tells how many of a thread's operations go on: the first ones.
        """
        lock = self._examined.lock
        own = [op for op in self._operations if op.moment.lwp == operation.moment.lwp]
        is_owner = lock.is_held and (lock.owner is None or lock.owner == self._tid(operation.moment.lwp))
        depth = max(1, lock.depth) if is_owner else 0
        if operation.moment.lwp == lwp and stack is not None:
            return operation.stack <= stack or own.index(operation) >= depth
        if own.index(operation) < depth:
            return False
        return operation.has_effect or operation is not own[-1] or (lwp is None and operation is not self._waiting)

    def _tid(self, lwp: int) -> int:
        """Give a thread's id as the process itself knows it, which in a container is another one."""
        if lwp not in self._tids:
            pid = self.target.pid
            inner = find_inner_id(pid, lwp) if pid is not None and self._info.kind == "live" else None
            self._tids[lwp] = lwp if inner is None else inner
        return self._tids[lwp]

    def _assign(self, before: Graph, graph: Graph) -> None:
        """Find out which operation is to thank for each difference."""
        now = graph.by_address
        ups = downs = 0
        for address, link_map in before.by_address.items():
            other = now.get(address)
            if other is link_map or link_map.is_proxy:
                continue
            if other is None or not is_same(link_map, other):
                self._assign_gone(link_map)
                downs += max(0, link_map.l_direct_opencount - self._lower(link_map, link_map.l_direct_opencount))
                continue
            change = other.l_direct_opencount - link_map.l_direct_opencount
            # Opens and closes of one library between two events cancel out; all are events themselves.
            if change < 0:
                downs += -change - self._lower(link_map, -change)
            elif change > 0:
                ups += change - self._raise(other, change)
        for address, link_map in now.items():
            other = before.by_address.get(address)
            if other is not link_map and not is_same(link_map, other) and not link_map.is_proxy:
                self._assign_added(link_map)
                ups += link_map.l_direct_opencount - self._raise(link_map, link_map.l_direct_opencount)
        if (ups or downs) and not self._exiting and self._number > self._raced_until:
            self.ledger.count_unseen(ups, downs)

    def _assign_gone(self, link_map: LinkMap) -> None:
        address = link_map.address
        closings = list(self._closings())
        by_prediction = [op for op in closings if address in op.predicted or address in op.remarked]
        in_namespace = [op for op in closings if op.library and op.library.namespace == link_map.l_ns]
        openings = [op for op in self._operations if isinstance(op, _Opening)]
        for operation in (*by_prediction, *in_namespace, *openings):
            operation.went[address] = self._instance(link_map)
            operation.has_effect = True
            return

    def _assign_added(self, link_map: LinkMap) -> None:
        openings = [op for op in self._operations if isinstance(op, _Opening)]
        if openings:
            openings[-1].added[link_map.address] = self._instance(link_map)
            if self._descriptors is not None:
                self._descriptors.note_birth(link_map, openings[-1].open_before)
            if self.options.stop_when == "opened":
                self._late.append(self._instance(link_map))

    def _lower(self, link_map: LinkMap, total: int) -> int:
        """Let closes of a library account for a lower count; gives for how much of it."""
        found = 0
        for operation in self._closings():
            same = operation.link_map is not None and is_same(operation.link_map, link_map)
            if same and not operation.is_counted and not operation.does_nothing and found < total:
                operation.has_effect = operation.is_counted = True
                found += 1
        return found

    def _raise(self, link_map: LinkMap, total: int) -> int:
        """Let opens account for a higher count; gives for how much of it.

        At exit _dl_fini raises all counts, so that no close takes a library away from under it.
        """
        found = 0
        waiting = [op for op in reversed(self._operations) if isinstance(op, _Opening) and op.library is None]
        if self._exiting:
            waiting = [op for op in waiting if _is_request_for(op, link_map)]
        for operation in sorted(waiting, key=lambda op: not _is_request_for(op, link_map)):
            if found < total:
                operation.library = self._instance(link_map)
                operation.has_effect = True
                found += 1
        return found

    def _predict_again(self, closing: _Closing) -> None:
        """Predict a close that has not begun while another thread's operation changed something."""
        link_map = closing.link_map
        current = self._examined.graph.by_address.get(link_map.address) if link_map else None
        if link_map is None or current is None or not is_same(link_map, current) or closing.does_nothing:
            return
        closing.predicted = {}
        closing.link_map = current
        self._predict(closing, current)

    def _finish(self, operation: _Operation) -> None:
        """Settle an operation."""
        if isinstance(operation, _Opening) and operation.library is None and operation.moment.raced:
            # A close by another thread can have taken the count back before it was looked at.
            maps = self._examined.graph.by_address.values()
            found = next((m for m in maps if _is_request_for(operation, m) and not m.is_proxy), None)
            operation.library = self._instance(found) if found else None
        self._operations.remove(operation)
        if self._waiting is operation:
            self._waiting = None
        if isinstance(operation, _Opening) and operation.library is None:
            for repeated in operation.repeats:
                self._emit(repeated.event(ended=True))
        self._emit(operation.event(ended=True))
        if self._descriptors is not None and isinstance(operation, _Closing) and operation.went:
            moment = operation.moment._replace(inside=operation.moment.number)
            for leak in self._descriptors.find_leaks(operation.went, operation.library, operation.open_before, moment):
                self._number += 1
                self._emit(leak._replace(moment=moment._replace(number=self._number)))

    def _emit(self, event: Event) -> None:
        if not self.options.libraries or any(self._is_wanted(name) for name in names_of(event)):
            self.ledger.add(event)
            self._sink(event)

    def _is_wanted(self, name: str) -> bool:
        """Tell whether a name or path is one of those asked for, or none was."""
        wanted = self.options.libraries
        return not wanted or any(
            fnmatch.fnmatchcase(name, each) or fnmatch.fnmatchcase(base_name(name), each) for each in wanted
        )

    # -- NODELETE ----------------------------------------------------------------------------------------------

    def _find_pins(self, before: Graph, graph: Graph) -> None:
        """Find libraries that have become NODELETE since the event before."""
        for address, link_map in graph.by_address.items():
            other = before.by_address.get(address)
            if other is link_map or not link_map.nodelete or link_map.is_proxy or link_map.l_type != LT_LOADED:
                continue
            if other is not None and is_same(other, link_map) and other.nodelete:
                continue
            self._emit(self._pin(link_map))

    def _pin(self, link_map: LinkMap) -> Pin:
        library = self._judge_lasting(link_map)
        hold = next((h for h in library.holds if h.kind is HoldKind.NODELETE), Hold(HoldKind.NODELETE))
        during = next((op for op in reversed(self._operations) if isinstance(op, _Opening)), None)
        lookups: list[str] = []
        origin = hold.origin
        if during is not None:
            flagged = during.flags & _RTLD_NODELETE and during.library and during.library.link_map == link_map.address
            if flagged and origin != "elf-flag":
                origin = "dlopen-flag"
            if origin in ("unique-symbol", "bound-by-startup"):
                lookups = self._lookups(link_map, during, origin)
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
        return Pin(moment, self._instance(link_map), origin, hold.symbols, tuple(lookups))

    def _lookups(self, link_map: LinkMap, during: _Opening, origin: str) -> list[str]:
        """Name the libraries that are bound to one which their look-up made NODELETE."""
        examined = self._examined
        found = []
        for other in examined.graph.by_address.values():
            candidate = other.address in during.added if origin == "unique-symbol" else other.l_type != LT_LOADED
            if candidate and not other.is_proxy and examined.binds(other, link_map):
                found.append(examined.name(other))
        return sorted(found)

    # -- TLS destructors ---------------------------------------------------------------------------------------

    def _on_registration(self, hit: Hit) -> Reaction:
        """See ``__cxa_thread_atexit_impl (func, obj, dso_symbol)`` about to register a destructor."""
        examined = self._examined
        try:
            memory = Memory(self.target)
            function, subject, symbol = (self._callers.argument(hit, memory, i) for i in range(3))
            pc = self._callers.return_address(hit, memory)
            if examined.find_map(symbol) is None or examined.find_map(pc) is None:
                self._look()  # for names only: what has changed is found at the next event
                examined = self._examined
            site = self._callers.name(examined, self._callers.behind(hit, examined, pc))
            kept = examined.find_map(symbol) or examined.graph.namespaces[0].maps[0]
            code = self._callers.name(examined, function, before=0) or Site(function)
            library = self._instance(kept)
            owner = code.library if code.library != library.name else None
            moment = self._moment(hit, site, "user")
            self._emit(Registration(moment, library, code, subject, owner))
        except (FaultError, CorruptError, UnsupportedError) as error:
            return self._fail(f"__cxa_thread_atexit_impl in thread {hit.lwp}", error)
        return Reaction.RESUME

    # -- descriptors -------------------------------------------------------------------------------------------

    def _on_descriptor(self, hit: Hit) -> Reaction:
        """See a call of a function that makes a descriptor."""
        assert self._descriptors is not None
        try:
            memory = Memory(self.target)
            pc = self._callers.return_address(hit, memory)
            if self._examined.find_map(pc) is None:
                self._look()
            found = name_call(self._callers, self._examined, pc)
            if found is not None and self._is_wanted(self._examined.path(found[0])):
                index = MAKERS[self._makers[hit.address]]
                path = None if index is None else read_path(memory, self._callers.argument(hit, memory, index))
                self._descriptors.note_call(*found, path)
        except (FaultError, CorruptError, UnsupportedError) as error:
            return self._fail(f"{self._makers[hit.address]} in thread {hit.lwp}", error)
        return Reaction.RESUME

    # -- stops -------------------------------------------------------------------------------------------------

    def _find_stop_of_close(self, closing: _Closing) -> Optional[tuple[str, ...]]:
        when = self.options.stop_when
        if when == "kept":
            kept = [library for library in closing.keeps if library.held is not False]
            if self.options.libraries:
                chosen = [library for library in kept if self._is_wanted(library.path)]
            else:
                own = closing.library.link_map if closing.library else 0
                chosen = [library for library in kept if library.link_map == own or _is_surprising(library)]
            return tuple(library.name for library in chosen) or None
        if when == "unloaded":
            going = {**closing.predicted, **closing.remarked}.values()
            if closing.outcome is Outcome.DEFERRED:
                going = {a: i for op in self._closings() for a, i in op.remarked.items()}.values()
            return tuple(each.name for each in going if self._is_wanted(each.path)) or None
        return self._find_late_stop()

    def _find_stop_of_open(self, opening: _Opening) -> Optional[tuple[str, ...]]:
        if self.options.stop_when != "opened":
            return None
        if opening.requested and self._is_wanted(opening.requested):
            return (base_name(opening.requested),)
        return self._find_late_stop()

    def _find_late_stop(self) -> Optional[tuple[str, ...]]:
        """Find what came as a dependency of what was opened before."""
        late, self._late = self._late, []
        if self.options.stop_when != "opened" or not self.options.libraries:
            return None
        return tuple(each.name for each in late if self._is_wanted(each.path)) or None

    def _react(self, libraries: Optional[tuple[str, ...]], operation: _Operation) -> Reaction:
        if libraries is None or self.options.stop_when is None:
            return Reaction.RESUME
        self._announce(Stop(self.options.stop_when, operation.event(ended=False), libraries))
        return Reaction.STOP


_RTLD_NODELETE = 0x1000


def names_of(event: Event) -> Iterator[str]:
    """Name all libraries that an event is about."""
    if isinstance(event, Open):
        if event.requested:
            yield event.requested
        instances = [event.library, *event.added, *event.went]
    elif isinstance(event, Close):
        yield from (library.path for library in event.keeps)
        instances = [event.library, *event.predicted, *event.remarked, *event.went]
    else:
        instances = [event.library]
    yield from (instance.path for instance in instances if instance is not None)


def _is_request_for(opening: _Opening, link_map: LinkMap) -> bool:
    return base_name(opening.requested or "") == base_name(link_map.name)


def _is_surprising(library: Library) -> bool:
    """Tell whether nothing that is open elsewhere, or stays for good, needs a library."""
    for hold in library.holds:
        if hold.kind in _EXPECTED:
            return False
        if hold.kind is HoldKind.DEPENDENCY and hold.root and not _EXPECTED.isdisjoint(hold.root.kinds):
            return False
    return True
