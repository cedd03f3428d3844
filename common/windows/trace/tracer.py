"""Which loads and frees of DLLs happen, who makes them, and does each free unload what was predicted?

Breakpoints stand at the exports of ntdll by which all loads and frees go, LdrLoadDll, LdrUnloadDll, LdrAddRefDll and
LdrGetDllHandleEx, and for each call that is going on at its return address.  What is really mapped and unmapped is told
by the debugger's module events.  While a free is expected to unload, breakpoints at the entry points of those DLLs show
the order of DLL_PROCESS_DETACH.
"""

from __future__ import annotations

import fnmatch
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Optional

from ...errors import DlwhyError, LayoutError, UnsupportedError
from ...guards import call_handler, event_bug, traceback_of
from ...linux.trace.events import Close, Open, Pin
from ...memory import Memory
from ...model import Outcome, Problem
from ...target import Hit, Reaction, Subscription
from ...trace.events import Instance, Moment, OpenResult, Site
from ...trace.ledger import MAX_LISTED, Ledger
from ..loader.lists import Entry, Loader, by_base
from ..loader.unload import World
from ..model import DllPlan, LoaderRule
from ..pe import find_export
from ..plan import plan_once
from ..state import CORE_DLLS, WindowsExamination
from ..target import Frame, LiveWindowsTarget
from .events import DllClose, DllEvent, DllOpen, DllPin, DllTrace, KeptDll, instance_of

#: How many frames lie between a caller and ntdll at most.
MAX_FRAMES = 40
#: Calls that are followed within one another, or never seen to end.
MAX_PENDING = 1000
MAX_SITES = 4096
#: A trace that meets more problems than this is of no use.
MAX_PROBLEMS = 50

LOAD, UNLOAD, ADD_REF, GET_HANDLE = "LdrLoadDll", "LdrUnloadDll", "LdrAddRefDll", "LdrGetDllHandleEx"
SHUTDOWN, TERMINATE = "LdrShutdownProcess", "NtTerminateProcess"

#: LDR_ADDREF_DLL_PIN, and LDR_GET_DLL_HANDLE_EX_UNCHANGED_REFCOUNT and _PIN (phnt of System Informer, ntldr.h).
_ADD_REF_PIN, _HANDLE_UNCHANGED, _HANDLE_PIN = 1, 1, 2
#: A handle of a DLL that is mapped as data has one of these bits set: the loader does not know it.
_DATA_FILE_BITS = 3
_FAILED = 1 << 31
_DLL_PROCESS_DETACH = 0
#: The handle of a process that stands for itself.
_CURRENT_PROCESS = (1 << 64) - 1
_MASK_32 = (1 << 32) - 1
#: A pointer, not a value: nothing is mapped below.
_FIRST_ADDRESS = 0x10000
_MAX_NAME = 1 << 15
#: The fifth argument lies behind the return address and the home of the first four.
_FIFTH_ARGUMENT = 0x28
_WORD = 8


class _Call:
    """A call of ntdll that is going on."""

    def __init__(
        self, function: str, stack: int, returns_to: int, moment: Moment, examined: WindowsExamination
    ) -> None:
        self.function = function
        self.stack = stack
        self.returns_to = returns_to
        self.moment = moment
        self.examined = examined
        self.raced = False
        self.is_doubtful = False
        self.requested: Optional[str] = None
        self.flags = 0
        self.output = 0
        self.base = 0
        self.pins = False
        self.counts_itself = True
        self.before: Mapping[int, Optional[int]] = {}
        self.library: Optional[Instance] = None
        self.plan: Optional[DllPlan] = None
        self.outcome = Outcome.UNKNOWN
        self.predicted: tuple[Instance, ...] = ()
        self.refusal: Optional[str] = None
        self.added: list[Instance] = []
        self.went: list[Instance] = []
        self.detached: list[str] = []
        self.entries: dict[int, Subscription] = {}


