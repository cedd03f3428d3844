"""What does the JSON of dllstate contain?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...render.dll_json import dll_reference, dll_rules, dll_verdict
from ...render.json_parts import envelope, optional_hexadecimal, optional_list, problem_documents
from ...windows.model import (
    Dll,
    DllState,
)

if TYPE_CHECKING:
    from ...render.json_types import DllDocument, DllstateDocument


def dll_state_document(command: str, state: DllState) -> DllstateDocument:
    """Build the document of a state."""
    return {
        **envelope(command, state.target, state.loader),
        "rules": dll_rules(state.rules),
        "process_exiting": state.process_exiting,
        "loader_lock_owner": state.lock_owner,
        "libraries": [_dll(dll) for dll in state.dlls],
        "problems": problem_documents(state.problems),
    }


def _dll(dll: Dll) -> DllDocument:
    orders = dll.list_positions
    return {
        **dll_reference(dll),
        "load_count": dll.load_count,
        "loadlibrary_count": dll.loadlibrary_count,
        "ddag_node": optional_hexadecimal(dll.ddag_node or None),
        "list_positions": {"load": orders.load, "memory": orders.memory, "initialization": orders.initialization},
        "fields": dict(dll.fields),
        "load_reason": dll.load_reason,
        "ddag_state": dll.ddag_state,
        "first_loaded_by": dll.first_loaded_by,
        "imports": optional_list(dll.imports, str),
        "importers": optional_list(dll.importers, str),
        "import_cycle": optional_list(dll.import_cycle, str),
        **dll_verdict(dll),
    }
