"""Is what is read again of the loader's lists what a reading of everything finds, whatever has happened meanwhile?"""

from __future__ import annotations

import random

import pytest
from dlwhy.common.errors import CorruptError, FaultError
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.incremental import IncrementalGraphReader
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.maps import Graph, read_graph
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.memory import Memory
from dlwhy.tests.support.live_glibc import NEW_NAMESPACE, RTLD_NODELETE, RTLD_NOW, Script
from dlwhy.tests.synth.glibc import Library

NAMES = [f"lib{letter}.so" for letter in "abcdefgh"]


def script() -> Script:
    """Return a process of libraries that need one another."""
    known = [Library(name, needs=NAMES[index + 1 : index + 3]) for index, name in enumerate(NAMES)]
    return Script(*known, Library("libspace.so", needs=["libc.so.6"]))


class Reader:
    """A follower, and readings of everything beside it."""

    def __init__(self, made: Script) -> None:
        self.made = made
        made.refresh()
        self.memory = Memory(made.target)
        start = find_rendezvous(self.memory)
        private = find_loader_globals(self.memory, start)
        assert private is not None
        self.layouts = choose_layouts(self.memory, start, private).layouts
        self.rtld_global = private.rtld_global
        self.follower = IncrementalGraphReader(self.memory, self.layouts, self.rtld_global)

    def read(self) -> Graph:
        """Let the follower read."""
        self.made.refresh()
        self.memory = self.memory.renewed()
        return self.follower.read(self.memory)

    def read_all(self) -> Graph:
        """Read everything."""
        return read_graph(Memory(self.made.target), self.layouts, self.rtld_global)

    def member(self, name: str, member: str) -> int:
        """Return the address of a member of a library's map."""
        return self.made.handle(name) + self.layouts.require("link_map").fields[member].offset


def described(graph: Graph) -> list[object]:
    """Describe all that a graph says."""
    return [
        (
            namespace.number,
            namespace.address,
            [(m.address, m.name, m.raw, m.needed, m.relocated_to, m.listed, tuple(m.edges)) for m in namespace.maps],
        )
        for namespace in graph.namespaces
    ]


def test_what_has_not_changed_is_the_same_object() -> None:
    made = script()
    handle = made.main.dlopen("liba.so")
    reader = Reader(made)
    reader.read()
    first = reader.read()
    assert reader.read() is first
    made.main.dlopen("libh.so")
    second = reader.read()
    assert second is not first
    assert second.by_address[handle] is first.by_address[handle]
    assert [m.name for m in second.namespaces[0].maps][-1] == "/usr/lib/libh.so"


def test_only_what_has_changed_is_read() -> None:
    made = script()
    handle = made.main.dlopen("liba.so")
    other = made.main.dlopen("libh.so")
    reader = Reader(made)
    first = reader.read()
    made.library("liba.so").opencount += 1
    second = reader.read()
    assert second.by_address[handle] is not first.by_address[handle]
    assert second.by_address[handle].l_direct_opencount == 2
    assert second.by_address[other] is first.by_address[other]


def test_where_symbols_are_looked_up_is_no_change() -> None:
    made = script()
    made.main.dlopen("liba.so")
    reader = Reader(made)
    reader.read()
    first = reader.read()
    made.target.overwrite(reader.member("liba.so", "l_scope"), (0x1234).to_bytes(8, "little"))
    assert reader.read() is first
    made.target.overwrite(reader.member("liba.so", "l_scope") + 8, (0x1234).to_bytes(8, "little"))
    assert reader.read() is not first


@pytest.mark.parametrize("seed", range(12))
def test_as_a_reading_of_everything(seed: int) -> None:
    dice = random.Random(seed)
    made = script()
    reader = Reader(made)
    for _ in range(25):
        for _ in range(dice.choice([0, 1, 1, 3])):
            step(made, dice)
        graph = reader.read()
        assert graph.complete
        assert described(graph) == described(reader.read_all())
        assert set(graph.by_address) == {m.address for namespace in graph.namespaces for m in namespace.maps}


