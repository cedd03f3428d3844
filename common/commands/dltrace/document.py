"""How does a trace look as JSON: as one document, and as one line per event?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

from ...linux.trace.events import Close, Event, Instance, Leak, Open, Pin, Trace
from ...render.json_parts import SCHEMA, envelope, hexadecimal, problem_documents
from ...render.jsontext import dumps
from ...render.library_json import kept_document
from ...render.trace_json import account_document, moment_document, site_document


def trace_document(command: str, trace: Trace) -> dict[str, Any]:
    """Build the document of a trace."""
    return {
        **envelope(command, trace.target, trace.loader),
        "asked": list(trace.asked),
        "watching": trace.watching,
        "ending": trace.ending,
        "seconds": round(trace.seconds, 3),
        "breakpoints": {"opens": trace.opens_by, "closes": trace.closes_by},
        "totals": trace.totals._asdict(),
        "accounts": [account_document(account) for account in trace.accounts],
        "kept": [
            {**kept_document(kept.library), "times": kept.times, "last": kept.close.moment.number}
            for kept in trace.kept
        ],
        "mismatches": [event_document(close) for close in trace.mismatches],
        "pins": [event_document(pin) for pin in trace.pins],
        "registrations": [event_document(registration) for registration in trace.registrations],
        "leaks": [event_document(leak) for leak in trace.leaks],
        "unended": [event_document(event) for event in trace.unended],
        "vain": [event_document(close) for close in trace.vain],
        "problems": problem_documents(trace.problems),
    }


def dump_event(event: Event) -> str:
    """Write an event as a line."""
    return dumps({"schema": SCHEMA, **event_document(event)}) + "\n"


def event_document(event: Event) -> dict[str, Any]:
    """Build the document of an event."""
    document = {"event": type(event).__name__.lower(), **moment_document(event.moment)}
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
            "sites": [site_document(site) for site in event.sites],
        }
    return {
        **document,
        "library": _instance(event.library),
        "function": site_document(event.function),
        "object": hexadecimal(event.object),
        "owner": event.owner,
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
