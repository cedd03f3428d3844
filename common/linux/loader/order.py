"""In which order does glibc's collector run the finalisers of the libraries that it unloads?

Sources, read and described here, not copied: elf/dl-close.c (``_dl_close_worker``), elf/dl-fini.c (``_dl_sort_fini``,
until 2.26), elf/dl-sort-maps.c (since 2.27), releases 2.17 to 2.42 and the branches behind them.

All libraries of the namespace are sorted, also those that stay, and of these only the condemned are finalised.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
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

# Caps on what comes from the target, or costs too much.
_MAX_STRINGS = 100_000
_MAX_STRING = 1 << 20
_MAX_STEPS = 2_000_000
#: What a step costs, in Memory's units.
_STEP_UNITS = 6


class Sorting(Enum):
    """The algorithm that sorts the libraries.

    Since glibc 2.35 DEPTH_FIRST is the default, and the tunable ``glibc.rtld.dynamic_sort=1`` selects ORIGINAL;
    before, ORIGINAL is all there is (until 2.26 under the name ``_dl_sort_fini``).  CONSTRUCTORS, the reverse order
    of the constructors, was on the stable branches of 2.35 to 2.38 for some weeks of 2023 (bug 30785).
    """

    ORIGINAL = "original"
    DEPTH_FIRST = "depth-first"
    CONSTRUCTORS = "reverse-initialization"


class OrderRule(NamedTuple):
    """How this process sorts; ``certain`` is False where its environment could not be read."""

    sorting: Sorting
    #: Since glibc 2.39 the closed library is finalised first (bug 30981).
    closed_first: bool
    certain: bool


def find_order_rule(
    memory: Memory, graph: Graph, private: LoaderGlobals, version: Optional[tuple[int, int]]
) -> OrderRule:
    """Find out how this process sorts; where the version is unknown, as the newest does."""
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
        pass
    return None


def finaliser_order(
    maps: Sequence[LinkMap],
    graph: Graph,
    condemned: Collection[int],
    closed: Optional[LinkMap],
    rule: OrderRule,
    spend: Callable[[int], bool] = lambda _: True,
) -> Optional[list[int]]:
    """Sort the condemned maps of a namespace, given in list order, as the collector finalises them.

    ``closed`` is the map that is being closed, None in a collection that is repeated.  ``spend`` takes Memory's units,
    and returns False if not so many are left.  Gives addresses; None where sorting takes too long.
    """
    if rule.sorting is Sorting.CONSTRUCTORS:
        return _in_reverse_construction(graph, condemned)
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
        sorted_maps = _sort_depth_first(ordered, graph.by_address)
        if first is not None:
            sorted_maps.sort(key=lambda link_map: link_map is not first)
    return [link_map.address for link_map in sorted_maps if link_map.address in condemned]


def _in_reverse_construction(graph: Graph, condemned: Collection[int]) -> Optional[list[int]]:
    """Follow the list of l_init_called_next, which begins with the last one constructed; None where it is damaged."""
    following = {m.address: m.field("l_init_called_next") or 0 for m in graph.by_address.values()}
    constructed = [address for address in following if graph.by_address[address].field("l_init_called")]
    pointed_to = set(following.values())
    order: dict[int, None] = {}

    def read(address: int, _: int) -> tuple[int, int]:
        if address not in following:
            raise CorruptError("l_init_called_next is no library", address)
        # Where two lists meet, the second one ends.
        return address, 0 if following[address] in order else following[address]

    for head in (address for address in constructed if address not in pointed_to):
        walk = Walk(head, read, limit=len(following))
        order.update(dict.fromkeys(walk.all()))
        if not walk.is_complete:
            return None
    return [address for address in dict.fromkeys((*order, *condemned)) if address in condemned]


def _sort_original(
    maps: Sequence[LinkMap], skip: int, condemned: Collection[int], spend: Callable[[int], bool]
) -> Optional[list[LinkMap]]:
    """Sort as glibc does until 2.34: move each link map behind the last one that needs it, until none moves.

    A map that keeps coming back to the front is in a cycle, and is left where it is.
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


def _sort_depth_first(maps: Sequence[LinkMap], by_address: Mapping[int, LinkMap]) -> list[LinkMap]:
    """Sort as since 2.35: topologically, once with and, if there were any, once more without relocations."""
    order = _traverse(list(reversed(maps)), by_address, relocations=True)
    # An empty list counts too: dlopen leaves one where all have become dependencies (_dl_map_object_deps).
    if any(link_map.l_reldeps for link_map in order):
        # The second pass begins with what the first one put last, which is what it finished first.
        order = _traverse(order, by_address, relocations=False)
    return order[::-1]


def _traverse(heads: Sequence[LinkMap], by_address: Mapping[int, LinkMap], *, relocations: bool) -> list[LinkMap]:
    """Return link maps in postorder: each behind those that it needs, cycles aside."""
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
                # The main program is visited in its own turn only, l_main_map tells which one it is.
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
