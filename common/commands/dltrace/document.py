"""What does the JSON of dltrace contain: the report, and one line per event?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

from ...linux.trace.events import Close, DescriptorLeak, Event, LibraryInstance, Open, Pin, TlsRegistration, Trace
from ...render.json_parts import (
    SCHEMA,
    envelope,
    hexadecimal,
    optional_hexadecimal,
    optional_list,
    optional_names,
    problem_documents,
)
from ...render.jsontext import dumps
from ...render.library_json import kept_document, place_document, static_tls_document
from ...render.trace_json import header_document, site_document, totals_document
from ...trace.events import Calls, LibraryTotals, OpenResult

if TYPE_CHECKING:
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


def trace_document(command: str, trace: Trace) -> DltraceDocument:
    """Build the document of a trace."""
    return {
        **envelope(command, trace.target, trace.loader),
        "filter": list(trace.filter),
        "watching": trace.watching,
        "end_reason": trace.end_reason,
        "duration_seconds": round(trace.duration_seconds, 3),
        "breakpoints": {"opens": trace.opens_by, "closes": trace.closes_by},
        "totals": totals_document(trace.totals),
        "library_totals": [_library_totals(each) for each in trace.library_totals],
        "kept": [
            {**kept_document(kept.library), "times_kept": kept.times_kept, "last_event": kept.last_event.header.number}
            for kept in trace.kept
        ],
        "closes_mispredicted": [event_document(close) for close in trace.closes_mispredicted],
        "closes_not_open": [event_document(close) for close in trace.closes_not_open],
        "opens_failed": [event_document(each) for each in trace.opens_failed],
        "pins": [event_document(pin) for pin in trace.pins],
        "tls_registrations": [event_document(registration) for registration in trace.tls_registrations],
        "descriptor_leaks": [event_document(leak) for leak in trace.descriptor_leaks],
        "end_not_seen": [event_document(event) for event in trace.end_not_seen],
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
    if isinstance(event, DescriptorLeak):
        return _leak_document(event)
    return _registration_document(event)


def _open_document(event: Open) -> OpenDocument:
    is_known = event.result is not OpenResult.UNKNOWN and not event.header.raced
    return {
        "event": "open",
        **header_document(event.header),
        "initiated_by": event.header.initiated_by,
        "requested": event.requested,
        "flags": event.flags,
        "requested_namespace": event.requested_namespace,
        "result": event.result.value,
        "error": event.error,
        "errno": event.errno,
        "library": _instance(event.library),
        "loaded": _instances(event.loaded) if is_known else None,
        "unloaded": _instances(event.unloaded) if is_known else None,
        "static_tls": static_tls_document(event.static_tls),
    }


def _close_document(event: Close) -> CloseDocument:
    return {
        "event": "close",
        **header_document(event.header),
        "initiated_by": event.header.initiated_by,
        "library": _instance(event.library),
        "handle": optional_hexadecimal(event.handle),
        "open_count_before": event.open_count_before,
        "predicted_outcome": event.predicted_outcome.value,
        "predicted_unloads": optional_names(event.predicted_unloads),
        "predicted_by_nested_closes": optional_names(event.predicted_by_nested_closes),
        "predicted_for_outer_close": optional_names(event.predicted_for_outer_close),
        "may_unload_more": optional_list(event.may_unload_more, str),
        "kept": optional_list(event.kept, kept_document),
        "unloaded": optional_list(event.unloaded, _instance_document),
        "predicted_but_kept": optional_names(event.predicted_but_kept),
        "unloaded_but_not_predicted": optional_names(event.unloaded_but_not_predicted),
        "predicted_exactly": event.predicted_exactly,
    }


def _pin_document(event: Pin) -> PinDocument:
    return {
        "event": "pin",
        **header_document(event.header),
        "initiated_by": event.header.initiated_by,
        "library": _instance(event.library),
        "origin": event.origin,
        "symbols": optional_list(event.symbols, str),
        "symbols_omitted": event.symbols_omitted,
        "looked_up_by": optional_list(event.looked_up_by, str),
    }


def _registration_document(event: TlsRegistration) -> TlsRegistrationDocument:
    return {
        "event": "tls-registration",
        **header_document(event.header),
        "initiated_by": event.header.initiated_by,
        "library": _instance(event.library),
        "destructor": site_document(event.destructor),
        "object": hexadecimal(event.object),
        "destructor_elsewhere": event.is_elsewhere,
    }


def _leak_document(event: DescriptorLeak) -> DescriptorLeakDocument:
    return {
        "event": "descriptor-leak",
        **header_document(event.header),
        "initiated_by": event.header.initiated_by,
        "library": _instance(event.library),
        "descriptor": event.descriptor,
        "descriptor_target": event.descriptor_target,
        "opened_at": optional_list(event.opened_at, site_document),
    }


def _library_totals(account: LibraryTotals) -> LibraryTotalsDocument:
    return {
        "name": account.name,
        "path": account.path,
        "namespace": account.namespace,
        "open_count_at_start": account.open_count_at_start,
        "opens_by_caller": [_calls(calls) for calls in account.opens_by_caller],
        "closes_by_caller": [_calls(calls) for calls in account.closes_by_caller],
        "closes_without_effect": account.closes_without_effect,
        "open_count_now": account.open_count_now,
        "loaded_now": account.loaded_now,
    }


def _calls(calls: Calls) -> CallsDocument:
    return {"caller": site_document(calls.caller), "initiated_by": calls.initiated_by, "count": calls.total}


def _instance(instance: Optional[LibraryInstance]) -> Optional[InstanceDocument]:
    return None if instance is None else _instance_document(instance)


def _instance_document(instance: LibraryInstance) -> InstanceDocument:
    return {
        "name": instance.name,
        "path": instance.path,
        "namespace": instance.namespace,
        "link_map": hexadecimal(instance.link_map),
        **place_document(instance),
        "build_id": instance.build_id,
    }


def _instances(instances: Iterable[LibraryInstance]) -> list[InstanceDocument]:
    return [_instance_document(instance) for instance in instances]
