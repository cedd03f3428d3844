"""Is it said of every DLL, in every form of Windows' loader, whether it stays and why?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dlwhy.common.commands.dllstate.document import dll_state_document
from dlwhy.common.errors import NotFoundError, UnsupportedError
from dlwhy.common.model import SourceKind
from dlwhy.common.render.json_parts import dump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import Dll, DllHoldKind, DllState, LoaderRule
from dlwhy.common.windows.state import explain_dlls, select_dlls
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import (
    EXE,
    KERNEL32,
    NARROW,
    NTDLL,
    PINNED,
    WIDE,
    WIN7,
    WIN10,
    WIN81,
    WINE,
    XP,
    Form,
    Loader,
    Module,
    Process,
)
from dlwhy.tests.synth.windows import FORMS, form_id, process, real_dumps, story, write

KINDS = DllHoldKind
RULES = {"xp": LoaderRule.XP, "win7": LoaderRule.WIN7, "wine": LoaderRule.WINE}


def explain(folder: Path, made: Process) -> DllState:
    """Write the dump, ask, and check that the answer is fit to be shown."""
    state = explain_dlls(MinidumpTarget(str(write(folder, made.dump()))))
    VALIDATOR.validate(json.loads(dump(dll_state_document("dllstate", state))))
    return state


def find(state: DllState, name: str, loader: str = "native") -> Dll:
    return next(dll for dll in state.dlls if dll.name == name and dll.loader == loader)


def kinds(dll: Dll) -> list[DllHoldKind]:
    return [hold.kind for hold in dll.holds]


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_every_reason_in_every_form(tmp_path: Path, form: Form, wide: bool) -> None:
    made = process(form, wide)
    state = explain(tmp_path, made)
    assert state.problems == ()
    assert [each.rule for each in state.rules] == [RULES.get(form.name, LoaderRule.WIN8)]
    assert [dll.name for dll in state.dlls] == [module.name for module in made.loader.loaded]
    assert {dll.base for dll in state.dlls} == {module.base for module in made.loader.loaded}
    assert all(dll.held for dll in state.dlls)
    assert kinds(find(state, EXE)) == [KINDS.MAIN_PROGRAM]
    for name in (NTDLL, KERNEL32):
        assert [hold.origin for hold in find(state, name).holds] == ["loader"]
    for name, chain in (("static.dll", (EXE, "static.dll")), ("ucrt.dll", (EXE, "static.dll", "ucrt.dll"))):
        assert kinds(find(state, name)) == [KINDS.STATIC_IMPORT]
        assert find(state, name).holds[0].chain == chain
    assert [(hold.kind, hold.total) for hold in find(state, "libA.dll").holds] == [(KINDS.LOAD_COUNT, 3)]
    inherited = find(state, "libB.dll")
    assert [(hold.kind, hold.chain) for hold in inherited.holds] == [(KINDS.DEPENDENCY, ("libA.dll", "libB.dll"))]
    assert inherited.holds[0].root_kinds == (KINDS.LOAD_COUNT,)
    shared = find(state, "libC.dll")
    assert (shared.holds[0].kind, shared.holds[0].total) == (KINDS.LOAD_COUNT, 1)
    assert {hold.chain[-2] for hold in shared.holds[1:]} == set(shared.importers or ())
    assert len(shared.importers or ()) == 3
    pinned = find(state, "pinned.dll")
    assert kinds(pinned) == [KINDS.PINNED]
    counted = find(state, "libA.dll")
    assert (counted.load_count, counted.loadlibrary_count) == (3, 3)
    for name in (EXE, NTDLL, "pinned.dll"):
        assert (find(state, name).load_count, find(state, name).loadlibrary_count) == (None, None), name
    assert find(state, "static.dll").loadlibrary_count is None
    if form.wine:
        assert find(state, "pindep.dll").holds[0].root_kinds == (KINDS.PINNED,)
    else:
        assert find(state, "pindep.dll").holds[0].chain == ("pinned.dll", "pindep.dll")
        assert find(state, "pindep.dll").holds[0].origin == "inherited"


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_a_cycle_has_one_load(tmp_path: Path, form: Form, wide: bool) -> None:
    state = explain(tmp_path, process(form, wide))
    first, second = find(state, "cx.dll"), find(state, "cy.dll")
    if form.graph and not form.wine:
        assert first.import_cycle == ("cy.dll",)
        assert second.import_cycle == ("cx.dll",)
        assert first.ddag_node == second.ddag_node
        assert [(hold.kind, hold.total) for hold in second.holds] == [(KINDS.LOAD_COUNT, 1)]
    else:
        assert (first.holds[0].kind, first.holds[0].total) == (KINDS.LOAD_COUNT, 1)
        assert kinds(second) == [KINDS.DEPENDENCY]


def test_the_count_of_the_node_is_shown_and_not_the_obsolete_one(tmp_path: Path) -> None:
    dll = find(explain(tmp_path, process(WIN10)), "libC.dll")
    assert dll.fields["LoadCount"] == 4
    assert dll.fields["ObsoleteLoadCount"] == 6
    assert (dll.load_count, dll.loadlibrary_count) == (4, 1)
    assert dll.ddag_state == "ReadyToRun"
    assert dll.load_reason == "static-dependency"
    assert dll.first_loaded_by == "libB.dll"
    evidence = dll.holds[0].evidence[0]
    assert evidence.expression == f"((_LDR_DDAG_NODE*){dll.ddag_node:#x})->LoadCount"
    assert (evidence.address, evidence.value) == (dll.ddag_node + 0x18, 4)


def test_the_obsolete_count_alone_pins_nothing_and_contradicts_the_nodes(tmp_path: Path) -> None:
    made = process(WIN10)
    lib = made.loader.known["liba.dll"]
    made.memory.number(lib.entry + WIDE.load_count, 2, 0xFFFF)
    state = explain(tmp_path, made)
    assert (find(state, "libA.dll").held, find(state, "libA.dll").holds) == (None, ())
    (problem,) = state.problems
    place = lib.node + WIDE.node_count
    assert problem.message.startswith(f"LoadCount at {place:#x} is 0x3, but ObsoleteLoadCount is 0xffff")


def test_both_loaders_of_a_process_of_32_bit_code(tmp_path: Path) -> None:
    state = explain(tmp_path, Process(story(WIN10, True), story(WIN10, False)))
    assert [each.loader for each in state.rules] == ["native", "wow64"]
    assert len(state.dlls) == 24
    assert find(state, "libC.dll", "wow64").fields["LoadCount"] == 4
    assert find(state, "libC.dll", "wow64").base < 1 << 32 <= find(state, "libC.dll").base


def test_the_layout_of_the_nearest_build_is_named(tmp_path: Path) -> None:
    state = explain(tmp_path, process(Form("win10", (10, 0, 17134), graph=True)))
    assert state.loader.layout is not None
    assert state.loader.layout.kind is SourceKind.TABLE
    assert "14393" in state.loader.layout.detail
    assert "17134" in state.loader.layout.detail
    assert state.loader.version == "10.0.17134"


@pytest.mark.parametrize("claimed", [(6, 1, 7601), (5, 2, 3790), (10, 0, 99999), (0, 0, 0)])
@pytest.mark.parametrize("form", [WIN7, WIN10, WINE], ids=form_id)
def test_structure_decides_and_not_the_version(tmp_path: Path, form: Form, claimed: tuple[int, int, int]) -> None:
    state = explain(tmp_path, process(form._replace(version=claimed)))
    assert [each.rule for each in state.rules] == [RULES.get(form.name, LoaderRule.WIN8)]
    assert find(state, "libA.dll").holds[0].total == 3


def test_windows_8_says_that_it_is_judged_by_a_later_rule(tmp_path: Path) -> None:
    assert "by the rule of Windows 10" in explain(tmp_path, process(WIN81)).rules[0].reason


def test_nodes_that_are_not_in_the_dump(tmp_path: Path) -> None:
    made = process(WIN10)
    for module in made.loader.loaded:
        made.memory.forget(module.node, 0x50)
    state = explain(tmp_path, made)
    assert "not in memory" in state.rules[0].reason
    assert kinds(find(state, "static.dll")) == [KINDS.STATIC_IMPORT]
    assert kinds(find(state, "pinned.dll")) == [KINDS.PINNED]
    unknown = find(state, "libA.dll")
    assert unknown.held is None
    assert unknown.holds == ()
    assert unknown.fields["LoadCount"] is None


def test_a_loader_of_which_half_is_there(tmp_path: Path) -> None:
    made = process(WIN10)
    lost = made.loader.known["libb.dll"]
    made.memory.forget(lost.entry, 0x138)
    state = explain(tmp_path, made)
    assert {dll.name for dll in state.dlls} == {module.name for module in made.loader.loaded}
    assert find(state, "libB.dll").held is None
    assert find(state, "libB.dll").ldr_entry == 0
    assert find(state, "libC.dll").held is True
    messages = " ".join(problem.message for problem in state.problems)
    assert "cannot be read" in messages
    assert "more were found from its end" in messages


def test_no_loader_at_all_leaves_the_module_list(tmp_path: Path) -> None:
    made = process(WIN10)
    made.memory.forget(made.loader.loaded[0].entry & ~0xFFFFFF, 0x100000)
    made.memory.forget(made.peb, 0x100)
    state = explain(tmp_path, made)
    assert [dll.held for dll in state.dlls] == [True, *[None] * 11]
    assert any("only the module list" in p.message or "lists are not in the dump" in p.message for p in state.problems)


def test_lists_that_disagree_are_told(tmp_path: Path) -> None:
    made = process(WIN10)
    hidden = made.loader.known["libb.dll"]
    memory = made.memory
    piece, offset = memory.find(hidden.entry, 16)
    flink, blink = (int.from_bytes(piece[offset + i : offset + i + 8], "little") for i in (0, 8))
    memory.number(blink, 8, flink)
    memory.number(flink + 8, 8, blink)
    state = explain(tmp_path, made)
    told = next(p.message for p in state.problems if p.where == "libB.dll")
    assert "are not in the list of load order, but InMemoryOrderLinks at" in told
    assert find(state, "libB.dll").held is None
    assert find(state, "libB.dll").list_positions.load is None


def test_a_module_that_was_taken_out_of_all_lists_is_told(tmp_path: Path) -> None:
    made = process(WIN10)
    ghost = Module("ghost.dll", base=0x6000_0000)
    made.loader.loaded.append(ghost)
    state = explain(tmp_path, made)
    assert any("in no list of the loader's" in p.message for p in state.problems if p.where == "ghost.dll")


def test_a_file_that_was_replaced_is_told(tmp_path: Path) -> None:
    made = process(WIN10)
    made.loader.known["liba.dll"].timestamp += 1
    state = explain(tmp_path, made)
    assert any("replaced on disk" in p.message for p in state.problems if p.where == "libA.dll")
    made.loader.known["libb.dll"].name = "other.dll"
    state = explain(tmp_path, made)
    assert any("not that of the mapped file, other.dll" in p.message for p in state.problems)


def test_unloading_and_over_freed(tmp_path: Path) -> None:
    loader = story(WIN10)
    loader.known["libb.dll"].state = -1
    loader.known["libb.dll"].count = 0
    loader.known["libc.dll"].count = 2
    state = explain(tmp_path, Process(loader))
    assert find(state, "libB.dll").held is False
    assert kinds(find(state, "libB.dll")) == [KINDS.UNLOADING]
    assert any("over-freed: it is 2, but 3 of its importers" in p.message for p in state.problems)


def test_a_loader_at_work_is_told(tmp_path: Path) -> None:
    loader = story(WIN10)
    loader.known["libb.dll"].state = 8
    assert any("Initializing" in p.message for p in explain(tmp_path, Process(loader)).problems)


@pytest.mark.parametrize(("flag", "origin"), [(0x100, "shim"), (0x400000, "clr"), (0x400, "explicit"), (0, "explicit")])
def test_causes_of_pins(tmp_path: Path, flag: int, origin: str) -> None:
    loader = story(WIN10)
    loader.known["pinned.dll"].flags = flag
    assert find(explain(tmp_path, Process(loader)), "pinned.dll").holds[0].origin == origin


def test_a_count_of_all_ones_that_was_loaded_at_start_is_the_loaders(tmp_path: Path) -> None:
    loader = story(WIN10)
    loader.known["ucrt.dll"].static = False
    loader.known["ucrt.dll"].count = PINNED
    assert find(explain(tmp_path, Process(loader)), "ucrt.dll").holds[0].origin == "loader"


def test_counts_before_windows_8_that_do_not_come_out_even_are_not_divided(tmp_path: Path) -> None:
    loader = story(WIN7)
    loader.known["cy.dll"].count += 2
    state = explain(tmp_path, Process(loader))
    assert [(hold.kind, hold.total) for hold in find(state, "cx.dll").holds][:1] == [(KINDS.LOAD_COUNT, None)]
    assert find(state, "libA.dll").holds[0].total == 3


def test_names_in_any_case_and_by_address(tmp_path: Path) -> None:
    state = explain(tmp_path, process())

    def evaluate(text: str) -> int:
        try:
            return int(text, 0)
        except ValueError as error:
            raise NotFoundError(text) from error

    lib = find(state, "libA.dll")
    for text in ("liba", "LIBA.DLL", "app\\liba.dll", "c:/app/libA.dll", f"{lib.base:#x}", f"{lib.base + 9}", "libA*"):
        assert select_dlls(state.dlls, text, evaluate) == (lib,), text
    assert select_dlls(state.dlls, f"{lib.ldr_entry:#x}", evaluate) == (lib,)
    with pytest.raises(NotFoundError, match=r"near: libA\.dll"):
        select_dlls(state.dlls, "libaa.dll", evaluate)


def test_another_system_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not a process of Windows"):
        explain_dlls(FakeTarget({}))


# -- damaged ------------------------------------------------------------------------------------------------------


def a_node(made: Process) -> Module:
    return made.loader.known["liba.dll"]


def number_at(made: Process, address: int) -> int:
    piece, offset = made.memory.find(address, 8)
    return int.from_bytes(piece[offset : offset + 8], "little")


def ring_without_end(made: Process) -> None:
    made.memory.number(a_node(made).entry + WIDE.module_link, 8, 0x1234_5678)


def ring_that_does_not_point_back(made: Process) -> None:
    made.memory.number(a_node(made).entry + WIDE.module_link + 8, 8, 0x1234_5678)


def edges_that_are_not_there(made: Process) -> None:
    made.memory.number(a_node(made).node + WIDE.node_incoming, 8, 0x1234_5678)


def edges_that_end_early(made: Process) -> None:
    tail = number_at(made, a_node(made).node + WIDE.node_dependencies)
    first = number_at(made, tail)
    assert first != tail
    made.memory.number(first, 8, 0)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (ring_without_end, "Modules of its node cannot be read at 0x12345678 after 1 module"),
        (ring_that_does_not_point_back, "does not point back: what follows is not known: not all modules of its"),
        (edges_that_are_not_there, "IncomingDependencies cannot be read: not all its edges are known"),
        (edges_that_end_early, "Dependencies cannot be read at 0x0 after 1 record: not all its edges are known"),
    ],
)
def test_a_list_that_is_cut_short_is_told(tmp_path: Path, damage: Callable[[Process], None], told: str) -> None:
    made = process()
    damage(made)
    assert [told in problem.message for problem in explain(tmp_path, made).problems].count(True) == 1


# -- hostile ------------------------------------------------------------------------------------------------------


def wild(made: Process) -> None:
    made.memory.number(made.loader.known["libb.dll"].entry, 8, 0x1234_5678)


def loop(made: Process) -> None:
    entry = made.loader.known["libb.dll"].entry
    made.memory.number(entry, 8, entry)


def back_loop(made: Process) -> None:
    a, c = made.loader.known["liba.dll"].entry, made.loader.known["libc.dll"].entry
    made.memory.number(c, 8, a)


def names(made: Process) -> None:
    for module in made.loader.loaded:
        made.memory.number(module.entry + WIDE.base_name, 8, 0xFFFF_FFFF_FFFF)


def counts(made: Process) -> None:
    for module in made.loader.loaded:
        made.memory.number(module.node + WIDE.node_count, 4, 0xFFFFFFFF)


def edges(made: Process) -> None:
    for module in made.loader.loaded:
        made.memory.number(module.node + WIDE.node_incoming, 8, module.node)
        made.memory.number(module.node + WIDE.node_dependencies, 8, module.entry)


def rings(made: Process) -> None:
    for module in made.loader.loaded:
        made.memory.number(module.node, 8, module.entry + WIDE.module_link)
        made.memory.number(module.entry + WIDE.module_link, 8, module.entry + WIDE.module_link)


def nodes(made: Process) -> None:
    for module in made.loader.loaded:
        made.memory.number(module.entry + WIDE.ddag, 8, made.loader.loaded[0].node)


def states(made: Process) -> None:
    for module in made.loader.loaded:
        made.memory.number(module.node + WIDE.node_state, 4, 0x7FFFFFFF)


def heads(made: Process) -> None:
    for ldr, at, word in made.heads:
        made.memory.number(ldr + at.heads, word, ldr + at.heads)


def zeros(made: Process) -> None:
    for module in made.loader.loaded:
        made.memory.write(module.entry, bytes(0x138))


@pytest.mark.parametrize(
    "damage",
    [wild, loop, back_loop, names, counts, edges, rings, nodes, states, heads, zeros],
    ids=lambda f: f.__name__,
)
def test_damage_ends_in_a_report(tmp_path: Path, damage: Callable[[Process], None]) -> None:
    made = process(WIN10)
    damage(made)
    state = explain(tmp_path, made)
    assert state.dlls
    # Names come from the paths then, and counts that all say "pinned" contradict nothing.
    assert state.problems or damage in (names, counts)
    if damage is names:
        assert [dll.name for dll in state.dlls] == [module.name for module in made.loader.loaded]


def test_damaged_import_tables_end_in_a_report(tmp_path: Path) -> None:
    made = process(WIN7)
    for number, module in enumerate(made.loader.loaded):
        made.memory.number(module.base + 0x2000, 4, 0xFFFFFFF0 - number)
        made.memory.number(module.base + 0x2000 + 12, 4, 0xFFFFFFF0)
    state = explain(tmp_path, made)
    assert any(p.where == "import tables" for p in state.problems)


@pytest.mark.parametrize(("form", "wide"), [(XP, False), (WIN7, True), (WIN10, False)], ids=form_id)
def test_a_thousand_modules_are_bounded(tmp_path: Path, form: Form, wide: bool) -> None:
    loader = Loader(form, wide)
    total = 300
    loader.define(*(Module(f"d{n}.dll", [f"d{m}.dll" for m in range(n + 1, min(n + 6, total))]) for n in range(total)))
    loader.start(Module(EXE, [KERNEL32]))
    loader.load("d0.dll", 2 if form.graph else 1)
    made = Process(loader)
    state = explain(tmp_path, made)
    assert len(state.dlls) == total + 3
    assert find(state, "d299.dll").held
    assert NARROW.ddag  # both sizes have nodes


# -- real dumps ---------------------------------------------------------------------------------------------------


def test_real_dump_with_the_loaders_entries() -> None:
    for path in real_dumps("tiny-exe-with-cet-xsave.dmp"):
        state = explain_dlls(MinidumpTarget(str(path)))
        assert state.loader.version == "10.0.22000"
        assert state.loader.layout is not None
        assert state.loader.layout.detail == "Windows 10.0.22000.318"
        listed = [dll for dll in state.dlls if dll.ldr_entry]
        assert len(listed) == 24
        assert [dll.name for dll in listed[:4]] == ["tiny.exe", "ntdll.dll", "KERNEL32.DLL", "KERNELBASE.dll"]
        static = {dll.name for dll in listed if kinds(dll) == [KINDS.STATIC_IMPORT]}
        assert len(static) == 15
        assert {dll.name for dll in listed if kinds(dll) == [KINDS.PINNED]} == {
            *("ntdll.dll", "KERNEL32.DLL", "KERNELBASE.dll", "bcrypt.dll")
        }
        assert {"IMM32.DLL", "VERSION.dll", "ntmarta.dll"} <= {dll.name for dll in listed if dll.held is None}


def test_real_dump_without_the_loaders_lists() -> None:
    for path in real_dumps("tiny-exe-fastfail.dmp"):
        state = explain_dlls(MinidumpTarget(str(path)))
        assert len(state.dlls) == 21
        assert state.dlls[0].name == "tiny.exe"
        assert all(dll.held is None for dll in state.dlls[1:])
        assert any("lists are not in the dump" in problem.message for problem in state.problems)


# -- bounded ------------------------------------------------------------------------------------------------------


def deep(form: Form, count: int) -> Process:
    """Load a chain: each DLL imports the next."""
    loader = Loader(form)
    loader.define(*(Module(f"d{n}.dll", [f"d{n + 1}.dll"] if n + 1 < count else []) for n in range(count)))
    loader.start(Module(EXE, [KERNEL32]))
    loader.load("d0.dll")
    return Process(loader)


@pytest.mark.parametrize("form", [WIN7, WIN10, WINE], ids=form_id)
def test_a_long_chain_is_named_by_its_ends(tmp_path: Path, form: Form) -> None:
    state = explain(tmp_path, deep(form, 400))
    chain = find(state, "d399.dll").holds[0].chain
    assert (chain[0], chain[1], chain[-1], len(chain)) == ("d0.dll", "…", "d399.dll", 65)
    assert find(state, "d3.dll").holds[0].chain == ("d0.dll", "d1.dll", "d2.dll", "d3.dll")
