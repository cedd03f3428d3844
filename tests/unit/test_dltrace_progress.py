"""Does a long trace show that it goes on, seldom, and only where there is a terminal?"""

from __future__ import annotations

from dlwhy.common.commands.dltrace.command import PROGRESS_SECONDS, ProgressLine
from dlwhy.common.linux.trace.events import Close, Open
from dlwhy.common.model import Outcome
from dlwhy.common.trace.events import EventHeader

OPEN = Open(EventHeader(1, 0.0, 4711), "libA.so", 1, 0)
CLOSE = Close(EventHeader(2, 0.0, 4711), None, 1, Outcome.UNLOADS)


def test_a_line_when_it_is_time() -> None:
    clock = [100.0]
    shown: list[str] = []
    progress = ProgressLine(shown.append, lambda: clock[0])
    for _ in range(50):
        clock[0] += PROGRESS_SECONDS / 20
        progress.note(OPEN)
        progress.note(CLOSE)
    assert shown == ["dltrace: 20 opens and 19 closes in 10 s\n", "dltrace: 40 opens and 39 closes in 20 s\n"]


def test_nothing_without_a_terminal() -> None:
    clock = [0.0]
    progress = ProgressLine(None, lambda: clock[0])
    clock[0] = 1000.0
    progress.note(OPEN)
