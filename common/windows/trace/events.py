"""What can a trace of Windows' loader see happen?  The events of `events`, with what only this loader has."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...linux.trace.events import Close, Open, Pin
from ...model import LoaderInfo, Problem, TargetInfo
from ...trace.events import Account, Instance, Totals
from ..model import Dll, LoaderRules


class DllOpen(NamedTuple):
    """A load: by which function of ntdll, how it ended (NTSTATUS), and the load count before and after it.

    The counts are None where the DLL is not loaded, or they are not known.
    """

    open: Open
    function: str
    status: Optional[int] = None
    count_before: Optional[int] = None
    count_after: Optional[int] = None


class DllClose(NamedTuple):
    """A LdrUnloadDll: how it ended, and the load count before and after it.

    ``refusal`` says why it does nothing (``pinned``, ``imported``, ``shutdown`` and the like), ``keeps`` what stays of
    the DLL and its imports.  ``detached`` are the names of those whose DllMain got DLL_PROCESS_DETACH, in that order.
    """

    close: Close
    status: Optional[int] = None
    count_before: Optional[int] = None
    count_after: Optional[int] = None
    refusal: Optional[str] = None
    keeps: tuple[Dll, ...] = ()
    detached: tuple[str, ...] = ()


class DllPin(NamedTuple):
    """A DLL was pinned for good, by this function of ntdll."""

    pin: Pin
    function: str


DllEvent = Union[DllOpen, DllClose, DllPin]


class KeptDll(NamedTuple):
    """A DLL that stayed although it was freed: how often, the latest of those frees, and what kept it then."""

    dll: Dll
    times: int
    close: DllClose


class DllTrace(NamedTuple):
    """The answer of ``dlltrace report``: ``ending`` says why nothing is watched any more.

    ``pinned`` are the paths of those DLLs in ``accounts`` that are pinned now.
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


def instance_of(dll: Dll) -> Instance:
    """Give a DLL as a trace names it; its entry stands for the link map."""
    return Instance(dll.name, dll.path, 0, dll.entry, dll.base)
