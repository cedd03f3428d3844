"""Run inside gdb: how long is a process kept at each event of a trace? Prints one JSON line at the end."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import gdb
from dlwhy.gdb_ext.live import GdbLiveTarget

TIMES: list[float] = []


def timed(react: Any) -> Any:
    """Measure each call of a handler."""

    def measure(self: GdbLiveTarget, breakpoint_: Any) -> bool:
        begin = time.perf_counter()
        answer: bool = react(self, breakpoint_)
        TIMES.append(time.perf_counter() - begin)
        return answer

    return measure


def tell(_: object) -> None:
    """Print the figures; the first events name what is named later again."""
    usual = TIMES[len(TIMES) // 5 :]
    if usual:
        sys.stdout.write("MEASURED " + json.dumps({"events": len(TIMES), "median": statistics.median(usual)}) + "\n")


GdbLiveTarget.react = timed(GdbLiveTarget.react)  # type: ignore[method-assign]
gdb.events.exited.connect(tell)
