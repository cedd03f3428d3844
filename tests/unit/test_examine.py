"""Is a process that runs while it is read read again until it stands still, and what never does said so?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dlwhy.common.errors import LayoutError, UnsupportedError
from dlwhy.common.linux.model import State
from dlwhy.common.linux.plan import plan_all
from dlwhy.common.linux.state import examine
from dlwhy.common.linux.state.examine import explain
from dlwhy.common.model import Platform
from dlwhy.common.target import Capability
from dlwhy.tests.support.live_glibc import Script
from dlwhy.tests.synth.glibc import Library
from dlwhy.tests.synth.glibc_layouts import LOCK_IS_HELD


class Clock:
    """The module `time` as it is to what reads the process: each look takes 10 ms, and no time passes in fact."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Look."""
        self.now += 0.01
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(examine, "time", made)
    return made


class Running:
    """A process that does something whenever its globals are read."""

    def __init__(self, work: Callable[[Script, int], object]) -> None:
        self.made = Script(Library("liba.so"), Library("libb.so"))
        self.made.main.dlopen("liba.so")
        self.made.refresh()
        self.readings = 0
        self._work = work
        target = self.made.target
        target.capabilities = Capability.RUNNING
        self._read = target.read
        target.read = self.read  # type: ignore[method-assign]
        self._globals = self.made.process.base(self.made.library("ld.so")) + 0x2000

    def read(self, address: int, size: int) -> bytes:
        """Read, and let the process go on."""
        data = self._read(address, size)
        if address <= self._globals < address + size:
            self.readings += 1
            self._work(self.made, self.readings)
            self.made.refresh()
        return data

    def explain(self) -> State:
        """Ask for the state."""
        return explain(self.made.target)


def names(state: State) -> list[str]:
    return [library.name for library in state.libraries[3:]]


def test_a_process_that_stands_still_is_read_once(clock: Clock) -> None:
    running = Running(lambda made, reading: None)
    state = running.explain()
    assert (names(state), state.problems) == (["liba.so"], ())
    assert clock.now < 100.1


def test_a_process_that_stands_is_not_compared() -> None:
    running = Running(lambda made, reading: made.main.dlopen("libb.so"))
    running.made.target.capabilities = Capability.NONE
    assert names(running.explain()) == ["liba.so"]


def test_what_has_changed_meanwhile_is_read_again() -> None:
    running = Running(lambda made, reading: made.main.dlopen("libb.so") if reading == 1 else None)
    state = running.explain()
    assert (names(state), state.problems) == (["liba.so", "libb.so"], ())


def test_a_count_that_has_changed_meanwhile_is_read_again() -> None:
    running = Running(lambda made, reading: made.main.dlopen("liba.so") if reading == 1 else None)
    state = running.explain()
    assert (state.libraries[3].fields["l_direct_opencount"], state.problems) == (2, ())


def test_a_process_that_never_stands_still_is_said_to_be_racy(clock: Clock) -> None:
    running = Running(lambda made, reading: made.main.dlopen("liba.so"))
    state = running.explain()
    assert [problem.where for problem in state.problems] == ["racy"]
    assert names(state) == ["liba.so"]
    assert 101.0 < clock.now < 102.0


def test_a_plan_of_a_process_that_never_stands_still_says_so_last() -> None:
    def work(made: Script, _: int) -> None:
        made.process.lock = (4711, 1)
        made.main.dlopen("liba.so")

    running = Running(work)
    running.made.process.lock = (4711, 1)
    running.made.refresh()
    assert [problem.where for problem in plan_all(running.made.target).problems] == ["loader", "racy"]


def test_lists_that_can_never_be_read_are_the_error_that_they_were_at_last(clock: Clock) -> None:
    running = Running(lambda made, reading: None)
    running.made.target.forget(running.made.process.base(running.made.library("ld.so")) + 0x2000, 0x1000)
    with pytest.raises(LayoutError, match="made unreadable by the test"):
        explain(running.made.target)
    assert 101.0 < clock.now < 102.0


def test_lists_that_can_be_read_after_a_while() -> None:
    running = Running(lambda made, reading: None)
    place = running.made.process.base(running.made.library("ld.so")) + 0x2A00
    target = running.made.target
    target.overwrite(place, (99).to_bytes(8, "little"))  # _dl_nns is absurd

    def read(address: int, size: int) -> bytes:
        data = running.read(address, size)
        if address <= place < address + size:
            target.heal()
        return data

    target.read = read  # type: ignore[method-assign]
    state = explain(target)
    assert (names(state), state.problems) == (["liba.so"], ())


def test_a_thread_that_stays_inside_dlopen_is_waited_for_a_moment_and_told(clock: Clock) -> None:
    running = Running(lambda made, reading: None)
    running.made.process.lock = (4711, 1)
    running.made.refresh()
    state = running.explain()
    assert [problem.message for problem in state.problems] == [LOCK_IS_HELD]
    assert 100.1 < clock.now < 100.5


def test_a_list_that_is_said_to_be_changing() -> None:
    running = Running(lambda made, reading: None)
    running.made.refresh()
    r_debug = running.made.process.base(running.made.library("ld.so")) + 0x4800
    running.made.target.overwrite(r_debug + 24, b"\2")
    state = running.explain()
    assert [problem.message for problem in state.problems] == [
        "r_state is RT_DELETE: libraries are being added or removed"
    ]


def test_a_process_of_windows_is_asked_with_other_commands() -> None:
    made = Script()
    made.target.platform = Platform("x86_64", 8, "little", "windows")
    with pytest.raises(UnsupportedError, match="dllstate, dllplan"):
        explain(made.target)
