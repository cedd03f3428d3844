"""How is ``dllgone`` run?"""

from __future__ import annotations

from argparse import Namespace

from ...windows.gone import find_gone
from ..arguments import process_id
from ..session import Result, Session, document_by
from .text import dll_gone_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllgone [ADDRESS]``."""
    wanted = " ".join(arguments.address)
    answer = find_gone(session.target, session.host.evaluate(wanted) if wanted else None, process_id(arguments.process))

    return Result(
        document=document_by("dllgone", "dll_gone_document", answer),
        view=lambda verbose: dll_gone_view(answer, verbose),
        has_problems=bool(answer.problems),
        has_findings=bool(answer.unloaded),
    )
