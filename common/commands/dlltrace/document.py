"""What does the JSON of dlltrace contain: the report, and one line per event?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

from ...render.dll_json import dll_rules, kept_dll_document
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
from ...render.trace_json import header_document, site_document, totals_document
from ...trace.events import Calls, LibraryTotals, OpenResult
from ...windows.trace.events import DllClose, DllEvent, DllInstance, DllOpen, DllPin, DllTrace

if TYPE_CHECKING:
    from ...render.json_types import (
        DllCallsDocument,
        DllCloseDocument,
        DllEventDocument,
        DllInstanceDocument,
        DllOpenDocument,
        DllPinDocument,
        DllTotalsDocument,
        DlltraceDocument,
    )


def dll_trace_document(command: str, trace: DllTrace) -> DlltraceDocument:
    """Build the document of a trace."""
    return {
        **envelope(command, trace.target, trace.loader),
        "rules": dll_rules(trace.rules),
        "filter": list(trace.filter),
        "watching": trace.watching,
        "end_reason": trace.end_reason,
        "duration_seconds": round(trace.duration_seconds, 3),
        "totals": totals_document(trace.totals),
        "library_totals": [_library_totals(each) for each in trace.library_totals],
        "kept": [
            {**kept_dll_document(kept.dll), "times_kept": kept.times_kept, "last_event": kept.last_event.header.number}
            for kept in trace.kept
        ],
        "closes_mispredicted": [dll_event_document(close) for close in trace.closes_mispredicted],
        "opens_failed": [dll_event_document(each) for each in trace.opens_failed],
        "pins": [dll_event_document(pin) for pin in trace.pins],
        "problems": problem_documents(trace.problems),
    }


def dump_dll_event(event: DllEvent) -> str:
    """Write an event as a line."""
    return dumps({"schema": SCHEMA, **dll_event_document(event)}) + "\n"


def dll_event_document(event: DllEvent) -> DllEventDocument:
    """Build the document of an event."""
    if isinstance(event, DllOpen):
        return _open_document(event)
    if isinstance(event, DllClose):
        return _close_document(event)
    return _pin_document(event)


def _open_document(event: DllOpen) -> DllOpenDocument:
    has_ended = event.result is not OpenResult.UNKNOWN
    return {
        "event": "open",
        **header_document(event.header),
        "library": _instance(event.library),
        "ntdll_function": event.ntdll_function,
        "requested": event.requested,
        "flags": event.flags,
        "result": event.result.value,
        "ntstatus": _ntstatus(event.ntstatus),
        "loaded": _instances(event.loaded) if has_ended else None,
        "unloaded": _instances(event.unloaded) if has_ended else None,
        "load_count_before": event.load_count_before,
        "load_count_after": event.load_count_after,
    }


def _close_document(event: DllClose) -> DllCloseDocument:
    return {
        "event": "close",
        **header_document(event.header),
        "library": _instance(event.library),
        "load_count_before": event.load_count_before,
        "load_count_after": event.load_count_after,
        "ntstatus": _ntstatus(event.ntstatus),
        "predicted_outcome": event.predicted_outcome.value,
        "refusal": event.refusal,
        "predicted_unloads": optional_names(event.predicted_unloads),
        "may_unload_more": optional_list(event.may_unload_more, str),
        "kept": optional_list(event.kept, kept_dll_document),
        "unloaded": optional_list(event.unloaded, _instance_document),
        "unloaded_by_nested_closes": optional_names(event.unloaded_by_nested_closes),
        "predicted_but_kept": optional_names(event.predicted_but_kept),
        "unloaded_but_not_predicted": optional_names(event.unloaded_but_not_predicted),
        "predicted_exactly": event.predicted_exactly,
        "got_process_detach": optional_list(event.got_process_detach, str),
    }


def _pin_document(event: DllPin) -> DllPinDocument:
    return {
        "event": "pin",
        **header_document(event.header),
        "library": _instance(event.library),
        "ntdll_function": event.ntdll_function,
    }


def _library_totals(account: LibraryTotals) -> DllTotalsDocument:
    return {
        "name": account.name,
        "path": account.path,
        "loadlibrary_count_at_start": account.open_count_at_start,
        "opens_by_caller": [_calls(calls) for calls in account.opens_by_caller],
        "closes_by_caller": [_calls(calls) for calls in account.closes_by_caller],
        "closes_without_effect": account.closes_without_effect,
        "loadlibrary_count_now": account.open_count_now,
        "loaded_now": account.loaded_now,
        "pinned_now": account.pinned_now,
    }


def _calls(calls: Calls) -> DllCallsDocument:
    return {"caller": site_document(calls.caller), "count": calls.total}


def _ntstatus(status: Optional[int]) -> Optional[str]:
    return None if status is None else f"{status:#010x}"


def _instances(instances: Iterable[DllInstance]) -> list[DllInstanceDocument]:
    return [_instance_document(instance) for instance in instances]


def _instance(instance: Optional[DllInstance]) -> Optional[DllInstanceDocument]:
    return None if instance is None else _instance_document(instance)


def _instance_document(instance: DllInstance) -> DllInstanceDocument:
    end = instance.base + instance.size
    return {
        "name": instance.name,
        "path": instance.path,
        "base": hexadecimal(instance.base),
        "range": [hexadecimal(instance.base), hexadecimal(end)] if instance.size else None,
        "ldr_entry": optional_hexadecimal(instance.ldr_entry or None),
        "timestamp": instance.timestamp,
    }
