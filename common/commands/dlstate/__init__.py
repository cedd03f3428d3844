"""``dlstate``: why is this library still loaded?"""

from __future__ import annotations

from ..arguments import argument
from ..registry import Command, Example

COMMAND = Command(
    name="dlstate",
    os="linux",
    summary="explain why a shared library is still loaded",
    description="""\
Says whether dlclose can unload it, every reason why not with its evidence, and what would make it go.
Without an argument, lists all libraries of all namespaces.

LIBRARY is a name (libB.so), soname, end of a path, or pattern (libB*), or an expression for an
address inside the library ($pc); a leading & says that it is a link_map pointer (a handle of dlopen).""",
    arguments=(
        argument("library", metavar="LIBRARY", nargs="*", completes_libraries=True, help="the library to explain"),
    ),
    answer="command:answer",
    method="state",
    examples=(
        Example("dlstate", "list all libraries"),
        Example("dlstate libB.so", "why is libB.so still loaded?"),
        Example("dlstate $pc", "the library that the program counter is in"),
    ),
)
