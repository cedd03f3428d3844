"""Which parts do the JSON documents of traces share, whatever the system?"""

from __future__ import annotations

from typing import Any, Optional

from ..trace.events import Account, Deeds, Moment, Site
from .json_parts import hexadecimal


def moment_document(moment: Moment) -> dict[str, Any]:
    """Build what the document of every event says of when, where and by whom it was."""
    return {
        "number": moment.number,
        "time": moment.time,
        "thread": {"lwp": moment.lwp},
        "caller": site_document(moment.caller),
        "by": moment.by,
        "inside": moment.inside,
        "at_exit": moment.at_exit,
        "raced": moment.raced,
    }


def site_document(site: Optional[Site]) -> Optional[dict[str, Any]]:
    """Build the document of a place in code; unknown is null."""
    if site is None:
        return None
    return {
        "address": hexadecimal(site.address),
        "library": site.library,
        "function": site.function,
        "line": site.line,
    }


def account_document(account: Account) -> dict[str, Any]:
    """Build the document of a library's opens and closes."""
    return {
        "name": account.name,
        "path": account.path,
        "namespace": account.namespace,
        "before": account.before,
        "opens": [_deeds(deeds) for deeds in account.opens],
        "closes": [_deeds(deeds) for deeds in account.closes],
        "early_returns": account.early_returns,
        "left": account.left,
    }


def _deeds(deeds: Deeds) -> dict[str, Any]:
    return {"caller": site_document(deeds.site), "by": deeds.by, "count": deeds.total}
