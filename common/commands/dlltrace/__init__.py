"""``dlltrace``: which FreeLibrary did not unload, who loaded the DLL, and who never freed it?"""

from __future__ import annotations

from ..arguments import argument
from ..registry import Command, Example

COMMAND = Command(
    name="dlltrace",
    os="windows",
    summary="watch which frees do not unload a DLL, and who never freed it",
    description="""\
Watches every load and free of DLLs in a process that WinDbg runs, at ntdll's own exports. Each
FreeLibrary is predicted when it begins, and compared with what is then unmapped.

  dlltrace start [DLL]...   begins; DLL is a name or a pattern; without one all are traced
  dlltrace report           sums up: who loaded and freed what how often, what stayed and why
  dlltrace stop             ends, and sums up; no breakpoint stays behind

After dlltrace start let the process run (g): the trace goes on by itself, and never stops it. The
breakpoints are not in the list of bl. Without WinDbg, by pykd in a plain Python, the process runs
within the command: dlwhy_windbg.py -o "PROGRAM ARGUMENTS" dlltrace start --go.

It works with 64-bit processes in user mode. In WinDbg the script has to run by !py -g, as our
aliases do: a Python that ends with the command takes the trace along. What the process does before
the initial breakpoint is not seen, and loads that ntdll makes for itself (delay loads of Windows'
own DLLs, forwarders) are seen as modules that come, without a caller.""",
    arguments=(
        argument("action", metavar="start|report|stop", choices=("start", "report", "stop"), help="what to do"),
        argument("dll", metavar="DLL", nargs="*", completes_libraries=True, help="trace only these DLLs"),
        argument("--log", metavar="FILE", help="write each event to FILE as a line of JSON (schema dlwhy/1)"),
        argument("--go", action="store_true", help="after start let the process run; report when it stops or ends"),
    ),
    answer="command:answer",
    method="dll_trace",
    examples=(
        Example("dlltrace start", "watch all loads and frees"),
        Example("dlltrace report", "sum up"),
    ),
)
