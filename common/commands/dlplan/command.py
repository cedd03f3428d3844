"""``dlplan``: what would this close do?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UsageError
from ..arguments import argument, number_or_all
from ..registry import Result, Session, command

if TYPE_CHECKING:
    from argparse import Namespace

    from ...linux.model import Plans


_DESCRIPTION = """\
Predicts which libraries dlclose would unmap, in the order in which their finalisers run, which ones
stay and why, and the least that would make the library go. Nothing is closed, and nothing is written.
With --all, ranks every open library by what closing it would free.

LIBRARY is a name (libB.so), soname or end of a path, or an expression for an address inside the
library ($pc) or for the handle that dlopen gave; a leading & says that it is such a handle."""


@command(
    "dlplan",
    "predict what closing a shared library would unload",
    _DESCRIPTION,
    (
        argument("library", metavar="LIBRARY", nargs="*", completes_libraries=True, help="the library to close"),
        argument(
            "--closes",
            metavar="N",
            help="how often it is closed; 'all': as often as it is open (default: 1, with --all: all)",
        ),
        argument("--all", action="store_true", help="rank all open libraries"),
    ),
)
def dlplan(session: Session, arguments: Namespace) -> Result:
    """Answer ``dlplan LIBRARY`` and ``dlplan --all``."""
    from ...linux.plan import plan_all, plan_close
    from .text import plan_view

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
        document=lambda: _document(plans),
        view=lambda verbose: plan_view(plans, verbose),
        has_problems=bool(plans.problems),
        has_findings=plans.asked is not None and not plans.plans[0].goes,
    )


def _document(plans: Plans) -> dict[str, object]:
    from .document import plan_document

    return plan_document("dlplan", plans)
