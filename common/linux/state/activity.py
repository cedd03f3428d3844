"""Did the loader change anything while the process was read?"""

from __future__ import annotations

from enum import Enum
from typing import Optional

from ...errors import DlwhyError
from ...memory import Memory
from ..loader.maps import read_load_lock
from ..loader.rendezvous import R_STATES
from .process import GlibcProcess

#: RT_ADD and RT_DELETE.
_IN_CHANGE = (1, 2)


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
        return LoaderActivity.MOVING  # what was readable has gone
    owner = read_load_lock(memory, process.layouts, process.private.rtld_global).owner
    if owner != process.lock.owner or not unchanged:
        return LoaderActivity.MOVING
    return LoaderActivity.STILL if owner is None and process.start.r_state == 0 else LoaderActivity.HELD


def note_activity(process: GlibcProcess) -> None:
    """Add a problem if libraries are being added or removed, or if that cannot be excluded."""
    owner = process.lock.owner
    r_state = process.start.r_state
    if owner is not None:
        process.add_problem("loader", f"thread {owner} {_holder_words(process, owner)}")
    elif r_state in _IN_CHANGE:
        process.add_problem("loader", f"r_state is {R_STATES[r_state]}: libraries are being added or removed")
    elif not process.lock.is_known:
        process.add_problem("loader", "its lock cannot be read: a thread can be inside dlopen or dlclose")


def _holder_words(process: GlibcProcess, owner: int) -> str:
    """Return in words what the thread is doing that holds the loader's lock."""
    is_inside = True if process.start.r_state in _IN_CHANGE else _is_inside(process, owner)
    if is_inside:
        return "is inside dlopen or dlclose: the state is in motion"
    others = "dlsym, dladdr and dl_iterate_phdr take it, too"
    if is_inside is None:
        return f"holds the loader's lock: it can be inside dlopen or dlclose, and the state in motion ({others})"
    return f"holds the loader's lock, but is inside neither dlopen nor dlclose ({others})"


def _is_inside(process: GlibcProcess, owner: int) -> Optional[bool]:
    """Return True if a thread, by the process's own id of it, has a frame of _dl_open or _dl_close; None: not known."""
    from ..elf.unwind import find_function_range  # the lock is seldom held
    from ..loader.find import read_open_close
    from ..loader.frames import is_within

    threads = process.memory.target.threads()
    thread = next((each for each in threads if owner == (each.lwp if each.tid is None else each.tid)), None)
    pointers = read_open_close(process.memory, process.layouts, process.private)
    if thread is None or not pointers:
        return None
    try:
        ranges = [find_function_range(process.private.rtld, address) for _, address in pointers.values()]
    except DlwhyError:
        return None  # the answer says that it can be inside
    functions = [each for each in ranges if each is not None]
    if len(functions) < len(ranges):
        return None
    return is_within(process.memory, process.graph, process.image, thread, functions)
