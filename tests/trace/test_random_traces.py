"""Does dltrace, in a real debugger, tell of every close of random graphs what it did, and predict it?

DLWHY_TRACE_SEEDS=2000 python3 install.py test -- tests/trace/test_random_traces.py -s     more than 50
DLWHY_TRACE_FIRST=1234                                                                      begins with that seed
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from dlwhy.common.linux.plan_model import Plan
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.hosts.debuggers import GDB, LLDB_NEW, LLDB_OLD
from dlwhy.tests.plan.graphs import (
    COLLECT,
    RTLD_LAZY,
    SEEDS_PER_GRAPH,
    Shape,
    build_driver,
    build_graph,
    random_shapes,
    reachable,
    shared_objects,
)
from dlwhy.tests.plan.rounds import Round, Tally
from dlwhy.tests.plan.sessions import Session, View, clean_environment, mapped_at
from dlwhy.tests.support.naming import names_of
from dlwhy.tests.trace.attached import Traced, traced

SEEDS = int(os.environ.get("DLWHY_TRACE_SEEDS", "50"))
FIRST = int(os.environ.get("DLWHY_TRACE_FIRST", "0"))
STEPS = 60
#: Here destructors close by the libc of another namespace, which gdb 13 does not see.
UNSEEN = (5244, 7932, 8920)


class TracedRound(Round):
    """A round that remembers what the program's own closes did."""

    def __init__(self, seed: int, shapes: Sequence[Shape], session: Session, tally: Tally) -> None:
        super().__init__(seed, shapes, session, tally)
        self.truth: list[tuple[str, list[str]]] = []
        self.opens_within_space = False
        self.nests = False

    def run(self) -> None:
        """Do what is random; once, close in children too."""
        for number in range(STEPS):
            self.step()
            if self.nests and number % 10 == 0:
                self.close_closer()
            if number == STEPS // 2:
                self.compare_forks()

    def close_closer(self) -> None:
        """Open and close the library whose destructor closes others, where there is one."""
        closer = next((shape for shape in self.shapes if shape.closes), None)
        if closer is None:
            return
        self.open(f"open {RTLD_LAZY:x} {self.session.folder / closer.name}")
        view = self.look()
        by_address = view.examined.process.graph.by_address
        found = [h for h in self.handles(view) if by_address[h].name.endswith(closer.name)]
        if found:
            self.close(view, found[0])

    def tell(self, command: str) -> list[str]:
        """Note where a constructor opens something by the libc of a namespace: not every debugger can see that."""
        if command.startswith("space "):
            shape = next(shape for shape in self.shapes if command.endswith(f"/{shape.name}"))
            self.opens_within_space |= any(each.opens for each in reachable(self.shapes, shape))
        return super().tell(command)

    def compare(self, view: View, plan: Plan, lines: Sequence[str], pid: int) -> None:
        """Note what went, as the kernel's list of mappings has it."""
        super().compare(view, plan, lines, pid)
        if pid == self.session.pid:
            mapped = mapped_at(pid)
            went = [each.name for each in view.libraries() if each.name and not self.is_there(each.start, mapped)]
            self.truth.append((plan.library.name, sorted(went)))


class Score:
    """What dltrace said of all rounds, held against what happened."""

    def __init__(self) -> None:
        self.closes = self.exact = self.nested = self.opens = 0
        self.wrong: list[str] = []

    def add(self, seed: int, done: TracedRound, result: Traced) -> None:
        """Compare one round."""
        closes = result.events("close")
        own = [
            (each["library"]["name"], sorted(names_of(each["unloaded"])))
            for each in closes
            if each["within_event"] is None
        ]
        if own != done.truth:
            first = next((i for i, pair in enumerate(zip(own, done.truth)) if pair[0] != pair[1]), -1)
            self.wrong.append(
                f"seed {seed}: {len(own)} closes traced, {len(done.truth)} done; first difference at {first}: "
                f"{own[first]} for {done.truth[first] if done.truth else None}"
            )
        for each in closes:
            self.closes += 1
            self.exact += each["predicted_exactly"] is True
            self.nested += each["within_event"] is not None
            if each["predicted_but_kept"] or each["unloaded_but_not_predicted"] or each["predicted_exactly"] is None:
                self.wrong.append(f"seed {seed}: {describe(each)}")
        handles = sum(line.startswith(("open", "space")) for line in done.done)
        opens = [each for each in result.events("open") if each["within_event"] is None]
        self.opens += len(opens)
        if len(opens) != handles:
            self.wrong.append(f"seed {seed}: {len(opens)} opens traced, {handles} done")
        totals = result.report["totals"]
        unseen = totals["opens_unseen"] + totals["closes_unseen"]
        if (unseen and not done.opens_within_space) or totals["end_not_seen"] or result.report["problems"]:
            self.wrong.append(f"seed {seed}: {totals} {result.report['problems']}")

    def __str__(self) -> str:
        share = 100 * self.exact / max(1, self.closes)
        return (
            f"{self.closes} closes, {self.exact} exact at entry ({share:.2f} %), {self.nested} within others, "
            f"{self.opens} opens; {len(self.wrong)} wrong"
        )


