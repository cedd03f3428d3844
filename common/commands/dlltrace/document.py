"""How does a trace of Windows' loader look as JSON: as one document, and as one line per event?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

from ...render.dll_json import dll_reference, dll_rules, dll_verdict
from ...render.json_parts import SCHEMA, envelope, hexadecimal, problem_documents
from ...render.jsontext import dumps
from ...render.trace_json import account_document, moment_document
from ...windows.trace.events import DllClose, DllEvent, DllInstance, DllOpen, DllTrace


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
                "last": kept.close.moment.number,
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
    """Build the document of an event; what only ELF's events have is said to be nothing."""
    if isinstance(event, DllOpen):
        return _open_document(event)
    if isinstance(event, DllClose):
        return _close_document(event)
    return {
        "event": "pin",
        **moment_document(event.moment),
        "library": _instance(event.library),
        "origin": "explicit",
        "symbols": [],
        "symbols_omitted": 0,
        "lookups": [],
        "function": event.function,
    }


def _open_document(event: DllOpen) -> dict[str, Any]:
    return {
        "event": "open",
        **moment_document(event.moment),
        "requested": event.requested,
        "flags": event.flags,
        "space": 0,
        "result": event.result.value,
        "library": _instance(event.library),
        "added": _names(event.added),
        "went": _names(event.went),
        "function": event.function,
        "status": _status(event.status),
        "count_before": event.count_before,
        "count_after": event.count_after,
    }


def _close_document(event: DllClose) -> dict[str, Any]:
    return {
        "event": "close",
        **moment_document(event.moment),
        "library": _instance(event.library),
        "handle": None,
        "open_count": event.count_before or 0,
        "outcome": event.outcome.value,
        "predicted": _names(event.predicted),
        "remarked": _names(event.remarked),
        "adds": [],
        "at_least": list(event.at_least),
        "keeps": [{**dll_reference(dll), **dll_verdict(dll)} for dll in event.keeps],
        "went": _names(event.went) if event.ended else None,
        "stayed": _names(event.stayed),
        "surprises": _names(event.surprises),
        "exact": event.is_exact if event.ended else None,
        "status": _status(event.status),
        "count_before": event.count_before,
        "count_after": event.count_after,
        "refusal": event.refusal,
        "detached": list(event.detached),
    }


def _status(status: Optional[int]) -> Optional[str]:
    return None if status is None else f"{status:#010x}"


def _names(instances: Iterable[DllInstance]) -> list[str]:
    return [instance.name for instance in instances]


def _instance(instance: Optional[DllInstance]) -> Optional[dict[str, Any]]:
    if instance is None:
        return None
    return {
        "name": instance.name,
        "path": instance.path,
        "base": hexadecimal(instance.base),
        "entry": hexadecimal(instance.entry) if instance.entry else None,
    }
