"""What can a trace of glibc's loader see happen?  Values, in glibc's and the user's own terms."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from ...model import LoaderInfo, Outcome, Problem, TargetInfo
from ...trace.events import Account, Moment, OpenResult, Site, Totals, without
from ..model import Library


class Instance(NamedTuple):
    """A library as it is loaded from one open to one close.

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
    """A dlopen or dlmopen: what was asked for (None: the program itself), and what came of it.

    ``space`` is the namespace that was asked for, negative for a new one or the caller's.  ``added`` are all libraries
    that came, ``went`` those that a failed one made the collector find.  ``error`` is what dlerror says of a failed
    one, ``errno`` the number behind it; None where it did not fail, has no number, or where that is not known.
    """

    moment: Moment
    requested: Optional[str]
    flags: int
    space: int
    result: OpenResult = OpenResult.UNKNOWN
    library: Optional[Instance] = None
    added: tuple[Instance, ...] = ()
    went: tuple[Instance, ...] = ()
    error: Optional[str] = None
    errno: Optional[int] = None


class Close(NamedTuple):
    """A close: the prediction when it began, and what it then did; libraries by name.

    ``predicted`` is what the first marking finds, ``remarked`` what further markings add, one for each close within,
    ``adds`` what this one adds to the close that it is within;
    ``keeps`` are those of its dependencies that stay at its last close, itself among them, with their holds.
    ``open_count`` is that of before.  ``ended`` is False where the end was not seen: then ``went`` is not known either.
    """

    moment: Moment
    library: Optional[Instance]
    open_count: int
    outcome: Outcome
    predicted: tuple[Instance, ...] = ()
    remarked: tuple[Instance, ...] = ()
    at_least: tuple[str, ...] = ()
    keeps: tuple[Library, ...] = ()
    went: tuple[Instance, ...] = ()
    ended: bool = False
    adds: tuple[Instance, ...] = ()
    handle: Optional[int] = None

    @property
    def stayed(self) -> tuple[Instance, ...]:
        """Give what was predicted to go and stayed: a mistake of ours, unless another thread came before."""
        return without((*self.predicted, *self.remarked), self.went) if self.ended else ()

    @property
    def surprises(self) -> tuple[Instance, ...]:
        """Give what went without having been predicted, by any of the markings."""
        return without(self.went, (*self.predicted, *self.remarked)) if self.ended else ()

    @property
    def is_exact(self) -> bool:
        """Tell whether what went is what was predicted when the close began."""
        return self.ended and self.predicted == self.went


class Pin(NamedTuple):
    """A library became NODELETE: why, by which symbols, looked up by which libraries, in or after which open.

    ``symbols_omitted`` more symbols are left out.
    """

    moment: Moment
    library: Instance
    origin: Optional[str]
    symbols: tuple[str, ...] = ()
    lookups: tuple[str, ...] = ()
    symbols_omitted: int = 0


class Registration(NamedTuple):
    """A call of ``__cxa_thread_atexit_impl``: the library that it keeps, by its dso_symbol, and the destructor.

    ``owner`` is the destructor's own library where that is another one: it can go before the destructor runs.
    """

    moment: Moment
    library: Optional[Instance]
    function: Site
    object: int
    owner: Optional[str] = None


class Leak(NamedTuple):
    """A file descriptor that was opened while a library was loaded and is still open after that has gone.

    ``sites`` are the calls in that library that made descriptors, as far as they were watched.
    """

    moment: Moment
    library: Instance
    descriptor: int
    path: str
    sites: tuple[Site, ...] = ()


Event = Union[Open, Close, Pin, Registration, Leak]


class Kept(NamedTuple):
    """A library that stayed at a last close: how often, the latest of those closes, and what kept it then."""

    library: Library
    times: int
    close: Close


class Trace(NamedTuple):
    """The answer of ``dltrace report``: ``watching`` is False once the trace has ended, ``ending`` says why.

    ``unended`` has begun and not been seen to end, ``vain`` are the closes of what was not open, ``asked`` names the
    libraries that it is about.
    """

    target: TargetInfo
    loader: LoaderInfo
    watching: bool
    ending: Optional[str]
    seconds: float
    opens_by: str
    closes_by: str
    totals: Totals
    accounts: tuple[Account, ...]
    kept: tuple[Kept, ...]
    mismatches: tuple[Close, ...]
    pins: tuple[Pin, ...]
    registrations: tuple[Registration, ...]
    leaks: tuple[Leak, ...]
    problems: tuple[Problem, ...] = ()
    unended: tuple[Event, ...] = ()
    vain: tuple[Close, ...] = ()
    opens_failed: tuple[Open, ...] = ()
    asked: tuple[str, ...] = ()


class Stop(NamedTuple):
    """Why the process stops: the word of ``stop_when``, the open or close, and the libraries that it is about."""

    when: str
    event: Event
    libraries: tuple[str, ...]
