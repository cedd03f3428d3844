"""Does an answer, or its refusal, say all that was met on the way to it?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from dlwhy.common.errors import NotFoundError, UnsupportedError
from dlwhy.common.linux.loader.rendezvous import STATIC
from dlwhy.common.linux.model import Library as Verdict
from dlwhy.common.linux.plan import plan_all
from dlwhy.common.linux.state import examine
from dlwhy.common.linux.state.activity import LoaderActivity
from dlwhy.common.linux.state.examine import explain, explain_chosen
from dlwhy.common.linux.state.matching import by_address
from dlwhy.common.linux.state.verdict import Choice
from dlwhy.common.model import Problem
from dlwhy.common.target import Capability
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.synth.glibc import Library, Process
from dlwhy.tests.synth.glibc_layouts import LOCK_IS_HELD, V240_LIVE, process_of

EARLY, LATE = Problem("core", "has always been damaged"), Problem("core", "is cut off")
IN_MOTION = Problem("loader", LOCK_IS_HELD)


class Telling(FakeTarget):
    """A target that has one problem from the start, and meets another one when it is read."""

    def problems(self) -> Sequence[Problem]:
        return (EARLY, LATE) if self.reads else (EARLY,)


def telling(process: Process) -> Telling:
    return Telling(process.segments(), process.platform, auxv=process.auxv(), threads={4711: process.tls})


def locked() -> Process:
    process = process_of([Library("liba.so", opencount=1)], layout=V240_LIVE)
    process.lock = (4711, 1)
    return process


def refuse(_: object) -> Sequence[Verdict]:
    raise NotFoundError("no such library")


def open_library(process: Process) -> Choice:
    """Choose the one that is open."""
    return lambda libraries: by_address(libraries, process.map_of("liba.so"))


def test_an_answer_has_what_the_loader_and_what_the_target_told() -> None:
    process = locked()
    state = explain(telling(process))
    assert set(state.problems) == {EARLY, LATE, IN_MOTION}
    chosen = explain_chosen(telling(process), open_library(process))
    assert chosen.problems == state.problems
    assert [library.name for library in chosen.libraries] == ["liba.so"]
    plans = plan_all(telling(process))
    assert set(plans.problems) == {EARLY, LATE, IN_MOTION}


def test_a_choice_of_nothing_has_them_too() -> None:
    with pytest.raises(NotFoundError) as caught:
        explain_chosen(telling(locked()), refuse)
    assert str(caught.value).startswith(f"no such library; core: {EARLY.message}; core: {LATE.message}")


def test_an_error_has_all_that_the_target_told() -> None:
    process = locked()
    made = telling(process)
    made.forget(process.base(process.library("ld.so")), 0x1000)
    with pytest.raises(UnsupportedError, match=f"neither glibc's nor musl's.*{EARLY.message}.*{LATE.message}"):
        explain(made)


def test_a_program_without_an_interpreter_is_said_to_be_static(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "find_loader_globals", lambda memory, start: None)
    process = locked()
    with pytest.raises(UnsupportedError, match="neither glibc's nor musl's"):
        explain(process.target())
    process.libraries[0].type = 1
    with pytest.raises(UnsupportedError) as caught:
        explain(process.target())
    assert str(caught.value) == STATIC


@pytest.mark.parametrize("is_found", [True, False])
def test_what_never_stood_still_is_said_of_a_choice(monkeypatch: pytest.MonkeyPatch, is_found: bool) -> None:
    process = locked()
    made = telling(process)
    made.capabilities = Capability.RUNNING
    monkeypatch.setattr(examine, "find_activity", lambda process: LoaderActivity.MOVING)
    monkeypatch.setattr(examine, "MAX_SETTLING_SECONDS", 0.0)
    if is_found:
        state = explain_chosen(made, open_library(process))
        assert [problem.where for problem in state.problems][-1] == "racy"
        assert set(state.problems[:-1]) == {EARLY, LATE, IN_MOTION}
    else:
        with pytest.raises(NotFoundError, match="racy: the loader never stood still"):
            explain_chosen(made, refuse)
