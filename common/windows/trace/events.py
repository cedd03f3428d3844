"""Which events does a trace of Windows' loader report?"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...model import LoaderInfo, Outcome, Problem, TargetInfo
from ...trace.events import EventHeader, LibraryTotals, OpenResult, Totals, are_equal, joined, without
from ..model import Dll, LoaderRules


class DllInstance(NamedTuple):
    """A DLL from one load to its unload.

    :param path: its full path, None if unknown, as it is until the loader lists it.
    :param ldr_entry: address of its LDR_DATA_TABLE_ENTRY, 0 if the loader does not list it yet.
    :param size: its SizeOfImage in bytes, 0 if the loader does not list it yet.
    :param timestamp: TimeDateStamp of its PE header, None if unknown.
    """

    name: str
    path: Optional[str]
    ldr_entry: int
    base: int
    size: int = 0
    timestamp: Optional[int] = None


class DllOpen(NamedTuple):
    """A load: the request, the function of ntdll, its NTSTATUS, and its effects.

    :param flags: the function's flags as a number, None if it has none or they are unknown.
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

    What could not be predicted is None, as is what it did if its return was not seen.

    :param predicted_unloads: the DLLs that it would unload by itself.
    :param unloaded_by_nested_closes: the DLLs unloaded in addition, freed by the DllMains of ``may_unload_more``.
    :param may_unload_more: names of predicted DLLs whose DllMain can free others.
    :param refusal: why it does nothing: ``pinned``, ``importers-only``, ``process-exiting`` and the like.
    :param kept: the DLL and its imports that stay.
    :param got_process_detach: names of the DLLs whose DllMain got DLL_PROCESS_DETACH, in that order.
    """

    header: EventHeader
    library: Optional[DllInstance]
    predicted_outcome: Outcome
    predicted_unloads: Optional[tuple[DllInstance, ...]] = ()
    unloaded_by_nested_closes: Optional[tuple[DllInstance, ...]] = None
    may_unload_more: Optional[tuple[str, ...]] = ()
    unloaded: Optional[tuple[DllInstance, ...]] = None
    ntstatus: Optional[int] = None
    load_count_before: Optional[int] = None
    load_count_after: Optional[int] = None
    refusal: Optional[str] = None
    kept: Optional[tuple[Dll, ...]] = ()
    got_process_detach: Optional[tuple[str, ...]] = None

    @property
    def ended(self) -> bool:
        """Return False if the free was not seen to return."""
        return self.unloaded is not None

    @property
    def predicted_but_kept(self) -> Optional[tuple[DllInstance, ...]]:
        """Return the DLLs that were predicted to be unloaded and were not; None if that is unknown."""
        return without(joined(self.predicted_unloads, self.unloaded_by_nested_closes), self.unloaded)

    @property
    def unloaded_but_not_predicted(self) -> Optional[tuple[DllInstance, ...]]:
        """Return the DLLs that were unloaded without having been predicted; None if that is unknown."""
        return without(self.unloaded, joined(self.predicted_unloads, self.unloaded_by_nested_closes))

    @property
    def predicted_exactly(self) -> Optional[bool]:
        """Return whether exactly the DLLs predicted at the start of the free were unloaded; None if unknown."""
        return are_equal(self.predicted_unloads, self.unloaded)


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
    kept: tuple[KeptDll, ...]
    closes_mispredicted: tuple[DllClose, ...]
    pins: tuple[DllPin, ...]
    opens_failed: tuple[DllOpen, ...]
    problems: tuple[Problem, ...] = ()
    filter: tuple[str, ...] = ()
