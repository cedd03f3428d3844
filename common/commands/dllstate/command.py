"""``dllstate``: why does FreeLibrary not unload this DLL?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import NotFoundError
from ...windows.model import DllState
from ..arguments import argument
from ..registry import PROCESS_ARGUMENT, Result, Session, command, process_id

if TYPE_CHECKING:
    from argparse import Namespace


_DESCRIPTION = """\
Says for each module of a process of Windows whether FreeLibrary can unload it: its true load count
(LDR_DDAG_NODE.LoadCount since Windows 8), pins and what caused them, who imports it, and what would
make it go. Without an argument, lists all modules of all loaders.

DLL is a name with or without .dll, the end of a path, a pattern (api*), or an address inside it."""


@command(
    "dllstate",
    "explain why a DLL of Windows is still loaded",
    _DESCRIPTION,
    (argument("dll", metavar="DLL", nargs="*", completes_libraries=True, help="the DLL to explain"), PROCESS_ARGUMENT),
)
def dllstate(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllstate [DLL]``."""
    from ...windows.state import explain_dlls, select_dlls
    from .text import dll_state_view

    wanted = " ".join(arguments.dll)
    state = explain_dlls(session.target, process_id(arguments.process))
    if wanted:
        try:
            state = state._replace(dlls=select_dlls(state.dlls, wanted, session.host.evaluate), asked=wanted)
        except NotFoundError as error:
            error.add(state.problems)
            raise
    return Result(
        document=lambda: _document(state),
        view=lambda verbose: dll_state_view(state, verbose),
        has_problems=bool(state.problems),
        has_findings=bool(wanted) and any(dll.held for dll in state.dlls),
    )


def _document(state: DllState) -> dict[str, object]:
    from .document import dll_state_document

    return dll_state_document("dllstate", state)