def step(made: Script, dice: random.Random) -> None:
    """Open or close something, or let a library be bound to another one, or have another order."""
    kind = dice.choice(["open", "open", "close", "close", "close", "bind", "space", "pin", "destructor"])
    loaded = [each for each in made.process.libraries if each.type == 2]
    if kind == "open":
        made.main.dlopen(dice.choice(NAMES))
    elif kind == "close":
        handles = [made.process.maps[each.key] for each in loaded if each.opencount]
        if handles:
            made.main.dlclose(dice.choice(handles))
    elif kind == "bind" and loaded:
        holder = dice.choice(loaded)
        names = [each.name for each in made.process.namespace(holder.namespace) if each.type == 2]
        holder.bound_to = dice.sample(names, min(2, len(names)))
    elif kind == "space" and made.process.last_namespace < 3:
        made.main.dlopen("libspace.so", namespace=NEW_NAMESPACE)
    elif kind == "pin" and dice.random() < 0.2:
        made.main.dlopen(dice.choice(NAMES), RTLD_NOW | RTLD_NODELETE)
    elif kind == "destructor" and loaded:
        dice.choice(loaded).owed ^= 1


@pytest.mark.parametrize("seed", range(12))
def test_damage_is_found_as_a_reading_of_everything_finds_it(seed: int) -> None:
    dice = random.Random(seed)
    made = script()
    for name in NAMES[::3]:
        made.main.dlopen(name)
    reader = Reader(made)
    members = (
        "l_next",
        "l_prev",
        "l_initfini",
        "l_type",
        "l_direct_opencount",
        "l_name",
        "l_real",
        "l_nodelete_active",
    )
    handles = list(made.process.maps.values())
    assert reader.read().complete
    for _ in range(12):
        made.target.heal()
        for _ in range(dice.randint(0, 2)):
            name = dice.choice(made.loaded())
            value = dice.choice([0, 7, 1 << 40, *handles]).to_bytes(8, "little")
            member = dice.choice(members)
            size = {"l_type": 1, "l_direct_opencount": 4, "l_nodelete_active": 1}.get(member, 8)
            if dice.random() < 0.2:
                made.target.forget(reader.member(name, member), size)
            else:
                made.target.overwrite(reader.member(name, member), value[:size])
        found: list[object] = []
        for read in (reader.read, reader.read_all):
            try:
                graph = read()
                found.append((described(graph), graph.problems))
            except (FaultError, CorruptError) as error:
                found.append(str(error))
        assert found[0] == found[1]


def test_a_list_that_is_being_changed_is_read_whole_and_said_to_be_incomplete() -> None:
    made = script()
    made.main.dlopen("liba.so")
    reader = Reader(made)
    whole = reader.read()
    assert whole.complete
    made.target.overwrite(reader.member("libb.so", "l_next"), (0).to_bytes(8, "little"))
    assert reader.read().doubts  # the next one still points back
    (following,) = (m for m in whole.by_address.values() if m.l_prev == reader.member("libb.so", "l_next") - 24)
    made.target.overwrite(following.address + 32, (0).to_bytes(8, "little"))  # l_prev
    graph = reader.read()
    assert not graph.complete
    assert [problem.message for problem in graph.problems][:1] == ["_ns_nloaded is 11, the list has 5 libraries"]
    # What was incomplete is not built upon.
    made.target.heal()
    assert described(reader.read()) == described(reader.read_all())


def test_a_map_that_comes_where_one_has_gone() -> None:
    made = script()
    handle = made.main.dlopen("libh.so")
    reader = Reader(made)
    before = reader.read()
    made.main.dlclose(handle)
    made.process.maps["libg.so"] = handle
    made.process.bases["libg.so"] = made.process.first + 0x7000_0000
    made.main.dlopen("libg.so")
    after = reader.read()
    assert described(after) == described(reader.read_all())
    assert after.by_address[handle] is not before.by_address[handle]


def test_the_globals_that_are_gone() -> None:
    made = script()
    reader = Reader(made)
    reader.read()
    made.target.forget(made.process.base(made.library("ld.so")), 0x5000)
    with pytest.raises(FaultError):
        reader.read()
    made.target.heal()
    assert reader.read().complete
