"""``dltrace``: which close did not unload, who opened it, and who never closed it?"""

from __future__ import annotations

from ..arguments import argument
from ..registry import Command, Example

COMMAND = Command(
    name="dltrace",
    os="linux",
    summary="watch which closes do not unload, and who never closed",
    description="""\
Watches every dlopen, dlmopen and dlclose of the process, libc's own among them. Each close is
predicted when it begins, and compared with what it then does.

  dltrace start [LIB]...   begins; LIB is a library's name or a pattern; without one all are traced
  dltrace report           sums up: who opened and closed what how often, what stayed and why
  dltrace stop             ends, and sums up

Started before the program runs, or before its loader has, the trace begins when the loader has run.
On a terminal a line tells every ten seconds how much has been seen.
The process never stops for it unless --stop-when asks for that: at a close by which LIB stays (kept)
or goes (unloaded), or at a dlopen of LIB (opened; where LIB comes as a dependency, at the open or
close after that). Without LIB, kept stops where what is closed stays, or a dependency of it that
nothing else needs; what is open elsewhere or never unloads, and its dependencies, are only reported.""",
    arguments=(
        argument("action", metavar="start|report|stop", choices=("start", "report", "stop"), help="what to do"),
        argument(
            "library", metavar="LIB", nargs="*", default=[], completes_libraries=True, help="trace only these libraries"
        ),
        argument("--stop-when", choices=("kept", "unloaded", "opened"), help="stop the process then"),
        argument("--log", metavar="FILE", help="write each event to FILE as a line of JSON (schema dlwhy/1)"),
        argument("--tls", action="store_true", help="watch which TLS destructors are registered, and by whom"),
        argument(
            "--fds",
            action="store_true",
            help="watch which descriptors a library leaves open; with LIB also which of its calls opened them",
        ),
    ),
    answer="command:answer",
    method="trace",
    examples=(
        Example("dltrace start", "watch all opens and closes"),
        Example("dltrace start libB.so --stop-when kept", "stop where a close leaves libB.so loaded"),
        Example("dltrace report", "sum up"),
    ),
)
