"""Which events of Windows' loader does a report list, and which DLLs stayed although they were freed?"""

from __future__ import annotations

from ...trace.events import OpenResult, Totals
from ...trace.ledger import CloseResult, CountsAtStart, Ledger, LibraryKey
from .events import DllClose, DllEvent, DllInstance, DllOpen, DllPin, KeptDll


class DllLedger(Ledger):
    """The sums of a trace of Windows' loader, with the events that its report lists."""

    def __init__(self, at_start: CountsAtStart) -> None:
        """Create a ledger.

        :param at_start: LoadLibrary's parts of the load counts when the trace began.
        """
        super().__init__(at_start)
        self.closes_mispredicted: list[DllClose] = []
        self.pins: list[DllPin] = []
        self.opens_failed: list[DllOpen] = []
        self._kept: dict[LibraryKey, KeptDll] = {}

    def add(self, event: DllEvent) -> None:
        """Count an event."""
        if isinstance(event, DllOpen):
            self._add_open(event)
        elif isinstance(event, DllClose):
            self._add_close(event)
        else:
            self._list("pins", self.pins, event)

    def _add_open(self, event: DllOpen) -> None:
        if event.library is not None:
            self.record_open(key_of(event.library), event.header, shown=True)
        self.count_open(event.result, ended=event.result is not OpenResult.UNKNOWN)
        if event.result is OpenResult.FAILED:
            self._list("opens_failed", self.opens_failed, event)

    def _add_close(self, event: DllClose) -> None:
        library = event.library
        if library is not None:
            self.record_close(key_of(library), event.header, event.predicted_outcome, shown=True)
        own = [dll for dll in event.kept or () if event.ended and library is not None and dll.base == library.base]
        ending = CloseResult(
            ended=event.ended,
            unloaded=len(event.unloaded or ()),
            kept_something=False,
            predicted_exactly=event.predicted_exactly,
            contradicts_predictions=bool(event.predicted_but_kept or event.unloaded_but_not_predicted),
        )
        if self.count_close(event.header, ending):
            self._list("closes_mispredicted", self.closes_mispredicted, event)
        for dll in own:
            key = LibraryKey(dll.path or None, 0, dll.name)
            before = self._kept.get(key)
            self._kept[key] = KeptDll(dll, before.times_kept + 1 if before else 1, event)

    def totals(self) -> Totals:
        """Return the totals; a free that keeps something is one whose own DLL stays."""
        return super().totals()._replace(closes_that_kept=sum(kept.times_kept for kept in self._kept.values()))

    def kept(self) -> tuple[KeptDll, ...]:
        """Return the DLLs that stayed although they were freed, the most often kept first."""
        return tuple(sorted(self._kept.values(), key=lambda kept: (-kept.times_kept, kept.dll.name)))


def key_of(library: DllInstance) -> LibraryKey:
    """Return the key of a DLL's account."""
    return LibraryKey(library.path, 0, library.name)
