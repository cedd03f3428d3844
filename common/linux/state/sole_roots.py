"""Which libraries does one root of the mark phase keep alone, so that they go with it?

Each mark that goes down the graph carries its root; where a second root arrives, or one that stays, no single one is
left.  So no library is marked more than twice, and the closes of all open libraries take the time of two mark phases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Optional


def find_sole_roots(
    nodes: Iterable[int], edges: Callable[[int], Collection[int]], going: Collection[int], staying: Collection[int]
) -> Mapping[int, Optional[int]]:
    """Return each node that a root reaches, with that root if no other does and it can go, otherwise with None.

    :param nodes: all nodes; those that ``edges`` names beside them are passed over.
    :param edges: returns the nodes that one leads to.
    :param going: the roots that can go, each by itself.
    :param staying: the others.
    """
    found: dict[int, Optional[int]] = {root: root for root in going}
    found.update(dict.fromkeys(staying))
    undecided = set(nodes).difference(staying)
    work = [*going, *staying]
    while work:
        node = work.pop()
        root = found[node]
        for other in undecided.intersection(edges(node)):
            if other not in found or found[other] != root:
                if other in found or root is None:
                    undecided.discard(other)
                    found[other] = None
                else:
                    found[other] = root
                work.append(other)
    return found
