"""Does each rule of each Windows loader count, unload, refuse, and give up, as that loader does?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.loader.lists import LdrEntry
from dlwhy.common.windows.loader.unload import FreeResult, ImportGraph, LoadUnit, gets_detached
from dlwhy.common.windows.model import LoaderRule
from dlwhy.common.windows.state import WindowsExamination
from dlwhy.tests.synth.minidump import (
    EXE,
    KERNEL32,
    NARROW,
    PINNED,
    WIDE,
    WIN7,
    WIN10,
    WINE,
    XP,
    Form,
    Loader,
    Module,
    Process,
)
from dlwhy.tests.synth.ntfree import free_before_windows_8, free_in_wine, free_on_windows_10
from dlwhy.tests.synth.windows import form_id, write

COUNTING = [XP, WIN7, WINE]
CLOSURES = [XP, WIN7]
FREES = {"win10": free_on_windows_10, "win7": free_before_windows_8, "xp": free_before_windows_8, "wine": free_in_wine}


def load(form: Form, modules: Sequence[Module], loads: Sequence[str]) -> Loader:
    """Start a program and load DLLs."""
    loader = Loader(form, form is not XP)
    loader.define(*modules)
    loader.start(Module(EXE, [KERNEL32]))
    for name in loads:
        loader.load(name + ".dll")
    return loader


def graph(**imports: str) -> list[Module]:
    """Make DLLs of one letter, and what each imports."""
    return [Module(f"{name}.dll", [f"{each}.dll" for each in needed]) for name, needed in imports.items()]


class Asked:
    """What was read of a process, on which frees are done one after another."""

    def __init__(self, folder: Path, made: Process) -> None:
        examined = WindowsExamination(
            MinidumpTarget(str(write(folder, made.dump(), f"{len(list(folder.iterdir()))}.dmp")))
        )
        self.loader, self.world = examined.loaders[0], examined.import_graphs[0]
        self.order = self.loader.in_initialization_order()

    def entry(self, name: str) -> LdrEntry:
        return next(each for each in self.loader.entries.values() if each.name.lower() == f"{name}.dll".lower())

    def unit(self, name: str) -> LoadUnit:
        return self.world.unit_of(self.entry(name))

    def free(self, name: str, frees: int = 1, shutdown: bool = False) -> FreeResult:
        return self.world.free(self.entry(name), frees, shutdown, self.order)

    def freed(self, name: str, frees: int = 1) -> str:
        """Free, and name what goes."""
        return "".join(each.name[0] for each in self.free(name, frees).dead)

    def own(self, names: str) -> list[Optional[int]]:
        """Give LoadLibrary's share of each count."""
        return [self.unit(name).own for name in names]

    def counts(self, names: str) -> list[Optional[int]]:
        return [self.unit(name).count for name in names]


def ask(folder: Path, form: Form, modules: Sequence[Module], loads: Sequence[str], **counts: int) -> Asked:
    """Load DLLs, put other counts in the place of some, and read what is there while a FreeLibrary is at work."""
    loader = load(form, modules, loads)
    loader.lock_owner = 0x5BC
    for name, count in counts.items():
        loader.known[f"{name}.dll"].count = count
    return Asked(folder, Process(loader))


# -- Windows 8 and later --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "expected", "is_certain"),
    [
        ({"a": "b", "b": "c", "c": ""}, "abc", True),
        # What the first import brings along goes before the second import.
        ({"a": "bc", "b": "d", "c": "", "d": ""}, "abdc", False),
        # The last of its importers takes it along.
        ({"a": "bc", "b": "d", "c": "d", "d": ""}, "abcd", False),
        ({"a": "bc", "b": "", "c": "b"}, "acb", True),
    ],
)
def test_the_graph_goes_depth_first(
    tmp_path: Path, imports: Mapping[str, str], expected: str, is_certain: bool
) -> None:
    found = ask(tmp_path, WIN10, graph(**imports), ["a"]).free("a")
    assert "".join(each.name[0] for each in found.dead) == expected
    assert found[1:] == ("import-order", is_certain, None, 1)


