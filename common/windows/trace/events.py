"""What can a trace see happen?  Values, in the terms of Windows' loader."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...model import LoaderInfo, Outcome, Problem, TargetInfo
from ...trace.events import Account, Moment, OpenResult, Totals, without
from ..model import Dll, LoaderRules


class DllInstance(NamedTuple):
    """A DLL as it is loaded from one load to one free; ``timestamp`` is that of its PE header, None where not known.

    ``entry`` and ``size`` are 0 where the loader does not list it yet.
    """

    name: str
    path: str
    entry: int
    base: int
    size: int = 0
    timestamp: Optional[int] = None


class DllOpen(NamedTuple):
    """A load: what was asked for of which function of ntdll, how it ended (NTSTATUS), and what came of it.

    ``flags`` are None where that function has none.  ``added`` are all DLLs that were mapped during it, ``went`` those
    that were unmapped.  The load counts before and
    after it are None where the DLL is not loaded, or they are not known.
    """

    moment: Moment
    function: str
    requested: Optional[str]
    flags: Optional[int]
    result: OpenResult = OpenResult.UNKNOWN
    library: Optional[DllInstance] = None
    added: tuple[DllInstance, ...] = ()
    went: tuple[DllInstance, ...] = ()
    status: Optional[int] = None
    count_before: Optional[int] = None
    count_after: Optional[int] = None


class DllClose(NamedTuple):
    """A LdrUnloadDll: what was predicted when it began, what it did, how it ended, and the load count before and after.

    ``predicted`` are the DLLs that it would unload by itself, ``remarked`` what the DllMains of those in ``at_least``
    have freed besides.  ``refusal`` says why it does nothing (``pinned``, ``importers-only``, ``process-exiting`` and
    the like), ``keeps`` what stays of the DLL and its imports.  ``detached`` are the names of those whose DllMain got
    DLL_PROCESS_DETACH, in that order.  ``ended`` is False where the end was not seen: then ``went`` is not known.
    """

    moment: Moment
    library: Optional[DllInstance]
    outcome: Outcome
    predicted: tuple[DllInstance, ...] = ()
    remarked: tuple[DllInstance, ...] = ()
    at_least: tuple[str, ...] = ()
    went: tuple[DllInstance, ...] = ()
    ended: bool = False
    status: Optional[int] = None
    count_before: Optional[int] = None
    count_after: Optional[int] = None
    refusal: Optional[str] = None
    keeps: tuple[Dll, ...] = ()
    detached: tuple[str, ...] = ()

    @property
    def stayed(self) -> tuple[DllInstance, ...]:
        """Return what was predicted to go and stayed."""
        return without((*self.predicted, *self.remarked), self.went) if self.ended else ()

    @property
    def surprises(self) -> tuple[DllInstance, ...]:
        """Return what went without having been predicted."""
        return without(self.went, (*self.predicted, *self.remarked)) if self.ended else ()

    @property
    def is_exact(self) -> bool:
        """Return True if what went is what was predicted when it began."""
        return self.ended and self.predicted == self.went


class DllPin(NamedTuple):
    """A DLL was pinned for good, by this function of ntdll."""

    moment: Moment
    library: DllInstance
    function: str


DllEvent = Union[DllOpen, DllClose, DllPin]


class KeptDll(NamedTuple):
    """A DLL that stayed although it was freed: how often, the latest of those frees, and what kept it then."""

    dll: Dll
    times: int
    close: DllClose


class DllTrace(NamedTuple):
    """The answer of ``dlltrace report``: ``ending`` says why nothing is watched any more.

    ``pinned`` are the paths of those DLLs in ``accounts`` that are pinned now, ``filter`` the names that it is about,
    as they were given.
    """

    target: TargetInfo
    loader: LoaderInfo
    rules: tuple[LoaderRules, ...]
    watching: bool
    ending: Optional[str]
    seconds: float
    totals: Totals
    accounts: tuple[Account, ...]
    pinned: frozenset[str]
    kept: tuple[KeptDll, ...]
    mismatches: tuple[DllClose, ...]
    pins: tuple[DllPin, ...]
    failures: tuple[DllOpen, ...]
    problems: tuple[Problem, ...] = ()
    filter: tuple[str, ...] = ()
