"""How do answers about DLLs look as JSON?  The contract is that of `jsonout`."""

from __future__ import annotations

from typing import Any

from ...render.dll_json import dll_reference, dll_rules, dll_verdict
from ...render.json_parts import envelope, hexadecimal, problem_documents
from ...windows.model import (
    Dll,
    DllState,
)


def dll_state_document(command: str, state: DllState) -> dict[str, Any]:
    """Build the document of a state."""
    return {
        **envelope(command, state.target, state.loader),
        "rules": dll_rules(state.rules),
        "shutdown": state.shutdown,
        "libraries": [_dll(dll) for dll in state.dlls],
        "problems": problem_documents(state.problems),
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
