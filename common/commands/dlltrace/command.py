"""How is ``dlltrace`` run?"""

from __future__ import annotations

from argparse import Namespace

from ...errors import UnsupportedError, UsageError
from ...windows.target import LiveWindowsTarget
from ...windows.trace.events import DllEvent, DllTrace
from ...windows.trace.tracer import DllTracer
from ..eventlog import EventLog
from ..session import Result, Session
from .document import dll_trace_document, dump_dll_event
from .text import dll_trace_started_view, dll_trace_view


def answer(session: Session, arguments: Namespace) -> Result:
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
            # Between the end of the process and that of its last thread the engine has nothing left to run.
            tracing.tracer.note_stop(str(error))
        return _result(tracing.tracer.report())
    trace = tracing.tracer.report()

    view = dll_trace_started_view(trace, arguments.dll)
    return _result(trace)._replace(view=lambda _verbose: view, has_findings=False)


def _result(trace: DllTrace) -> Result:

    return Result(
        document=lambda: dll_trace_document("dlltrace", trace),
        view=lambda verbose: dll_trace_view(trace, verbose),
        has_problems=bool(trace.problems),
        has_findings=bool(trace.kept),
    )


class _Tracing:
    """A trace with its log."""

    def __init__(self, session: Session, arguments: Namespace) -> None:

        self.target: LiveWindowsTarget = session.host.live_target()  # type: ignore[assignment]
        self._log = EventLog(arguments.log)
        self.tracer = DllTracer(self.target, arguments.dll, self._write)

    def stop(self) -> None:
        """End the trace."""
        self.tracer.stop()
        self._log.close()

    def _write(self, event: DllEvent) -> None:
        if self._log.is_open:
            self._log.write(dump_dll_event(event))
