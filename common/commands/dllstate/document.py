"""How do answers about DLLs look as JSON?  The contract is that of `jsonout`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...windows.model import (
    Dll,
    DllHold,
    DllHoldKind,
    DllPlan,
    DllPlans,
    DllState,
    GoneDll,
    GoneDlls,
    LoaderRules,
    Pointer,
)
from ..dlstate.document import envelope, evidence_document, hexadecimal, problem_documents


def dll_state_document(command: str, state: DllState) -> dict[str, Any]:
    """Build the document of a state."""
    return {
        **envelope(command, state.target, state.loader),
        "rules": dll_rules(state.rules),
        "shutdown": state.shutdown,
        "libraries": [_dll(dll) for dll in state.dlls],
        "problems": problem_documents(state.problems),
    }


def dll_plan_document(command: str, plans: DllPlans) -> dict[str, Any]:
    """Build the document of a prediction."""
    return {
        **envelope(command, plans.target, plans.loader),
        "rules": dll_rules(plans.rules),
        **_plan(plans.plan),
        "problems": problem_documents(plans.problems),
    }


def dll_gone_document(command: str, answer: GoneDlls) -> dict[str, Any]:
    """Build the document of what was unloaded."""
    return {
        **envelope(command, answer.target, answer.loader),
        "address": hexadecimal(answer.address),
        "loaded": answer.loaded,
        "lost": answer.lost,
        "unloaded": [_gone(gone) for gone in answer.gone],
        "problems": problem_documents(answer.problems),
    }


def dll_rules(rules: Sequence[LoaderRules]) -> list[dict[str, str]]:
    """Build the list of rules, one for each loader."""
    return [{"loader": each.loader, "rule": each.rule.value, "reason": each.reason} for each in rules]


def dll_reference(dll: Dll) -> dict[str, Any]:
    """Build what names a DLL."""
    return {
        "name": dll.name,
        "path": dll.path,
        "base": hexadecimal(dll.base),
        "range": [hexadecimal(dll.start), hexadecimal(dll.end)],
        "loader": dll.loader,
        "entry": hexadecimal(dll.entry) if dll.entry else None,
    }


def _dll(dll: Dll) -> dict[str, Any]:
    return {
        **dll_reference(dll),
        "node": hexadecimal(dll.node) if dll.node else None,
        "orders": dll.orders._asdict(),
        "fields": dict(dll.fields),
        "load_reason": dll.load_reason,
        "state": dll.state,
        "loaded_by": dll.loaded_by,
        "imports": list(dll.imports),
        "importers": list(dll.importers),
        "cycle": list(dll.cycle),
        **dll_verdict(dll),
    }


def dll_verdict(dll: Dll) -> dict[str, Any]:
    """Build the verdict on a DLL."""
    return {"held": dll.held, "holds": [_hold(hold) for hold in dll.holds], "holds_omitted": dll.holds_omitted}


def _hold(hold: DllHold) -> dict[str, Any]:
    document: dict[str, Any] = {
        "kind": hold.kind.value,
        "evidence": [evidence_document(each) for each in hold.evidence],
    }
    if hold.kind is DllHoldKind.PINNED:
        document["origin"] = hold.origin
        document["chain"] = list(hold.chain)
    elif hold.kind is DllHoldKind.STATIC_IMPORT:
        document["chain"] = list(hold.chain)
    elif hold.kind is DllHoldKind.LOAD_COUNT:
        document["count"] = hold.total
    elif hold.kind is DllHoldKind.DEPENDENCY:
        document["chain"] = list(hold.chain)
        kinds = [kind.value for kind in hold.root_kinds]
        document["root"] = {"library": hold.chain[0], "kinds": kinds} if kinds else None
    return document


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


def _gone(gone: GoneDll) -> dict[str, Any]:
    image = gone.image
    return {
        "name": image.name,
        "range": [hexadecimal(image.base), hexadecimal(image.base + image.size)],
        "timestamp": image.timestamp,
        "checksum": image.checksum,
        "sequence": image.sequence,
        "symbol": None,
        "offset": gone.offset,
        "confidence": gone.confidence,
        "evidence": list(gone.sources),
        "pointers": [_pointer(pointer) for pointer in gone.pointers],
        "pointers_omitted": gone.pointers_omitted,
    }


def _pointer(pointer: Pointer) -> dict[str, Any]:
    return {
        "thread": {"lwp": pointer.thread.lwp, "name": pointer.thread.name},
        "value": hexadecimal(pointer.value),
        "register": pointer.register,
        "address": hexadecimal(pointer.address),
    }
