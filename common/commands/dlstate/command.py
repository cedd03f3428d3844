"""``dlstate``: why is this library still loaded?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import NotFoundError
from ...linux.state.examine import explain
from ..arguments import argument
from ..registry import Result, Session, command
from .text import state_view

if TYPE_CHECKING:
    from argparse import Namespace

    from ...linux.model import State


_DESCRIPTION = """\
Says whether dlclose can unload it, every reason why not with its evidence, and what would make it go.
Without an argument, lists all libraries of all namespaces.

LIBRARY is a name (libB.so), soname, end of a path, or pattern (libB*), or an expression for an
address inside the library ($pc); a leading & says that it is a link_map pointer (a handle of dlopen)."""


@command(
    "dlstate",
    "explain why a shared library is still loaded",
    _DESCRIPTION,
    (argument("library", metavar="LIBRARY", nargs="*", completes_libraries=True, help="the library to explain"),),
)
def dlstate(session: Session, arguments: Namespace) -> Result:
    """Answer ``dlstate [LIBRARY]``."""
    wanted = " ".join(arguments.library)
    state = explain(session.target, brief=not (wanted or arguments.json))
    if wanted:
        from ...linux.state.matching import select

        try:
            chosen = select(state.libraries, wanted, session.host.evaluate)
        except NotFoundError as error:
            error.add(state.problems)
            raise
        state = state._replace(libraries=chosen, asked=wanted)
    return Result(
        document=lambda: _document(state),
        view=lambda verbose: state_view(state, verbose),
        has_problems=bool(state.problems),
        has_findings=bool(wanted) and any(library.held for library in state.libraries),
    )


def _document(state: State) -> dict[str, object]:
    from .document import state_document

    return state_document("dlstate", state)
