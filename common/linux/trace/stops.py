"""Which libraries is a trace about, and at which opens and closes does the process stop?"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Optional, Union

from ...charset import unescaped
from ...model import Outcome
from ...paths import base_name
from ...target import Reaction
from ..model import PERMANENT, HoldKind, Library
from .call import CloseCall, LoaderCall, OpenCall
from .events import Close, Event, LibraryInstance, Open, Stop

#: Holds by which a dependency is expected to stay: it is open itself, or stays for good.
_EXPECTED = PERMANENT | {HoldKind.OPEN_COUNT}


class TraceOptions(NamedTuple):
    """What to trace: only ``libraries`` (names or patterns; empty: all), and when to stop the process.

    ``tls`` watches registrations of TLS destructors, ``fds`` descriptors, with ``libraries`` also the calls that create
    them.
    """

    libraries: tuple[str, ...] = ()
    stop_when: Optional[str] = None
    tls: bool = False
    fds: bool = False


class StopRules:
    """Decides which events are reported, and where the process stops."""

    def __init__(self, options: TraceOptions, announce: Callable[[Stop], None]) -> None:
        self._options = options
        # A name matches also as answers show it.
        self._wanted = tuple(dict.fromkeys((*options.libraries, *map(unescaped, options.libraries))))
        self._announce = announce
        self._late: list[LibraryInstance] = []

    def is_wanted(self, name: str) -> bool:
        """Return True if a name or path matches a requested library, or none was requested."""
        return not self._wanted or any(
            fnmatch.fnmatchcase(name, each) or fnmatch.fnmatchcase(base_name(name), each) for each in self._wanted
        )

    def _is_named(self, library: Union[Library, LibraryInstance]) -> bool:
        return self.is_wanted(library.path or library.name)

    def is_about(self, event: Event) -> bool:
        """Return True if an event concerns a requested library."""
        return not self._options.libraries or any(self.is_wanted(name) for name in names_of(event))

    def note_added(self, open_call: OpenCall, instance: LibraryInstance) -> None:
        """Record a library that an earlier open loaded, unless the process stopped for that open."""
        has_stopped = self._is_asked_for(open_call) and instance.name == base_name(open_call.request.name or "")
        if self._options.stop_when == "opened" and not has_stopped:
            self._late.append(instance)

    def _is_asked_for(self, open_call: OpenCall) -> bool:
        return bool(open_call.request.name) and self.is_wanted(open_call.request.name or "")

    def find_at_close(self, close_call: CloseCall, close_calls: Iterable[CloseCall]) -> Optional[tuple[str, ...]]:
        """Return the names of the libraries for which to stop at a close, None to resume."""
        when = self._options.stop_when
        if when == "kept":
            kept = [library for library in close_call.prediction.kept if library.held is not False]
            if self._options.libraries:
                chosen = [library for library in kept if self._is_named(library)]
            else:
                own = close_call.library.link_map if close_call.library else 0
                chosen = [library for library in kept if library.link_map == own or _is_unexpected(library)]
            return tuple(library.name for library in chosen) or None
        if when == "unloaded":
            expected = {**close_call.prediction.unloads, **close_call.by_nested_closes}.values()
            if close_call.prediction.outcome is Outcome.DEFERRED:
                expected = {a: i for each in close_calls for a, i in each.by_nested_closes.items()}.values()
            return tuple(each.name for each in expected if self._is_named(each)) or None
        return self._find_late()

    def find_at_open(self, open_call: OpenCall) -> Optional[tuple[str, ...]]:
        """Return the names of the libraries for which to stop at an open, None to resume."""
        if self._options.stop_when != "opened":
            return None
        if self._is_asked_for(open_call):
            name = base_name(open_call.request.name or "")
            self._late = [each for each in self._late if each.name != name]
            return (name,)
        return self._find_late()

    def _find_late(self) -> Optional[tuple[str, ...]]:
        """Return the libraries that earlier opens loaded as dependencies."""
        late, self._late = self._late, []
        if self._options.stop_when != "opened" or not self._options.libraries:
            return None
        return tuple(each.name for each in late if self._is_named(each)) or None

    def react(self, libraries: Optional[tuple[str, ...]], call: LoaderCall) -> Reaction:
        """Announce a stop for some libraries, if there is one."""
        if libraries is None or self._options.stop_when is None:
            return Reaction.RESUME
        self._announce(Stop(self._options.stop_when, call.event(ended=False), libraries))
        return Reaction.STOP


def names_of(event: Event) -> Iterator[str]:
    """Yield the names of all libraries that an event concerns."""
    if isinstance(event, Open):
        if event.requested:
            yield event.requested
        instances = [event.library, *event.loaded, *event.unloaded]
    elif isinstance(event, Close):
        yield from (library.path or library.name for library in event.kept or ())
        instances = [
            event.library,
            *(event.predicted_unloads or ()),
            *(event.predicted_by_nested_closes or ()),
            *(event.predicted_for_outer_close or ()),
            *(event.unloaded or ()),
        ]
    else:
        instances = [event.library]
    yield from (instance.path or instance.name for instance in instances if instance is not None)


def _is_unexpected(library: Library) -> bool:
    """Return True if no library that is open or permanent needs this one."""
    for hold in library.holds:
        if hold.kind in _EXPECTED:
            return False
        if hold.kind is HoldKind.DEPENDENCY and hold.root and not _EXPECTED.isdisjoint(hold.root.kinds):
            return False
    return True
