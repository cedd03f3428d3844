"""``dllgone``: which DLL used to be at this address?"""

from __future__ import annotations

from ..arguments import PROCESS_ARGUMENT, argument
from ..registry import Command, Example

COMMAND = Command(
    name="dllgone",
    os="windows",
    summary="name the unloaded DLL that was at an address",
    description="""\
Lists the DLLs that were unloaded, from the loader's own record (RtlGetUnloadEventTraceEx) and from
what the dump or debugger recorded, and which registers and stack words still point into them. With
ADDRESS, names the module that was there, with the offset, and says where that is ambiguous.""",
    arguments=(
        argument("address", metavar="ADDRESS", nargs="*", help="a number, or an expression of the debugger's"),
        PROCESS_ARGUMENT,
    ),
    answer="command:answer",
    method="gone",
    examples=(
        Example("dllgone", "list the unloaded DLLs, and what still points into them"),
        Example("dllgone @rip", "which DLL was where the program counter is?"),
    ),
)
