"""What does the JSON of a DLL verdict contain?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from ..windows.model import (
    Dll,
    DllHold,
    DllHoldKind,
    LoaderRules,
    LoadHolder,
)
from .json_parts import evidence_document, hexadecimal, optional_hexadecimal

if TYPE_CHECKING:
    from .json_types import (
        DllHoldDocument,
        DllReferenceDocument,
        DllRuleDocument,
        DllVerdictDocument,
        KeptDllDocument,
        LoadHolderDocument,
    )


def dll_rules(rules: Sequence[LoaderRules]) -> list[DllRuleDocument]:
    """Build the list of rules, one for each loader."""
    return [{"loader": each.loader, "rule": each.rule.value, "reason": each.reason} for each in rules]


def dll_reference(dll: Dll) -> DllReferenceDocument:
    """Build the reference to a DLL."""
    return {
        "name": dll.name,
        "path": dll.path or None,
        "base": optional_hexadecimal(dll.base or None),
        "range": [hexadecimal(dll.start), hexadecimal(dll.end)] if dll.base and dll.end > dll.start else None,
        "loader": dll.loader,
        "ldr_entry": optional_hexadecimal(dll.ldr_entry or None),
    }


def dll_verdict(dll: Dll) -> DllVerdictDocument:
    """Build the verdict on a DLL."""
    return {"held": dll.held, "holds": [_hold(hold) for hold in dll.holds], "holds_omitted": dll.holds_omitted}


def kept_dll_document(dll: Dll) -> KeptDllDocument:
    """Build the document of a DLL that stays."""
    return {**dll_reference(dll), **dll_verdict(dll)}


def holder_documents(holders: Optional[Sequence[LoadHolder]]) -> Optional[list[LoadHolderDocument]]:
    """Build the list of those whose loads a DLL has, null if they were not looked for."""
    return None if holders is None else [_holder(each) for each in holders]


def _holder(holder: LoadHolder) -> LoadHolderDocument:
    thread = holder.thread
    return {
        "kind": holder.kind.value,
        "address": hexadecimal(holder.address),
        "thread": None if thread is None else {"tid": thread.tid, "name": thread.name},
        "library": holder.library,
        "runtime": holder.runtime,
        "frees_itself": holder.frees_itself,
    }


def _hold(hold: DllHold) -> DllHoldDocument:
    document: DllHoldDocument = {
        "kind": hold.kind.value,
        "evidence": [evidence_document(each) for each in hold.evidence],
    }
    if hold.kind is DllHoldKind.PINNED:
        document["origin"] = None if hold.origin == "unknown" else hold.origin
        document["chain"] = list(hold.chain)
    elif hold.kind is DllHoldKind.STATIC_IMPORT:
        document["chain"] = list(hold.chain)
    elif hold.kind is DllHoldKind.LOAD_COUNT:
        document["count"] = hold.total
        document["holders"] = holder_documents(hold.holders)
    elif hold.kind is DllHoldKind.DEPENDENCY:
        document["chain"] = list(hold.chain)
        kinds = [kind.value for kind in hold.root_kinds]
        document["root"] = {"library": hold.chain[0], "kinds": kinds} if kinds else None
    return document
