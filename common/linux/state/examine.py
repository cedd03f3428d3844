"""Why is this library still loaded, and what would unload it?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Optional, TypeVar, Union

from ...errors import CorruptError, DlwhyError, FaultError, LayoutError, NotFoundError, UnsupportedError
from ...helper import shared_helper
from ...memory import Memory
from ...model import Problem
from ...target import Capability, Target
from ..elf.image import PT_INTERP
from ..loader.find import find_loader_globals
from ..loader.musl import is_musl
from ..loader.rendezvous import STATIC, Rendezvous, find_rendezvous
from ..model import State
from .activity import LoaderActivity, find_activity
from .process import GlibcProcess, read_process
from .verdict import Choice, GlibcExamination

if TYPE_CHECKING:
    from ..dumps.minidump import LinuxMinidump

_Answer = TypeVar("_Answer")
#: How long a running process is re-read until its loader is inactive, and after what time a thread that holds the
#: loader's lock without changing anything is assumed to stay there.
MAX_SETTLING_SECONDS = 1.0
HELD_SECONDS = 0.1
#: The pause between two reads: its minimum, and its length for each second that the last read took.  Reading delays the
#: process's own memory system calls: it halved the rate of a process that only opened and closed libraries.
RETRY_SECONDS = 0.001
PAUSE_PER_READING = 10


def explain(target: Target, brief: bool = False) -> State:
    """Examine all libraries of the target.

    :param target: a Linux process, core or machine at one point in time.
    :param brief: leave out what a table does not show: sonames, build-ids, fields, symbols and evidence.
    :raises UnsupportedError: if there is no dynamic loader, it has not run yet, or it is of an unknown kind.
    :raises LayoutError: if no known layout of glibc fits.
    """

    def explain_glibc(process: GlibcProcess) -> State:
        return GlibcExamination.of(process, brief=brief).state()

    try:
        state, racy = examine(target, explain_glibc, _explain_musl)
    except UnsupportedError:
        listed = _explain_listed(target)
        if listed is None:
            raise
        return listed
    return state._replace(problems=(*state.problems, *racy))


def explain_chosen(target: Target, choose: Choice, asked: str = "") -> State:
    """Examine the libraries that ``choose`` selects; the others cost nothing.

    :param choose: returns the libraries to examine, given all of them without verdicts.
    :param asked: what the user asks for; empty if that is not known.
    :raises NotFoundError: if ``choose`` raises it.
    :raises UnsupportedError: if there is no dynamic loader, it has not run yet, or it is of an unknown kind.
    :raises LayoutError: if no known layout of glibc fits.
    """

    def explain_glibc(process: GlibcProcess) -> Union[State, NotFoundError]:
        examination = GlibcExamination.of(process)
        try:
            chosen = examination.choose(choose, asked)
        except NotFoundError as error:
            from .unfound import explain_unfound  # most names are found

            return explain_unfound(process, error)  # not raised as long as the process may be caught in a change
        return examination.state(chosen)

    def explain_musl(memory: Memory, start: Rendezvous) -> Union[State, NotFoundError]:
        state = _explain_musl(memory, start)
        try:
            return state._replace(libraries=tuple(choose(state.libraries)))
        except NotFoundError as error:
            from .unfound import NOT_WHOLE, incomplete

            found = error if start.complete else incomplete(error, NOT_WHOLE)
            found.add(state.problems)
            return found

    try:
        answer, racy = examine(target, explain_glibc, explain_musl)
    except UnsupportedError:
        listed = _explain_listed(target)
        if listed is None:
            raise
        return listed._replace(libraries=tuple(choose(listed.libraries)))
    if isinstance(answer, NotFoundError):
        from .unfound import unfound_in_motion

        raise unfound_in_motion(answer, racy)
    return answer._replace(problems=(*answer.problems, *racy))


def _explain_musl(memory: Memory, start: Rendezvous) -> State:
    from .musl import explain_musl  # few processes have it

    return explain_musl(memory, start)


def examine(
    target: Target,
    of_glibc: Callable[[GlibcProcess], _Answer],
    of_musl: Callable[[Memory, Rendezvous], _Answer],
) -> tuple[_Answer, tuple[Problem, ...]]:
    """Examine the target and answer a question about it; also return the problems found on the way.

    A running process is re-read until its loader did not change during a read; a problem says so if it always did.

    :param of_glibc: answers the question for a glibc process.
    :param of_musl: answers it for a musl process.
    :raises UnsupportedError: if there is no dynamic loader, it has not run yet, or it is of an unknown kind.
    :raises LayoutError: if no known layout of glibc fits.
    """
    shared_helper().renew()
    if Capability.RUNNING not in target.capabilities:
        try:
            answer, _, met = _examine_once(target, of_glibc, of_musl)
        except (CorruptError, FaultError, LayoutError, UnsupportedError) as error:
            raise _refusal(target) or error from None
        return answer, met
    begin = time.monotonic()
    latest: Optional[_Answer] = None
    problems: tuple[Problem, ...] = ()
    while True:
        started = time.monotonic()
        failure: Optional[DlwhyError] = None
        activity = LoaderActivity.MOVING
        try:
            latest, activity, problems = _examine_once(target, of_glibc, of_musl)
        except (FaultError, CorruptError, LayoutError) as error:
            failure = error
        now = time.monotonic()
        # A thread that stays inside dlopen, say in a constructor, changes nothing while it does.
        if activity is LoaderActivity.STILL or (activity is LoaderActivity.HELD and now - begin > HELD_SECONDS):
            assert latest is not None
            return latest, problems
        if now - begin > MAX_SETTLING_SECONDS:
            if latest is None:
                raise failure or CorruptError("the loader never stood still while it was read")
            message = "the loader never stood still while it was read: the answer can mix two states"
            return latest, (*problems, Problem("racy", message))
        time.sleep(max(RETRY_SECONDS, (now - started) * PAUSE_PER_READING))


def _refusal(target: Target) -> Optional[UnsupportedError]:
    """Return the refusal of a minidump, which seldom has the loader's memory; None for another target."""
    dump = _as_minidump(target)
    if dump is None:
        return None
    from .listed import refusal_of

    return refusal_of(dump)


