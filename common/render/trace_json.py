"""Which parts do the JSON documents of traces share, whatever the system?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, cast

from ..trace.events import EventHeader, Site, Totals
from .json_parts import hexadecimal

if TYPE_CHECKING:
    from .json_types import MomentDocument, SiteDocument, TotalsDocument


def header_document(header: EventHeader) -> MomentDocument:
    """Build the keys that all events share: when and where the event was."""
    return {
        "number": header.number,
        "time_seconds": header.time_seconds,
        "thread": {"tid": header.tid} if header.tid else None,
        "caller": site_document(header.caller),
        "within_event": header.within_event,
        "at_exit": header.at_exit,
        "raced": header.raced,
    }


def site_document(site: Optional[Site]) -> Optional[SiteDocument]:
    """Build the document of a call site; unknown is null."""
    if site is None:
        return None
    document: SiteDocument = {
        "address": hexadecimal(site.address),
        "library": site.library,
        "function": site.function,
        "line": site.line,
    }
    if site.through is not None:
        document["through"] = site.through
    return document


def totals_document(totals: Totals) -> TotalsDocument:
    """Build the document of the totals."""
    return cast("TotalsDocument", totals._asdict())