def test_frees_end_with_the_last_that_has_an_effect(tmp_path: Path) -> None:
    twice = ["a", "a", "b"]
    modules = {"a": "b", "b": ""}
    assert ask(tmp_path, WIN10, graph(**modules), twice).free("a")[:] == ((), None, True, None, 1)
    asked = ask(tmp_path, WIN10, graph(**modules), twice)
    found = asked.free("a", 5)
    assert ([each.name for each in found.dead], found.refusal, found.effective) == (["a.dll"], None, 2)
    asked = ask(tmp_path, WIN10, graph(**modules), twice)
    assert asked.own("ab") == [2, 1]
    # Its importer's count cannot be taken.
    assert asked.free("b", 3)[:] == ((), None, True, "importers-only", 1)
    assert (asked.own("b"), asked.counts("b")) == ([0], [1])
    assert asked.free("b")[:] == ((), None, True, "importers-only", 0)
    assert asked.freed("a", 2) == "ab"


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (1, "a"), (2, "")])
def test_a_node_without_importers_goes_with_its_last_count(tmp_path: Path, count: int, expected: str) -> None:
    asked = ask(tmp_path, WIN10, graph(a=""), ["a"], a=count)
    found = asked.free("a")
    assert "".join(each.name[0] for each in found.dead) == expected
    assert found.refusal == (None if count else "importers-only")
    assert asked.unit("a").count == max(0, count - 1)


def test_an_import_that_still_has_importers_keeps_its_last_count(tmp_path: Path) -> None:
    """Too low a count does not let it go while another one imports it."""
    asked = ask(tmp_path, WIN10, graph(a="c", b="c", c=""), ["a", "b"], c=1)
    assert asked.freed("a") == "a"
    assert asked.counts("c") == [1]
    assert asked.freed("b") == "bc"


@pytest.mark.parametrize(("state", "refusal"), [(-1, "unloading"), (-2, "unloading"), (-3, None), (9, None), (0, None)])
def test_what_is_already_going_is_not_freed(tmp_path: Path, state: int, refusal: Optional[str]) -> None:
    modules = graph(a="")
    modules[0].state = state
    found = ask(tmp_path, WIN10, modules, ["a"]).free("a")
    assert (found.refusal, len(found.dead)) == (refusal, 0 if refusal else 1)


def test_an_import_that_is_pinned_or_not_known_stays_as_it_is(tmp_path: Path) -> None:
    loader = load(WIN10, graph(a="bcd", b="e", c="e", d="", e=""), ["a"])
    loader.pin("b.dll")
    made = Process(loader)
    made.memory.forget(loader.known["c.dll"].node + WIDE.node_count, 4)
    asked = Asked(tmp_path, made)
    assert asked.counts("bc") == [PINNED, None]
    assert asked.own("bc") == [None, None]
    assert asked.free("b")[:] == ((), None, True, "pinned", 0)
    assert asked.free("c")[:] == ((), None, True, "unknown", 0)
    assert asked.freed("a") == "ad"
    assert (asked.counts("bc"), asked.unit("c").pinned) == ([PINNED, None], None)


def test_what_a_cycle_imports_goes_with_its_one_node(tmp_path: Path) -> None:
    modules = graph(a="bd", b="ac", c="", d="")
    asked = ask(tmp_path, WIN10, modules, ["b", "a"])
    assert asked.unit("a") is asked.unit("b")
    assert asked.own("ac") == [2, 0]
    assert asked.freed("a") == ""
    assert sorted(asked.freed("b")) == list("abcd")


