"""What does the JSON of dllplan contain?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Union

from ...model import Outcome
from ...render.dll_json import dll_reference, dll_rules, holder_documents, kept_dll_document
from ...render.json_parts import envelope, problem_documents
from ...windows.model import DllPlan, DllPlans

if TYPE_CHECKING:
    from ...render.json_types import (
        DllplanAllDocument,
        DllplanDocument,
        DllPredictionDocument,
        DllRemedyDocument,
        DyingDllDocument,
    )


def dll_plan_document(command: str, plans: DllPlans) -> Union[DllplanDocument, DllplanAllDocument]:
    """Build the document of a prediction: of one DLL, or of all that LoadLibrary has loaded."""
    head = envelope(command, plans.target, plans.loader)
    rules, problems = dll_rules(plans.rules), problem_documents(plans.problems)
    if plans.asked is None:
        return {**head, "rules": rules, "plans": [_prediction(plan) for plan in plans.plans], "problems": problems}
    (plan,) = plans.plans
    is_known = plan.outcome is not Outcome.UNKNOWN
    return {
        **head,
        "rules": rules,
        **_prediction(plan),
        "import_cycles": [list(cycle) for cycle in plan.import_cycles] if is_known else None,
        "import_cycle_alternatives": [
            {"library": each.library, "would_unload": list(each.would_unload), "would_pin": list(each.would_pin)}
            for each in plan.import_cycle_alternatives
        ]
        if is_known
        else None,
        "kept": [kept_dll_document(dll) for dll in plan.kept] if is_known else None,
        "remedy": _remedy(plan),
        "load_holders": holder_documents(plan.holders),
        "problems": problems,
    }


def _prediction(plan: DllPlan) -> DllPredictionDocument:
    is_known = plan.outcome is not Outcome.UNKNOWN
    return {
        "library": dll_reference(plan.library),
        "rule": plan.rule.value,
        "load_count": plan.load_count,
        "loadlibrary_count": plan.loadlibrary_count,
        "load_count_after": plan.load_count_after,
        "close_count": plan.close_count,
        "excess_closes": plan.excess_closes,
        "outcome": plan.outcome.value,
        "refusal": None if plan.refusal == "unknown" else plan.refusal,
        "unloads": _unloads(plan) if is_known else None,
        "order_algorithm": plan.order_algorithm,
        "order_certain": plan.order_certain,
        "may_unload_more": list(plan.may_unload_more) if is_known else None,
        "unload_bytes": _unload_bytes(plan),
    }


def _unload_bytes(plan: DllPlan) -> Optional[int]:
    are_sizes_known = all(dll.end > dll.start for dll in plan.unloads)
    return plan.unload_bytes if plan.outcome is not Outcome.UNKNOWN and are_sizes_known else None


def _unloads(plan: DllPlan) -> list[DyingDllDocument]:
    return [{**dll_reference(dll), "gets_process_detach": dll.base in plan.gets_process_detach} for dll in plan.unloads]


def _remedy(plan: DllPlan) -> Optional[DllRemedyDocument]:
    if plan.is_unloaded or plan.outcome is Outcome.UNKNOWN or not (plan.steps or plan.blocker):
        return None
    return {
        "possible": plan.blocker is None,
        "blocker": kept_dll_document(plan.blocker) if plan.blocker else None,
        "steps": [{"action": "close", "library": step.library, "count": step.total} for step in plan.steps],
    }
