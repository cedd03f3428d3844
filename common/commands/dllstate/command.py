"""How is ``dllstate`` answered?"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

from ...errors import NotFoundError
from ...windows.state import explain_dlls, select_dlls
from ..arguments import process_id
from ..session import Result, Session
from .text import dll_state_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllstate [DLL]``."""
    wanted = " ".join(arguments.dll)
    state = explain_dlls(session.target, process_id(arguments.process))
    if arguments.dll:
        try:
            state = state._replace(dlls=select_dlls(state.dlls, wanted, session.host.evaluate), asked=wanted)
        except NotFoundError as error:
            error.add(state.problems)
            raise

    def document() -> Mapping[str, object]:
        from .document import dll_state_document  # most want the text

        return dll_state_document("dllstate", state)

    return Result(
        document=document,
        view=lambda verbose: dll_state_view(state, verbose),
        has_problems=bool(state.problems),
        has_findings=bool(wanted) and any(dll.held for dll in state.dlls),
    )
