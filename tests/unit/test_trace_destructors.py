"""Are the TLS destructors that keep a library those of now, whatever was known at the event before?"""

from __future__ import annotations

from typing import Any

import pytest
from dlwhy.common.linux.loader import incremental_tls
from dlwhy.common.linux.loader.incremental_tls import IncrementalDestructorReader
from dlwhy.common.linux.model import HoldKind
from dlwhy.common.linux.trace.events import Close
from dlwhy.tests.support.live_glibc import Script
from dlwhy.tests.synth.glibc import Library


def script(**owed: int) -> Script:
    """Return a traced process whose thread owes libraries destructors."""
    made = Script(Library("liba.so"), Library("libb.so"), started=())
    for name in ("liba.so", "libb.so"):
        made.main.dlopen(name)
    owe(made, **owed)
    made.begin()
    return made


def owe(made: Script, **owed: int) -> None:
    """Let the thread owe each library so many destructors."""
    for name, count in owed.items():
        made.library(f"lib{name}.so").owed = count


def keeps(made: Script) -> int:
    """Close liba.so for the last time; return how many destructors are said to keep it."""
    made.library("liba.so").opencount = 1
    made.main.dlclose(made.main.dlopen("liba.so"))
    made.main.dlclose(made.process.maps["liba.so"])
    made.report()
    close = made.events[-1]
    assert isinstance(close, Close)
    holds = [hold for library in close.kept or () for hold in library.holds]
    return sum(len(hold.destructors) for hold in holds if hold.kind is HoldKind.TLS_DESTRUCTORS)


@pytest.fixture
def all_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record each reading of the lists of all threads."""
    reads: list[int] = []
    read = IncrementalDestructorReader.read

    def counted(self: Any, memory: Any, graph: Any, read_all: Any) -> Any:
        return read(self, memory, graph, lambda: reads.append(1) or read_all())  # type: ignore[func-returns-value]

    monkeypatch.setattr(IncrementalDestructorReader, "read", counted)
    return reads


def test_what_has_not_changed_is_read_once(all_reads: list[int]) -> None:
    made = script(a=2, b=1)
    assert [keeps(made) for _ in range(3)] == [2, 2, 2]
    assert len(all_reads) == 1


def test_a_list_that_has_changed_is_read_again_alone(all_reads: list[int]) -> None:
    made = script(a=2)
    found = []
    for counts in ({"a": 3}, {"a": 1, "b": 2}, {"a": 1, "b": 1}, {"a": 2, "b": 0}):
        owe(made, **counts)
        found.append(keeps(made))
    assert found == [3, 1, 1, 2]
    assert len(all_reads) == 1


def test_counts_that_these_lists_do_not_explain_are_looked_for_in_all(all_reads: list[int]) -> None:
    made = script(a=2)
    assert keeps(made) == 2
    made.process.tid = 0  # the thread has ended by a system call: its list is nobody's
    assert keeps(made) == 2
    assert keeps(made) == 2
    assert len(all_reads) == 3


def test_a_list_is_not_kept_whose_thread_cannot_be_seen_to_end(
    all_reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incremental_tls, "find_tid", lambda *_: None)
    made = script(a=1)
    assert [keeps(made), keeps(made)] == [1, 1]
    assert len(all_reads) == 2


def test_a_function_whose_library_has_gone_is_described_anew() -> None:
    made = script(a=1)
    assert keeps(made) == 1
    serial = made.library("liba.so").serial
    made.library("liba.so").serial = serial + 100
    assert keeps(made) == 1
