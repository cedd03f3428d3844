"""Are the roots that keep a library counted as a search from each of them counts them?"""

from __future__ import annotations

import random

import pytest
from dlwhy.common.graph import Search
from dlwhy.common.linux.state.root_counts import count_roots


def plainly(edges: dict[int, list[int]], roots: list[int]) -> dict[int, int]:
    """Count by a search from each root."""
    found = [set(Search([root], lambda node: edges[node]).run().before) for root in roots]
    return {node: sum(node in reached and node != root for root, reached in zip(roots, found)) for node in edges}


@pytest.mark.parametrize("seed", range(200))
def test_graphs_made_by_chance(seed: int) -> None:
    chance = random.Random(seed)
    size = chance.randint(1, 40)
    density = chance.choice([0.02, 0.05, 0.1, 0.3])
    edges = {node: [other for other in range(size) if chance.random() < density] for node in range(size)}
    roots = chance.sample(range(size), chance.randint(0, size))
    counts = count_roots(edges, roots, lambda units: True)
    assert counts is not None
    expected = plainly(edges, roots)
    assert counts == {node: expected[node] for node in counts}
    assert all(expected[node] == 0 for node in edges if node not in counts)


def test_what_costs_too_much_is_not_counted() -> None:
    edges = {node: [node + 1] for node in range(100)} | {100: []}
    left = iter(range(50, -50, -1))
    assert count_roots(edges, [0], lambda units: next(left) > 0) is None
