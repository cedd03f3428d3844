"""How is ``dltrace`` run?"""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Optional, Union

from ...counts import quantity
from ...errors import NoTargetError, UnsupportedError, UsageError
from ...host import ProgramHost
from ...linux.loader.rendezvous import NOT_YET
from ...linux.trace.events import Close, Event, Open, Stop, Trace
from ...linux.trace.stops import TraceOptions
from ...linux.trace.tracer import Tracer, begin
from ...model import Problem
from ...render.document import Document, Sentence
from ...render.text import render
from ...target import LiveLinuxTarget
from ..eventlog import EventLog
from ..session import Result, Session
from .document import dump_event, trace_document
from .text import started_view, stop_view, trace_view
from .waiting import WaitingTrace

#: Seconds between two progress lines, if there is a terminal to show them.
PROGRESS_SECONDS = 10.0


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dltrace start|report|stop``."""
    if arguments.action == "start":
        if "" in arguments.library:
            raise UsageError("LIB is empty: name a library, or give none to trace all")
        return _start(session, arguments)
    if arguments.library or arguments.stop_when or arguments.log or arguments.tls or arguments.fds:
        raise UsageError(f"dltrace {arguments.action} takes no libraries and no options of dltrace start")
    tracing = session.host.kept.get("dltrace")
    if isinstance(tracing, WaitingTrace):
        return _waiting_result(session, tracing, arguments.action)
    if not isinstance(tracing, _Tracing):
        raise UsageError("nothing has been traced: use dltrace start first")
    if arguments.action == "stop":
        tracing.stop()
    return _result(tracing.report())


def _start(session: Session, arguments: Namespace) -> Result:

    before = session.host.kept.get("dltrace")
    if isinstance(before, _Tracing) and before.tracer.is_watching():
        raise UsageError("a trace is going on: use dltrace stop first")
    if isinstance(before, WaitingTrace):
        before.cancel()
    log = EventLog(arguments.log)
    try:
        tracing = _Tracing(session, arguments, log)
    except (NoTargetError, UnsupportedError) as error:
        if arguments.json or not isinstance(session.host, ProgramHost) or not _is_too_early(session, error):
            raise
        return _wait(session, session.host, arguments, log)
    session.host.kept["dltrace"] = tracing
    trace = tracing.report()
    result = _result(trace)
    return result._replace(view=lambda _verbose: started_view(trace, arguments.library), has_findings=False)


def _is_too_early(session: Session, error: Union[NoTargetError, UnsupportedError]) -> bool:
    """Return True if there is no process yet, or its loader has not run; a core has no process and never will."""
    if isinstance(error, UnsupportedError):
        return str(error).startswith(NOT_YET)
    try:
        session.host.target()
    except NoTargetError:
        return True
    return False


def _wait(session: Session, host: ProgramHost, arguments: Namespace, log: EventLog) -> Result:
    """Start the trace when the loader has run."""

    def begin_now() -> None:
        tracing = _Tracing(session, arguments, log)
        host.kept["dltrace"] = tracing
        host.live_target().say(render(started_view(tracing.report(), arguments.library)))

    host.kept["dltrace"] = WaitingTrace(host, begin_now)
    return _sentence("The loader has not run yet: the trace begins when it has.")


def _waiting_result(session: Session, waiting: WaitingTrace, action: str) -> Result:
    """Answer a command while the trace has not begun."""
    if waiting.failure is not None:
        raise UsageError(f"the trace could not begin: {waiting.failure}")
    if action == "report":
        raise UsageError("the loader has not run yet: the trace begins when it has")
    waiting.cancel()
    del session.host.kept["dltrace"]
    return _sentence("The trace was ended before it began.")


def _sentence(text: str) -> Result:
    """Return a result without a trace: nothing is known that JSON could have."""

    def refuse() -> Mapping[str, object]:
        raise UsageError("the loader has not run yet: there is no trace for --json")

    view = Document((Sentence(text),))
    return Result(document=refuse, view=lambda _verbose: view, has_problems=False, has_findings=False)


def _result(trace: Trace) -> Result:

    return Result(
        document=lambda: trace_document("dltrace", trace),
        view=lambda verbose: trace_view(trace, verbose),
        has_problems=bool(trace.problems),
        has_findings=bool(trace.kept),
    )


class ProgressLine:
    """A line on the terminal's standard error that shows now and then how much was seen."""

    def __init__(self, write: Optional[Callable[[str], object]], now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now = now
        self._begun = self._shown = now()
        self._opens = self._closes = 0

    def note(self, event: Event) -> None:
        """Count an event, and show the sums if it is time."""
        self._opens += isinstance(event, Open)
        self._closes += isinstance(event, Close)
        now = self._now()
        if self._write is not None and now - self._shown >= PROGRESS_SECONDS:
            self._shown = now
            seen = f"{quantity(self._opens, 'open')} and {quantity(self._closes, 'close')}"
            self._write(f"dltrace: {seen} in {now - self._begun:.0f} s\n")


def _write_progress(text: str) -> None:
    # Not through the debugger's pager, which would stop the program until someone presses a key.
    sys.stderr.write(text)
    sys.stderr.flush()


class _Tracing:
    """A trace with its log."""

    def __init__(self, session: Session, arguments: Namespace, log: EventLog) -> None:

        libraries: Sequence[str] = arguments.library
        self._target: LiveLinuxTarget = session.host.live_target()  # type: ignore[assignment]
        self._log = log
        self._progress = ProgressLine(_write_progress if os.isatty(2) else None)
        options = TraceOptions(tuple(libraries), arguments.stop_when, arguments.tls, arguments.fds)
        self.tracer: Tracer = begin(self._target, options, self._write, self._announce)

    def stop(self) -> None:
        """End the trace."""
        self.tracer.stop()
        self._log.close()

    def report(self) -> Trace:
        """Return the report, with a problem if the log failed."""
        trace = self.tracer.report()
        if self._log.failure is None:
            return trace
        return trace._replace(problems=(*trace.problems, Problem("log", self._log.failure)))

    def _write(self, event: Event) -> None:
        self._progress.note(event)
        if self._log.is_open:
            self._log.write(dump_event(event))
            if self._log.failure is not None:
                self._target.say(f"dltrace: {self._log.failure}")

    def _announce(self, stop: Stop) -> None:

        self._target.say(render(stop_view(stop)))
