"""Are TLS destructors that a trace takes over from the event before those that threads owe now?"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dlwhy.common.linux.dumps.procfs import ProcTarget
from dlwhy.common.linux.loader import incremental_tls
from dlwhy.common.linux.loader.incremental import IncrementalGraphReader
from dlwhy.common.linux.loader.maps import LinkMap
from dlwhy.common.linux.state.verdict import GlibcExamination
from dlwhy.tests.plan.sessions import look
from dlwhy.tests.support.children import running, tell

SOURCE = Path(__file__).resolve().parent / "debtors.c"
LIBRARY = "int destroyed; void destroy(void *object) { destroyed += object != 0; }\n"
NAMES = ("./liba.so", "./libb.so")


class Debtors:
    """The program, as it runs, and what a trace of it knows."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.target = ProcTarget(process.pid)
        self.examined = self._look()
        first = self.examined.process
        self._follower = IncrementalGraphReader(first.memory, first.layouts, first.private.rtld_global)

    def do(self, line: str) -> None:
        """Let the program do something."""
        assert tell(self._process, f"{line}\n") == "done", line

    def follow(self) -> None:
        """Read the process as a trace does at an event."""
        self.examined = self.examined.later(self._follower.read)

    def _look(self) -> GlibcExamination:
        return look(self.target).examined

    def told(self, *, anew: bool = False) -> tuple[object, ...]:
        """Return what each library is owed, as the trace has it or by a fresh look, and the problems with that."""
        examined = self._look() if anew else self.examined
        owed = [self._owed(examined, each) for each in examined.process.graph.by_address.values()]
        return *owed, list(examined.process.problems)

    @staticmethod
    def _owed(examined: GlibcExamination, link_map: LinkMap) -> tuple[Any, ...]:
        # /proc has no numbers of threads: they are counted anew.
        described = examined.destructors.describe(link_map)
        return link_map.name, [d._replace(thread=d.thread and d.thread._replace(number=0)) for d in described]


@contextmanager
def debtors(folder: Path) -> Iterator[Debtors]:
    """Build and run the program, with its libraries open."""
    subprocess.run(["gcc", "-g", "-pthread", "-o", "debtors", str(SOURCE), "-ldl"], cwd=folder, check=True)
    for name in NAMES:
        words = ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", name]
        subprocess.run(words, cwd=folder, check=True, input=LIBRARY, text=True)
    with running(["./debtors"], folder=folder) as process:
        made = Debtors(process)
        try:
            for name in NAMES:
                made.do(f"open {name}")
            yield made
        finally:
            made.target.close()


@pytest.fixture
def all_reads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Count how often the lists of all threads are read."""
    reads: list[object] = []
    read = incremental_tls.IncrementalDestructorReader.read

    def counted(self: Any, memory: Any, graph: Any, read_all: Any) -> Any:
        def read_and_count() -> Any:
            reads.append(graph)
            return read_all()

        return read(self, memory, graph, read_and_count)

    monkeypatch.setattr(incremental_tls.IncrementalDestructorReader, "read", counted)
    return reads


def test_a_node_at_the_place_of_a_freed_one(tmp_path: Path, all_reads: list[object]) -> None:
    with debtors(tmp_path) as made:
        made.do("start 1")
        # Only when a thread's own cache of freed memory is full does calloc get the same place again.
        for _ in range(8):
            made.do("owe 1 ./liba.so 1")
            made.do("run 1")
        for first, second in ((1, 2), (2, 1), (1, 1)):
            made.do(f"owe 1 ./liba.so {first}")
            made.do(f"owe 1 ./libb.so {second}")
            made.follow()
            assert made.told() == made.told(anew=True)
            made.do("run 1")
        assert len(all_reads) == 1


def test_what_has_not_changed_is_the_same(tmp_path: Path, all_reads: list[object]) -> None:
    with debtors(tmp_path) as made:
        for number in range(1, 9):
            made.do(f"start {number}")
            made.do(f"owe {number} ./liba.so {number}")
        told = []
        for _ in range(3):
            made.follow()
            link_map = next(m for m in made.examined.process.graph.by_address.values() if m.name == "./liba.so")
            told.append(made.examined.destructors.describe(link_map))
        assert len(told[0]) == 8
        assert told[0] is told[1] is told[2]
        assert len(all_reads) == 1


def test_a_thread_that_ends_without_running_its_destructors(tmp_path: Path) -> None:
    with debtors(tmp_path) as made:
        for number in (1, 2):
            made.do(f"start {number}")
            made.do(f"owe {number} ./liba.so 7")
        made.follow()
        assert made.told() == made.told(anew=True)
        made.do("die 1")
        for _ in range(2):
            made.follow()
            told = made.told()
            assert told == made.told(anew=True)
            assert "thread=None" in repr(told)


@pytest.mark.parametrize("seed", range(6))
def test_threads_that_come_and_go(seed: int, tmp_path: Path, all_reads: list[object]) -> None:
    dice = random.Random(seed)
    running: list[int] = []
    looks = 0
    with debtors(tmp_path) as made:
        for _ in range(120):
            word = dice.choice(("start", "owe", "owe", "owe", "run", "end" if dice.random() < 0.3 else "run"))
            idle = [number for number in range(1, 13) if number not in running]
            if word == "start" and idle:
                running.append(idle[0])
                made.do(f"start {idle[0]}")
            elif running and word != "start":
                number = dice.choice(running)
                made.do(f"{word} {number} {dice.choice(NAMES)} {dice.randrange(3)}")
                if word == "end":
                    running.remove(number)
            if dice.random() < 0.5:
                made.follow()
                looks += 1
                assert made.told() == made.told(anew=True)
    assert 0 < len(all_reads) < looks
