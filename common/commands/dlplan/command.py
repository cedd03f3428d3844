"""How is ``dlplan`` run?"""

from __future__ import annotations

from argparse import Namespace

from ...errors import UsageError
from ...linux.plan import plan_all, plan_close
from ..arguments import number_or_all
from ..session import Result, Session, document_by
from .text import plan_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dlplan LIBRARY`` and ``dlplan --all``."""
    wanted = " ".join(arguments.library)
    if bool(wanted) == arguments.all:
        raise UsageError("name one library, or give --all; see help dlplan")
    default = "all" if arguments.all else "1"
    closes = number_or_all("--closes", default if arguments.closes is None else arguments.closes)
    if arguments.all:
        plans = plan_all(session.target, closes)
    else:
        plans = plan_close(session.target, wanted, session.host.evaluate, closes)

    return Result(
        document=document_by("dlplan", "plan_document", plans),
        view=lambda verbose: plan_view(plans, verbose),
        has_problems=bool(plans.problems),
        has_findings=plans.asked is not None and not plans.plans[0].is_unloaded,
    )
