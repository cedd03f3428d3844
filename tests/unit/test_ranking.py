"""Are all open libraries predicted together as each is by itself?"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from dlwhy.common.graph import Search
from dlwhy.common.linux.loader.order import OrderRule, Sorting
from dlwhy.common.linux.plan import Planner, Ranking
from dlwhy.common.linux.plan_model import Plan
from dlwhy.common.linux.state.sole_roots import find_sole_roots
from dlwhy.common.model import Outcome
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.support.examined import examination_of
from dlwhy.tests.synth.glibc import Library
from dlwhy.tests.synth.glibc_layouts import V240_LIVE, process_of

#: In the first of the last two a second depth-first pass decides; in the other one the original sort turns a cycle.
SEEDS = (*range(250), 1061, 1941)
RULES = (
    OrderRule(Sorting.DEPTH_FIRST, True, True),
    OrderRule(Sorting.DEPTH_FIRST, False, True),
    OrderRule(Sorting.ORIGINAL, True, True),
    OrderRule(Sorting.ORIGINAL, False, True),
    OrderRule(Sorting.CONSTRUCTORS, False, True),
)


def random_target(dice: random.Random, size: int) -> FakeTarget:
    """Make libraries in two namespaces that need and bind each other, in cycles, too, now and then in a close."""
    spaces = dice.choice(((0,), (0,), (0, 0, 1)))
    names = [(f"lib{number}.so", dice.choice(spaces)) for number in range(size)]
    needs, bound = dice.choice((0, 1, 1, 3)), dice.choice((0, 0, 1, 2))
    counts = dice.choice(((0, 0, 1), (0, 1, 2), (1,), (0, 0, 0, 0, 0, 1)))
    odd = dice.choice((0, 0, 0.1))

    def others(index: int, most: int) -> list[str]:
        name, space = names[index]
        # Most libraries need only later ones, so that not all is one cycle.
        later = names if dice.random() < 0.1 else names[index + 1 :]
        found = [each for each, its in later if its == space and each != name]
        return dice.sample(found, dice.randint(0, min(most, len(found))))

    libraries = []
    for index, (name, space) in enumerate(names):
        needed = others(index, needs)
        libraries.append(
            Library(
                name,
                namespace=space,
                opencount=dice.choice(counts),
                nodelete=dice.random() < odd,
                owed=dice.random() < odd and space == 0,
                needs=needed,
                needed_names=[*needed, *others(index, 1)] if dice.random() < odd else None,
                bound_to=others(index, bound),
                listed_last=dice.random() < 2 * odd,
            )
        )
    dice.shuffle(libraries)
    process = process_of(libraries, layout=V240_LIVE)
    if odd and dice.random() < 0.3:
        process.lock = (4711, 1)
        for index, library in enumerate(process.libraries):
            if library.opencount == 0 and library.type == 2 and dice.random() < 0.3:
                library.map_used, library.idx = False, index
    return process.target()


def plans_of(planner: Planner, rule: OrderRule) -> Sequence[Plan]:
    """Predict the close of each library, also of those that are not open."""
    planner._order_rule = rule
    maps = planner._process.graph.by_address.values()
    return [planner.plan(link_map, closes, brief=True) for link_map in maps for closes in (1, None)]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_plan_is_that_of_the_library_alone(seed: int) -> None:
    dice = random.Random(seed)
    target = random_target(dice, dice.randint(1, 14))
    rule = dice.choice(RULES)
    plain, quick = examination_of(target), examination_of(target)
    assert plans_of(Ranking(quick), rule) == plans_of(Planner(plain), rule)
    assert quick.process.concerned_problems() == plain.process.concerned_problems()


def test_the_libraries_differ_in_what_counts() -> None:
    outcomes, sizes, orders = set(), set(), 0
    for seed in SEEDS:
        dice = random.Random(seed)
        target = random_target(dice, dice.randint(1, 14))
        for plan in plans_of(Ranking(examination_of(target)), dice.choice(RULES)):
            outcomes.add(plan.outcome)
            sizes.add(len(plan.unloads))
            orders += plan.order_algorithm is not None and len(plan.unloads) > 2
    assert outcomes == set(Outcome)
    assert max(sizes) > 6
    assert orders > 300


@pytest.mark.parametrize("seed", range(200))
def test_the_only_root_is_that_of_a_search_from_each(seed: int) -> None:
    dice = random.Random(seed)
    size = dice.randint(1, 40)
    density = dice.choice((0.01, 0.02, 0.05, 0.1))
    edges = {node: [other for other in range(size + 1) if dice.random() < density] for node in range(size)}
    roots = dice.sample(range(size), dice.randint(0, size))
    cut = dice.randint(0, len(roots))
    found = find_sole_roots(edges, edges.__getitem__, roots[:cut], roots[cut:])
    reached = {root: set(Search([root], lambda node: edges.get(node, ())).run().before) & set(edges) for root in roots}
    assert found.keys() == set().union(*reached.values())
    for node, root in found.items():
        reaching = [each for each in roots if node in reached[each]]
        assert root == (reaching[0] if len(reaching) == 1 and reaching[0] in roots[:cut] else None)
