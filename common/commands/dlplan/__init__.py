"""``dlplan``: what would this close do?"""

from __future__ import annotations

from ..arguments import argument
from ..registry import Command, Example

COMMAND = Command(
    name="dlplan",
    os="linux",
    summary="predict what closing a shared library would unload",
    description="""\
Predicts which libraries dlclose would unmap, in the order in which their finalisers run, which ones
stay and why, and the least that would make the library go. Nothing is closed, and nothing is written.
With --all, ranks every open library by what closing it would free.

LIBRARY is a name (libB.so), soname or end of a path, or an expression for an address inside the
library ($pc) or for the handle that dlopen gave; a leading & says that it is such a handle.""",
    arguments=(
        argument("library", metavar="LIBRARY", nargs="*", completes_libraries=True, help="the library to close"),
        argument(
            "--closes",
            metavar="N",
            help="how often it is closed; 'all': as often as it is open (default: 1, with --all: all)",
        ),
        argument("--all", action="store_true", help="rank all open libraries"),
    ),
    answer="command:answer",
    method="plan",
    examples=(
        Example("dlplan libB.so", "what would one dlclose of libB.so unload?"),
        Example("dlplan libB.so --closes all", "what, if it were closed as often as it is open?"),
        Example("dlplan --all", "which close would free most?"),
    ),
)