@pytest.mark.parametrize(("flag", "count", "pinned"), [(0x20, 6, True), (0, 6, None), (0, 0xFFFF, True)])
def test_an_entry_without_a_node_has_no_count(tmp_path: Path, flag: int, count: int, pinned: Optional[bool]) -> None:
    loader = load(WIN10, graph(a="b", b=""), ["a"])
    made = Process(loader)
    entry = loader.known["a.dll"].entry
    made.memory.number(entry + WIDE.ddag, 8, 0)
    made.memory.forget(loader.known["a.dll"].node, WIDE.node_size)
    made.memory.number(entry + WIDE.load_count, 2, count)
    made.memory.number(entry + WIDE.flags, 4, 0xA2CC | 0x80000 | flag)
    asked = Asked(tmp_path, made)
    assert (asked.unit("a").count, asked.unit("a").pinned, asked.unit("a").own) == (None, pinned, None)
    assert asked.free("a").refusal == ("pinned" if pinned else "unknown")


# -- counts of 16 bits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
def test_counted_dlls_go_in_reverse_order_of_their_initialisation(tmp_path: Path, form: Form) -> None:
    modules = {"a": "bc", "b": "d", "c": "d", "d": ""}
    asked = ask(tmp_path, form, graph(**modules), ["a", "a", "d"])
    assert asked.own("abcd") == [2, 0, 0, 1]
    assert asked.free("a")[:] == ((), None, True, None, 1)
    assert asked.own("abcd") == [1, 0, 0, 1]
    found = asked.free("a", 7)
    assert "".join(each.name[0] for each in found.dead) == "acb"
    assert found[1:] == ("reverse-initialization", True, None, 1)
    assert list(asked.world.parents(asked.unit("d").key)) == []
    assert asked.freed("d") == "d"


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
def test_a_pin_of_16_bits_is_refused_and_not_counted_down(tmp_path: Path, form: Form) -> None:
    asked = ask(tmp_path, form, graph(a="bc", b="", c=""), ["a"], b=0xFFFF)
    assert asked.free("b")[:] == ((), None, True, "pinned", 0)
    assert asked.freed("a") == "ac"
    assert asked.counts("b") == [0xFFFF]


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
def test_what_goes_is_forgotten_by_who_imports_it_and_stays(tmp_path: Path, form: Form) -> None:
    """A count that was too low lets an import go before its importer: the next free walks past it."""
    asked = ask(tmp_path, form, graph(a="bc", b="c", c=""), ["a", "a", "b"], b=1)
    if form is not WINE:
        asked.unit("b").count, asked.unit("c").count = 1, 9
    assert asked.freed("b") == "b"
    assert [asked.world.units[key].entries[0].name for key in asked.world.children(asked.unit("a").key)] == ["c.dll"]
    assert asked.unit("a").key in asked.world.parents(asked.unit("c").key)
    assert asked.entry("b").address not in asked.unit("c").parents
    assert "a" in asked.freed("a", 2)


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
def test_a_count_that_cannot_be_read_is_not_known_and_stays_so(tmp_path: Path, form: Form) -> None:
    loader = load(form, graph(a="bc", b="", c=""), ["a"])
    made = Process(loader)
    at = NARROW if form is XP else WIDE
    made.memory.forget(loader.known["b.dll"].entry + at.load_count, 2)
    asked = Asked(tmp_path, made)
    assert (asked.unit("b").count, asked.unit("b").pinned, asked.unit("b").own) == (None, None, None)
    assert asked.free("b")[:] == ((), None, True, "unknown", 0)
    assert asked.freed("a") == "ac"
    assert asked.counts("b") == [None]


