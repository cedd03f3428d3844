"""Which parts do the JSON documents of traces share, whatever the system?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, cast

from ..trace.events import Moment, Site, Totals
from .json_parts import hexadecimal

if TYPE_CHECKING:
    from .json_types import MomentDocument, SiteDocument, TotalsDocument


def moment_document(moment: Moment) -> MomentDocument:
    """Build what the document of every event says of when and where it was."""
    return {
        "number": moment.number,
        "time_seconds": moment.time_seconds,
        "thread": {"tid": moment.tid} if moment.tid else None,
        "caller": site_document(moment.caller),
        "within_event": moment.within_event,
        "at_exit": moment.at_exit,
        "raced": moment.raced,
    }


def site_document(site: Optional[Site]) -> Optional[SiteDocument]:
    """Build the document of a place in code; unknown is null."""
    if site is None:
        return None
    return {
        "address": hexadecimal(site.address),
        "library": site.library,
        "function": site.function,
        "line": site.line,
    }


def totals_document(totals: Totals) -> TotalsDocument:
    """Build the document of what was counted."""
    return cast("TotalsDocument", totals._asdict())
