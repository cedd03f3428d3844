"""How does the answer of dllplan look as JSON?"""

from __future__ import annotations

from typing import Any

from ...render.dll_json import dll_reference, dll_rules, dll_verdict
from ...render.json_parts import envelope, problem_documents
from ...windows.model import DllPlan, DllPlans


def dll_plan_document(command: str, plans: DllPlans) -> dict[str, Any]:
    """Build the document of a prediction."""
    return {
        **envelope(command, plans.target, plans.loader),
        "rules": dll_rules(plans.rules),
        **_plan(plans.plan),
        "problems": problem_documents(plans.problems),
    }


def _plan(plan: DllPlan) -> dict[str, Any]:
    return {
        "library": dll_reference(plan.dll),
        "rule": plan.rule.value,
        "load_count": plan.load_count,
        "own_count": plan.own_count,
        "count_left": plan.count_left,
        "over_freed": plan.over_freed,
        "closes": plan.frees,
        "outcome": plan.outcome.value,
        "refusal": plan.refusal,
        "unloads": [dll.name for dll in plan.unloads],
        "unmapped": [{**dll_reference(dll), "detached": dll.base in plan.detached} for dll in plan.unloads],
        "order": plan.order,
        "order_certain": plan.order_certain,
        "at_least": list(plan.at_least),
        "cycles": [list(cycle) for cycle in plan.cycles],
        "cycle_entries": [
            {"library": each.dll, "unloads": list(each.unloads), "pins": list(each.pins)} for each in plan.cycle_entries
        ],
        "bytes": plan.size,
        "keeps": [{**dll_reference(dll), **dll_verdict(dll)} for dll in plan.keeps],
        "steps": [{"library": step.dll, "count": step.total} for step in plan.steps],
        "blocker": {**dll_reference(plan.blocker), **dll_verdict(plan.blocker)} if plan.blocker else None,
    }
