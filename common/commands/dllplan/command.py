"""How is ``dllplan`` run?"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

from ...windows.plan import plan_free
from ..arguments import number_or_all, process_id
from ..session import Result, Session
from .text import dll_plan_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllplan DLL``."""
    plans = plan_free(
        session.target,
        " ".join(arguments.dll),
        session.host.evaluate,
        number_or_all("--frees", arguments.frees),
        process_id(arguments.process),
    )

    def document() -> Mapping[str, object]:
        from .document import dll_plan_document  # most users want the text

        return dll_plan_document("dllplan", plans)

    return Result(
        document=document,
        view=lambda verbose: dll_plan_view(plans, verbose),
        has_problems=bool(plans.problems),
        has_findings=not plans.plan.is_unloaded,
    )