def _as_minidump(target: Target) -> Optional[LinuxMinidump]:
    """Return the target if it is a minidump."""
    if target.kind != "dump":
        return None
    from ..dumps.minidump import LinuxMinidump  # few targets are

    return target if isinstance(target, LinuxMinidump) else None


def _explain_listed(target: Target) -> Optional[State]:
    """Return what a minidump lists; None for another target."""
    dump = _as_minidump(target)
    if dump is None:
        return None
    from .listed import explain_listed

    return explain_listed(dump)


def _examine_once(
    target: Target,
    of_glibc: Callable[[GlibcProcess], _Answer],
    of_musl: Callable[[Memory, Rendezvous], _Answer],
) -> tuple[_Answer, LoaderActivity, tuple[Problem, ...]]:
    """Examine once; also return whether the loader changed during that, and the problems of target and memory."""
    memory = Memory(target)
    try:
        answer, activity = _examine(memory, of_glibc, of_musl)
    except DlwhyError as error:
        error.add((*memory.problems(), *target.problems()))
        raise
    return answer, activity, (*target.problems(), *memory.problems())


def _examine(
    memory: Memory,
    of_glibc: Callable[[GlibcProcess], _Answer],
    of_musl: Callable[[Memory, Rendezvous], _Answer],
) -> tuple[_Answer, LoaderActivity]:
    if memory.platform.os == "windows":
        raise UnsupportedError(
            f"{memory.target.description} is of Windows, whose commands begin with dll: dllstate, dllplan, dllgone, "
            "dllshare"
        )
    start = find_rendezvous(memory)
    if is_musl(memory, start):
        return of_musl(memory, start), LoaderActivity.STILL
    private = find_loader_globals(memory, start)
    if private is None and start.main.find_header(PT_INTERP) is None:
        raise UnsupportedError(STATIC)
    if private is None:
        raise UnsupportedError("the dynamic loader is neither glibc's nor musl's, or its ELF header is not in memory")
    process = read_process(memory, start, private)
    answer = of_glibc(process)
    is_running = Capability.RUNNING in memory.target.capabilities
    return answer, find_activity(process) if is_running else LoaderActivity.STILL
