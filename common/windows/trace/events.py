"""Which events does a trace of Windows' loader report?"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...model import LoaderInfo, Outcome, Problem, TargetInfo
from ...trace.events import EventHeader, LibraryTotals, OpenResult, Totals, without
from ..model import Dll, LoaderRules


class DllInstance(NamedTuple):
    """A DLL as it is loaded from one load to one free; ``timestamp`` is that of its PE header, None where not known.

    ``ldr_entry`` and ``size`` are 0 where the loader does not list it yet.
    """

    name: str
    path: str
    ldr_entry: int
    base: int
    size: int = 0
    timestamp: Optional[int] = None


class DllOpen(NamedTuple):
    """A load: the request, the function of ntdll, its NTSTATUS, and its effects.

    ``flags`` are None where that function has none.  ``loaded`` are all DLLs that were mapped during it, ``unloaded``
    those that were unmapped.  The load counts before and after it are None where the DLL is not loaded, or they are not
    known.
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

    ``predicted_unloads`` are the DLLs that it would unload by itself, ``unloaded_by_nested_closes`` what the DllMains
    of those in ``may_unload_more`` have freed besides.  ``refusal`` says why it does nothing (``pinned``,
    ``importers-only``, ``process-exiting`` and the like), ``kept`` what stays of the DLL and its imports.
    ``got_process_detach`` are the names of those whose DllMain got DLL_PROCESS_DETACH, in that order.  ``ended`` is
    False where the end was not seen: then ``unloaded`` is not known.
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
    def is_exact(self) -> bool:
        """Return True if exactly the DLLs predicted at the start of the free were unloaded."""
        return self.ended and self.predicted_unloads == self.unloaded


class DllPin(NamedTuple):
    """A DLL that was pinned for good, by this function of ntdll."""

    header: EventHeader
    library: DllInstance
    ntdll_function: str


DllEvent = Union[DllOpen, DllClose, DllPin]


class KeptDll(NamedTuple):
    """A DLL that stayed although it was freed: how often, the latest such free, and the holds then."""

    dll: Dll
    times_kept: int
    close: DllClose


class DllTrace(NamedTuple):
    """The answer of ``dlltrace report``: ``end_reason`` says why nothing is watched any more.

    ``pinned`` are the paths of those DLLs in ``library_totals`` that are pinned now, ``filter`` the names that it is
    about, as they were given.
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
