"""Does every close of random graphs do what was predicted: the same libraries, in the same order?

DLWHY_PLAN_SEEDS=2000 python3 install.py test -- tests/plan -s       more seeds than the 60 of the default
DLWHY_PLAN_FIRST=1234                                                 begins with that seed; other glibcs run half
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.plan.graphs import (
    COLLECT,
    SEEDS_PER_GRAPH,
    Shape,
    build_driver,
    build_graph,
    random_shapes,
    shared_objects,
)
from dlwhy.tests.plan.rounds import Round, Tally
from dlwhy.tests.plan.sessions import Session, clean_environment

SEEDS = int(os.environ.get("DLWHY_PLAN_SEEDS", "60"))
FIRST = int(os.environ.get("DLWHY_PLAN_FIRST", "0"))


def run_seeds(
    folder: Path, seeds: range, *, interpreter: Optional[Path] = None, environment: Optional[Mapping[str, str]] = None
) -> Tally:
    """Run seeds, several with each graph."""
    tally = Tally()
    driver = folder / "driver"
    build_driver(driver, interpreter)
    surroundings = environment or clean_environment()
    shapes: list[Shape] = []
    libraries = folder
    for seed in seeds:
        graph = seed // SEEDS_PER_GRAPH
        if libraries.name != f"graph{graph}":
            libraries = folder / f"graph{graph}"
            shapes = random_shapes(random.Random(f"graph {graph}"))
            build_graph(libraries, shapes)
            (libraries / COLLECT).symlink_to(shared_objects() / COLLECT)
        with Session(driver, libraries, surroundings) as session:
            one = Round(seed, shapes, session, tally)
            try:
                one.run()
            except RuntimeError as error:
                one.wrong(str(error))
    return tally


def judge(tally: Tally, seeds: int) -> None:
    """Hold the result against what is asked for."""
    print(tally)
    assert tally.wrong == [], "\n".join(tally.wrong[:5])
    assert tally.exact >= 0.995 * tally.closes
    assert tally.closes >= 10 * seeds


def test_predictions_hold(tmp_path: Path) -> None:
    judge(run_seeds(tmp_path, range(FIRST, FIRST + SEEDS)), SEEDS)


def test_predictions_hold_with_the_older_sorting(tmp_path: Path) -> None:
    environment = {**clean_environment(), "GLIBC_TUNABLES": "glibc.malloc.check=0:glibc.rtld.dynamic_sort=1"}
    judge(run_seeds(tmp_path, range(FIRST, FIRST + SEEDS // 10), environment=environment), SEEDS // 10)


@pytest.mark.parametrize("name", ["2.31", "newest"])
def test_predictions_hold_on_other_glibcs(name: str, tmp_path: Path) -> None:
    glibc = glibcs.get(name)
    environment = glibc.environment(clean_environment())
    seeds = SEEDS // 2
    judge(run_seeds(tmp_path, range(FIRST, FIRST + seeds), interpreter=glibc.loader, environment=environment), seeds)
