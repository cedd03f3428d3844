"""Which events of glibc's loader does a report list, and which closes kept something?"""

from __future__ import annotations

from ...model import Outcome
from ...trace.events import OpenResult
from ...trace.ledger import CloseResult, CountsAtStart, Ledger, LibraryKey
from .events import Close, DescriptorLeak, Event, KeptLibrary, LibraryInstance, Open, Pin, TlsRegistration


class EventLedger(Ledger):
    """The sums of a trace of glibc's loader, with the events that its report lists.

    ``closes_not_open`` are the closes of libraries that were not open.
    """

    def __init__(self, at_start: CountsAtStart) -> None:
        """Create a ledger.

        :param at_start: the open counts when the trace began.
        """
        super().__init__(at_start)
        self.closes_mispredicted: list[Close] = []
        self.pins: list[Pin] = []
        self.tls_registrations: list[TlsRegistration] = []
        self.descriptor_leaks: list[DescriptorLeak] = []
        self.closes_not_open: list[Close] = []
        self.opens_failed: list[Open] = []
        self._kept: dict[LibraryKey, KeptLibrary] = {}

    def add(self, event: Event) -> None:
        """Count an event."""
        self._book(event, shown=True)
        if isinstance(event, Open):
            self.count_open(event.result, ended=event.ended)
            if event.result is OpenResult.FAILED:
                self._list("opens_failed", self.opens_failed, event)
        elif isinstance(event, Close):
            self._add_close(event)
        elif isinstance(event, Pin):
            self._list("pins", self.pins, event)
        elif isinstance(event, TlsRegistration):
            self._list("tls_registrations", self.tls_registrations, event)
        else:
            self._list("descriptor_leaks", self.descriptor_leaks, event)

    def add_unasked(self, event: Event) -> None:
        """Count an event in the account of its library only, which is shown if another event shows it."""
        self._book(event, shown=False)

    def _book(self, event: Event, *, shown: bool) -> None:
        if event.library is None:
            return
        key = key_of(event.library)
        if isinstance(event, Open):
            self.record_open(key, event.header, shown=shown)
        elif isinstance(event, Close):
            self.record_close(key, event.header, event.predicted_outcome, shown=shown)

    def _add_close(self, event: Close) -> None:
        ending = CloseResult(
            ended=event.ended,
            unloaded=len(event.unloaded or ()),
            kept_something=bool(event.kept),
            predicted_exactly=event.predicted_exactly,
            contradicts_predictions=bool(event.predicted_but_kept or event.unloaded_but_not_predicted),
        )
        if self.count_close(event.header, ending):
            self._list("closes_mispredicted", self.closes_mispredicted, event)
        if event.predicted_outcome is Outcome.NOT_OPEN:
            self._list("closes_not_open", self.closes_not_open, event)
        for library in event.kept or ():
            key = LibraryKey(library.path, library.namespace, library.name)
            before = self._kept.get(key)
            self._kept[key] = KeptLibrary(library, before.times_kept + 1 if before else 1, event)

    def kept(self) -> tuple[KeptLibrary, ...]:
        """Return the libraries that stayed at a last close, most frequent first."""
        return tuple(sorted(self._kept.values(), key=lambda kept: (-kept.times_kept, kept.library.name)))


def key_of(library: LibraryInstance) -> LibraryKey:
    """Return the key of a library's account."""
    return LibraryKey(library.path, library.namespace, library.name)
