"""How do the events and sums of a trace look as JSON?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

from ..linux.trace.events import Close, Event, Leak, Open, Pin
from ..trace.events import Account, Deeds, Instance, Moment, Site
from .json_parts import hexadecimal
from .library_json import kept_document


def event_document(event: Event) -> dict[str, Any]:
    """Build the document of an event."""
    document = {"event": type(event).__name__.lower(), **_moment(event.moment)}
    if isinstance(event, Open):
        return {
            **document,
            "requested": event.requested,
            "flags": event.flags,
            "space": event.space,
            "result": event.result.value,
            "library": _instance(event.library),
            "added": _names(event.added),
            "went": _names(event.went),
        }
    if isinstance(event, Close):
        return {
            **document,
            "library": _instance(event.library),
            "handle": hexadecimal(event.handle),
            "open_count": event.open_count,
            "outcome": event.outcome.value,
            "predicted": _names(event.predicted),
            "remarked": _names(event.remarked),
            "adds": _names(event.adds),
            "at_least": list(event.at_least),
            "keeps": [kept_document(library) for library in event.keeps],
            "went": _names(event.went) if event.ended else None,
            "stayed": _names(event.stayed),
            "surprises": _names(event.surprises),
            "exact": event.is_exact if event.ended else None,
        }
    if isinstance(event, Pin):
        return {
            **document,
            "library": _instance(event.library),
            "origin": event.origin,
            "symbols": list(event.symbols),
            "symbols_omitted": event.symbols_omitted,
            "lookups": list(event.lookups),
        }
    if isinstance(event, Leak):
        return {
            **document,
            "library": _instance(event.library),
            "descriptor": event.descriptor,
            "path": event.path,
            "sites": [_site(site) for site in event.sites],
        }
    return {
        **document,
        "library": _instance(event.library),
        "function": _site(event.function),
        "object": hexadecimal(event.object),
        "owner": event.owner,
    }


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        "number": moment.number,
        "time": moment.time,
        "thread": {"lwp": moment.lwp},
        "caller": _site(moment.caller),
        "by": moment.by,
        "inside": moment.inside,
        "at_exit": moment.at_exit,
        "raced": moment.raced,
    }


def _site(site: Optional[Site]) -> Optional[dict[str, Any]]:
    if site is None:
        return None
    return {
        "address": hexadecimal(site.address),
        "library": site.library,
        "function": site.function,
        "line": site.line,
    }


def _instance(instance: Optional[Instance]) -> Optional[dict[str, Any]]:
    if instance is None:
        return None
    return {
        "name": instance.name,
        "path": instance.path,
        "namespace": instance.namespace,
        "link_map": hexadecimal(instance.link_map),
    }


def _names(instances: Iterable[Instance]) -> list[str]:
    return [instance.name for instance in instances]


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
    return {"caller": _site(deeds.site), "by": deeds.by, "count": deeds.total}
