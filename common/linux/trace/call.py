"""What is known about an in-flight open or close?"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Optional

from ...model import Outcome
from ...trace.events import EventHeader, OpenResult
from ..loader.maps import LinkMap
from ..model import Library, StaticTls
from .descriptors import OpenDescriptors
from .events import Close, Event, LibraryInstance, Open
from .failures import OpenFailure
from .request import RTLD_NOLOAD, OpenRequest


class CallStart(NamedTuple):
    """The start of an open or close: its event header, stack pointer, and the descriptors open then.

    ``returns_to`` is the word at ``stack`` if that is its return address, else None.
    """

    header: EventHeader
    stack: int
    returns_to: Optional[int]
    open_before: OpenDescriptors


class LoaderCall:
    """An in-flight open or close."""

    def __init__(self, call_start: CallStart) -> None:
        self.header, self.stack, self.returns_to, self.open_before = call_start
        self.has_effect = False
        #: An event during the call was not understood: the call may have returned, and its effects may be lost.
        self.is_uncertain = False
        self.unloaded: dict[int, LibraryInstance] = {}

    def note_race(self) -> None:
        """Record that another thread opened or closed during the call."""
        self.header = self.header._replace(raced=True)

    def mark_uncertain(self) -> None:
        """Mark the call uncertain: it may have returned, and its effects may be lost."""
        self.is_uncertain = True

    def note_gone(self, library: LibraryInstance) -> None:
        """Record a library that the call has unloaded."""
        self.unloaded[library.link_map] = library
        self.has_effect = True

    def event(self, ended: bool) -> Event:
        """Return the event as known so far."""
        raise NotImplementedError


class OpenCall(LoaderCall):
    """An in-flight dlopen or dlmopen."""

    def __init__(self, call_start: CallStart, request: OpenRequest) -> None:
        super().__init__(call_start)
        self.request = request
        self.library: Optional[LibraryInstance] = None
        self.added: dict[int, LibraryInstance] = {}
        #: The first error raised during the open: code that catches it on the way raises it again.
        self.failure: Optional[OpenFailure] = None
        self.raced_result = OpenResult.UNKNOWN
        self.static_tls: Optional[StaticTls] = None
        #: By how much the open counts of libraries that it does not request rose during the call.
        self.other_counts = 0

    def decide(self, library: Optional[LibraryInstance], *, is_found: bool, is_failure_seen: bool) -> None:
        """Decide how an open ended that raced, by what it requested.

        :param library: the library of that name, None if none is loaded, or if it is not known which one it is.
        :param is_found: None says that none is loaded.
        :param is_failure_seen: if the open had failed, its error would have been seen.
        """
        self.library = None if self.failure is not None else library
        has_no_error = self.failure is None and is_failure_seen
        if self.library is not None or (library is None and has_no_error and not self._is_probe):
            self.raced_result = OpenResult.OPENED
        elif library is None and is_found and not (self.failure is None and self._is_probe):
            self.raced_result = self._result_without_library
        else:
            # A constructor can have caused the error, and a probe raises none whether it finds the library or not.
            self.raced_result = OpenResult.UNKNOWN

    @property
    def _is_probe(self) -> bool:
        """Return True if the open only asks whether the library is loaded."""
        return bool(self.request.flags & RTLD_NOLOAD)

    @property
    def _result_without_library(self) -> OpenResult:
        """Return the result of an open that has returned no library.

        With RTLD_NOLOAD an error is raised only if the file does not exist, unless the open itself cannot be done.
        """
        found_nothing = self.failure is None or self.failure.errno == errno.ENOENT
        return OpenResult.NOT_LOADED if self._is_probe and found_nothing else OpenResult.FAILED

    def note_library(self, library: LibraryInstance) -> None:
        """Record the library whose handle the open returns."""
        self.library = library
        self.has_effect = True

    def note_other_counts(self, number: int) -> None:
        """Record that open counts of libraries that it does not request rose.

        Another open caused that, unless an auditor (la_objsearch) had this one look for another name.
        """
        self.other_counts += number

    def note_added(self, library: LibraryInstance) -> None:
        """Record a library that the open has loaded."""
        self.added[library.link_map] = library

    def note_failure(self, failure: OpenFailure) -> None:
        """Record an error that was raised during the open, which fails with it unless a constructor caused it."""
        if self.failure is None:
            self.failure = failure

    def note_static_tls(self, static_tls: Optional[StaticTls]) -> None:
        """Record what is left of the static TLS block, for lack of which it has failed; None if that is unknown."""
        self.static_tls = static_tls

    def event(self, ended: bool) -> Open:
        """Return the event; an open that returned without a library has failed, unless it was a probe."""
        result = OpenResult.UNKNOWN
        raced = self.header.raced
        if raced:
            result = self.raced_result if ended else OpenResult.UNKNOWN
        elif self.library is not None:
            result = OpenResult.LOADED if self.library.link_map in self.added else OpenResult.ALREADY_LOADED
        elif ended and not self.other_counts:
            result = self._result_without_library
        failure = self.failure if result in (OpenResult.FAILED, OpenResult.NOT_LOADED) else None
        return Open(
            header=self.header,
            requested=self.request.name,
            flags=self.request.flags,
            requested_namespace=self.request.space,
            result=result,
            library=self.library if ended or not raced else None,
            loaded=() if raced else _by_name(self.added.values()),
            unloaded=() if raced else _by_name(self.unloaded.values()),
            error=failure.text if failure else None,
            errno=failure.errno if failure else None,
            has_returned=ended,
            static_tls=self.static_tls if failure else None,
        )


class ClosePrediction(NamedTuple):
    """The predicted effects of a close: its outcome, the libraries unloaded, by link map, and dependencies that stay.

    ``for_outer_close`` are libraries that the outer close's collection unloads because of this close,
    ``may_unload_more`` names libraries that can close others while they are unloaded.  If the outcome is unknown, all
    of it is.
    """

    outcome: Outcome
    unloads: Mapping[int, LibraryInstance]
    for_outer_close: Mapping[int, LibraryInstance]
    may_unload_more: tuple[str, ...]
    kept: tuple[Library, ...]


#: The prediction for a close of a handle that is not a library's.
_NOTHING = ClosePrediction(Outcome.NOT_OPEN, {}, {}, (), ())
#: The prediction if the handle can be that of a library that was not read, or if threads race.
UNPREDICTABLE = ClosePrediction(Outcome.UNKNOWN, {}, {}, (), ())


class CloseCall(LoaderCall):
    """An in-flight dlclose with its prediction, and the libraries that nested closes add to it."""

    def __init__(
        self, call_start: CallStart, handle: int, link_map: Optional[LinkMap], library: Optional[LibraryInstance]
    ) -> None:
        super().__init__(call_start)
        self.handle = handle
        self.link_map = link_map
        self.library = library
        self.prediction = _NOTHING
        self.by_nested_closes: dict[int, LibraryInstance] = {}
        #: What a nested close adds could not be predicted.
        self.is_nested_unknown = False
        self.is_counted = False

    @property
    def does_nothing(self) -> bool:
        """Return True if the close is certain to change nothing, and to return.

        A handle that is no link map can be anything: _dl_close reads through it, and may not survive that.  If threads
        race, the library can be open once more by the time the close begins.
        """
        outcome = self.prediction.outcome
        is_nothing = outcome is Outcome.NO_EFFECT or (outcome is Outcome.NOT_OPEN and not self.header.raced)
        return self.link_map is not None and is_nothing

    def is_expected_to_unload(self, address: int) -> bool:
        """Return True if one of the close's mark phases condemns the library whose link map is at an address."""
        return address in self.prediction.unloads or address in self.by_nested_closes

    def predict(self, link_map: Optional[LinkMap], prediction: ClosePrediction) -> None:
        """Set the prediction, and the current link map that it was made for."""
        self.link_map = link_map
        self.prediction = prediction

    def note_nested(self, libraries: Mapping[int, LibraryInstance]) -> None:
        """Record what a nested close's collection adds to what this close unloads."""
        self.by_nested_closes.update(libraries)

    def note_nested_unknown(self) -> None:
        """Record that it is unknown what a nested close adds to what this close unloads."""
        self.is_nested_unknown = True

    def note_count(self) -> None:
        """Record that the close has lowered an open count."""
        self.has_effect = self.is_counted = True

    def event(self, ended: bool) -> Close:
        """Return the event; its unloaded libraries are unknown until the close has returned.

        If threads raced, nothing is concluded but that a close of a NODELETE library has no effect.
        """
        raced = self.header.raced and self.prediction.outcome is not Outcome.NO_EFFECT
        prediction = UNPREDICTABLE if raced else self.prediction
        known = prediction.outcome is not Outcome.UNKNOWN
        nested_known = known and not self.is_nested_unknown
        return Close(
            header=self.header,
            library=self.library,
            open_count_before=self.link_map.l_direct_opencount if self.link_map and not raced else None,
            predicted_outcome=prediction.outcome,
            predicted_unloads=_by_name(prediction.unloads.values()) if known else None,
            predicted_by_nested_closes=_by_name(self.by_nested_closes.values()) if nested_known else None,
            may_unload_more=prediction.may_unload_more if known else None,
            kept=prediction.kept if known else None,
            unloaded=_by_name(self.unloaded.values()) if ended and not raced else None,
            predicted_for_outer_close=_by_name(prediction.for_outer_close.values()) if known else None,
            handle=self.handle,
            has_returned=ended,
        )


def _by_name(instances: Iterable[LibraryInstance]) -> tuple[LibraryInstance, ...]:
    return tuple(
        sorted(instances, key=lambda each: (each.name, each.path or "", each.namespace, each.link_map, each.load_bias))
    )
