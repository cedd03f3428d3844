"""How is ``dllgone`` run?"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

from ...windows.gone import find_gone
from ..arguments import process_id
from ..session import Result, Session
from .text import dll_gone_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dllgone [ADDRESS]``."""
    wanted = " ".join(arguments.address)
    answer = find_gone(session.target, session.host.evaluate(wanted) if wanted else None, process_id(arguments.process))

    def document() -> Mapping[str, object]:
        from .document import dll_gone_document  # most users want the text

        return dll_gone_document("dllgone", answer)

    return Result(
        document=document,
        view=lambda verbose: dll_gone_view(answer, verbose),
        has_problems=bool(answer.problems),
        has_findings=bool(answer.unloaded),
    )
