"""What did a call of ntdll do that has returned, or whose return was missed?"""

from __future__ import annotations

from ...memory import Memory
from ...model import Outcome
from ...trace.events import OpenResult
from .events import DllClose, DllInstance, DllOpen, DllPin
from .functions import LOAD
from .operation import Loading, Operation, Unloading
from .operations import Operations
from .reading import Reading, instance_of, load_counts
from .summary import Summary

#: The highest bit of an NTSTATUS says that it is an error.
_FAILED = 1 << 31


class Progress:
    """Reports calls that have ended."""

    def __init__(self, reading: Reading, operations: Operations, summary: Summary) -> None:
        self._reading = reading
        self._operations = operations
        self._summary = summary

    def abandon(self, operation: Operation) -> None:
        """Report a call whose return was not seen: an exception left it, or the engine missed a breakpoint."""
        if isinstance(operation, Unloading):
            prediction = operation.prediction
            event = DllClose(
                moment=operation.moment,
                library=operation.library,
                predicted_outcome=prediction.outcome,
                predicted_unloads=prediction.goes,
                load_count_before=operation.count_before,
                refusal=prediction.refusal,
            )
            self._summary.tell(event, [operation.library])
        elif isinstance(operation, Loading) and operation.function == LOAD:
            added, went = tuple(operation.added), tuple(operation.went)
            opened = DllOpen(
                operation.moment, operation.function, operation.requested, operation.flags, loaded=added, unloaded=went
            )
            self._summary.tell(opened, added, operation.requested)

    def finish(self, operation: Operation, status: int, memory: Memory) -> None:
        """Report a call that has returned an NTSTATUS; ``memory`` is uncached."""
        if isinstance(operation, Unloading):
            self._finish_unloading(operation, status)
        elif isinstance(operation, Loading) and operation.counts:
            self._finish_loading(operation, status, memory)

    def _finish_loading(self, loading: Loading, status: int, memory: Memory) -> None:
        examined = self._reading.look()
        has_failed = bool(status & _FAILED)
        base = loading.base
        if loading.output and not has_failed:
            base = memory.unsigned(loading.output, 8)
        entry = None if has_failed else self._reading.find(base)
        library = instance_of(entry) if entry else None
        if loading.pins:
            if library is not None:
                self._summary.tell(DllPin(loading.moment, library, loading.function), [library])
            return
        result = OpenResult.ALREADY_LOADED if base in loading.counts_before else OpenResult.LOADED
        opened = DllOpen(
            moment=loading.moment,
            ntdll_function=loading.function,
            requested=loading.requested,
            flags=loading.flags,
            result=OpenResult.FAILED if has_failed else result,
            library=library,
            loaded=tuple(self._renamed(each) for each in loading.added),
            unloaded=tuple(loading.went),
            ntstatus=status,
            load_count_before=loading.counts_before.get(base),
            load_count_after=load_counts(examined).get(base) if entry else None,
        )
        self._summary.tell(opened, [*opened.loaded, library], loading.requested)

    def _renamed(self, module: DllInstance) -> DllInstance:
        """Return a module with the loader's own name, which its list has only after it was mapped."""
        entry = self._reading.find(module.base)
        return instance_of(entry) if entry else module

    def _finish_unloading(self, unloading: Unloading, status: int) -> None:
        examined = self._reading.look()
        prediction = unloading.prediction
        went = tuple(unloading.went)
        # What the DllMains of those that go free meanwhile goes too.
        remarked: tuple[DllInstance, ...] = ()
        if prediction.at_least and prediction.outcome is Outcome.UNLOADS:
            remarked = tuple(each for each in went if each not in prediction.goes)
        if self._operations.several_threads() and set(went) != {*prediction.goes, *remarked}:
            # Of several threads that come at once the engine can miss one: what it did is not known.
            unloading.note_race()
        is_there = self._reading.find(unloading.base) is not None
        event = DllClose(
            moment=unloading.moment,
            library=unloading.library,
            predicted_outcome=prediction.outcome,
            predicted_unloads=prediction.goes,
            unloaded_by_nested_closes=remarked,
            may_unload_more=prediction.at_least,
            unloaded=went,
            ended=True,
            ntstatus=status,
            load_count_before=unloading.count_before,
            load_count_after=load_counts(examined).get(unloading.base) if is_there else None,
            refusal=prediction.refusal,
            # What is pinned, or the program's, would not have gone anyway: only what could have is kept.
            kept=() if self._reading.is_exiting else prediction.keeps,
            got_process_detach=tuple(unloading.detached),
        )
        self._summary.tell(event, [*went, *prediction.goes, unloading.library])
