"""How does a verdict on a DLL look as JSON?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..windows.model import (
    Dll,
    DllHold,
    DllHoldKind,
    LoaderRules,
)
from .json_parts import evidence_document, hexadecimal


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
