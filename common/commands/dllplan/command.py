"""``dllplan``: what would FreeLibrary do?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...windows.model import DllPlans
from ..arguments import argument, number_or_all
from ..registry import PROCESS_ARGUMENT, Result, Session, command, process_id

if TYPE_CHECKING:
    from argparse import Namespace


_DESCRIPTION = """\
Predicts which DLLs FreeLibrary unloads, in which order their DllMain gets DLL_PROCESS_DETACH, which
ones stay and why, the import cycles on the way, and what else must be freed to make the DLL go.
Nothing is freed, and nothing is written.

DLL is a name with or without .dll, the end of a path, or an address inside it (its handle)."""


@command(
    "dllplan",
    "predict what FreeLibrary would unload",
    _DESCRIPTION,
    (
        argument("dll", metavar="DLL", nargs="+", completes_libraries=True, help="the DLL to free"),
        argument("--frees", metavar="N", default="1", help="how often it is freed; 'all': as often as it was loaded"),
        PROCESS_ARGUMENT,
    ),
)
def dllplan(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllplan DLL``."""
    from ...windows.plan import plan_free
    from .text import dll_plan_view

    plans = plan_free(
        session.target,
        " ".join(arguments.dll),
        session.host.evaluate,
        number_or_all("--frees", arguments.frees),
        process_id(arguments.process),
    )
    return Result(
        document=lambda: _document(plans),
        view=lambda verbose: dll_plan_view(plans, verbose),
        has_problems=bool(plans.problems),
        has_findings=not plans.plan.goes,
    )


def _document(plans: DllPlans) -> dict[str, object]:
    from .document import dll_plan_document

    return dll_plan_document("dllplan", plans)
