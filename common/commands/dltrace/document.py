"""How does a trace look as JSON: as one document, and as one line per event?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from ...linux.trace.events import Close, Event, Instance, Leak, Open, Pin, Registration, Trace
from ...render.json_parts import SCHEMA, envelope, hexadecimal, optional_hexadecimal, problem_documents
from ...render.json_types import (
    CallsDocument,
    CloseDocument,
    DescriptorLeakDocument,
    DltraceDocument,
    EventDocument,
    InstanceDocument,
    LibraryTotalsDocument,
    OpenDocument,
    PinDocument,
    TlsRegistrationDocument,
)
from ...render.jsontext import dumps
from ...render.library_json import kept_document
from ...render.trace_json import moment_document, site_document, totals_document
from ...trace.events import Account, Deeds


def trace_document(command: str, trace: Trace) -> DltraceDocument:
    """Build the document of a trace."""
    return {
        **envelope(command, trace.target, trace.loader),
        "filter": list(trace.asked),
        "watching": trace.watching,
        "end_reason": trace.ending,
        "duration_seconds": round(trace.seconds, 3),
        "breakpoints": {"opens": trace.opens_by, "closes": trace.closes_by},
        "totals": totals_document(trace.totals),
        "library_totals": [_library_totals(each) for each in trace.accounts],
        "kept": [
            {**kept_document(kept.library), "times_kept": kept.times, "last_event": kept.close.moment.number}
            for kept in trace.kept
        ],
        "closes_mispredicted": [event_document(close) for close in trace.mismatches],
        "closes_not_open": [event_document(close) for close in trace.vain],
        "opens_failed": [event_document(each) for each in trace.opens_failed],
        "pins": [event_document(pin) for pin in trace.pins],
        "tls_registrations": [event_document(registration) for registration in trace.registrations],
        "descriptor_leaks": [event_document(leak) for leak in trace.leaks],
        "end_not_seen": [event_document(event) for event in trace.unended],
        "problems": problem_documents(trace.problems),
    }


def dump_event(event: Event) -> str:
    """Write an event as a line."""
    return dumps({"schema": SCHEMA, **event_document(event)}) + "\n"


def event_document(event: Event) -> EventDocument:
    """Build the document of an event."""
    if isinstance(event, Open):
        return _open_document(event)
    if isinstance(event, Close):
        return _close_document(event)
    if isinstance(event, Pin):
        return _pin_document(event)
    if isinstance(event, Leak):
        return _leak_document(event)
    return _registration_document(event)


def _open_document(event: Open) -> OpenDocument:
    return {
        "event": "open",
        **moment_document(event.moment),
        "initiated_by": event.moment.by,
        # "?" is a name that could not be read.
        "requested": "" if event.requested is None else None if event.requested == "?" else event.requested,
        "flags": event.flags,
        "requested_namespace": event.space,
        "result": event.result.value,
        "error": event.error,
        "errno": event.errno,
        "library": _instance(event.library),
        "loaded": _instances(event.added),
        "unloaded": _instances(event.went),
    }


def _close_document(event: Close) -> CloseDocument:
    return {
        "event": "close",
        **moment_document(event.moment),
        "initiated_by": event.moment.by,
        "library": _instance(event.library),
        "handle": optional_hexadecimal(event.handle),
        "open_count_before": event.open_count if event.library else None,
        "predicted_outcome": event.outcome.value,
        "predicted_unloads": _names(event.predicted),
        "predicted_by_nested_closes": _names(event.remarked),
        "predicted_for_outer_close": _names(event.adds),
        "may_unload_more": list(event.at_least),
        "kept": [kept_document(library) for library in event.keeps],
        "unloaded": _instances(event.went) if event.ended else None,
        "predicted_but_kept": _names(event.stayed),
        "unloaded_but_not_predicted": _names(event.surprises),
        "predicted_exactly": event.is_exact if event.ended else None,
    }


def _pin_document(event: Pin) -> PinDocument:
    return {
        "event": "pin",
        **moment_document(event.moment),
        "initiated_by": event.moment.by,
        "library": _instance(event.library),
        "origin": event.origin,
        "symbols": list(event.symbols),
        "symbols_omitted": event.symbols_omitted,
        "looked_up_by": list(event.lookups),
    }


def _registration_document(event: Registration) -> TlsRegistrationDocument:
    return {
        "event": "tls-registration",
        **moment_document(event.moment),
        "initiated_by": event.moment.by,
        "library": _instance(event.library),
        "destructor": site_document(event.function),
        "object": hexadecimal(event.object),
        "destructor_library": event.owner,
    }


def _leak_document(event: Leak) -> DescriptorLeakDocument:
    return {
        "event": "descriptor-leak",
        **moment_document(event.moment),
        "initiated_by": event.moment.by,
        "library": _instance(event.library),
        "descriptor": event.descriptor,
        "descriptor_target": event.path,
        "opened_at": [site_document(site) for site in event.sites],
    }


def _library_totals(account: Account) -> LibraryTotalsDocument:
    return {
        "name": account.name,
        "path": account.path,
        "namespace": account.namespace,
        "open_count_at_start": account.before,
        "opens_by_caller": [_calls(deeds) for deeds in account.opens],
        "closes_by_caller": [_calls(deeds) for deeds in account.closes],
        "closes_without_effect": account.early_returns,
        "open_count_now": account.left,
    }


def _calls(deeds: Deeds) -> CallsDocument:
    return {"caller": site_document(deeds.site), "initiated_by": deeds.by, "count": deeds.total}


def _instance(instance: Optional[Instance]) -> Optional[InstanceDocument]:
    return None if instance is None else _instance_document(instance)


def _instance_document(instance: Instance) -> InstanceDocument:
    return {
        "name": instance.name,
        "path": instance.path,
        "namespace": instance.namespace,
        "link_map": hexadecimal(instance.link_map),
        "base": hexadecimal(instance.base),
        "range": [hexadecimal(instance.start), hexadecimal(instance.end)],
        "build_id": instance.build_id,
    }


def _instances(instances: Iterable[Instance]) -> list[InstanceDocument]:
    return [_instance_document(instance) for instance in instances]


def _names(instances: Iterable[Instance]) -> list[str]:
    return [instance.name for instance in instances]
