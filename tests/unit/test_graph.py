"""Does the search over libraries find what can be reached, by the shortest way, and say when it was cut?"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from dlwhy.common.graph import Search

#: Two ways from 1 to 5, of which that through 3 is the shorter one, a cycle, and a part that nothing leads to.
GRAPH: Mapping[int, Collection[int]] = {1: (2, 3), 2: (4,), 3: (5, 1), 4: (5,), 5: (5, 2), 6: (1, 7), 7: ()}


def neighbours(node: int) -> Collection[int]:
    return GRAPH[node]


def test_the_nearest_come_first_and_each_once() -> None:
    assert list(Search([1], neighbours)) == [1, 2, 3, 4, 5]


def test_a_way_is_a_shortest_one() -> None:
    search = Search([1], neighbours).run()
    assert [search.path(node) for node in (5, 1, 4)] == [[1, 3, 5], [1], [1, 2, 4]]


def test_each_node_has_the_start_that_is_nearest() -> None:
    search = Search([4, 6], neighbours).run()
    assert search.starts == {4: 4, 6: 6, 5: 4, 1: 6, 7: 6, 2: 4, 3: 6}


def test_what_nothing_leads_to_is_not_reached() -> None:
    assert 6 not in Search([1], neighbours).run().before


def test_a_node_comes_when_its_neighbours_are_known() -> None:
    search = Search([1], neighbours)
    assert (next(iter(search)), list(search.before)) == (1, [1, 2, 3])


@pytest.mark.parametrize(("allowed", "reached", "is_cut"), [(1, 3, True), (4, 5, True), (100, 5, False)])
def test_a_search_that_is_cut_says_so(allowed: int, reached: int, is_cut: bool) -> None:
    left = allowed

    def spend(count: int) -> bool:
        nonlocal left
        left -= count
        return left >= 0

    search = Search([1], neighbours, spend).run()
    assert (len(search.before), search.is_cut) == (reached, is_cut)


def test_nowhere_to_begin() -> None:
    assert list(Search([], neighbours)) == []
