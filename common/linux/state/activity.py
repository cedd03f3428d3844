"""Did the loader change anything while the process was read?"""

from __future__ import annotations

from enum import Enum

from ...errors import DlwhyError
from ...memory import Memory
from ..loader.maps import read_load_lock
from ..loader.rendezvous import R_STATES
from .process import GlibcProcess


class LoaderActivity(Enum):
    """Whether the loader of a running process changed during a read; HELD: a thread is about to change it."""

    STILL = "still"
    HELD = "held"
    MOVING = "moving"


def find_activity(process: GlibcProcess) -> LoaderActivity:
    """Read the loader's state once more and compare."""
    memory = Memory(process.memory.target)
    try:
        unchanged = process.graph.is_unchanged(memory)
    except DlwhyError:
        return LoaderActivity.MOVING
    owner = read_load_lock(memory, process.layouts, process.private.rtld_global).owner
    if owner != process.lock.owner or not unchanged:
        return LoaderActivity.MOVING
    return LoaderActivity.STILL if owner is None and process.start.r_state == 0 else LoaderActivity.HELD


def note_activity(process: GlibcProcess) -> None:
    """Add a problem if libraries are being added or removed."""
    owner = process.lock.owner
    r_state = process.start.r_state
    if owner is not None:
        process.add_problem("loader", f"thread {owner} is inside dlopen or dlclose: the state is in motion")
    elif r_state in (1, 2):
        process.add_problem("loader", f"r_state is {R_STATES[r_state]}: libraries are being added or removed")