# -- XP to Windows 7 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_every_edge_of_the_closure_is_counted_down_once(tmp_path: Path, form: Form) -> None:
    asked = ask(tmp_path, form, graph(a="bc", b="c", c="d", d=""), ["a", "a", "a"])
    assert asked.counts("abcd") == [3, 3, 6, 3]
    asked.free("a")
    assert asked.counts("abcd") == [2, 2, 4, 2]


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_imports_of_what_is_pinned_are_counted_down_all_the_same(tmp_path: Path, form: Form) -> None:
    asked = ask(tmp_path, form, graph(a="b", b="c", c=""), ["a"])
    asked.unit("b").count, asked.unit("b").pinned = 0xFFFF, True
    assert asked.freed("a") == "ac"
    assert asked.counts("b") == [0xFFFF]


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_an_import_counted_below_zero_is_pinned(tmp_path: Path, form: Form) -> None:
    asked = ask(tmp_path, form, graph(a="bc", b="", c=""), ["a", "a"], b=0)
    found = asked.free("a", 2)
    assert [each.name for each in found.dead] == ["a.dll", "c.dll"]
    assert (asked.counts("b"), asked.unit("b").pinned) == ([0xFFFF], True)
    # Other counts pin nothing.
    asked = ask(tmp_path, form, graph(a="bc", b="", c=""), ["a", "a"])
    asked.free("a")
    assert (asked.counts("bc"), asked.unit("b").pinned) == ([1, 1], False)


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_the_imports_of_what_is_no_dll_are_not_counted_down(tmp_path: Path, form: Form) -> None:
    """A program that was loaded as a library: its imports were not counted."""
    loader = load(form, graph(a="b", b=""), ["a"])
    made = Process(loader)
    at = NARROW if form is XP else WIDE
    made.memory.number(loader.known["a.dll"].entry + at.flags, 4, 0x80000)
    asked = Asked(tmp_path, made)
    assert asked.freed("a") == "a"
    assert asked.counts("b") == [1]


