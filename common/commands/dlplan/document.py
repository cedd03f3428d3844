"""How does the answer of dlplan look as JSON?"""

from __future__ import annotations

from typing import Any

from ...linux.plan_model import Change, Plan, Plans
from ...model import Outcome
from ...render.json_parts import envelope, hexadecimal, problem_documents
from ...render.library_json import kept_document, library_reference, thread_document


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


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "library": library_reference(plan.library),
        "open_count": plan.open_count,
        "closes": plan.closes,
        "outcome": plan.outcome.value,
        "unloads": [library.name for library in plan.unloads],
        "unmapped": [
            {**library_reference(library), "range": [hexadecimal(library.start), hexadecimal(library.end)]}
            for library in plan.unloads
        ],
        "order": plan.order,
        "order_certain": plan.order_certain,
        "at_least": list(plan.at_least),
        "bytes": plan.size,
        "reopen": None if plan.outcome is Outcome.UNKNOWN else "fresh" if plan.goes else "same",
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
                "threads": [thread_document(thread) for thread in step.threads],
            }
            for step in change.steps
        ],
    }
