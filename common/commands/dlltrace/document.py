"""How does a trace of Windows' loader look as JSON: as one document, and as one line per event?"""

from __future__ import annotations

from typing import Any, Optional

from ...render.dll_json import dll_reference, dll_rules, dll_verdict
from ...render.json_parts import SCHEMA, envelope, hexadecimal, problem_documents
from ...render.jsontext import dumps
from ...render.trace_json import account_document, event_document
from ...trace.events import Instance
from ...windows.trace.events import DllClose, DllEvent, DllOpen, DllTrace


def dll_trace_document(command: str, trace: DllTrace) -> dict[str, Any]:
    """Build the document of a trace."""
    return {
        **envelope(command, trace.target, trace.loader),
        "rules": dll_rules(trace.rules),
        "watching": trace.watching,
        "ending": trace.ending,
        "seconds": round(trace.seconds, 3),
        "totals": trace.totals._asdict(),
        "accounts": [{**account_document(each), "pinned": each.path in trace.pinned} for each in trace.accounts],
        "kept": [
            {
                **dll_reference(kept.dll),
                **dll_verdict(kept.dll),
                "times": kept.times,
                "last": kept.close.close.moment.number,
            }
            for kept in trace.kept
        ],
        "mismatches": [dll_event_document(close) for close in trace.mismatches],
        "pins": [dll_event_document(pin) for pin in trace.pins],
        "failures": [dll_event_document(each) for each in trace.failures],
        "problems": problem_documents(trace.problems),
    }


def dump_dll_event(event: DllEvent) -> str:
    """Write an event as a line."""
    return dumps({"schema": SCHEMA, **dll_event_document(event)}) + "\n"


def dll_event_document(event: DllEvent) -> dict[str, Any]:
    """Build the document of an event: that of ELF's, with what only Windows has."""
    if isinstance(event, DllOpen):
        return {
            **event_document(event.open),
            "library": _instance(event.open.library),
            "function": event.function,
            "status": _status(event.status),
            "count_before": event.count_before,
            "count_after": event.count_after,
        }
    if isinstance(event, DllClose):
        return {
            **event_document(event.close),
            "library": _instance(event.close.library),
            "status": _status(event.status),
            "count_before": event.count_before,
            "count_after": event.count_after,
            "refusal": event.refusal,
            "keeps": [{**dll_reference(dll), **dll_verdict(dll)} for dll in event.keeps],
            "detached": list(event.detached),
        }
    return {**event_document(event.pin), "library": _instance(event.pin.library), "function": event.function}


def _status(status: Optional[int]) -> Optional[str]:
    return None if status is None else f"{status:#010x}"


def _instance(instance: Optional[Instance]) -> Optional[dict[str, Any]]:
    if instance is None:
        return None
    return {
        "name": instance.name,
        "path": instance.path,
        "base": hexadecimal(instance.base),
        "entry": hexadecimal(instance.link_map) if instance.link_map else None,
    }
