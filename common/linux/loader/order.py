"""In which order does glibc's collector run the finalisers of the libraries that it unloads?

Sources, read and described here, not copied: elf/dl-close.c (``_dl_close_worker``), elf/dl-fini.c (``_dl_sort_fini``,
until 2.26), elf/dl-sort-maps.c (since 2.27, c2c299fd24e8), releases 2.17 to 2.43 and their stable branches.

All libraries of the namespace are sorted, also the ones that stay; only the condemned are finalised.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import NamedTuple, Optional

from ...errors import CorruptError, DlwhyError
from ...lists import Walk
from ...memory import Memory
from ..auxv import AT_SECURE
from .find import LoaderGlobals
from .maps import Graph, LinkMap
from .roots import LT_EXECUTABLE

_TUNABLES = b"GLIBC_TUNABLES="
_SORT_TUNABLE = b"glibc.rtld.dynamic_sort"

# Caps on what is read from the target, and on the cost of sorting.
_MAX_STRINGS = 100_000
_MAX_STRING = 1 << 20
_MAX_STEPS = 2_000_000
#: Cost of a step, in Memory's units.
_STEP_UNITS = 6


class Sorting(Enum):
    """The algorithm that sorts the libraries.

    Since glibc 2.35 (15a0c5730d1d, bug 17645) DEPTH_FIRST is the default, and the tunable
    ``glibc.rtld.dynamic_sort=1`` selects ORIGINAL; before, there is only ORIGINAL (until 2.26 under the name
    ``_dl_sort_fini``).  CONSTRUCTORS, the reverse order of the constructors (bug 30785, 6985865bc3ad, reverted by
    dd32e1db386c), was on the stable branches of 2.35 to 2.38 from 2023-09-08 to 2023-10-18.
    """

    ORIGINAL = "original"
    DEPTH_FIRST = "depth-first"
    CONSTRUCTORS = "reverse-initialization"


class OrderRule(NamedTuple):
    """How this process sorts; ``certain`` is False if its environment could not be read or its version is unknown."""

    sorting: Sorting
    #: Since glibc 2.39 the closed library is finalised first (849274d48fc5, bug 30981).
    closed_first: bool
    certain: bool


def find_order_rule(
    memory: Memory, graph: Graph, private: LoaderGlobals, version: Optional[tuple[int, int]]
) -> OrderRule:
    """Find out how this process sorts; if its version is unknown, assume the newest."""
    if any(link_map.field("l_init_called_next") for link_map in graph.by_address.values()):
        return OrderRule(Sorting.CONSTRUCTORS, False, True)
    if version is not None and version < (2, 35):
        return OrderRule(Sorting.ORIGINAL, False, True)
    closed_first = version is None or version >= (2, 39)
    asked = _read_sort_tunable(memory, private)
    sorting = Sorting.ORIGINAL if asked == b"1" else Sorting.DEPTH_FIRST
    return OrderRule(sorting, closed_first, asked is not None and version is not None)


def _read_sort_tunable(memory: Memory, private: LoaderGlobals) -> Optional[bytes]:
    """Read the tunable out of the environment that the process was started with; empty if unset, None if unknown.

    The kernel puts the environment behind the arguments, to which ld.so's ``_dl_argv`` points.
    """
    if memory.target.auxv().get(AT_SECURE):
        return b""  # such programs ignore it
    value = b""
    try:
        symbol = private.rtld.find_symbol("_dl_argv")
        if symbol is None:
            return None
        place = memory.pointer(symbol[0])
        nulls = 0
        for _ in range(_MAX_STRINGS):
            string = memory.pointer(place)
            place += memory.pointer_size
            if string == 0:
                nulls += 1
                if nulls == 2:
                    return value
            elif nulls == 1 and memory.read(string, len(_TUNABLES)) == _TUNABLES:
                setting = memory.c_bytes(string, _MAX_STRING)[len(_TUNABLES) :]
                for entry in setting.split(b":"):
                    name, _, given = entry.partition(b"=")
                    if name == _SORT_TUNABLE and given in (b"1", b"2"):
                        value = given
    except DlwhyError:
        return None  # the order is then said to be uncertain
    return None


def finaliser_order(
    maps: Sequence[LinkMap],
    graph: Graph,
    condemned: Collection[int],
    closed: Optional[LinkMap],
    rule: OrderRule,
    spend: Callable[[int], bool] = lambda _: True,
) -> Optional[list[int]]:
    """Sort the condemned link maps of a namespace in the order in which the collector finalises them.

    :param maps: all link maps of the namespace, in list order.
    :param condemned: addresses of the link maps that are unloaded.
    :param closed: the link map that is being closed, None in a repeated collection.
    :param spend: charges Memory's units; returns False if too few are left.
    :return: addresses of link maps; None if sorting takes too long.
    """
    if rule.sorting is Sorting.CONSTRUCTORS:
        constructed = _in_reverse_construction(graph)
        if constructed is None:
            return None
        return [address for address in dict.fromkeys((*constructed, *condemned)) if address in condemned]
    return _sort(maps, graph.by_address, condemned, closed, rule, spend)


class FinaliserOrders:
    """The orders for several closes in one namespace, each found from what it unloads, as `finaliser_order` finds it.

    What stays leads to nothing that is unloaded: it neither moves nor changes when that is visited.
    """

    def __init__(self, maps: Sequence[LinkMap], graph: Graph, rule: OrderRule, spend: Callable[[int], bool]) -> None:
        """Create the orders of a namespace; the parameters are those of `finaliser_order`."""
        self._maps = maps
        self._graph = graph
        self._rule = rule
        self._spend = spend
        self._places = {link_map.address: place for place, link_map in enumerate(maps)}

    def of(self, condemned: Collection[int], closed: LinkMap) -> Optional[list[int]]:
        """Sort link maps in the order in which the collector finalises them.

        :param condemned: their addresses; no other library may list one of them or be bound to one.
        """
        if self._rule.sorting is Sorting.CONSTRUCTORS:
            return self._in_reverse_construction(condemned)
        # The first one of the namespace and the closed one change places.
        few = {*condemned, self._maps[0].address, closed.address} & self._places.keys()
        maps = [self._maps[place] for place in sorted(map(self._places.__getitem__, few))]
        by_address = {link_map.address: link_map for link_map in maps}
        found = _sort(maps, by_address, condemned, closed, self._rule, self._spend, self._is_bound)
        if found is None or self._rule.sorting is Sorting.DEPTH_FIRST or self._is_sorted(found, closed):
            return found
        # How far a cycle is turned depends on the number of libraries behind it.
        return finaliser_order(self._maps, self._graph, condemned, closed, self._rule, self._spend)

    @cached_property
    def _is_bound(self) -> bool:
        """Return True if a depth-first sort visits a library with a list of those that it is bound to."""
        if self._rule.sorting is not Sorting.DEPTH_FIRST:
            return False
        visited = _traverse(self._maps, self._graph.by_address, relocations=True)
        return any(link_map.l_reldeps for link_map in visited)

    def _is_sorted(self, found: Sequence[int], closed: LinkMap) -> bool:
        """Return True if each library comes before all that it must precede, except for one that is not sorted."""
        places = {address: place for place, address in enumerate(found)}
        by_address = self._graph.by_address
        if self._rule.closed_first:
            places.pop(closed.address, None)
        for address, place in places.items():
            for other in (*by_address[address].listed, *by_address[address].relocated_to):
                if places.get(other, place) < place and (
                    other in by_address[address].listed or address not in by_address[other].listed
                ):
                    return False
        return True

    @cached_property
    def _constructed(self) -> Optional[Mapping[int, int]]:
        constructed = _in_reverse_construction(self._graph)
        return None if constructed is None else {address: place for place, address in enumerate(constructed)}

    def _in_reverse_construction(self, condemned: Collection[int]) -> Optional[list[int]]:
        places = self._constructed
        if places is None:
            return None
        known = sorted(filter(places.__contains__, condemned), key=places.__getitem__)
        return [*known, *(address for address in condemned if address not in places)]


def _sort(
    maps: Sequence[LinkMap],
    by_address: Mapping[int, LinkMap],
    condemned: Collection[int],
    closed: Optional[LinkMap],
    rule: OrderRule,
    spend: Callable[[int], bool],
    is_bound: Optional[bool] = None,
) -> Optional[list[int]]:
    """Sort as all glibcs do but those of `Sorting.CONSTRUCTORS`.

    :param is_bound: whether a second depth-first pass comes after the first one; None: that is to be found out.
    """
    ordered = list(maps)
    first = closed if rule.closed_first else None
    if first is not None and first in ordered:
        index = ordered.index(first)
        ordered[0], ordered[index] = first, ordered[0]
    if rule.sorting is Sorting.ORIGINAL:
        base = bool(maps) and maps[0].l_ns == 0
        skip = 1 if (first is not None if rule.closed_first else base) else 0
        sorted_maps = _sort_original(ordered, skip, condemned, spend)
        if sorted_maps is None:
            return None
    else:
        edges = sum(len(link_map.listed) + len(link_map.relocated_to) for link_map in ordered)
        if not spend(_STEP_UNITS * (len(ordered) + edges)):
            return None
        sorted_maps = _sort_depth_first(ordered, by_address, is_bound)
        if first is not None:
            sorted_maps.sort(key=lambda link_map: link_map is not first)
    return [link_map.address for link_map in sorted_maps if link_map.address in condemned]


def _in_reverse_construction(graph: Graph) -> Optional[list[int]]:
    """Follow the list of l_init_called_next, which begins with the last one constructed; None if it is damaged."""
    following = {m.address: m.field("l_init_called_next") or 0 for m in graph.by_address.values()}
    constructed = [address for address in following if graph.by_address[address].field("l_init_called")]
    pointed_to = set(following.values())
    order: dict[int, None] = {}

    def read(address: int, _: int) -> tuple[int, int]:
        if address not in following:
            raise CorruptError("l_init_called_next is no library", address)
        # If two lists meet, the second one ends there.
        return address, 0 if following[address] in order else following[address]

    for head in (address for address in constructed if address not in pointed_to):
        walk = Walk(head, read, limit=len(following))
        order.update(dict.fromkeys(walk.all()))
        if not walk.is_complete:
            return None
    return list(order)


def _sort_original(
    maps: Sequence[LinkMap], skip: int, condemned: Collection[int], spend: Callable[[int], bool]
) -> Optional[list[LinkMap]]:
    """Sort as glibc before 2.35 (15a0c5730d1d): move each link map behind the last one that needs it, until none moves.

    A link map that keeps coming back to the front is in a cycle, and stays where it is.
    """
    head, rest = list(maps[:skip]), list(maps[skip:])
    count = len(rest)
    if count <= 1:
        return [*head, *rest]
    needs = {m.address: frozenset(m.listed) for m in rest}
    bound = {m.address: frozenset(m.relocated_to) for m in rest}
    seen = [0] * count
    steps = index = 0
    while True:
        seen[index] += 1
        this = rest[index]
        target = index
        if this.address in condemned and not this.is_proxy:
            target = count - 1
            while target > index and not _must_precede(rest[target].address, this.address, needs, bound):
                target -= 1
        steps += count - target
        if steps > _MAX_STEPS or not spend(_STEP_UNITS * (1 + count - target)):
            return None
        if target > index:
            rest.insert(target, rest.pop(index))
            if seen[index + 1] <= count - index:
                seen.insert(target, seen.pop(index))
                continue
        index += 1
        if index >= count:
            return [*head, *rest]
        seen[index:] = [0] * (count - index)


def _must_precede(
    other: int, this: int, needs: Mapping[int, frozenset[int]], bound: Mapping[int, frozenset[int]]
) -> bool:
    """Return True if ``other`` needs ``this``, or is bound to it and not needed by it."""
    return this in needs[other] or (this in bound[other] and other not in needs[this])


def _sort_depth_first(
    maps: Sequence[LinkMap], by_address: Mapping[int, LinkMap], is_bound: Optional[bool]
) -> list[LinkMap]:
    """Sort as since 2.35 (15a0c5730d1d): topologically, with relocations and, if there are any, again without."""
    order = _traverse(list(reversed(maps)), by_address, relocations=True)
    # An empty list counts too: dlopen leaves one if all have become dependencies (_dl_map_object_deps).
    if any(link_map.l_reldeps for link_map in order) if is_bound is None else is_bound:
        # The second pass begins with the last link map of the first, which is the one that it finished first.
        order = _traverse(order, by_address, relocations=False)
    return order[::-1]


def _traverse(heads: Sequence[LinkMap], by_address: Mapping[int, LinkMap], *, relocations: bool) -> list[LinkMap]:
    """Return link maps in postorder: each after all that it needs, cycles aside."""
    finished: list[LinkMap] = []
    visited: set[int] = set()
    for head in heads:
        if head.address in visited or head.field("l_faked"):
            continue
        visited.add(head.address)
        stack = [(head, _followed(head, relocations))]
        while stack:
            link_map, following = stack[-1]
            for address in following:
                other = by_address.get(address)
                # The main program, which glibc knows by l_main_map, is visited in its own turn only.
                if other is None or address in visited or other.l_type == LT_EXECUTABLE or other.field("l_faked"):
                    continue
                visited.add(address)
                stack.append((other, _followed(other, relocations)))
                break
            else:
                finished.append(link_map)
                stack.pop()
    return finished


def _followed(link_map: LinkMap, relocations: bool) -> Iterator[int]:
    yield from link_map.listed
    if relocations:
        yield from reversed(link_map.relocated_to)
