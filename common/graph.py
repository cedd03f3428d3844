"""Which nodes of a graph does a way lead to, and which is the shortest one?

The one search over libraries that need one another, breadth first.  What is left out, because it is another algorithm:
the marking and sorting of glibc's collector (``linux.loader``), the counting of Windows' loaders and their strongly
connected components (``windows.loader.unload``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Generic, Optional, TypeVar

Node = TypeVar("Node")


class Search(Generic[Node]):
    """Visit a graph breadth first, as far as it is asked for; each node is given once its neighbours are known.

    ``before`` has what was reached, in that order: for each node the one that it was reached from, for a start itself.
    ``is_cut`` says that ``spend`` has ended the search: what was not reached then may be reachable.
    """

    def __init__(
        self,
        starts: Iterable[Node],
        neighbours: Callable[[Node], Collection[Node]],
        spend: Optional[Callable[[int], bool]] = None,
    ) -> None:
        """Take where to begin, and what gives the nodes beside one.

        :param spend: takes the number of a node's neighbours, when they have been looked at; False ends the search.
        """
        self.before: dict[Node, Node] = {start: start for start in starts}
        self.is_cut = False
        self._neighbours = neighbours
        self._spend = spend

    def __iter__(self) -> Iterator[Node]:
        """Visit all nodes that can be reached, the nearest first."""
        before = self.before
        queue = list(before)
        for node in queue:
            neighbours = self._neighbours(node)
            for other in neighbours:
                if other not in before:
                    before[other] = node
                    queue.append(other)
            if self._spend is not None and not self._spend(len(neighbours)):
                self.is_cut = queue[-1] is not node
                return
            yield node

    def run(self) -> Search[Node]:
        """Visit all nodes, and return the search itself."""
        for _ in self:
            pass
        return self

    def path(self, node: Node) -> list[Node]:
        """Return a shortest way to a node that was reached, from a start on; in a hostile graph it can be long."""
        found = [node]
        while self.before[node] != node:
            node = self.before[node]
            found.append(node)
        return found[::-1]

    @cached_property
    def starts(self) -> Mapping[Node, Node]:
        """Return for each node that was reached the start of the way to it; to be asked for after the search."""
        found: dict[Node, Node] = {}
        for node, before in self.before.items():
            found[node] = found.get(before, node)
        return found
