"""How does a trace look as JSON: as one document, and as one line per event?"""

from __future__ import annotations

from typing import Any

from ...linux.trace.events import Event, Trace
from ...render.json_parts import SCHEMA, envelope, problem_documents
from ...render.jsontext import dumps
from ...render.library_json import kept_document
from ...render.trace_json import account_document, event_document


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