@pytest.mark.parametrize(
    ("imports", "loads", "expected"),
    [
        ({"a": "b", "b": ""}, "aab", {"a": 2, "b": 1}),
        ({"a": "bc", "b": "c", "c": ""}, "abbccc", {"a": 1, "b": 2, "c": 3}),
        # Whichever DLL of a cycle was loaded, all are counted: by each load, and each of their importers within it.
        ({"a": "b", "b": "a"}, "aab", {"a": 2, "b": 1}),
        ({"a": "b", "b": "ac", "c": ""}, "aabc", {"a": 2, "b": 1, "c": 1}),
        ({"a": "bc", "b": "c", "c": "ad", "d": ""}, "bccd", {"a": 0, "b": 1, "c": 2, "d": 1}),
        # Two ways lead down to what both import.
        ({"a": "c", "b": "c", "c": "de", "d": "e", "e": ""}, "abbde", {"a": 1, "b": 2, "c": 0, "d": 1, "e": 1}),
        # A DLL that imports itself is in no cycle of others.
        ({"a": "bc", "b": "", "c": "b"}, "acb", {"a": 1, "c": 1, "b": 1}),
    ],
)
@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_the_loads_follow_from_the_counts(
    tmp_path: Path, form: Form, imports: Mapping[str, str], loads: str, expected: Mapping[str, int]
) -> None:
    asked = ask(tmp_path, form, graph(**imports), list(loads))
    assert dict(zip(expected, asked.own("".join(expected)))) == expected


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_what_does_not_come_out_even_is_not_known_nor_what_it_imports(tmp_path: Path, form: Form) -> None:
    imports = {"a": "b", "b": "c", "c": "", "x": "y", "y": ""}
    loads = ["a", "b", "x"]
    # Fewer than its importer counted.
    assert ask(tmp_path, form, graph(**imports), loads, b=0).own("abcxy") == [1, None, None, 1, 0]
    assert ask(tmp_path, form, graph(**imports), loads, a=0).own("abcxy") == [0, 2, 0, 1, 0]
    # In a cycle the sum has to be so many loads of the whole.
    cycle = {"a": "b", "b": "ac", "c": "", "x": ""}
    assert ask(tmp_path, form, graph(**cycle), ["a", "x"]).own("abcx") == [1, 0, 0, 1]
    assert ask(tmp_path, form, graph(**cycle), ["a", "x"], a=3).own("abcx") == [None, None, None, 1]
    assert ask(tmp_path, form, graph(**cycle), ["a", "x"], a=4, b=0).own("abcx") == [None, None, None, 1]
    # Of a cycle of which a part is pinned nothing is known.
    assert ask(tmp_path, form, graph(**cycle), ["a", "x"], b=0xFFFF).own("abcx") == [None, None, None, 1]
    # What only something pinned imports was counted when that was not yet pinned.
    assert ask(tmp_path, form, graph(**imports), loads, b=0xFFFF).own("abx") == [1, None, 1]


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_an_import_table_that_is_not_there_leaves_all_shares_unknown(tmp_path: Path, form: Form) -> None:
    loader = load(form, graph(a="b", b="", c=""), ["a", "c"])
    made = Process(loader)
    made.memory.forget(loader.known["c.dll"].base, 0x1000)
    asked = Asked(tmp_path, made)
    assert asked.world.unread == {asked.entry("c").address}
    assert asked.own("abc") == [None, None, None]
    # Of half a table likewise.
    made = Process(loader)
    made.memory.forget(loader.known["a.dll"].base + 0x2000 + 20, 4)
    asked = Asked(tmp_path, made)
    assert asked.world.unread == {asked.entry("a").address}
    assert asked.own("abc") == [None, None, None]


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_names_of_imports_in_any_case_without_ending_and_of_api_sets(tmp_path: Path, form: Form) -> None:
    loader = load(form, [Module("Low.dll"), Module("a.dll", ["low.DLL"]), Module("b.dll", ["low.dll"])], [])
    left_out = [Module("api-ms-win-core-x.dll"), Module("ext-ms-win-x.dll"), Module("missing.dll")]
    loader.define(*left_out, Module("c.dll", ["API-MS-WIN-core-x.dll", "ext-ms-win-x.dll", "low.dll", "missing.dll"]))
    for name in ("a.dll", "b.dll", "c.dll"):
        loader.load(name)
    for module in left_out:
        loader.drop(module)
    made = Process(loader)
    image = bytes(made.memory.find(loader.known["b.dll"].base)[0])
    made.memory.write(loader.known["b.dll"].base + image.index(b"low.dll"), b"LOW\0")
    asked = Asked(tmp_path, made)
    low = asked.unit("low")
    assert low.parents == [asked.unit(name).key for name in "abc"]
    assert [asked.unit(name).children for name in "abc"] == [[low.key]] * 3
    assert asked.world.api_sets == {asked.entry("c").address}
    assert asked.world.unread == set()


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_an_import_that_was_not_bound_counts_nothing(tmp_path: Path, form: Form) -> None:
    loader = load(form, graph(a="bc", b="", c=""), ["a"])
    made = Process(loader)
    # Behind three descriptors lie the thunks, one and a zero for each import: that of b.dll is emptied.
    made.memory.number(loader.known["a.dll"].base + 0x2000 + 64, 8 if form is WIN7 else 4, 0)
    asked = Asked(tmp_path, made)
    assert asked.unit("a").children == [asked.unit("c").key]
    assert asked.unit("b").parents == []
    assert asked.own("abc") == [1, 1, 0]


# -- Wine -----------------------------------------------------------------------------------------------------------


def test_wine_takes_the_imports_count_only_when_the_last_of_its_own_goes(tmp_path: Path) -> None:
    asked = ask(tmp_path, WINE, graph(a="b", b="c", c=""), ["a", "a", "c"])
    assert asked.counts("abc") == [2, 1, 2]
    assert asked.freed("a") == ""
    assert asked.counts("abc") == [1, 1, 2]
    assert asked.freed("a") == "ab"
    assert asked.counts("c") == [1]
    assert asked.freed("c", 4) == "c"


def test_wine_does_not_count_what_is_going_twice(tmp_path: Path) -> None:
    """In a cycle the way leads back to what goes already."""
    asked = ask(tmp_path, WINE, graph(a="b", b="ca", c=""), ["a"])
    assert asked.own("abc") == [1, 0, 0]
    assert sorted(asked.freed("a")) == list("abc")
    # A DLL of which some loads are left is only lowered.
    asked = ask(tmp_path, WINE, graph(a="b", b="ca", c=""), ["a", "a", "b"])
    assert asked.own("abc") == [2, 1, 0]
    assert asked.freed("b") == ""
    assert sorted(asked.freed("a", 2)) == list("abc")


