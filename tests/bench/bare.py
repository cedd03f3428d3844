"""Run inside gdb: breakpoints where a trace has them, with a stop() that only says no."""

from __future__ import annotations

import gdb
from dlwhy.common.errors import UnsupportedError
from dlwhy.common.linux.state.examine import examine
from dlwhy.common.linux.trace.entry_points import EntryPoints, find_entry_points
from dlwhy.gdb_ext.live import GdbLiveTarget


class Bare(gdb.Breakpoint):
    """A breakpoint that nobody asks anything."""

    def stop(self) -> bool:
        """Let the process go on."""
        return False


def refuse(*_: object) -> EntryPoints:
    """Have no musl here."""
    raise UnsupportedError("musl")


target = GdbLiveTarget(gdb.selected_inferior())
places, _ = examine(
    target,
    lambda process: find_entry_points(
        process.memory,
        process.layouts,
        process.private,
        process.graph,
        in_rtld=True,  # there is one namespace, so gdb 13 to 17 stay in ld.so, too
    ),
    refuse,
)
for place in places.entries:
    Bare(f"*{place:#x}", internal=True)
