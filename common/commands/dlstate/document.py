"""How does an answer look as JSON?

The contract is ``common/data/schema/dlwhy-1.schema.json``: addresses are hex strings, unknown is null, keys are
added and never renamed.  Only facts of the target go in, so that every debugger gives the same document.
"""

from __future__ import annotations

from ...model import (
    Change,
    Evidence,
    Hold,
    HoldKind,
    Library,
    LoaderInfo,
    Outcome,
    Plan,
    Plans,
    Problem,
    State,
    TargetInfo,
    ThreadRef,
    TlsDestructor,
)
from ...render.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Optional


SCHEMA = "dlwhy/1"


def state_document(command: str, state: State) -> dict[str, Any]:
    """Build the document of a state."""
    return {
        **envelope(command, state.target, state.loader),
        "libraries": [_library(library) for library in state.libraries],
        "problems": problem_documents(state.problems),
    }


def plan_document(command: str, plans: Plans) -> dict[str, Any]:
    """Build the document of a prediction: of one close, or of all open libraries."""
    head = envelope(command, plans.target, plans.loader)
    garbage = [library.name for library in plans.garbage]
    if plans.asked is None:
        handles = [_plan(plan) for plan in plans.plans]
        return {**head, "handles": handles, "garbage": garbage, "problems": problem_documents(plans.problems)}
    plan = plans.plans[0]
    return {
        **head,
        **_plan(plan),
        "keeps": [kept_document(library) for library in plan.keeps],
        "change": _change(plan.change) if plan.change else None,
        "garbage": garbage,
        "problems": problem_documents(plans.problems),
    }


def problem_documents(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Build the documents of problems."""
    return [{"where": p.where, "message": p.message} for p in problems]


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "library": _reference(plan.library),
        "open_count": plan.open_count,
        "closes": plan.closes,
        "outcome": plan.outcome.value,
        "unloads": [library.name for library in plan.unloads],
        "unmapped": [
            {**_reference(library), "range": [hexadecimal(library.start), hexadecimal(library.end)]}
            for library in plan.unloads
        ],
        "order": plan.order,
        "order_certain": plan.order_certain,
        "at_least": list(plan.at_least),
        "bytes": plan.size,
        "reopen": None if plan.outcome is Outcome.UNKNOWN else "fresh" if plan.goes else "same",
    }


def _reference(library: Library) -> dict[str, Any]:
    return {
        "name": library.name,
        "path": library.path,
        "namespace": library.namespace,
        "link_map": hexadecimal(library.link_map),
    }


def kept_document(library: Library) -> dict[str, Any]:
    """Build the document of a library that stays."""
    return {
        **_reference(library),
        "held": library.held,
        "holds": [_hold(hold) for hold in library.holds],
        "holds_omitted": library.holds_omitted,
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "possible": change.blocker is None,
        "blocker": kept_document(change.blocker) if change.blocker else None,
        "steps": [
            {
                "action": step.action.value,
                "library": step.library,
                "link_map": hexadecimal(step.link_map),
                "namespace": step.namespace,
                "count": step.total,
                "threads": [_thread(thread) for thread in step.threads],
            }
            for step in change.steps
        ],
    }


def _thread(thread: ThreadRef) -> dict[str, Any]:
    return {"lwp": thread.lwp, "name": thread.name}


def dump(document: dict[str, Any]) -> str:
    """Write a document as text, keys in the order in which they were built."""
    return dumps(document, indent=2) + "\n"


def envelope(command: str, target: TargetInfo, loader: LoaderInfo) -> dict[str, Any]:
    """Build what every document begins with."""
    layout = loader.layout
    return {
        "schema": SCHEMA,
        "command": command,
        "target": {
            "kind": target.kind,
            "os": target.os,
            "arch": target.arch,
            "pid": target.pid,
            "description": target.description,
        },
        "loader": {
            "kind": loader.kind,
            "version": loader.version,
            "layout": {"source": layout.kind.value, "detail": layout.detail} if layout else None,
        },
    }


def hexadecimal(value: Optional[int]) -> Optional[str]:
    """Write an address; unknown is null."""
    return None if value is None else f"{value:#x}"


def _library(library: Library) -> dict[str, Any]:
    return {
        "name": library.name,
        "path": library.path,
        "soname": library.soname,
        "build_id": library.build_id,
        "base": hexadecimal(library.base),
        "range": [hexadecimal(library.start), hexadecimal(library.end)],
        "namespace": library.namespace,
        "link_map": hexadecimal(library.link_map),
        "proxy": library.proxy,
        "fields": dict(library.fields),
        "held": library.held,
        "holds": [_hold(hold) for hold in library.holds],
        "holds_omitted": library.holds_omitted,
    }


def _hold(hold: Hold) -> dict[str, Any]:
    document: dict[str, Any] = {"kind": hold.kind.value, "evidence": [evidence_document(e) for e in hold.evidence]}
    if hold.kind is HoldKind.STARTUP:
        document["origin"] = hold.origin
    elif hold.kind is HoldKind.OPEN_COUNT:
        document["count"] = hold.total
        document["opened_by"] = hold.origin
    elif hold.kind is HoldKind.NODELETE:
        document["origin"] = hold.origin
        document["symbols"] = list(hold.symbols)
        document["symbols_omitted"] = hold.symbols_omitted
        document["early_return"] = hold.early_return
    elif hold.kind is HoldKind.TLS_DESTRUCTORS:
        document["count"] = hold.total
        document["destructors"] = [_destructor(d) for d in hold.destructors]
    elif hold.kind in (HoldKind.DEPENDENCY, HoldKind.RELOCATION):
        document["chain"] = list(hold.chain)
        if hold.root:
            document["root"] = {
                "library": hold.root.library,
                "kinds": [k.value for k in hold.root.kinds],
                "opened_by": hold.root.opened_by,
            }
        if hold.kind is HoldKind.RELOCATION:
            document["symbols"] = list(hold.symbols)
            document["symbols_omitted"] = hold.symbols_omitted
    return document


def evidence_document(evidence: Evidence) -> dict[str, Any]:
    """Build the document of a member that was read."""
    return {
        "address": hexadecimal(evidence.address),
        "expression": evidence.expression,
        "value": evidence.value,
    }


def _destructor(destructor: TlsDestructor) -> dict[str, Any]:
    function = destructor.function
    return {
        "thread": _thread(destructor.thread),
        "function": {
            "address": hexadecimal(function.address) if function.address else None,
            "name": function.name,
            "library": function.library,
        },
        "object": hexadecimal(destructor.object),
    }
