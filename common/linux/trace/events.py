"""Which events does a trace of glibc's loader report?"""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...model import LoaderInfo, Outcome, Problem, TargetInfo
from ...trace.events import EventHeader, LibraryTotals, OpenResult, Site, Totals, are_equal, joined, without
from ..model import Library, StaticTls

#: What dlerror says of a library for which too little of the static TLS block is left (elf/dl-reloc.c).
LACKS_STATIC_TLS = "cannot allocate memory in static TLS block"


class LibraryInstance(NamedTuple):
    """One loading of a library, from the open that loads it to the close that unloads it.

    ``name``, ``path``, ``load_bias``, ``start`` and ``end`` are as of a `Library`; ``namespace`` is l_ns (Lmid_t),
    ``link_map`` the address of its ``struct link_map``.  ``build_id`` is from its GNU note, in hex, read while it was
    loaded; None if it has none or it was not in memory.
    """

    name: str
    path: Optional[str]
    namespace: int
    link_map: int
    load_bias: int
    start: Optional[int]
    end: Optional[int]
    build_id: Optional[str] = None

    @property
    def base(self) -> Optional[int]:
        """Return the lowest address of the mappings, None if unknown."""
        return self.start


class Open(NamedTuple):
    """A dlopen or dlmopen: the request and its result.

    :param requested: the file argument, empty for the program itself, None if it could not be read.
    :param flags: the RTLD flags.
    :param requested_namespace: the Lmid_t requested, -1 for a new one (LM_ID_NEWLM), -2 for the caller's.
    :param library: the library whose handle is returned, None if unknown or if the open failed.
    :param loaded: all libraries that it loaded; empty if threads raced, because it is unknown then.
    :param unloaded: the libraries that the collector unloaded because the open failed, alike.
    :param error: dlerror's text, None if the open did not fail or the text is unknown.
    :param errno: the number from which strerror's part of the text comes, None if there is none or it is unknown.
    :param has_returned: its return was seen, although its result is unknown.
    :param static_tls: if it `lacks_static_tls`, what was left when it had failed, None if that is unknown.
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
    has_returned: bool = False
    static_tls: Optional[StaticTls] = None

    @property
    def lacks_static_tls(self) -> bool:
        """Return True if it has failed because too little of the static TLS block is left."""
        return LACKS_STATIC_TLS in (self.error or "")

    @property
    def ended(self) -> bool:
        """Return False if the open was not seen to return."""
        return self.result is not OpenResult.UNKNOWN or self.has_returned


class Close(NamedTuple):
    """A dlclose: the prediction at its start, and what it did; libraries sorted by name.

    What could not be predicted is None, as is what it did if its return was not seen, or if threads raced.

    :param library: the library whose handle is closed, None if the handle is not a library's.
    :param open_count_before: its l_direct_opencount before the close, None if the handle is not a library's.
    :param predicted_outcome: what the close does to that library; UNKNOWN if not all libraries could be read.
    :param predicted_unloads: the libraries that the first mark phase condemns.
    :param predicted_by_nested_closes: the libraries that later mark phases add, one for each nested close.
    :param may_unload_more: names of libraries that can close others while they are unloaded.
    :param kept: if it is the last close, the library and its dependencies that stay, with their holds.
    :param unloaded: the libraries that it unloaded.
    :param predicted_for_outer_close: the libraries that this nested close adds to the outer one.
    :param handle: the argument.
    :param has_returned: its return was seen, although what it unloaded is unknown.
    """

    header: EventHeader
    library: Optional[LibraryInstance]
    open_count_before: Optional[int]
    predicted_outcome: Outcome
    predicted_unloads: Optional[tuple[LibraryInstance, ...]] = ()
    predicted_by_nested_closes: Optional[tuple[LibraryInstance, ...]] = ()
    may_unload_more: Optional[tuple[str, ...]] = ()
    kept: Optional[tuple[Library, ...]] = ()
    unloaded: Optional[tuple[LibraryInstance, ...]] = None
    predicted_for_outer_close: Optional[tuple[LibraryInstance, ...]] = ()
    handle: Optional[int] = None
    has_returned: bool = False

    @property
    def ended(self) -> bool:
        """Return False if the close was not seen to return."""
        return self.unloaded is not None or self.has_returned

    @property
    def predicted_but_kept(self) -> Optional[tuple[LibraryInstance, ...]]:
        """Return the libraries that were predicted to be unloaded but stayed; None if that is unknown."""
        return without(joined(self.predicted_unloads, self.predicted_by_nested_closes), self.unloaded)

    @property
    def unloaded_but_not_predicted(self) -> Optional[tuple[LibraryInstance, ...]]:
        """Return the libraries that were unloaded without having been predicted; None if that is unknown."""
        return without(self.unloaded, joined(self.predicted_unloads, self.predicted_by_nested_closes))

    @property
    def predicted_exactly(self) -> Optional[bool]:
        """Return whether exactly the libraries predicted at the start of the close were unloaded; None if unknown."""
        return are_equal(self.predicted_unloads, self.unloaded)


class Pin(NamedTuple):
    """A library that became NODELETE: why, through which symbols and lookups, during or after which open.

    :param origin: what made it NODELETE, as in `Hold`; None if unknown.
    :param symbols: demangled names of the symbols that caused it, None if unknown.
    :param looked_up_by: names of the libraries that looked these up, None if unknown.
    :param symbols_omitted: how many more symbols are left out.
    """

    header: EventHeader
    library: LibraryInstance
    origin: Optional[str]
    symbols: Optional[tuple[str, ...]] = ()
    looked_up_by: Optional[tuple[str, ...]] = ()
    symbols_omitted: int = 0


class TlsRegistration(NamedTuple):
    """A call of ``__cxa_thread_atexit_impl``: the library that it keeps, by its dso_symbol, and the destructor.

    :param library: None if unknown.
    :param destructor: the destructor function; if its library is another one, that can be unloaded before it runs.
    :param object: the address of the object that it destroys.
    """

    header: EventHeader
    library: Optional[LibraryInstance]
    destructor: Site
    object: int

    @property
    def is_elsewhere(self) -> Optional[bool]:
        """Return whether the destructor is in another library than the one that it keeps; None if unknown."""
        if self.library is None or self.destructor.library is None:
            return None
        return self.destructor.library != self.library.name


class DescriptorLeak(NamedTuple):
    """A file descriptor that was opened while a library was loaded and outlived the library.

    :param descriptor: its number.
    :param descriptor_target: the target of /proc/PID/fd/NUMBER.
    :param opened_at: the call sites in that library that created descriptors, None if these were not watched.
    """

    header: EventHeader
    library: LibraryInstance
    descriptor: int
    descriptor_target: str
    opened_at: Optional[tuple[Site, ...]] = None


Event = Union[Open, Close, Pin, TlsRegistration, DescriptorLeak]


class KeptLibrary(NamedTuple):
    """A library that stayed at a last close: how often, the latest such close, and its holds at that time."""

    library: Library
    times_kept: int
    last_event: Close


class Trace(NamedTuple):
    """The answer of ``dltrace report``.

    :param watching: False once the trace has ended.
    :param end_reason: why it has ended, None before that.
    :param duration_seconds: how long it has run, or ran.
    :param opens_by: through which functions opens are seen.
    :param closes_by: through which functions closes are seen.
    :param end_not_seen: the calls that began and were not seen to return.
    :param closes_not_open: the closes of libraries that were not open.
    :param filter: the libraries that the trace is about; empty: all.
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
    """A stop of the process: the value of ``stop_when``, the open or close, and the libraries concerned."""

    when: str
    event: Event
    libraries: tuple[str, ...]