def test_wine_unloads_what_was_never_initialised_last(tmp_path: Path) -> None:
    loader = load(WINE, graph(a="bc", b="", c="", d=""), ["a", "d"])
    loader.initialized.remove(loader.known["a.dll"])
    loader.initialized.remove(loader.known["d.dll"])
    asked = Asked(tmp_path, Process(loader))
    assert asked.freed("a") == "cba"
    assert asked.freed("d") == "d"


def test_what_was_never_initialised_stays_before_windows_8(tmp_path: Path) -> None:
    loader = load(WIN7, graph(a="b", b=""), ["a"])
    loader.initialized.remove(loader.known["b.dll"])
    assert Asked(tmp_path, Process(loader)).freed("a") == "a"


@pytest.mark.parametrize(
    ("imports", "loads", "expected"),
    [
        # Entered by way of x, and then loaded.
        ({"x": "a", "a": "b", "b": "a"}, "x", [1, 0, 0]),
        ({"x": "a", "a": "b", "b": "a"}, "xa", [1, 1, 0]),
        ({"a": "b", "b": "a"}, "a", [1, 0]),
        ({"a": "b", "b": "a"}, "b", [0, 1]),
        ({"a": "b", "b": "a"}, "baab", [2, 2]),
        # Two edges lead back to a, one to b; that from d to c was found when c was done.
        ({"a": "bd", "b": "c", "c": "ab", "d": "ca"}, "aa", [2, 0, 0, 0]),
        # The second edge is found when its target is done: it counts.
        ({"a": "bc", "b": "a", "c": "b"}, "abc", [1, 1, 1]),
    ],
)
def test_wine_gives_back_what_was_not_counted_while_a_dll_was_being_linked(
    tmp_path: Path, imports: Mapping[str, str], loads: str, expected: list[int]
) -> None:
    assert ask(tmp_path, WINE, graph(**imports), list(loads)).own("".join(imports)) == expected


def test_without_a_cycle_wine_lost_nothing(tmp_path: Path) -> None:
    assert ask(tmp_path, WINE, graph(a="b", b=""), ["a"], a=0).own("ab") == [0, 0]


def test_without_a_node_wines_edges_are_not_known(tmp_path: Path) -> None:
    loader = load(WINE, graph(a="b", b="c", c=""), ["a"])
    made = Process(loader)
    made.memory.number(loader.known["a.dll"].entry + WIDE.ddag, 8, 0)
    made.memory.forget(loader.known["a.dll"].node, WIDE.node_size)
    asked = Asked(tmp_path, made)
    assert asked.world.unread == {asked.entry("a").address}
    assert asked.unit("a").children == []
    assert asked.unit("b").children == [asked.unit("c").key]


@pytest.mark.parametrize("form", [WIN10, *COUNTING], ids=form_id)
def test_whose_imports_and_importers_are_known(tmp_path: Path, form: Form) -> None:
    asked = ask(tmp_path, form, graph(a="b", b=""), ["a"])
    for name in "ab":
        entry = asked.entry(name)
        assert asked.world.knows_imports(entry)
        assert asked.world.knows_importers(entry)


# -- what holds for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [WIN10, *COUNTING], ids=form_id)
def test_an_exit_frees_nothing_and_what_costs_too_much_is_not_known(tmp_path: Path, form: Form) -> None:
    asked = ask(tmp_path, form, graph(a="b", b=""), ["a"])
    assert asked.free("a", 1, True)[:] == ((), None, True, "process-exiting", 0)
    assert asked.counts("ab") == [1, 1]
    tired = ImportGraph(asked.world.rule, asked.world.copy().units, asked.world.by_entry, lambda _: False)
    assert tired.free(asked.entry("a"), 1, False, asked.order)[:] == ((), None, False, "unknown", 0)
    assert len(asked.free("a").dead) == 2


