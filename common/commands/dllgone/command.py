"""``dllgone``: which DLL used to be at this address?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...windows.model import GoneDlls
from ..arguments import argument
from ..registry import PROCESS_ARGUMENT, Result, Session, command, process_id

if TYPE_CHECKING:
    from argparse import Namespace


_DESCRIPTION = """\
Lists the DLLs that were unloaded, from the loader's own record (RtlGetUnloadEventTraceEx) and from
what the dump or debugger recorded, and which registers and stack words still point into them. With
ADDRESS, names the module that was there, with the offset, and says where that is ambiguous."""


@command(
    "dllgone",
    "name the unloaded DLL that was at an address",
    _DESCRIPTION,
    (
        argument("address", metavar="ADDRESS", nargs="*", help="a number, or an expression of the debugger's"),
        PROCESS_ARGUMENT,
    ),
)
def dllgone(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllgone [ADDRESS]``."""
    from ...windows.gone import find_gone
    from .text import dll_gone_view

    wanted = " ".join(arguments.address)
    answer = find_gone(session.target, session.host.evaluate(wanted) if wanted else None, process_id(arguments.process))
    return Result(
        document=lambda: _document(answer),
        view=lambda verbose: dll_gone_view(answer, verbose),
        has_problems=bool(answer.problems),
        has_findings=bool(answer.gone),
    )


def _document(answer: GoneDlls) -> dict[str, object]:
    from .document import dll_gone_document

    return dll_gone_document("dllgone", answer)
