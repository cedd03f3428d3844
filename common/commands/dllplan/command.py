"""How is ``dllplan`` run?"""

from __future__ import annotations

from argparse import Namespace

from ...errors import UsageError
from ...windows.plan import plan_free, rank_frees
from ..arguments import number_or_all, process_id
from ..session import Result, Session, document_by
from .text import dll_plan_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllplan DLL`` and ``dllplan --all``."""
    wanted = " ".join(arguments.dll)
    if bool(wanted) == arguments.all:
        raise UsageError("name one DLL, or give --all; see help dllplan")
    default = "all" if arguments.all else "1"
    frees = number_or_all("--frees", default if arguments.frees is None else arguments.frees)
    pid = process_id(arguments.process)
    if arguments.all:
        plans = rank_frees(session.target, frees, pid)
    else:
        plans = plan_free(session.target, wanted, session.host.evaluate, frees, pid)

    return Result(
        document=document_by("dllplan", "dll_plan_document", plans),
        view=lambda verbose: dll_plan_view(plans, verbose),
        has_problems=bool(plans.problems),
        has_findings=plans.asked is not None and not plans.plans[0].is_unloaded,
    )
