"""Is a close predicted rightly that another close is running beside, and what may it bring along?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import pytest
from dlwhy.common.errors import NotFoundError
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.linux.plan import plan_all, plan_close
from dlwhy.common.linux.plan_model import Plan
from dlwhy.common.memory import Memory
from dlwhy.common.model import Outcome
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.synth.glibc import Library, Process
from dlwhy.tests.synth.glibc_layouts import V239, V240_LIVE, process_of

#: So many libraries are looked at before a layout is believed that comes from the very build.
SAMPLE = 40


def number(text: str) -> int:
    """Evaluate as the shell's host does."""
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(text) from error


def plan(target: FakeTarget, name: str, closes: Optional[int] = 1) -> Plan:
    """Predict one close."""
    return plan_close(target, name, number, closes).plans[0]


def names(plan: Plan) -> list[str]:
    """Name what goes."""
    return [library.name for library in plan.unloads]


def condemn(process: Process, *names: str) -> None:
    """Let a thread run the destructors of a close that these go with."""
    process.lock = (4711, 1)
    for index, library in enumerate(process.libraries):
        if library.name in names:
            library.map_used, library.idx = False, index


CYCLE = [
    Library("libone.so"),
    Library("libleft.so", opencount=1, needs=["libright.so"]),
    Library("libright.so", needs=["libleft.so"]),
]


def test_only_the_closed_library_of_a_close_that_is_not_put_off_comes_first() -> None:
    process = process_of(CYCLE[1:], layout=V240_LIVE)
    found = plan(process.target(), "libleft.so")
    assert (found.outcome, names(found)) == (Outcome.UNLOADS, ["libleft.so", "libright.so"])
    process = process_of(CYCLE, layout=V240_LIVE)
    condemn(process, "libone.so")
    found = plan(process.target(), "libleft.so")
    assert (found.outcome, names(found)) == (Outcome.DEFERRED, ["libright.so", "libleft.so"])


def test_a_close_that_is_put_off_takes_along_what_only_it_keeps_however_often_it_is_open() -> None:
    every = [Library("libone.so"), Library("liba.so", opencount=2, needs=["libb.so"]), Library("libb.so")]
    process = process_of(every, layout=V240_LIVE)
    condemn(process, "libone.so")
    assert plan(process.target(), "liba.so").outcome is Outcome.KEEPS
    found = plan(process.target(), "liba.so", None)
    assert (found.outcome, names(found), found.close_count) == (Outcome.DEFERRED, ["liba.so", "libb.so"], 2)
    assert (found.kept, found.remedy) == ((), None)


def test_what_stays_although_a_close_is_put_off_has_its_reasons() -> None:
    every = [
        Library("libone.so"),
        Library("liba.so", opencount=1),
        Library("libb.so", opencount=1, needs=["liba.so"]),
    ]
    process = process_of(every, layout=V240_LIVE)
    condemn(process, "libone.so")
    found = plan(process.target(), "liba.so")
    assert (found.outcome, names(found)) == (Outcome.DEFERRED, [])
    assert found.remedy is not None
    assert [(step.library, step.total) for step in found.remedy.steps] == [("libb.so", 1)]


@pytest.mark.parametrize(
    ("removed", "used", "index", "is_going"),
    [(True, True, -1, True), (False, False, 0, True), (False, False, -1, False), (False, True, 3, False)],
)
def test_what_a_running_close_has_condemned_is_no_garbage(
    removed: bool, used: bool, index: int, is_going: bool
) -> None:
    every = [Library("libone.so", removed=removed, map_used=used, idx=index), Library("libx.so", opencount=1)]
    process = process_of(every, layout=V240_LIVE)
    process.lock = (4711, 1)
    plans = plan_close(process.target(), "libx.so", number)
    assert [library.name for library in plans.garbage or ()] == ([] if is_going else ["libone.so"])
    assert plans.plans[0].outcome is (Outcome.DEFERRED if is_going else Outcome.UNLOADS)
    process.lock = (0, 0)
    plans = plan_close(process.target(), "libx.so", number)
    # With a mark that no finished close leaves it is not known.
    assert [library.name for library in plans.garbage or ()] == (["libone.so"] if used or index < 0 else [])


def test_what_is_kept_is_not_being_closed_whatever_its_marks_say() -> None:
    every = [Library("libx.so", opencount=1, needs=["liby.so"]), Library("liby.so")]
    process = process_of(every, layout=V240_LIVE)
    condemn(process, "libx.so", "liby.so")
    found = plan(process.target(), "libx.so")
    assert (found.outcome, names(found)) == (Outcome.UNLOADS, ["libx.so", "liby.so"])


def test_ld_so_that_nothing_needs_in_another_namespace_is_no_garbage() -> None:
    space = [
        Library("libspace.so", namespace=1, opencount=1),
        Library("ld.so", namespace=1, is_proxy=True),
        Library("libgarbage.so", namespace=1),
    ]
    plans = plan_all(process_of(space, layout=V240_LIVE).target())
    assert [library.name for library in plans.garbage or ()] == ["libgarbage.so"]
    assert [names(each) for each in plans.plans] == [["libspace.so", "libgarbage.so"]]


@pytest.mark.parametrize("imported", [("dlclose",), ("__libc_dlclose",), ("dlclose", "__libc_dlclose"), ("puts",)])
def test_which_imports_let_a_destructor_close_others(imported: Sequence[str]) -> None:
    process = process_of([Library("liba.so", opencount=1, imports=dict.fromkeys(imported))], layout=V239)
    assert plan(process.target(), "liba.so").may_unload_more == (() if "puts" in imported else ("liba.so",))


def believed(libraries: Sequence[Library], changed: str, namespace: int) -> FakeTarget:
    """Make a process whose layouts the debugger knows, and whose last map claims to be in another namespace."""
    process = process_of([*(Library(f"lib{n}.so", opencount=1) for n in range(SAMPLE)), *libraries])
    memory = Memory(process.target())
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    made = process.target(choose_layouts(memory, start, private).layouts.layouts)
    made.overwrite(process.map_of(changed) + 6 * process.word, process.out.word(namespace))
    return made


@pytest.mark.parametrize("namespace", [99, 1, (1 << 64) - 1])
def test_in_a_namespace_that_is_not_there_nothing_is_known(namespace: int) -> None:
    """Of many libraries not each one is looked at before a layout is believed that is that of the very build."""
    pinned = [Library("liba.so", opencount=1, needs=["libb.so"]), Library("libb.so", nodelete=True)]
    made = believed(pinned, "libb.so", namespace)
    found = plan(made, "liba.so")
    assert (found.outcome, names(found)) == (Outcome.UNLOADS, ["liba.so"])
    assert plan(made, "libb.so").outcome is Outcome.UNKNOWN
    both = [Library("liba.so", opencount=1, needs=["libb.so"]), Library("libb.so")]
    found = plan(believed(both, "libb.so", namespace), "liba.so")
    assert (found.outcome, names(found)) == (Outcome.UNKNOWN, [])
    found = plan(believed(both, "liba.so", namespace), "liba.so")
    assert (found.outcome, names(found)) == (Outcome.UNKNOWN, [])