class DllTracer:
    """A trace of one process, from its creation to `stop` or the end of the process."""

    def __init__(self, target: LiveWindowsTarget, names: Sequence[str], on_event: Callable[[DllEvent], None]) -> None:
        """Begin to watch.

        :raises UnsupportedError: if the process cannot be traced.
        """
        self._target = target
        self._names = [name.lower() for name in names]
        self._on_event = on_event
        self._started = time.monotonic()
        self._seconds = 0.0
        self._ending: Optional[str] = None
        self._is_exiting = False
        self._number = 0
        self._pending: dict[int, list[_Call]] = {}
        self._lwps: set[int] = set()
        self._returns: dict[int, Subscription] = {}
        self._sites: dict[int, Site] = {}
        self._ledger = Ledger()
        self._kept: dict[str, KeptDll] = {}
        self._mismatches: list[DllClose] = []
        self._pins: list[DllPin] = []
        self._failures: list[DllOpen] = []
        self._unseen: Counter[bool] = Counter()
        self._problems: dict[Problem, None] = {}
        self._left: Mapping[tuple[str, int], int] = {}
        self._pinned: frozenset[str] = frozenset()
        examined = self._examine()
        self._loader_info, self._target_info = examined.loader_info(), examined.target_info()
        self._rules = examined.rules()
        self._begin_accounts(examined)
        self._note_what_is_left()
        self._subscriptions = [
            *(target.add_breakpoint([place], handler) for place, handler in self._places(examined)),
            target.on_module_change(self._on_module_change),
            target.on_end(self._on_end),
        ]

    def is_watching(self) -> bool:
        """Tell whether events are still seen."""
        return self._ending is None and self._target.is_alive()

    def stop(self) -> None:
        """End the trace: nothing of it stays in the process."""
        if self.is_watching() and not self._is_exiting:
            self._note_what_is_left()
        self._end("stopped")

    def note_stop(self, why: str) -> None:
        """Take down why the debugger does not let the process run on, if it is not because of its end."""
        if self.is_watching():
            self._problems[Problem("the debugger", why)] = None

    def report(self) -> DllTrace:
        """Sum up."""
        if self.is_watching() and not self._is_exiting:
            self._note_what_is_left()
        ledger = self._ledger
        totals = ledger.totals()._replace(
            keeping=sum(kept.times for kept in self._kept.values()),
            unended=ledger.totals().unended + sum(map(len, self._pending.values())),
            unseen_opens=self._unseen[True],
            unseen_closes=self._unseen[False],
        )
        return DllTrace(
            target=self._target_info,
            loader=self._loader_info,
            rules=self._rules,
            watching=self.is_watching(),
            ending=self._ending,
            seconds=self._seconds if self._ending else time.monotonic() - self._started,
            totals=totals,
            accounts=ledger.accounts_with(self._left),
            pinned=self._pinned,
            kept=tuple(sorted(self._kept.values(), key=lambda kept: (-kept.times, kept.dll.name))),
            mismatches=tuple(self._mismatches),
            pins=tuple(self._pins),
            failures=tuple(self._failures),
            problems=(*self._problems, *self._ledger.problems()),
        )

    # -- the beginning and the end ----------------------------------------------------------------------------

    def _examine(self) -> WindowsExamination:
        examined = WindowsExamination(self._target)
        self._entries = {each.base: each for loader in examined.loaders for each in _entries(loader)}
        return examined

    def _note_what_is_left(self) -> None:
        examined = self._examine()
        found = [(world, each) for loader, world in zip(examined.loaders, examined.worlds) for each in _entries(loader)]
        self._left = {(each.path, 0): _own_count(world, each) for world, each in found}
        self._pinned = frozenset(each.path for world, each in found if world.unit_of(each).pinned)

    def _begin_accounts(self, examined: WindowsExamination) -> None:
        if any(loader.kind == "wow64" for loader in examined.loaders) or self._target.platform.pointer_size != 8:
            raise UnsupportedError("a process of 32-bit code cannot be traced yet: ask with dllstate and dllplan")
        if not examined.loaders:
            raise UnsupportedError("; ".join(f"{each.where}: {each.message}" for each in examined.problems))
        self._rule = examined.loaders[0].rule
        for loader, world in zip(examined.loaders, examined.worlds):
            for entry in _entries(loader):
                if not world.unit_of(entry).pinned and _own_count(world, entry):
                    self._ledger.begin(_instance(entry), _own_count(world, entry))

    def _places(self, examined: WindowsExamination) -> list[tuple[int, Callable[[Hit], Reaction]]]:
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
                found.append((place, self._guarded(handler)))
            elif name in (LOAD, UNLOAD):
                raise LayoutError(f"ntdll.dll exports no {name}", [])
            else:
                self._problems[Problem("ntdll.dll", f"it exports no {name}: such calls are not seen")] = None
        return found

    def _guarded(self, handler: Callable[[Hit], None]) -> Callable[[Hit], Reaction]:
        """Let nothing that goes wrong at a breakpoint stop the process."""

        def handle(hit: Hit) -> Reaction:
            call_handler(lambda: handler(hit), None, self._fail)
            return Reaction.RESUME

        return handle

    def _fail(self, error: Exception) -> None:
        """Note that an event could not be read; by a bug of ours the end of nothing that goes on is known any more."""
        if isinstance(error, DlwhyError):
            self._add_problem("an event was not understood", str(error))
            return
        for calls in self._pending.values():
            for call in calls:
                call.is_doubtful = True
        self._add_problem("an event", event_bug(error))
        trace = traceback_of(error)
        if trace:
            self._target.say(trace)

    def _add_problem(self, where: str, message: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems[Problem(where, message)] = None

    def _on_module_change(self, base: int, name: str, is_loaded: bool) -> None:
        call_handler(lambda: self._note_module(base, name, is_loaded), None, self._fail)

    def _on_end(self, why: str) -> None:
        call_handler(lambda: self._end(why), None, self._fail)

    def _end(self, why: str) -> None:
        if self._ending is not None:
            return
        self._ending = why
        self._seconds = time.monotonic() - self._started
        pending = [call for calls in self._pending.values() for call in calls]
        for call in pending:
            for subscription in call.entries.values():
                subscription.remove()
            call.entries.clear()
        for subscription in (*self._subscriptions, *self._returns.values()):
            subscription.remove()
        self._returns.clear()

    def _begin_shutdown(self, _hit: Hit) -> None:
        if not self._is_exiting:
            self._note_what_is_left()
        self._is_exiting = True

    def _terminate(self, hit: Hit) -> None:
        """Leave a process before it ends: its memory can be gone when the debugger hears of that."""
        if hit.registers(("rcx",))[0] == _CURRENT_PROCESS:
            if not self._is_exiting:
                self._note_what_is_left()
            self._end("the process has ended")

    # -- calls ------------------------------------------------------------------------------------------------

    def _push(self, hit: Hit, function: str) -> _Call:
        (stack,) = hit.registers(("rsp",))
        returns_to = Memory(self._target).unsigned(stack, _WORD)
        examined = self._examine()
        frames = self._target.frames(MAX_FRAMES)
        self._lwps.add(hit.lwp)
        calls = self._pending.setdefault(hit.lwp, [])
        number, began = self._number + 1, round(time.monotonic() - self._started, 6)
        if calls and (calls[-1].stack, calls[-1].function, calls[-1].returns_to) == (stack, function, returns_to):
            # Where several threads come to a breakpoint at once, the engine lets them come there again.
            number, began = calls[-1].moment.number, calls[-1].moment.time
            self._forget(calls.pop())
        for call in [each for each in calls if not _is_going_on(each, frames)]:
            calls.remove(call)
            self._abandon(call)
        self._number = max(self._number, number)
        moment = Moment(
            number,
            began,
            hit.lwp,
            self._find_caller(frames),
            inside=calls[-1].moment.number if calls else None,
            at_exit=self._is_exiting,
        )
        call = _Call(function, stack, returns_to, moment, examined)
        call.before = self._counts(examined)
        for lwp, others in self._pending.items():
            if lwp != hit.lwp and others:
                call.raced = True
                for other in others:
                    other.raced = True
        if len(calls) < MAX_PENDING:
            calls.append(call)
            if returns_to not in self._returns:
                handler = self._guarded(self._return)
                self._returns[returns_to] = self._target.add_breakpoint([returns_to], handler)
        return call

    def _forget(self, call: _Call) -> None:
        for subscription in call.entries.values():
            subscription.remove()
        self._release(call.returns_to)

    def _release(self, place: int) -> None:
        """Remove the breakpoint at a return address that no call needs any more, unless it is where all calls pass."""
        library = by_base(tuple(self._entries.values()), place)
        if library is not None and library.name.lower() in CORE_DLLS:
            return
        if any(call.returns_to == place for calls in self._pending.values() for call in calls):
            return
        subscription = self._returns.pop(place, None)
        if subscription is not None:
            subscription.remove()

    def _return(self, hit: Hit) -> None:
        stack, result = hit.registers(("rsp", "rax"))
        calls = self._pending.get(hit.lwp, [])
        place = next((n for n, c in enumerate(calls) if (c.stack + _WORD, c.returns_to) == (stack, hit.address)), None)
        if place is None:
            return
        self._lwps.add(hit.lwp)
        call, *inner = calls[place:]
        del calls[place:]
        for each in inner:
            self._abandon(each)
        if call.is_doubtful:
            self._abandon(call)
            return
        self._forget(call)
        self._finish(call, result & _MASK_32)

    def _abandon(self, call: _Call) -> None:
        """Report a call whose end was not seen, or not understood: an exception left it, or the engine missed it."""
        self._forget(call)
        moment = call.moment._replace(raced=call.raced)
        if call.function == UNLOAD:
            close = Close(moment, call.library, call.before.get(call.base) or 0, call.outcome, call.predicted)
            self._emit(DllClose(close, None, call.before.get(call.base), None, call.refusal), _known(call.library))
        elif call.function == LOAD:
            opened = Open(moment, call.requested, call.flags, 0, added=tuple(call.added), went=tuple(call.went))
            self._emit(DllOpen(opened, call.function), call.added, call.requested)

    def _finish(self, call: _Call, status: int) -> None:
        call.moment = call.moment._replace(raced=call.raced)
        if call.function == UNLOAD:
            self._finish_unload(call, status)
        elif call.counts_itself:
            self._finish_load(call, status)

    def _find_caller(self, frames: Sequence[Frame]) -> Optional[Site]:
        """Find the nearest function outside of ntdll, kernelbase and kernel32."""
        for frame in frames[1:]:
            library = by_base(tuple(self._entries.values()), frame.pc)
            if library is None or library.name.lower() not in CORE_DLLS:
                return self._site(frame.pc, library)
        return None

    def _site(self, address: int, library: Optional[Entry]) -> Site:
        known = self._sites.get(address)
        name = library.name if library else None
        if known is None or known.library != name:
            known = Site(address, name, self._target.find_symbol(address), self._target.find_line(address))
            if len(self._sites) < MAX_SITES:
                self._sites[address] = known
        return known

    # -- loads ------------------------------------------------------------------------------------------------

    def _begin_load(self, hit: Hit) -> None:
        call = self._push(hit, LOAD)
        flags, name, call.output = hit.registers(("rdx", "r8", "r9"))
        memory = Memory(self._target)
        # Windows passes a pointer to the flags, Wine themselves.
        call.flags = flags if flags < _FIRST_ADDRESS else int.from_bytes(memory.try_read(flags, 4) or b"", "little")
        call.requested = _unicode_string(memory, name)

    def _begin_add_ref(self, hit: Hit) -> None:
        flags, base = hit.registers(("rcx", "rdx"))
        call = self._push(hit, ADD_REF)
        call.base, call.pins = base, bool(flags & _ADD_REF_PIN)
        for outer in self._pending[hit.lwp]:
            # The outer call asks this one to count.
            outer.counts_itself &= outer.function != GET_HANDLE
        if base in self._entries:
            call.requested = self._entries[base].name

    def _begin_get_handle(self, hit: Hit) -> None:
        flags, name = hit.registers(("rcx", "r9"))
        if flags & _HANDLE_UNCHANGED:
            return
        call = self._push(hit, GET_HANDLE)
        memory = Memory(self._target)
        call.requested = _unicode_string(memory, name)
        call.output = memory.unsigned(call.stack + _FIFTH_ARGUMENT, 8)
        call.pins = bool(flags & _HANDLE_PIN)

    def _finish_load(self, call: _Call, status: int) -> None:
        examined = self._examine()
        has_failed = bool(status & _FAILED)
        base = call.base
        if call.output and not has_failed:
            base = Memory(self._target).unsigned(call.output, 8)
        entry = None if has_failed else self._entries.get(base)
        library = _instance(entry) if entry else None
        if call.pins:
            if library is not None:
                pin = DllPin(Pin(call.moment, library, "explicit"), call.function)
                self._emit(pin, [library])
            return
        result = OpenResult.COUNTED if base in call.before else OpenResult.LOADED
        if has_failed:
            result = OpenResult.FAILED
        added = tuple(self._renamed(each) for each in call.added)
        opened = Open(call.moment, call.requested, call.flags, 0, result, library, added, tuple(call.went))
        after = self._counts(examined)
        event = DllOpen(opened, call.function, status, call.before.get(base), after.get(base) if entry else None)
        self._emit(event, [*added, *_known(library)], call.requested)

    # -- frees ------------------------------------------------------------------------------------------------

    def _begin_unload(self, hit: Hit) -> None:
        (base,) = hit.registers(("rcx",))
        if base & _DATA_FILE_BITS:
            return
        call = self._push(hit, UNLOAD)
        call.base = base
        for loader, world in zip(call.examined.loaders, call.examined.worlds):
            entry = next((each for each in loader.entries.values() if each.base == base), None)
            if entry is not None:
                call.library = _instance(entry)
                self._predict(call, loader, world, entry)

    def _predict(self, call: _Call, loader: Loader, world: World, entry: Entry) -> None:
        if self._is_exiting:
            call.outcome, call.refusal = Outcome.EARLY_RETURN, "shutdown"
            return
        call.plan = plan = plan_once(call.examined, loader, world, entry)
        call.outcome, call.refusal = plan.outcome, plan.refusal
        is_within = any(each.function == UNLOAD for each in self._pending[call.moment.lwp] if each is not call)
        if is_within and self._rule is not LoaderRule.WIN8 and plan.refusal is None:
            # The count goes down at once; what has died of it goes when the outer call unloads.
            call.outcome = Outcome.DEFERRED
            return
        call.predicted = tuple(map(instance_of, plan.unloads))
        for dll in plan.unloads:
            if dll.base in plan.detached and dll.entry in loader.entries:
                self._watch_detach(call, dll.base, loader.entries[dll.entry])

    def _watch_detach(self, call: _Call, base: int, entry: Entry) -> None:
        def note(hit: Hit) -> None:
            if hit.registers(("rdx",))[0] & _MASK_32 != _DLL_PROCESS_DETACH:
                return
            call.detached.append(entry.name)
            call.entries.pop(base).remove()

        call.entries[base] = self._target.add_breakpoint([entry.entry_point], self._guarded(note))

    def _finish_unload(self, call: _Call, status: int) -> None:
        examined = self._examine()
        went = tuple(call.went)
        plan = call.plan
        # What the DllMains of those that go free meanwhile goes too.
        remarked: tuple[Instance, ...] = ()
        if plan is not None and plan.at_least and call.outcome is Outcome.UNLOADS:
            remarked = tuple(each for each in went if each not in call.predicted)
        moment = call.moment
        if len(self._lwps) > 1 and set(went) != {*call.predicted, *remarked}:
            # Of several threads that come at once the engine can miss one: what it did is not known.
            moment = moment._replace(raced=True)
        close = Close(
            moment=moment,
            library=call.library,
            open_count=call.before.get(call.base) or 0,
            outcome=call.outcome,
            predicted=call.predicted,
            remarked=remarked,
            at_least=plan.at_least if plan else (),
            went=went,
            ended=True,
        )
        after = self._counts(examined)
        # What is pinned, or the program's, would not have gone anyway: only what could have is kept.
        keeps = plan.keeps if plan is not None and not self._is_exiting else ()
        event = DllClose(
            close,
            status,
            call.before.get(call.base),
            after.get(call.base) if call.base in self._entries else None,
            call.refusal,
            keeps,
            tuple(call.detached),
        )
        self._emit(event, [*went, *close.predicted, *_known(call.library)])

    # -- what is seen -----------------------------------------------------------------------------------------

    def _note_module(self, base: int, name: str, is_loaded: bool) -> None:
        calls = self._pending.get(self._target.current_lwp(), [])
        entry = self._entries.get(base)
        instance = _instance(entry) if entry and not is_loaded else Instance(name, name, 0, 0, base)
        if not calls:
            self._unseen[is_loaded] += 1
        elif is_loaded:
            calls[-1].added.append(instance)
        else:
            calls[-1].went.append(instance)

    def _renamed(self, instance: Instance) -> Instance:
        """Give a module the loader's own name, which its list has only after it was mapped."""
        entry = self._entries.get(instance.base)
        return _instance(entry) if entry else instance

    def _counts(self, examined: WindowsExamination) -> Mapping[int, Optional[int]]:
        return {
            entry.base: world.unit_of(entry).count
            for loader, world in zip(examined.loaders, examined.worlds)
            for entry in loader.entries.values()
        }

    def _emit(self, event: DllEvent, concerned: Sequence[Instance], requested: Optional[str] = None) -> None:
        names = [each.name for each in concerned] + [(requested or "").replace("/", "\\").rpartition("\\")[2]]
        if self._names and not any(self._is_named(name) for name in names):
            return
        if isinstance(event, DllOpen):
            self._ledger.add(event.open)
            if event.open.result is OpenResult.FAILED and len(self._failures) < MAX_LISTED:
                self._failures.append(event)
        elif isinstance(event, DllClose):
            self._add_close(event)
        elif len(self._pins) < MAX_LISTED:
            self._pins.append(event)
        self._on_event(event)

    def _add_close(self, event: DllClose) -> None:
        before = self._ledger.totals().mismatches
        self._ledger.add(event.close)
        if self._ledger.totals().mismatches > before and len(self._mismatches) < MAX_LISTED:
            self._mismatches.append(event)
        for dll in event.keeps:
            if event.close.library and dll.base == event.close.library.base:
                known = self._kept.get(dll.path)
                self._kept[dll.path] = KeptDll(dll, known.times + 1 if known else 1, event)

    def _is_named(self, name: str) -> bool:
        name = name.lower()
        return any(fnmatch.fnmatchcase(name, each) or name == f"{each}.dll" for each in self._names)


def _entries(loader: Loader) -> list[Entry]:
    return loader.in_load_order()


def _instance(entry: Entry) -> Instance:
    return Instance(entry.name, entry.path, 0, entry.address, entry.base)


def _known(library: Optional[Instance]) -> list[Instance]:
    return [] if library is None else [library]


def _is_going_on(call: _Call, frames: Sequence[Frame]) -> bool:
    """Tell whether a call's frame is still on its thread's stack, as far as that was unwound."""
    if not frames or frames[-1].sp <= call.stack + _WORD:
        return True
    return any((frame.pc, frame.sp) == (call.returns_to, call.stack + _WORD) for frame in frames)


def _own_count(world: World, entry: Entry) -> int:
    """Give LoadLibrary's share of a count where it can be told, else all of it."""
    unit = world.unit_of(entry)
    return max(0, unit.own if unit.own is not None and not unit.pinned else unit.count or 0)


def _unicode_string(memory: Memory, address: int) -> Optional[str]:
    """Read a UNICODE_STRING; None if it is not in memory."""
    raw = memory.try_read(address, 16)
    if raw is None:
        return None
    length, buffer = int.from_bytes(raw[:2], "little"), int.from_bytes(raw[8:], "little")
    data = memory.try_read(buffer, min(length, _MAX_NAME)) if length else b""
    return None if data is None else data.decode("utf-16-le", "replace")
