"""Are finalisers sorted by the algorithm of each version, where the result is known by hand?

Against real loaders the order is checked by tests/plan; here stands what no glibc at hand does, or what is too large.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Optional

import pytest
from dlwhy.common.linux.auxv import AT_SECURE
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.maps import Graph, LinkMap, Namespace
from dlwhy.common.linux.loader.order import FinaliserOrders, OrderRule, Sorting, finaliser_order, find_order_rule
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.memory import Memory
from dlwhy.common.model import Field, Layout
from dlwhy.common.structs import Structure
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.support.limits import lower
from dlwhy.tests.synth.glibc import DL_ARGV, Library, Process
from dlwhy.tests.synth.glibc_layouts import process_of

LAYOUT = Layout("link_map", 16, {"l_init_called_next": Field(0, 8), "l_init_called": Field(8, 1)})
ORIGINAL = OrderRule(Sorting.ORIGINAL, False, True)
DEPTH_FIRST = OrderRule(Sorting.DEPTH_FIRST, False, True)
CLOSED_FIRST = OrderRule(Sorting.DEPTH_FIRST, True, True)
CONSTRUCTORS = OrderRule(Sorting.CONSTRUCTORS, False, True)

Names = Mapping[str, Sequence[str]]


def graph_of(needs: Names, bound: Optional[Names] = None, following: Optional[Mapping[str, str]] = None) -> Graph:
    """Make a namespace: the main program, then libraries named by letters in list order."""
    graph = Graph()
    addresses = {name: 0x1000 * index for index, name in enumerate(["main", *needs], 1)}
    maps = []
    for name, address in addresses.items():
        after = addresses.get(following[name], 0x99000) if following and name in following else 0
        link_map = LinkMap(address, after.to_bytes(8, "little") + b"\1" + bytes(7), Structure(LAYOUT, "<"))
        link_map.name = name
        link_map.l_type = 0 if name == "main" else 2
        link_map.l_ns = 0
        link_map.l_real = address
        link_map.listed = tuple(addresses[each] for each in [name, *needs.get(name, ())])
        link_map.relocated_to = tuple(addresses[each] for each in (bound or {}).get(name, ()))
        link_map.l_reldeps = 1 if link_map.relocated_to else 0
        maps.append(link_map)
        graph.by_address[address] = link_map
    graph.namespaces.append(Namespace(0, 0, tuple(maps)))
    return graph


def order(graph: Graph, condemned: str, closed: str, rule: OrderRule) -> Optional[str]:
    """Sort, in letters."""
    maps = graph.namespaces[0].maps
    by_name = {m.name: m for m in maps}
    addresses = {by_name[name].address for name in condemned}
    found = finaliser_order(maps, graph, addresses, by_name.get(closed), rule)
    return None if found is None else "".join(graph.by_address[address].name for address in found)


@pytest.mark.parametrize("rule", [ORIGINAL, DEPTH_FIRST, CLOSED_FIRST])
def test_what_needs_others_comes_before_them(rule: OrderRule) -> None:
    graph = graph_of({"c": (), "b": "c", "a": "bc"})
    assert order(graph, "abc", "a", rule) == "abc"


@pytest.mark.parametrize("rule", [ORIGINAL, DEPTH_FIRST])
def test_relocations_count_where_needs_do_not_contradict(rule: OrderRule) -> None:
    assert order(graph_of({"a": (), "b": ()}, {"b": "a"}), "ab", "a", rule) == "ba"
    assert order(graph_of({"a": "b", "b": ()}, {"b": "a"}), "ab", "a", rule) == "ab"


def test_in_a_cycle_the_closed_one_is_first_since_2_39() -> None:
    graph = graph_of({"a": "b", "b": "a"})
    assert order(graph, "ab", "a", DEPTH_FIRST) == "ba"
    assert order(graph, "ab", "a", CLOSED_FIRST) == "ab"
    assert order(graph, "ab", "b", CLOSED_FIRST) == "ba"
    # By the older sorting it is only left where it is put: at the front.
    for closed, expected in (("a", "ab"), ("b", "ba")):
        assert order(graph, "ab", closed, OrderRule(Sorting.ORIGINAL, True, True)) == expected


def test_a_repeated_collection_puts_none_first() -> None:
    assert order(graph_of({"a": "b", "b": "a"}), "ab", "", CLOSED_FIRST) == "ba"


def test_what_stays_is_left_out() -> None:
    assert order(graph_of({"a": "bc", "b": "c", "c": ()}), "ab", "a", DEPTH_FIRST) == "ab"


def test_reverse_construction() -> None:
    following = {"c": "a", "a": "b", "b": "main"}
    assert order(graph_of({"a": "b", "b": (), "c": ()}, None, following), "abc", "a", CONSTRUCTORS) == "cab"


def test_reverse_construction_by_a_list_that_is_damaged_is_not_known() -> None:
    for following in ({"c": "a", "a": "b", "b": "a"}, {"c": "a", "a": "gone"}):
        graph = graph_of({"a": "b", "b": (), "c": ()}, None, following)
        assert order(graph, "abc", "a", CONSTRUCTORS) is None


def test_a_chain_of_any_length_is_no_recursion() -> None:
    names = [chr(0x4E00 + number) for number in range(5000)]
    needs = {name: names[number + 1 : number + 2] for number, name in enumerate(names)}
    assert order(graph_of(needs), "".join(names), names[0], DEPTH_FIRST) == "".join(names)


def test_sorting_that_takes_too_long_is_given_up() -> None:
    names = [chr(0x4E00 + number) for number in range(700)]
    needs = {name: [other for other in names if other != name] for name in names}
    assert order(graph_of(needs), "".join(names), names[0], ORIGINAL) is None


# -- which algorithm it is ------------------------------------------------------------------------------------


def rule_of(
    version: Optional[tuple[int, int]],
    environment: Optional[Sequence[bytes]] = (),
    auxv: Mapping[int, int] = {},
    damage: Optional[Callable[[Process, FakeTarget], None]] = None,
) -> OrderRule:
    """Find the rule of a process that was started with an environment; None: it cannot be found."""
    process = process_of([Library("liba.so", opencount=1)])
    process.started_with = None if environment is None else ([b"/bin/program", b"GLIBC_TUNABLES=no"], environment)
    target = FakeTarget(process.segments(), auxv={**process.auxv(), **auxv})
    if damage is not None:
        damage(process, target)
    memory = Memory(target)
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    return find_order_rule(memory, choose_layouts(memory, start, private).graph, private, version)


@pytest.mark.parametrize(
    ("version", "rule"),
    [
        ((2, 17), OrderRule(Sorting.ORIGINAL, False, True)),
        ((2, 34), OrderRule(Sorting.ORIGINAL, False, True)),
        ((2, 35), OrderRule(Sorting.DEPTH_FIRST, False, True)),
        ((2, 38), OrderRule(Sorting.DEPTH_FIRST, False, True)),
        ((2, 39), OrderRule(Sorting.DEPTH_FIRST, True, True)),
        (None, OrderRule(Sorting.DEPTH_FIRST, True, False)),
    ],
)
def test_the_rule_of_each_version(version: Optional[tuple[int, int]], rule: OrderRule) -> None:
    assert rule_of(version) == rule


@pytest.mark.parametrize(
    ("environment", "sorting"),
    [
        ([b"HOME=/", b"GLIBC_TUNABLES=glibc.rtld.dynamic_sort=1"], Sorting.ORIGINAL),
        ([b"GLIBC_TUNABLES=glibc.malloc.check=0:glibc.rtld.dynamic_sort=1", b"HOME=/"], Sorting.ORIGINAL),
        ([b"GLIBC_TUNABLES=glibc.rtld.dynamic_sort=2"], Sorting.DEPTH_FIRST),
        ([b"GLIBC_TUNABLES=glibc.rtld.dynamic_sort=1:glibc.rtld.dynamic_sort=2"], Sorting.DEPTH_FIRST),
        # The loader takes neither of these.
        ([b"GLIBC_TUNABLES=glibc.rtld.dynamic_sort=3"], Sorting.DEPTH_FIRST),
        ([b"GLIBC_TUNABLES=glibc.rtld.dynamic_sort=1:glibc.rtld.dynamic_sort=9"], Sorting.ORIGINAL),
        ([b"GLIBC_TUNABLES=glibc.rtld.dynamic_sorting=1"], Sorting.DEPTH_FIRST),
        ([b"XGLIBC_TUNABLES=glibc.rtld.dynamic_sort=1"], Sorting.DEPTH_FIRST),
    ],
)
def test_the_tunable_is_that_of_the_environment(environment: Sequence[bytes], sorting: Sorting) -> None:
    assert rule_of((2, 40), environment) == OrderRule(sorting, True, True)


def test_a_privileged_program_ignores_the_tunable() -> None:
    environment = [b"GLIBC_TUNABLES=glibc.rtld.dynamic_sort=1"]
    assert rule_of((2, 40), environment, {AT_SECURE: 1}) == OrderRule(Sorting.DEPTH_FIRST, True, True)
    assert rule_of((2, 40), environment, {AT_SECURE: 0}) == OrderRule(Sorting.ORIGINAL, True, True)


def test_where_the_environment_cannot_be_read_the_rule_is_not_certain() -> None:
    uncertain = OrderRule(Sorting.DEPTH_FIRST, True, False)
    assert rule_of((2, 40), None) == uncertain

    def forget(process: Process, target: FakeTarget) -> None:
        target.forget(process.base(process.library("ld.so")) + DL_ARGV, 8)

    assert rule_of((2, 40), [b"GLIBC_TUNABLES=glibc.rtld.dynamic_sort=1"], damage=forget) == uncertain


def test_an_environment_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, "common.linux.loader", "_MAX_STRINGS", 4)
    assert rule_of((2, 40), [b"A=1"]).certain is False
    lower(monkeypatch, "common.linux.loader", "_MAX_STRINGS", 5)
    assert rule_of((2, 40), [b"A=1"]).certain is True


def test_a_loader_that_keeps_its_constructors_order_unloads_in_the_reverse_one() -> None:
    assert find_order_rule_of(graph_of({"a": ()}, None, {"a": "main"})) == OrderRule(Sorting.CONSTRUCTORS, False, True)


def find_order_rule_of(graph: Graph) -> OrderRule:
    """Find the rule of a process of 2.36 by its maps alone."""
    process = process_of([])
    memory = Memory(process.target())
    private = find_loader_globals(memory, find_rendezvous(memory))
    assert private is not None
    return find_order_rule(memory, graph, private, (2, 36))


def test_the_list_of_constructors_is_followed_once_for_several_closes() -> None:
    dice = random.Random(1)
    for _ in range(100):
        letters = "abcdefgh"[: dice.randint(1, 8)]
        later = dice.sample(letters, len(letters))
        following = dict(zip(later, later[1:]))
        if dice.random() < 0.2:
            following[later[0]] = dice.choice([*letters, "nothing"])
        graph = graph_of(dict.fromkeys(letters, ()), following=following)
        maps = graph.namespaces[0].maps
        orders = FinaliserOrders(maps, graph, CONSTRUCTORS, lambda _: True)
        for closed in maps[1:]:
            condemned = frozenset(m.address for m in maps[1:] if m is closed or dice.random() < 0.5)
            assert orders.of(condemned, closed) == finaliser_order(maps, graph, condemned, closed, CONSTRUCTORS)
