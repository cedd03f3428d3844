"""Run inside gdb: how much of a processor's time do the handlers take? Prints one JSON line at the end."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import gdb
from dlwhy.gdb_ext.live import GdbLiveTarget

TIMES: dict[int, list[float]] = {}


def timed(react: Any) -> Any:
    """Measure each call of a handler."""

    def measure(self: GdbLiveTarget, breakpoint_: Any) -> bool:
        begin = time.thread_time()
        answer: bool = react(self, breakpoint_)
        TIMES.setdefault(breakpoint_.place, []).append(time.thread_time() - begin)
        return answer

    return measure


def tell(_: object) -> None:
    """Print the seconds of an open and its close; the first ones name what is named later again."""
    repeated = [times for times in TIMES.values() if len(times) > 1]
    medians = [statistics.median(times[len(times) // 5 :]) for times in repeated]
    sys.stdout.write(f"MEASURED {json.dumps(sum(medians))}\n")


GdbLiveTarget.react = timed(GdbLiveTarget.react)  # type: ignore[method-assign]
gdb.events.exited.connect(tell)
