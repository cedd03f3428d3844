"""How is ``dlstate`` run?"""

from __future__ import annotations

from argparse import Namespace

from ...linux.state.examine import explain, explain_chosen
from ..session import Result, Session, document_by
from .text import state_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dlstate [LIBRARY]``."""
    wanted = " ".join(arguments.library)
    if arguments.library:
        from ...linux.state.matching import select  # the list of all libraries does not need it

        state = explain_chosen(
            session.target, lambda libraries: select(libraries, wanted, session.host.evaluate), wanted
        )._replace(asked=wanted)
    else:
        state = explain(session.target, brief=not arguments.json)

    return Result(
        document=document_by("dlstate", "state_document", state),
        view=lambda verbose: state_view(state, verbose),
        has_problems=bool(state.problems),
        has_findings=bool(wanted) and any(library.held for library in state.libraries),
    )