def seeds_with_closers(count: int) -> list[int]:
    """Find seeds whose graphs have a library that closes others in its destructor, and can be loaded."""
    found: list[int] = []
    seed = FIRST
    while len(found) < count:
        shapes = random_shapes(random.Random(f"graph {seed // SEEDS_PER_GRAPH}"))
        closer = next((shape for shape in shapes if shape.closes), None)
        if closer is not None and not any(each.can_fail for each in reachable(shapes, closer)):
            found.append(seed)
        seed += 1
    return found


def describe(close: Mapping[str, Any]) -> dict[str, Any]:
    """Return what matters of a close."""
    keys = (
        *("number", "predicted_outcome", "predicted_unloads", "predicted_by_nested_closes", "unloaded"),
        *("predicted_but_kept", "unloaded_but_not_predicted", "may_unload_more", "within_event"),
    )
    return {"library": close["library"]["name"], **{key: close[key] for key in keys}}


def run_seeds(
    host: str,
    folder: Path,
    seeds: Sequence[int],
    *,
    interpreter: Optional[Path] = None,
    environment: Optional[Mapping[str, str]] = None,
    nests: bool = False,
) -> Score:
    """Run seeds, several with each graph."""
    score = Score()
    driver = folder / "driver"
    build_driver(driver, interpreter)
    shapes: list[Shape] = []
    libraries = folder
    for seed in seeds:
        graph = seed // SEEDS_PER_GRAPH
        if libraries.name != f"graph{graph}":
            libraries = folder / f"graph{graph}"
            shapes = random_shapes(random.Random(f"graph {graph}"))
            build_graph(libraries, shapes)
            (libraries / COLLECT).symlink_to(shared_objects() / COLLECT)
        with Session(driver, libraries, environment or clean_environment()) as session:
            one = TracedRound(seed, shapes, session, Tally())
            one.nests = nests
            with traced(host, session.pid, folder / f"seed{seed}") as result:
                try:
                    one.run()
                except RuntimeError as error:
                    one.wrong(str(error))
                session.finish()
            score.wrong += one.tally.wrong
            score.add(seed, one, result)
    return score


def judge(score: Score, seeds: int) -> None:
    """Hold the result against what is asked for."""
    print(score)
    assert score.wrong == [], "\n".join(score.wrong[:8])
    assert score.exact >= 0.995 * (score.closes - score.nested)
    assert score.closes >= 5 * seeds


def test_gdb_traces_random_graphs(tmp_path: Path) -> None:
    judge(run_seeds(GDB, tmp_path, range(FIRST, FIRST + SEEDS)), SEEDS)


def test_gdb_traces_closes_within_closes(tmp_path: Path) -> None:
    # A close that begins in a destructor cannot be foreseen: marking once more at each explains all.
    score = run_seeds(GDB, tmp_path, sorted({*seeds_with_closers(max(2, SEEDS // 2)), *UNSEEN}), nests=True)
    print(score)
    assert score.wrong == [], "\n".join(score.wrong[:8])
    assert score.nested > 0


@pytest.mark.parametrize("host", [LLDB_OLD, LLDB_NEW])
def test_lldb_traces_random_graphs(host: str, tmp_path: Path) -> None:
    score = run_seeds(
        host, tmp_path, sorted({*range(FIRST, FIRST + max(2, SEEDS // 10)), *seeds_with_closers(2)}), nests=True
    )
    print(score)
    assert score.wrong == [], "\n".join(score.wrong[:8])


@pytest.mark.parametrize("name", ["2.31", "newest"])
def test_gdb_traces_other_glibcs(name: str, tmp_path: Path) -> None:
    trace_other_glibc(name, tmp_path, max(2, SEEDS // 10))


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["2.31", "2.41", "newest"])
def test_gdb_traces_more_of_other_glibcs(name: str, tmp_path: Path) -> None:
    trace_other_glibc(name, tmp_path, SEEDS)


def trace_other_glibc(name: str, folder: Path, count: int) -> None:
    """Run seeds with another glibc than the system's."""
    glibc = glibcs.get(name)
    environment = glibc.environment(clean_environment())
    seeds = range(FIRST, FIRST + count)
    judge(run_seeds(GDB, folder, seeds, interpreter=glibc.loader, environment=environment), count)
