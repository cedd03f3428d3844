"""``dlltrace``: which FreeLibrary did not unload, who loaded the DLL, and who never freed it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import UnsupportedError, UsageError
from ..arguments import argument
from ..eventlog import EventLog
from ..registry import Result, Session, command

if TYPE_CHECKING:
    from argparse import Namespace

    from ...windows.target import LiveWindowsTarget
    from ...windows.trace.events import DllEvent, DllTrace


_DESCRIPTION = """\
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
own DLLs, forwarders) are seen as modules that come, without a caller."""


@command(
    "dlltrace",
    "watch which frees do not unload a DLL, and who never freed it",
    _DESCRIPTION,
    (
        argument("action", metavar="start|report|stop", choices=("start", "report", "stop"), help="what to do"),
        argument("dll", metavar="DLL", nargs="*", completes_libraries=True, help="trace only these DLLs"),
        argument("--log", metavar="FILE", help="write each event to FILE, no pipe, as a line of JSON (schema dlwhy/1)"),
        argument("--go", action="store_true", help="after start let the process run; report when it stops or ends"),
    ),
)
def dlltrace(session: Session, arguments: Namespace) -> Result:
    """Answer ``dlltrace start|report|stop``."""
    if session.host.name != "windbg":
        raise UnsupportedError("dlltrace needs WinDbg (or pykd) and a process that it runs: ask here with dllstate")
    if arguments.action == "start":
        return _start(session, arguments)
    if arguments.dll or arguments.log or arguments.go:
        raise UsageError(f"dlltrace {arguments.action} takes no DLLs and no options of dlltrace start")
    tracing = session.host.kept.get("dlltrace")
    if not isinstance(tracing, _Tracing):
        raise UsageError("nothing has been traced: use dlltrace start first")
    if arguments.action == "stop":
        tracing.stop()
    return _result(tracing.tracer.report())


def _start(session: Session, arguments: Namespace) -> Result:
    before = session.host.kept.get("dlltrace")
    if isinstance(before, _Tracing) and before.tracer.is_watching():
        raise UsageError("a trace is going on: use dlltrace stop first")
    tracing = _Tracing(session, arguments)
    session.host.kept["dlltrace"] = tracing
    if arguments.go:
        try:
            tracing.target.run()
        except UnsupportedError as error:
            # Between the process's own end and that of its last thread the engine has nothing to run any more.
            tracing.tracer.note_stop(str(error))
        return _result(tracing.tracer.report())
    trace = tracing.tracer.report()
    from .text import dll_trace_started_view

    view = dll_trace_started_view(trace, arguments.dll)
    return _result(trace)._replace(view=lambda _verbose: view, has_findings=False)


def _result(trace: DllTrace) -> Result:
    from .text import dll_trace_view

    return Result(
        document=lambda: _document(trace),
        view=lambda verbose: dll_trace_view(trace, verbose),
        has_problems=bool(trace.problems),
        has_findings=bool(trace.kept),
    )


def _document(trace: DllTrace) -> dict[str, Any]:
    from .document import dll_trace_document

    return dll_trace_document("dlltrace", trace)


class _Tracing:
    """A trace with its log."""

    def __init__(self, session: Session, arguments: Namespace) -> None:
        from ...windows.trace.tracer import DllTracer

        self.target: LiveWindowsTarget = session.host.live_target()  # type: ignore[assignment]
        self._log = EventLog(arguments.log)
        self.tracer = DllTracer(self.target, arguments.dll, self._write)

    def stop(self) -> None:
        """End the trace."""
        self.tracer.stop()
        self._log.close()

    def _write(self, event: DllEvent) -> None:
        if self._log.is_open:
            from .document import dump_dll_event

            self._log.write(dump_dll_event(event))
