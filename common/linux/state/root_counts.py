"""How many roots of the mark phase keep each library?

The roots that reach a library are a set of bits.  The sets go down the graph once, holders before what they hold; only
where libraries hold one another they go round until nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Optional

# The charge for a step along an edge, in Memory's units, and the number of roots that adds one.
_STEP_UNITS = 4
_ROOTS_A_UNIT = 256


def count_roots(
    edges: Mapping[int, Sequence[int]], roots: Collection[int], spend: Callable[[int], bool]
) -> Optional[Mapping[int, int]]:
    """Count the roots that reach each node through an edge or more, not counting itself.

    :param edges: the nodes that each node that can be reached leads to; all of them are keys, too.
    :param spend: takes the cost of a part of the work; returns False if there is no more time for it.
    :returns: the counts; None if the work was cut short.
    """
    order = _topological(edges, roots)
    reached_by = dict.fromkeys(order, 0)
    for number, root in enumerate(roots):
        reached_by[root] = 1 << number
    place = {node: index for index, node in enumerate(order)}
    units = _STEP_UNITS + len(roots) // _ROOTS_A_UNIT
    is_final = False
    while not is_final:
        is_final = True
        for index, node in enumerate(order):
            carried, following = reached_by[node], edges[node]
            if not spend(units * len(following)):
                return None
            for other in following:
                known = reached_by[other]
                joined = known | carried
                if joined != known:
                    reached_by[other] = joined
                    if place[other] < index:
                        is_final = False
    own = set(roots)
    return {node: bin(bits).count("1") - (node in own) for node, bits in reached_by.items()}


def _topological(edges: Mapping[int, Sequence[int]], roots: Collection[int]) -> list[int]:
    """Return all reachable nodes, each before those that it leads to where there is no cycle."""
    finished: list[int] = []
    seen: set[int] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        path = [(root, iter(edges[root]))]
        while path:
            node, others = path[-1]
            for other in others:
                if other not in seen:
                    seen.add(other)
                    path.append((other, iter(edges[other])))
                    break
            else:
                finished.append(node)
                path.pop()
    return finished[::-1]
