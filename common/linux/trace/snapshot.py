"""What is the state of a traced process's loader now, and what was it at the previous event?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from ...errors import FaultError, UnsupportedError
from ...memory import Memory
from ...target import LiveLinuxTarget
from ..auxv import AT_RANDOM
from ..dumps.procfs import find_inner_id
from ..loader.incremental import IncrementalGraphReader
from ..loader.maps import Graph, read_load_lock
from ..loader.roots import LT_EXECUTABLE
from ..state.process import GlibcProcess
from ..state.verdict import GlibcExamination

ANOTHER_PROGRAM = "the process executed another program"


class LoaderSnapshot:
    """The latest snapshot of a process's loader.

    ``is_exiting`` is True once the program's finalisers run.
    """

    def __init__(self, target: LiveLinuxTarget, examined: GlibcExamination) -> None:
        process = examined.process
        self.examined = examined
        self.is_exiting = False
        self._target = target
        self._lock = process.lock
        self._follower = IncrementalGraphReader(process.memory, process.layouts, process.private.rtld_global)
        self._random = process.memory.target.auxv().get(AT_RANDOM, 0)
        self._identity = self._read_identity()
        self._compared: Graph = process.graph
        self._was_running = False
        self._tids: dict[int, int] = {}
        self._compared_loads = self._follower.load_count

    @property
    def process(self) -> GlibcProcess:
        """Return the process as last read."""
        return self.examined.process

    def refresh(self) -> None:
        """Read the lists again.

        :raises UnsupportedError: if the process executes another program, even the same one once more.
        """
        self._read(self._follower.read)

    def glance(self) -> None:
        """Read the lists again if libraries have come or gone; else only what their members say can be out of date.

        :raises UnsupportedError: if the process executes another program, even the same one once more.
        """
        self._read(self._follower.glance)

    def _read(self, read: Callable[[Memory], Graph]) -> None:
        if not self.is_same_program():
            raise UnsupportedError(ANOTHER_PROGRAM)
        self.examined = self.examined.later(read)
        self._lock = self.process.lock

    def reread_lock(self) -> None:
        """Read the loader's lock again: a running thread can have taken it while the lists were read."""
        process = self.process
        self._lock = read_load_lock(process.memory.renewed(), process.layouts, process.private.rtld_global)

    def is_same_program(self) -> bool:
        """Return True if the process still executes the program that it did when the trace began."""
        return self._read_identity() == self._identity

    def _read_identity(self) -> Optional[bytes]:
        """Read the 16 random bytes that the kernel provides to each program that it starts (AT_RANDOM)."""
        try:
            return self._target.read(self._random, 16) if self._random else None
        except FaultError:
            return None  # another program than one whose bytes were read

    def take_previous(self) -> Optional[Graph]:
        """Return the previous snapshot's graph if this one differs; later events are compared with this one.

        If another thread was stopped while it changed the lists, the next event is compared with the same graph again.
        """
        graph = self.process.graph
        if not graph.complete:
            return None
        before, self._compared = self._compared, graph
        self._note_exit(graph)
        return before if before is not graph else None

    def take_loads(self) -> int:
        """Return how many libraries were loaded since the last time, those that have gone again included.

        0 if that is unknown.
        """
        loads = self._follower.load_count
        if loads is None or not self.process.graph.complete:
            return 0
        before, self._compared_loads = self._compared_loads, loads
        return 0 if before is None else loads - before

    def _note_exit(self, graph: Graph) -> None:
        """Record whether the program's finalisers run: _dl_fini clears l_init_called of the program first."""
        main = next((m for m in graph.namespaces[0].maps if m.l_type == LT_EXECUTABLE), None)
        is_running = bool(main and main.field("l_init_called"))
        self._was_running = self._was_running or is_running
        self.is_exiting = self._was_running and not is_running

    def depth(self, lwp: int) -> int:
        """Return the number of a thread's in-flight calls, by the loader's lock."""
        lock = self._lock
        is_owner = lock.is_held and (lock.owner is None or lock.owner == self.tid(lwp))
        return max(1, lock.depth) if is_owner else 0

    def tid(self, lwp: int) -> int:
        """Return a thread's id as the process itself sees it; in a container it differs."""
        if lwp not in self._tids:
            pid = self._target.pid
            inner = find_inner_id(pid, lwp) if pid is not None and self._target.kind == "live" else None
            self._tids[lwp] = lwp if inner is None else inner
        return self._tids[lwp]