@pytest.mark.parametrize("form", [WIN10, *COUNTING], ids=form_id)
def test_a_copy_is_freed_and_the_world_stays(tmp_path: Path, form: Form) -> None:
    asked = ask(tmp_path, form, graph(a="b", b="c", c=""), ["a", "c"])
    before = [
        (unit.key, unit.count, unit.own, list(unit.children), list(unit.parents)) for unit in asked.world.units.values()
    ]
    copy = asked.world.copy()
    assert (copy.unread, copy.api_sets) == (asked.world.unread, asked.world.api_sets)
    assert len(copy.free(asked.entry("a"), 1, False, asked.order).dead) == 2
    after = [
        (unit.key, unit.count, unit.own, list(unit.children), list(unit.parents)) for unit in asked.world.units.values()
    ]
    assert after == before
    assert copy.units[asked.unit("c").key].own == 1


@pytest.mark.parametrize("form", [WIN10, *COUNTING], ids=form_id)
def test_who_is_told_that_it_is_detached(tmp_path: Path, form: Form) -> None:
    loader = load(form, graph(a="", b="", c="", d=""), list("abcd"))
    made = Process(loader)
    at = NARROW if form is XP else WIDE
    known = loader.known
    made.memory.number(known["b.dll"].entry + at.entry_point, 4 if form is XP else 8, 0)
    made.memory.number(known["c.dll"].entry + at.flags, 4, 0xA2CC & ~0x20)
    made.memory.number(known["d.dll"].entry + at.flags, 4, 0x4008_0004)
    asked = Asked(tmp_path, made)
    told = [gets_detached(asked.world.rule, asked.entry(name)) for name in "abcd"]
    assert told == [True, False, False, asked.world.rule is not LoaderRule.WINE]


def made_by_chance(seed: int, form: Form) -> tuple[Loader, list[str], random.Random]:
    """Load DLLs that import one another by chance, cycles included."""
    chance = random.Random(seed)
    letters = "abcdefgh"[: chance.randint(3, 8)]
    modules = {
        name: "".join(each for each in chance.sample(letters, chance.randint(0, 3)) if each != name) for name in letters
    }
    loads = [chance.choice(letters) for _ in range(chance.randint(1, 6))]
    return load(form, graph(**modules), loads), loads, chance


@pytest.mark.parametrize("form", [WIN10, *COUNTING], ids=form_id)
def test_frees_one_after_another_go_as_the_loaders_description_says(tmp_path: Path, form: Form) -> None:
    for seed in range(30):
        loader, loads, chance = made_by_chance(seed, form)
        asked = Asked(tmp_path, Process(loader))
        chance.shuffle(loads)
        for name in loads:
            if loader.known[f"{name}.dll"] not in loader.loaded:
                continue
            expected = FREES[form.name](loader, f"{name}.dll")
            assert [each.name for each in asked.free(name).dead] == expected, (seed, name)
            for module in loader.loaded:
                if module.name[0] in "abcdefgh" and module.name != EXE and not module.merged:
                    assert asked.unit(module.name[0]).count == module.count, (seed, name, module.name)


@pytest.mark.parametrize("form", [WIN10, *COUNTING], ids=form_id)
def test_the_loads_of_graphs_made_by_chance_are_found(tmp_path: Path, form: Form) -> None:
    for seed in range(30):
        loader, _, _ = made_by_chance(seed, form)
        asked = Asked(tmp_path, Process(loader))
        for module in loader.loaded:
            # On Windows 10 the made loader counts each DLL of a cycle that imports another, though they are one node.
            if len(module.name) == 5 and not any(each.merged for each in module.incoming):
                members = module.merged or [module]
                assert asked.unit(module.name[0]).own == sum(each.loads for each in members), (seed, module.name)
