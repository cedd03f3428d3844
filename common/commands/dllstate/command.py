"""How is ``dllstate`` run?"""

from __future__ import annotations

from argparse import Namespace

from ...windows.state import explain_chosen_dlls, explain_dlls
from ..arguments import process_id
from ..session import Result, Session, document_by
from .text import dll_state_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllstate [DLL]``."""
    wanted = " ".join(arguments.dll)
    pid = process_id(arguments.process)
    if arguments.dll:
        state = explain_chosen_dlls(session.target, wanted, session.host.evaluate, pid)
    else:
        state = explain_dlls(session.target, pid, brief=not arguments.json)

    return Result(
        document=document_by("dllstate", "dll_state_document", state),
        view=lambda verbose: dll_state_view(state, verbose),
        has_problems=bool(state.problems),
        has_findings=bool(wanted) and any(dll.held for dll in state.dlls),
    )
