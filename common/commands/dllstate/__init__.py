"""``dllstate``: why does FreeLibrary not unload this DLL?"""

from __future__ import annotations

from ..arguments import PROCESS_ARGUMENT, argument
from ..registry import Command, Example

COMMAND = Command(
    name="dllstate",
    os="windows",
    summary="explain why a DLL of Windows is still loaded",
    description="""\
Says for each module of a process of Windows whether FreeLibrary can unload it: its true load count
(LDR_DDAG_NODE.LoadCount since Windows 8), pins and what caused them, who imports it, and what would
make it go. Without an argument, lists all modules of all loaders.

DLL is a name with or without .dll, the end of a path, a pattern (api*), or an address inside it.""",
    arguments=(
        argument("dll", metavar="DLL", nargs="*", completes_libraries=True, help="the DLL to explain"),
        PROCESS_ARGUMENT,
    ),
    answer="command:answer",
    method="dlls",
    examples=(
        Example("dllstate", "list all modules"),
        Example("dllstate python35", "why is python35.dll still loaded?"),
    ),
    links_to="dllstate",
)
