"""How is ``dlstate`` answered?"""

from __future__ import annotations

from argparse import Namespace

from ...errors import NotFoundError
from ...linux.state.examine import explain
from ...linux.state.matching import select
from ..session import Result, Session
from .document import state_document
from .text import state_view


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dlstate [LIBRARY]``."""
    wanted = " ".join(arguments.library)
    state = explain(session.target, brief=not (wanted or arguments.json))
    if wanted:
        try:
            chosen = select(state.libraries, wanted, session.host.evaluate)
        except NotFoundError as error:
            error.add(state.problems)
            raise
        state = state._replace(libraries=chosen, asked=wanted)
    return Result(
        document=lambda: state_document("dlstate", state),
        view=lambda verbose: state_view(state, verbose),
        has_problems=bool(state.problems),
        has_findings=bool(wanted) and any(library.held for library in state.libraries),
    )
