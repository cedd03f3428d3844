"""Which loads and frees of DLLs happen, who makes them, and does each free unload what was predicted?

Breakpoints: the exports of ntdll through which all loads and frees pass, LdrLoadDll, LdrUnloadDll, LdrAddRefDll and
LdrGetDllHandleEx, and the return address of each in-flight call.  Mapped and unmapped modules come from the debugger's
module events.  During a free that should unload, breakpoints at the entry points of the doomed DLLs show the order of
DLL_PROCESS_DETACH.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional

from ...errors import DlwhyError, LayoutError, UnsupportedError
from ...guards import call_handler, event_bug, traceback_of
from ...memory import Memory
from ...target import Hit, Reaction, Subscription
from ...trace.events import EventHeader
from ...trace.session import TraceSession
from ..loader.lists import LdrEntry, Loader
from ..loader.unload import ImportGraph
from ..pe import find_export
from ..state import WindowsExamination
from ..target import LiveWindowsTarget
from .call import WORD, DllCallStart, FreeCall, LoadCall
from .callers import DllCallers, is_going_on
from .events import DllEvent, DllInstance, DllTrace
from .functions import (
    ADD_REF,
    ADD_REF_PIN,
    CURRENT_PROCESS,
    DATA_FILE_BITS,
    DLL_PROCESS_DETACH,
    FIFTH_ARGUMENT,
    FIRST_ADDRESS,
    GET_HANDLE,
    HANDLE_PIN,
    HANDLE_UNCHANGED,
    LOAD,
    MASK_32,
    SHUTDOWN,
    TERMINATE,
    UNLOAD,
    find_name,
)
from .in_flight import InFlightDllCalls
from .predictor import FreePredictor
from .snapshot import DllSnapshot, for_each_entry, instance_of, load_counts
from .summary import DllTraceSummary
from .tracker import DllCallTracker


class DllTracer:
    """A trace of one process, until `stop` or the end of the process; handles the hits of its breakpoints."""

    def __init__(self, target: LiveWindowsTarget, names: Sequence[str], on_event: Callable[[DllEvent], None]) -> None:
        """Begin the trace.

        :param names: names or patterns of the DLLs whose events are reported; all if empty.
        :param on_event: is called with each reported event.
        :raises UnsupportedError: if the process cannot be traced.
        """
        self._target = target
        self._session = TraceSession()
        self._snapshot = DllSnapshot(target)
        examined = self._snapshot.refresh()
        _require_traceable(examined)
        self._callers = DllCallers(target, self._snapshot)
        self._summary = DllTraceSummary(examined, names, on_event)
        self._in_flight = InFlightDllCalls(self._snapshot, lambda place: self._watch(place, self._return))
        self._predictor = FreePredictor(examined.loaders[0].rule)
        self._tracker = DllCallTracker(self._snapshot, self._in_flight, self._summary)
        self._snapshot.note_now()
        places = self._places(examined)
        self._session.keep(*(self._watch(place, handler) for place, handler in places))
        self._session.keep(target.on_module_change(self._on_module_change), target.on_end(self._on_end))

    # -- the beginning and the end ----------------------------------------------------------------------------

    def is_watching(self) -> bool:
        """Return True until the trace or the process ends."""
        return self._session.ending is None and self._target.is_alive()

    def stop(self) -> None:
        """End the trace; its breakpoints are removed from the process."""
        if self.is_watching():
            self._snapshot.note_now()
        self._end("stopped")

    def note_stop(self, why: str) -> None:
        """Record why the debugger stopped the process, unless the process has ended."""
        if self.is_watching():
            self._summary.add_problem("the debugger", why)

    def report(self) -> DllTrace:
        """Return the report."""
        if self.is_watching():
            self._snapshot.note_now()
        return self._summary.report(
            self._snapshot, self._session, is_watching=self.is_watching(), unended=self._in_flight.unended()
        )

    def _places(self, examined: WindowsExamination) -> list[tuple[int, Callable[[Hit], None]]]:
        ntdll = examined.loaders[0].find_entry("ntdll.dll")
        if ntdll is None:
            raise UnsupportedError("the loader does not list ntdll.dll: there is nothing to break at")
        handlers: dict[str, Callable[[Hit], None]] = {
            LOAD: self._begin_load,
            UNLOAD: self._begin_unload,
            ADD_REF: self._begin_add_ref,
            GET_HANDLE: self._begin_get_handle,
            SHUTDOWN: self._begin_shutdown,
            TERMINATE: self._terminate,
        }
        found = []
        for name, handler in handlers.items():
            place = find_export(examined.memory, ntdll.base, name)
            if place is not None:
                found.append((place, handler))
            elif name in (LOAD, UNLOAD):
                raise LayoutError(f"ntdll.dll exports no {name}", [])
            else:
                self._summary.add_problem("ntdll.dll", f"it exports no {name}: such calls are not seen")
        return found

    def _watch(self, place: int, handler: Callable[[Hit], None]) -> Subscription:
        return self._target.add_breakpoint([place], self._guarded(handler))

    def _guarded(self, handler: Callable[[Hit], None]) -> Callable[[Hit], Reaction]:
        """Wrap a handler so that no failure in it stops the process."""

        def handle(hit: Hit) -> Reaction:
            call_handler(lambda: handler(hit), None, self._fail)
            return Reaction.RESUME

        return handle

    def _fail(self, error: Exception) -> None:
        """Record that an event could not be read; after a bug of ours mark all in-flight calls uncertain."""
        if isinstance(error, DlwhyError):
            self._summary.add_problem("an event was not understood", str(error))
            return
        self._in_flight.mark_uncertain()
        self._summary.add_problem("an event", event_bug(error))
        trace = traceback_of(error)
        if trace:
            self._target.say(trace)

    def _on_module_change(self, base: int, name: str, is_loaded: bool) -> None:
        call_handler(lambda: self._note_module(base, name, is_loaded), None, self._fail)

    def _on_end(self, why: str) -> None:
        call_handler(lambda: self._end(why), None, self._fail)

    def _end(self, why: str) -> None:
        if self._session.end(why):
            self._in_flight.release_all()

    def _begin_shutdown(self, _hit: Hit) -> None:
        self._snapshot.begin_exit()

    def _terminate(self, hit: Hit) -> None:
        """Stop watching before the process exits: its memory may be unmapped when the debugger reports the exit."""
        if hit.registers(("rcx",))[0] == CURRENT_PROCESS:
            self._snapshot.note_now()
            self._end("the process has ended")

    # -- calls ------------------------------------------------------------------------------------------------

    def _call_start(self, hit: Hit, function: str) -> DllCallStart:
        (stack,) = hit.registers(("rsp",))
        returns_to = Memory(self._target).unsigned(stack, WORD)
        examined = self._snapshot.refresh()
        frames = self._callers.frames()
        repeated = self._in_flight.take_repeated(hit.lwp, function, stack, returns_to)
        number = self._session.count() if repeated is None else repeated.header.number
        began = self._session.now() if repeated is None else repeated.header.time_seconds
        for call in self._in_flight.of_thread(hit.lwp):
            if not is_going_on(call, frames):
                self._in_flight.remove(call)
                self._tracker.abandon(call)
        around = self._in_flight.of_thread(hit.lwp)
        header = EventHeader(
            number,
            began,
            hit.lwp,
            self._callers.find(frames),
            within_event=around[-1].header.number if around else None,
            at_exit=self._snapshot.is_exiting,
        )
        return DllCallStart(header, function, stack, returns_to, examined, load_counts(examined))

    def _return(self, hit: Hit) -> None:
        stack, result = hit.registers(("rsp", "rax"))
        call, *inner = self._in_flight.take_returned(hit.lwp, hit.address, stack) or (None,)
        for each in inner:
            self._tracker.abandon(each)
        if call is not None and call.is_uncertain:
            self._tracker.abandon(call)
        elif call is not None:
            self._tracker.finish(call, result & MASK_32, Memory(self._target))

    def _begin_load(self, hit: Hit) -> None:
        load_call = LoadCall(self._call_start(hit, LOAD))
        self._in_flight.add(load_call)
        flags, name, output = hit.registers(("rdx", "r8", "r9"))
        memory = Memory(self._target)
        # Windows passes a pointer to the flags, Wine the flags themselves.
        known: Optional[int] = flags
        if flags >= FIRST_ADDRESS:
            data = memory.try_read(flags, 4)
            known = None if data is None else int.from_bytes(data, "little")
        load_call.note_request(find_name(memory, name), known, output)

    def _begin_add_ref(self, hit: Hit) -> None:
        flags, base = hit.registers(("rcx", "rdx"))
        load_call = LoadCall(self._call_start(hit, ADD_REF), base, pins=bool(flags & ADD_REF_PIN))
        self._in_flight.add(load_call)
        for outer in self._in_flight.of_thread(hit.lwp):
            if isinstance(outer, LoadCall) and outer.function == GET_HANDLE:
                outer.leave_counting()
        entry = self._snapshot.find(base)
        if entry is not None:
            load_call.note_request(entry.name)

    def _begin_get_handle(self, hit: Hit) -> None:
        flags, name = hit.registers(("rcx", "r9"))
        if flags & HANDLE_UNCHANGED:
            return
        load_call = LoadCall(self._call_start(hit, GET_HANDLE), pins=bool(flags & HANDLE_PIN))
        self._in_flight.add(load_call)
        memory = Memory(self._target)
        output = memory.unsigned(load_call.stack + FIFTH_ARGUMENT, 8)
        load_call.note_request(find_name(memory, name), output=output)

    def _begin_unload(self, hit: Hit) -> None:
        (base,) = hit.registers(("rcx",))
        if base & DATA_FILE_BITS:
            return
        free_call = FreeCall(self._call_start(hit, UNLOAD), base)
        self._in_flight.add(free_call)
        for loader, graph, entry in for_each_entry(free_call.examined):
            if entry.base == base:
                free_call.note_library(instance_of(entry))
                self._predict(free_call, loader, graph, entry)

    def _predict(self, free_call: FreeCall, loader: Loader, graph: ImportGraph, entry: LdrEntry) -> None:
        own = self._in_flight.of_thread(free_call.header.tid)
        prediction = self._predictor.predict(
            free_call.examined,
            loader,
            graph,
            entry,
            exiting=self._snapshot.is_exiting,
            within=any(isinstance(each, FreeCall) for each in own if each is not free_call),
        )
        free_call.predict(prediction)
        for each in prediction.get_process_detach:
            self._watch_detach(free_call, each)

    def _watch_detach(self, free_call: FreeCall, entry: LdrEntry) -> None:
        def note(hit: Hit) -> None:
            if hit.registers(("rdx",))[0] & MASK_32 == DLL_PROCESS_DETACH:
                free_call.note_detached(entry.base, entry.name)

        free_call.watch_entry(entry.base, self._watch(entry.entry_point, note))

    def _note_module(self, base: int, name: str, is_loaded: bool) -> None:
        """Record a module that the debugger reports as mapped or unmapped."""
        calls = self._in_flight.of_thread(self._target.current_lwp())
        entry = self._snapshot.find(base)
        module = instance_of(entry) if entry and not is_loaded else DllInstance(name, None, 0, base)
        if calls:
            calls[-1].note_module(module, is_loaded)
        else:
            self._summary.count_unseen(is_loaded)


def _require_traceable(examined: WindowsExamination) -> None:
    """Raise UnsupportedError if the process cannot be traced.

    :raises UnsupportedError: if the process runs 32-bit code, or its lists cannot be found.
    """
    if any(loader.kind == "wow64" for loader in examined.loaders) or examined.memory.platform.pointer_size != 8:
        raise UnsupportedError("a process of 32-bit code cannot be traced yet: ask with dllstate and dllplan")
    if not examined.loaders:
        raise UnsupportedError("; ".join(f"{each.where}: {each.message}" for each in examined.problems))
