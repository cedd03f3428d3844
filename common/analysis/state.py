"""Why is this library still loaded, and what would make it go?"""

from __future__ import annotations

import time
from typing import Optional

from ..elf.image import PT_INTERP
from ..errors import CorruptError, DlwhyError, FaultError, LayoutError, UnsupportedError
from ..loaders import glibc, musl
from ..loaders.start import STATIC, find_start
from ..memory import Memory
from ..model import Problem, State
from ..target import Capability, Target
from .glibc_state import GlibcExamination
from .musl_state import explain_musl

#: How long a running process is read again and again, and the pause between two readings.
MAX_SETTLING_SECONDS = 1.0
RETRY_SECONDS = 0.001


def explain(target: Target, identify: bool = True) -> State:
    """Examine all libraries of the target.

    Without ``identify`` their sonames and build-ids are not read, which halves the time for many libraries.
    A process that runs meanwhile is read again until its loader has stood still; a problem says so if it never has.

    :raises UnsupportedError: if there is no dynamic loader, it has not run yet, or it is of an unknown kind.
    :raises LayoutError: if no known layout of glibc fits.
    """
    if Capability.RUNNING not in target.capabilities:
        return _explain_once(Memory(target), identify)[0]
    deadline = time.monotonic() + MAX_SETTLING_SECONDS
    while True:
        failure: Optional[DlwhyError] = None
        try:
            state, settled = _explain_once(Memory(target), identify)
        except (FaultError, CorruptError, LayoutError) as error:
            failure, settled = error, False
        if settled:
            return state
        if time.monotonic() > deadline:
            if failure is not None:
                raise failure
            message = "the loader never stood still while it was read: the answer can mix two states"
            return state._replace(problems=(*state.problems, Problem("racy", message)))
        time.sleep(RETRY_SECONDS)


def _explain_once(memory: Memory, identify: bool) -> tuple[State, bool]:
    """Examine once; tells also whether the loader's state is the same afterwards and no thread is changing it."""
    start = find_start(memory)
    if musl.is_musl(memory, start):
        return explain_musl(memory, start), True
    private = glibc.find_private(memory, start)
    if private is None and start.main.find_header(PT_INTERP) is None:
        raise UnsupportedError(STATIC)
    if private is None:
        raise UnsupportedError("the dynamic loader is neither glibc's nor musl's, or its ELF header is not in memory")
    examined = GlibcExamination(memory, start, private)
    state = examined.state(identify)
    return state, Capability.RUNNING not in memory.target.capabilities or examined.has_stood_still()
