"""Which nodes of a graph can be reached, and through which shortest path?

The only search over libraries that need one another, breadth first.  Other algorithms are elsewhere: the mark phase and
the sort of glibc's collector (``linux.loader``), the counting of Windows' loaders and their strongly connected
components (``windows.loader.unload``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Generic, Optional, TypeVar

Node = TypeVar("Node")


class Search(Generic[Node]):
    """A breadth-first search, run on demand; a node is yielded once its neighbours are known.

    ``before`` has the reached nodes in that order: for each the node that it was reached from, for a start itself.
    ``is_cut`` says that ``spend`` has ended the search: a node that was not reached may then be reachable.
    """

    def __init__(
        self,
        starts: Iterable[Node],
        neighbours: Callable[[Node], Collection[Node]],
        spend: Optional[Callable[[int], bool]] = None,
    ) -> None:
        """Start a search.

        :param spend: takes the number of a node's neighbours once they are known; returning False ends the search.
        """
        self.before: dict[Node, Node] = {start: start for start in starts}
        self.is_cut = False
        self._neighbours = neighbours
        self._spend = spend

    def __iter__(self) -> Iterator[Node]:
        """Yield all reachable nodes, nearest first."""
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
        """Run the search to its end and return it."""
        for _ in self:
            pass
        return self

    def path(self, node: Node) -> list[Node]:
        """Return a shortest path from a start to a reached node; in a hostile graph it can be long."""
        found = [node]
        while self.before[node] != node:
            node = self.before[node]
            found.append(node)
        return found[::-1]

    @cached_property
    def starts(self) -> Mapping[Node, Node]:
        """Return the start from which each node was reached; valid once the search is done."""
        found: dict[Node, Node] = {}
        for node, before in self.before.items():
            found[node] = found.get(before, node)
        return found
