"""Which events does a trace of Windows' loader report?"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...model import LoaderInfo, Outcome, Problem, TargetInfo
from ...trace.events import EventHeader, LibraryTotals, OpenResult, Totals, without
from ..model import Dll, LoaderRules


class DllInstance(NamedTuple):
    """A DLL from one load to its unload.

    :param ldr_entry: address of its LDR_DATA_TABLE_ENTRY, 0 if the loader does not list it yet.
    :param size: its SizeOfImage in bytes, 0 if the loader does not list it yet.
    :param timestamp: TimeDateStamp of its PE header, None if unknown.
    """

    name: str
    path: str
    ldr_entry: int
    base: int
    size: int = 0
    timestamp: Optional[int] = None


class DllOpen(NamedTuple):
    """A load: the request, the function of ntdll, its NTSTATUS, and its effects.

    :param flags: the function's flags as a number, None if it has none.
    :param loaded: all DLLs that were mapped during the call.
    :param unloaded: all DLLs that were unmapped during the call.
    :param load_count_before: the load count of ``library``, as ``load_count_after``; None if the DLL is not loaded, is
        pinned, or the count is unknown.
    """

    header: EventHeader
    ntdll_function: str
    requested: Optional[str]
    flags: Optional[int]
    result: OpenResult = OpenResult.UNKNOWN
    library: Optional[DllInstance] = None
    loaded: tuple[DllInstance, ...] = ()
    unloaded: tuple[DllInstance, ...] = ()
    ntstatus: Optional[int] = None
    load_count_before: Optional[int] = None
    load_count_after: Optional[int] = None


class DllClose(NamedTuple):
    """A call of LdrUnloadDll: the prediction at its start, its effects, its NTSTATUS, and the load counts.

    :param predicted_unloads: the DLLs that it would unload by itself.
    :param unloaded_by_nested_closes: the DLLs unloaded in addition, freed by the DllMains of ``may_unload_more``.
    :param may_unload_more: names of predicted DLLs whose DllMain can free others.
    :param ended: False if the end was not seen: then ``unloaded`` is unknown.
    :param refusal: why it does nothing: ``pinned``, ``importers-only``, ``process-exiting`` and the like.
    :param kept: the DLL and its imports that stay.
    :param got_process_detach: names of the DLLs whose DllMain got DLL_PROCESS_DETACH, in that order.
    """

    header: EventHeader
    library: Optional[DllInstance]
    predicted_outcome: Outcome
    predicted_unloads: tuple[DllInstance, ...] = ()
    unloaded_by_nested_closes: tuple[DllInstance, ...] = ()
    may_unload_more: tuple[str, ...] = ()
    unloaded: tuple[DllInstance, ...] = ()
    ended: bool = False
    ntstatus: Optional[int] = None
    load_count_before: Optional[int] = None
    load_count_after: Optional[int] = None
    refusal: Optional[str] = None
    kept: tuple[Dll, ...] = ()
    got_process_detach: tuple[str, ...] = ()

    @property
    def predicted_but_kept(self) -> tuple[DllInstance, ...]:
        """Return the DLLs that were predicted to be unloaded and were not."""
        return without((*self.predicted_unloads, *self.unloaded_by_nested_closes), self.unloaded) if self.ended else ()

    @property
    def unloaded_but_not_predicted(self) -> tuple[DllInstance, ...]:
        """Return the DLLs that were unloaded without having been predicted."""
        return without(self.unloaded, (*self.predicted_unloads, *self.unloaded_by_nested_closes)) if self.ended else ()

    @property
    def predicted_exactly(self) -> bool:
        """Return True if exactly the DLLs predicted at the start of the free were unloaded."""
        return self.ended and self.predicted_unloads == self.unloaded


class DllPin(NamedTuple):
    """The permanent pin of a DLL, by this function of ntdll."""

    header: EventHeader
    library: DllInstance
    ntdll_function: str


DllEvent = Union[DllOpen, DllClose, DllPin]


class KeptDll(NamedTuple):
    """A DLL that stayed although it was freed: how often, the latest such free, and the holds at that time."""

    dll: Dll
    times_kept: int
    last_event: DllClose


class DllTrace(NamedTuple):
    """The answer of ``dlltrace report``.

    :param end_reason: why the trace has ended, None if it has not.
    :param duration_seconds: from the start of the trace to its end, or to now.
    :param pinned: paths of the DLLs that are pinned now.
    :param filter: the names of the DLLs to report, as given by the user.
    """

    target: TargetInfo
    loader: LoaderInfo
    rules: tuple[LoaderRules, ...]
    watching: bool
    end_reason: Optional[str]
    duration_seconds: float
    totals: Totals
    library_totals: tuple[LibraryTotals, ...]
    pinned: frozenset[str]
    kept: tuple[KeptDll, ...]
    closes_mispredicted: tuple[DllClose, ...]
    pins: tuple[DllPin, ...]
    opens_failed: tuple[DllOpen, ...]
    problems: tuple[Problem, ...] = ()
    filter: tuple[str, ...] = ()
