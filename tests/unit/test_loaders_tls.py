"""Are the lists of pending destructors followed where they are whole, and left where they are not?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dlwhy.common.linux.loader.collector import CollectorRules
from dlwhy.common.linux.loader.find import find_loader_globals, is_libc
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.linux.loader.tls import Destructors, read_destructors, read_lost_destructors
from dlwhy.common.memory import Memory
from dlwhy.common.model import Thread
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.synth.glibc import Library, Process
from dlwhy.tests.synth.glibc_layouts import process_of


class CountingMemory(Memory):
    """Memory that counts how often it is asked for words at each address."""

    def __init__(self, target: FakeTarget) -> None:
        super().__init__(target)
        self.asked: Counter[int] = Counter()

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Read words."""
        self.asked[address] += 1
        return super().words(address, count)


def read(target: FakeTarget) -> tuple[Destructors, CountingMemory]:
    """Read the destructor lists of a process."""
    memory = CountingMemory(target)
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    graph = choose_layouts(memory, start, private).graph
    libcs = [m for m in graph.by_address.values() if is_libc(m.name)]
    return read_destructors(memory, graph, libcs, CollectorRules.of((2, 40)), private.rtld, dict), memory


def nodes(process: Process) -> Sequence[int]:
    """Return the addresses of the nodes of the one thread's list, the first one first."""
    memory = Memory(process.target())
    found = [memory.pointer(process.tls - 0x100 + 7 * 8)]
    while memory.pointer(found[-1] + 24):
        found.append(memory.pointer(found[-1] + 24))
    return found


def process() -> Process:
    return process_of([Library("liba.so", owed=2), Library("libb.so", owed=1)])


def test_each_library_has_the_destructors_that_keep_it() -> None:
    made = process()
    found, _ = read(made.target())
    assert found.problems == ()
    first, second = (made.map_of(name) for name in ("liba.so", "libb.so"))
    assert {address: len(each) for address, each in found.by_map.items()} == {first: 2, second: 1}
    code = made.base(made.library("libb.so")) + 0x1100
    assert [(each.function, each.thread and each.thread.lwp) for each in found.by_map[second]] == [(code, 4711)]


def test_a_list_that_loops_is_left_where_it_does() -> None:
    made = process()
    target = made.target()
    first, *_, last = nodes(made)
    target.overwrite(last + 24, first.to_bytes(8, "little"))
    found, memory = read(target)
    assert found.by_map == {}
    told = f"a list loops at {first:#x} after 3 destructors"
    assert [each.message.endswith(told) for each in found.problems] == [True, True]
    # Not followed round and round until there are more nodes than there can be.
    assert memory.asked[first] <= 2


def test_a_node_that_cannot_be_read_or_leads_to_no_library_or_has_no_function() -> None:
    made = process()
    first, second, _ = nodes(made)
    for offset, value in ((0, 0), (16, 0x1234), (24, first + 4)):
        target = made.target()
        target.overwrite(second + offset, value.to_bytes(8, "little"))
        found, _ = read(target)
        assert found.by_map == {}
        assert "which is no destructor" in found.problems[0].message
    target = made.target()
    target.forget(second, 8)
    found, _ = read(target)
    assert found.by_map == {}
    told = f"0 pending destructors were found in 1 thread: a list cannot be read at {second:#x} after 1 destructor"
    assert [each.message.endswith(told) for each in found.problems] == [True, True]


def test_a_thread_whose_block_is_not_its_own_is_asked_of_glibcs_lists() -> None:
    made = process()
    target = made.target()
    target.threads = lambda: [Thread(1, 4711), Thread(2, 4712)]  # type: ignore[method-assign]
    found, _ = read(target)
    assert [(each.where, each.message) for each in found.problems] == [
        ("thread 2 (LWP 4712)", "its thread pointer is not known")
    ]


def test_what_a_thread_owed_that_is_gone_counts_if_the_others_owe_too_little() -> None:
    made = process()
    memory = Memory(made.target())
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    graph = choose_layouts(memory, start, private).graph
    libcs = [m for m in graph.by_address.values() if is_libc(m.name)]
    rules = CollectorRules.of((2, 40))
    lost = read_lost_destructors(memory, graph, libcs, rules, private.rtld, lambda: [made.tls])
    assert [each.thread for each in lost] == [None] * 3
    memory.target.threads = list  # type: ignore[method-assign]
    found = read_destructors(memory, graph, libcs, rules, private.rtld, dict, lambda: lost)
    assert sorted(map(len, found.by_map.values())) == [1, 2]
    assert (found.problems, found.lists) == ((), [])


def test_nothing_is_read_where_nothing_is_pending() -> None:
    found, memory = read(process_of([Library("liba.so")]).target())
    assert found == Destructors({}, ())
    assert memory.asked[process().tls - 0x100] == 0
