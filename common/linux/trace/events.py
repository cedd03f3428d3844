"""Which events does a trace of glibc's loader report?"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...model import LoaderInfo, Outcome, Problem, TargetInfo
from ...trace.events import EventHeader, LibraryTotals, OpenResult, Site, Totals, without
from ..model import Library


class LibraryInstance(NamedTuple):
    """One loading of a library, from the open that loads it to the close that unloads it.

    ``base`` is its l_addr, its mappings lie within [``start``, ``end``).  ``build_id`` is that of its GNU note in hex,
    as it was read while it was loaded; None where there is none, or where it was not in memory.
    """

    name: str
    path: str
    namespace: int
    link_map: int
    base: int
    start: int
    end: int
    build_id: Optional[str] = None


class Open(NamedTuple):
    """A dlopen or dlmopen: the request (None: the program itself) and its result.

    ``requested_namespace`` is the namespace that was asked for, negative for a new one or the caller's.  ``loaded`` are
    all libraries that came, ``unloaded`` those that a failed one made the collector find.  ``error`` is what dlerror
    says of a failed one, ``errno`` the number behind it; None where it did not fail, has no number, or where that is
    not known.
    """

    header: EventHeader
    requested: Optional[str]
    flags: int
    requested_namespace: int
    result: OpenResult = OpenResult.UNKNOWN
    library: Optional[LibraryInstance] = None
    loaded: tuple[LibraryInstance, ...] = ()
    unloaded: tuple[LibraryInstance, ...] = ()
    error: Optional[str] = None
    errno: Optional[int] = None


class Close(NamedTuple):
    """A dlclose: the prediction at its start, and what it did; libraries sorted by name.

    ``predicted_unloads`` is what the first marking finds, ``predicted_by_nested_closes`` what further markings add, one
    for each close within, ``predicted_for_outer_close`` what this one adds to the close that it is within; ``kept`` are
    those of its dependencies that stay at its last close, itself among them, with their holds.  ``open_count_before``
    is that of before.  ``ended`` is False where the end was not seen: then ``unloaded`` is not known either.
    """

    header: EventHeader
    library: Optional[LibraryInstance]
    open_count_before: int
    predicted_outcome: Outcome
    predicted_unloads: tuple[LibraryInstance, ...] = ()
    predicted_by_nested_closes: tuple[LibraryInstance, ...] = ()
    may_unload_more: tuple[str, ...] = ()
    kept: tuple[Library, ...] = ()
    unloaded: tuple[LibraryInstance, ...] = ()
    ended: bool = False
    predicted_for_outer_close: tuple[LibraryInstance, ...] = ()
    handle: Optional[int] = None

    @property
    def predicted_but_kept(self) -> tuple[LibraryInstance, ...]:
        """Return what was predicted to be unloaded and was not: a wrong prediction, unless threads raced."""
        return without((*self.predicted_unloads, *self.predicted_by_nested_closes), self.unloaded) if self.ended else ()

    @property
    def unloaded_but_not_predicted(self) -> tuple[LibraryInstance, ...]:
        """Return what was unloaded without having been predicted."""
        return without(self.unloaded, (*self.predicted_unloads, *self.predicted_by_nested_closes)) if self.ended else ()

    @property
    def is_exact(self) -> bool:
        """Return True if exactly the libraries predicted at the start of the close were unloaded."""
        return self.ended and self.predicted_unloads == self.unloaded


class Pin(NamedTuple):
    """A library that became NODELETE: why, through which symbols and lookups, during or after which open.

    ``symbols_omitted`` more symbols are left out.
    """

    header: EventHeader
    library: LibraryInstance
    origin: Optional[str]
    symbols: tuple[str, ...] = ()
    looked_up_by: tuple[str, ...] = ()
    symbols_omitted: int = 0


class TlsRegistration(NamedTuple):
    """A call of ``__cxa_thread_atexit_impl``: the library that it keeps, by its dso_symbol, and the destructor.

    ``destructor_library`` is the destructor's own library where that is another one: it can go before the destructor
    runs.
    """

    header: EventHeader
    library: Optional[LibraryInstance]
    destructor: Site
    object: int
    destructor_library: Optional[str] = None


class DescriptorLeak(NamedTuple):
    """A file descriptor that was opened while a library was loaded and outlived the library.

    ``opened_at`` are the calls in that library that made descriptors, as far as they were watched.
    """

    header: EventHeader
    library: LibraryInstance
    descriptor: int
    descriptor_target: str
    opened_at: tuple[Site, ...] = ()


Event = Union[Open, Close, Pin, TlsRegistration, DescriptorLeak]


class KeptLibrary(NamedTuple):
    """A library that stayed at its last close: how often, the latest such close, and the holds then."""

    library: Library
    times_kept: int
    close: Close


class Trace(NamedTuple):
    """The answer of ``dltrace report``: ``watching`` is False once the trace has ended, ``end_reason`` says why.

    ``end_not_seen`` has begun and not been seen to end, ``closes_not_open`` are the closes of what was not open,
    ``filter`` names the libraries that it is about.
    """

    target: TargetInfo
    loader: LoaderInfo
    watching: bool
    end_reason: Optional[str]
    duration_seconds: float
    opens_by: str
    closes_by: str
    totals: Totals
    library_totals: tuple[LibraryTotals, ...]
    kept: tuple[KeptLibrary, ...]
    closes_mispredicted: tuple[Close, ...]
    pins: tuple[Pin, ...]
    tls_registrations: tuple[TlsRegistration, ...]
    descriptor_leaks: tuple[DescriptorLeak, ...]
    problems: tuple[Problem, ...] = ()
    end_not_seen: tuple[Event, ...] = ()
    closes_not_open: tuple[Close, ...] = ()
    opens_failed: tuple[Open, ...] = ()
    filter: tuple[str, ...] = ()


class Stop(NamedTuple):
    """Why the process stops: the value of ``stop_when``, the open or close, and the libraries concerned."""

    when: str
    event: Event
    libraries: tuple[str, ...]
