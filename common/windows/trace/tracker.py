"""What did a call of ntdll do that has returned, or whose return was missed?"""

from __future__ import annotations

from typing import Optional

from ...memory import Memory
from ...model import Outcome
from ...trace.events import OpenResult
from ..model import Dll
from .call import DllCall, FreeCall, FreePrediction, LoadCall
from .events import DllClose, DllInstance, DllOpen, DllPin
from .functions import GET_HANDLE, LOAD
from .in_flight import InFlightDllCalls
from .snapshot import DllSnapshot, instance_of, load_counts
from .summary import DllTraceSummary

#: The highest bit of an NTSTATUS says that it is an error.
_FAILED = 1 << 31


class DllCallTracker:
    """Reports calls that have ended."""

    def __init__(self, snapshot: DllSnapshot, in_flight: InFlightDllCalls, summary: DllTraceSummary) -> None:
        self._snapshot = snapshot
        self._in_flight = in_flight
        self._summary = summary

    def abandon(self, call: DllCall) -> None:
        """Report a call whose return was not seen: an exception left it, or the engine missed a breakpoint."""
        if isinstance(call, FreeCall):
            prediction = call.prediction
            event = DllClose(
                header=call.header,
                library=call.library,
                predicted_outcome=prediction.outcome,
                predicted_unloads=prediction.unloads if prediction.is_known else None,
                may_unload_more=prediction.may_unload_more if prediction.is_known else None,
                load_count_before=call.count_before,
                refusal=prediction.refusal,
                kept=self._kept(prediction),
            )
            self._summary.tell(event, [call.library])
        elif isinstance(call, LoadCall) and call.function == LOAD:
            loaded, unloaded = tuple(call.loaded), tuple(call.unloaded)
            opened = DllOpen(call.header, call.function, call.requested, call.flags, loaded=loaded, unloaded=unloaded)
            self._summary.tell(opened, loaded, call.requested)

    def finish(self, call: DllCall, status: int, memory: Memory) -> None:
        """Report a call that has returned an NTSTATUS; ``memory`` is uncached."""
        if isinstance(call, FreeCall):
            self._finish_unloading(call, status)
        elif isinstance(call, LoadCall) and call.counts:
            self._finish_loading(call, status, memory)

    def _finish_loading(self, load_call: LoadCall, status: int, memory: Memory) -> None:
        examined = self._snapshot.refresh()
        has_failed = bool(status & _FAILED)
        if has_failed and load_call.function == GET_HANDLE:
            # It was asked whether a DLL is loaded, by GetModuleHandleEx, or by LoadLibraryEx before it maps data.
            return
        base = load_call.base
        if load_call.output and not has_failed:
            base = memory.unsigned(load_call.output, 8)
        entry = None if has_failed else self._snapshot.find(base)
        library = instance_of(entry) if entry else None
        if load_call.pins:
            if library is not None:
                self._summary.tell(DllPin(load_call.header, library, load_call.function), [library])
            return
        result = OpenResult.ALREADY_LOADED if base in load_call.counts_before else OpenResult.LOADED
        opened = DllOpen(
            header=load_call.header,
            ntdll_function=load_call.function,
            requested=load_call.requested,
            flags=load_call.flags,
            result=OpenResult.FAILED if has_failed else result,
            library=library,
            loaded=tuple(self._renamed(each) for each in load_call.loaded),
            unloaded=tuple(load_call.unloaded),
            ntstatus=status,
            load_count_before=load_call.counts_before.get(base),
            load_count_after=load_counts(examined).get(base) if entry else None,
        )
        self._summary.tell(opened, [*opened.loaded, library], load_call.requested)

    def _kept(self, prediction: FreePrediction) -> Optional[tuple[Dll, ...]]:
        """Return the DLL and its imports that were predicted to stay; None if that is unknown."""
        if not prediction.is_known:
            return None
        # Without permanent DLLs: only the ones that could have been unloaded.
        return () if self._snapshot.is_exiting else prediction.kept

    def _renamed(self, module: DllInstance) -> DllInstance:
        """Return a module with the loader's own name, which is in the loader's list only after the mapping."""
        entry = self._snapshot.find(module.base)
        return instance_of(entry) if entry else module

    def _finish_unloading(self, free_call: FreeCall, status: int) -> None:
        examined = self._snapshot.refresh()
        prediction = free_call.prediction
        unloaded = tuple(free_call.unloaded)
        # DLLs freed by the DllMains of unloaded DLLs are unloaded too.
        by_nested: tuple[DllInstance, ...] = ()
        if prediction.may_unload_more and prediction.outcome is Outcome.UNLOADS:
            by_nested = tuple(each for each in unloaded if each not in prediction.unloads)
        if self._in_flight.several_threads() and set(unloaded) != {*prediction.unloads, *by_nested}:
            # If several threads reach breakpoints at once, the engine can miss one: its effects are unknown.
            free_call.note_race()
        is_there = self._snapshot.find(free_call.base) is not None
        event = DllClose(
            header=free_call.header,
            library=free_call.library,
            predicted_outcome=prediction.outcome,
            predicted_unloads=prediction.unloads if prediction.is_known else None,
            unloaded_by_nested_closes=by_nested if prediction.is_known else None,
            may_unload_more=prediction.may_unload_more if prediction.is_known else None,
            unloaded=unloaded,
            ntstatus=status,
            load_count_before=free_call.count_before,
            load_count_after=load_counts(examined).get(free_call.base) if is_there else None,
            refusal=prediction.refusal,
            kept=self._kept(prediction),
            got_process_detach=tuple(free_call.detached),
        )
        self._summary.tell(event, [*unloaded, *prediction.unloads, free_call.library])
