"""What does the JSON of dlplan contain?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from ...linux.plan_model import Closer, Plan, Plans, Remedy, ThreadInside
from ...model import Outcome
from ...render.json_parts import envelope, hexadecimal, optional_names, problem_documents
from ...render.library_json import (
    function_document,
    kept_document,
    library_reference,
    rebuild_document,
    thread_document,
)

if TYPE_CHECKING:
    from ...render.json_types import (
        CloserDocument,
        DlplanAllDocument,
        DlplanDocument,
        PlanDocument,
        RemedyDocument,
        ThreadInsideDocument,
    )


def plan_document(command: str, plans: Plans) -> Union[DlplanDocument, DlplanAllDocument]:
    """Build the document of a prediction: of one close, or of all open libraries."""
    head = envelope(command, plans.target, plans.loader)
    garbage = optional_names(plans.garbage)
    if plans.asked is None:
        found = [_plan(plan) for plan in plans.plans]
        return {**head, "plans": found, "garbage": garbage, "problems": problem_documents(plans.problems)}
    plan = plans.plans[0]
    return {
        **head,
        **_plan(plan),
        "kept": None if plan.outcome is Outcome.UNKNOWN else [kept_document(library) for library in plan.kept],
        "remedy": _remedy(plan.remedy) if plan.remedy else None,
        "garbage": garbage,
        "problems": problem_documents(plans.problems),
    }


def _plan(plan: Plan) -> PlanDocument:
    is_known = plan.outcome is not Outcome.UNKNOWN
    return {
        "library": library_reference(plan.library),
        "open_count": plan.open_count,
        "close_count": plan.close_count,
        "outcome": plan.outcome.value,
        "unloads": [library_reference(library) for library in plan.unloads] if is_known else None,
        "order_algorithm": plan.order_algorithm,
        "order_certain": plan.order_certain,
        "may_unload_more": list(plan.may_unload_more) if is_known else None,
        "imports_unread": list(plan.imports_unread) if is_known else None,
        "closers": [_closer(closer) for closer in plan.closers] if is_known else None,
        "unload_bytes": plan.unload_bytes if is_known else None,
        "statics_after_reopen": ("fresh" if plan.is_unloaded else "same") if is_known else None,
        "threads_inside": [_thread_inside(each) for each in plan.threads_inside] if is_known else None,
        "threads_unknown": plan.threads_unknown if is_known else None,
    }


def _closer(closer: Closer) -> CloserDocument:
    through = closer.through
    return {
        "library": closer.library,
        "way": closer.way.value,
        "through": function_document(through) if through is not None else None,
    }


def _thread_inside(inside: ThreadInside) -> ThreadInsideDocument:
    return {
        "library": inside.library,
        "link_map": hexadecimal(inside.link_map),
        "thread": thread_document(inside.thread),
        "certain": inside.certain,
    }


def _remedy(remedy: Remedy) -> RemedyDocument:
    return {
        "possible": remedy.is_possible,
        "blocker": kept_document(remedy.blocker) if remedy.blocker else None,
        "rebuild": rebuild_document(remedy.rebuild) if remedy.rebuild else None,
        "steps": [
            {
                "action": step.action.value,
                "library": step.library,
                "link_map": hexadecimal(step.link_map),
                "namespace": step.namespace,
                "count": step.total,
                "threads": [thread_document(thread) for thread in step.threads],
            }
            for step in remedy.steps
        ],
    }
