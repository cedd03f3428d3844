"""``dllplan``: what would FreeLibrary do?"""

from __future__ import annotations

from ..arguments import PROCESS_ARGUMENT, argument
from ..registry import Command, Example

COMMAND = Command(
    name="dllplan",
    os="windows",
    summary="predict what FreeLibrary would unload",
    description="""\
Predicts which DLLs FreeLibrary unloads, in which order their DllMain gets DLL_PROCESS_DETACH, which
ones stay and why, the import cycles on the way, and what else must be freed to make the DLL go.
Nothing is freed, and nothing is written. With --all, ranks the DLLs that LoadLibrary has loaded by
what freeing each of them would unload.

DLL is a name with or without .dll, the end of a path, or an address inside it (its handle).""",
    arguments=(
        argument("dll", metavar="DLL", nargs="*", completes_libraries=True, help="the DLL to free"),
        argument(
            "--frees",
            metavar="N",
            help="how often it is freed; 'all': as often as it was loaded (default: 1, with --all: all)",
        ),
        argument("--all", action="store_true", help="rank all loaded DLLs"),
        PROCESS_ARGUMENT,
    ),
    answer="command:answer",
    method="dll_plan",
    examples=(
        Example("dllplan plug.dll", "what would one FreeLibrary of plug.dll unload?"),
        Example("dllplan --all", "which free would unload most?"),
        Example("dllplan plug.dll --frees all", "what, if it were freed as often as it was loaded?"),
    ),
    links_to="dllstate",
)
