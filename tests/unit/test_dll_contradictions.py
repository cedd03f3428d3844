"""Is a DLL not known whose lists or 16-bit count something contradicts, and are both values named?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import Dll, DllHoldKind, DllState, LoaderRule
from dlwhy.common.windows.state import explain_dlls
from dlwhy.tests.synth.minidump import NARROW, WIDE, WIN7, WIN10, WINE, XP, Form, Loader, Offsets, Process
from dlwhy.tests.synth.windows import form_id, process, story, write

CLOSURES = [XP, WIN7]
COUNTING = [XP, WIN7, WINE]
#: Flags of 16-bit counts.
STATIC_LINK, DLL, IN_PROGRESS, UNLOADING, ATTACHED = 2, 4, 0x1000, 0x2000, 0x80000


def offsets(form: Form) -> Offsets:
    return NARROW if form is XP else WIDE


def load(form: Form, owner: Optional[int] = 0) -> Loader:
    """Load the story, while a thread owns the loader lock; none in 0, and None leaves the lock away."""
    loader = story(form, form is not XP)
    loader.lock_owner = owner
    return loader


def put(made: Process, name: str, count: int, flags: int = DLL | ATTACHED) -> None:
    """Set a count and flags."""
    entry, at = made.loader.known[name.lower()].entry, offsets(made.loader.form)
    made.memory.number(entry + at.load_count, 2, count)
    made.memory.number(entry + at.flags, 4, flags)


def explain(folder: Path, made: Process, modules: bool = True) -> DllState:
    return explain_dlls(MinidumpTarget(str(write(folder, made.dump(modules=modules)))))


def find(state: DllState, name: str) -> Dll:
    return next(dll for dll in state.dlls if dll.name == name)


def kinds(state: DllState, name: str) -> list[str]:
    return [hold.kind.value for hold in find(state, name).holds]


def said(state: DllState, name: str) -> str:
    return "\n".join(problem.message for problem in state.problems if problem.where == name)


def is_unknown(state: DllState, *names: str) -> bool:
    """Tell whether these DLLs, and no others, are not known, besides those that they alone hold under Wine."""
    held = {"libA.dll": "libB.dll", "pinned.dll": "pindep.dll"}
    others = {held[name] for name in names if name in held and state.rules[0].rule is LoaderRule.WINE}
    return {dll.name for dll in state.dlls if dll.held is None} == {*names, *others}


# -- a count of 0 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
@pytest.mark.parametrize("name", ["libA.dll", "libC.dll", "pinned.dll", "ntdll.dll"])
def test_a_count_of_0_while_nobody_owns_the_loader_lock(tmp_path: Path, form: Form, name: str) -> None:
    made = Process(load(form))
    put(made, name, 0)
    state = explain(tmp_path, made)
    assert is_unknown(state, name)
    place = made.loader.known[name.lower()].entry + offsets(form).load_count
    text = rf"LoadCount at {place:#x} is 0x0, but OwningThread of the loader lock at 0x[0-9a-f]+ is 0: no FreeLibrary"
    assert re.search(text, said(state, name))


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
def test_a_count_of_0_where_the_loader_lock_is_not_in_memory(tmp_path: Path, form: Form) -> None:
    made = Process(load(form, None))
    put(made, "libA.dll", 0)
    state = explain(tmp_path, made)
    assert is_unknown(state, "libA.dll")
    assert "is 0x0, but Flags are 0x80004, which do not say that it is being unloaded" in said(state, "libA.dll")


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
@pytest.mark.parametrize("owner", [0x5BC, None])
def test_a_count_of_0_during_an_unload(tmp_path: Path, form: Form, owner: Optional[int]) -> None:
    """Up to Windows 7 Flags tell, or that it is in initialisation order no more; under Wine that it was detached."""
    flags = DLL if form is WINE else DLL | ATTACHED | UNLOADING
    made = Process(load(form, owner))
    put(made, "libA.dll", 0, flags)
    state = explain(tmp_path, made)
    assert (kinds(state, "libA.dll"), find(state, "libA.dll").held) == (["unloading"], False)
    if form is not WINE:
        loader = load(form, owner)
        loader.initialized.remove(loader.known["liba.dll"])
        made = Process(loader)
        put(made, "libA.dll", 0)
        assert kinds(explain(tmp_path, made), "libA.dll") == ["unloading"]


@pytest.mark.parametrize("form", COUNTING, ids=form_id)
def test_a_count_of_0_during_a_load(tmp_path: Path, form: Form) -> None:
    made = Process(load(form, 0x5BC))
    put(made, "libA.dll", 0, DLL | IN_PROGRESS)
    assert kinds(explain(tmp_path, made), "libA.dll") == ["loading"]


# -- pins before Windows 8 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("prog.exe", "it"),
        ("ntdll.dll", "it"),
        ("KERNEL32.DLL", "it"),
        ("static.dll", "what the program imports"),
        ("ucrt.dll", "what the program imports"),
    ],
)
def test_what_is_there_since_the_start_is_pinned(tmp_path: Path, form: Form, name: str, what: str) -> None:
    made = Process(load(form))
    put(made, name, 3)
    state = explain(tmp_path, made)
    assert is_unknown(state, name)
    assert f"is 0x3, but the loader pins {what} at the start, with 0xffff" in said(state, name)


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_what_the_program_imports_is_not_being_unloaded(tmp_path: Path, form: Form) -> None:
    """Another DLL may be, by the owner of the loader lock."""
    made = Process(load(form, 0x5BC))
    put(made, "static.dll", 0)
    state = explain(tmp_path, made)
    assert is_unknown(state, "static.dll")
    assert "is 0x0, but the loader pins what the program imports at the start" in said(state, "static.dll")


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_a_pin_extends_to_imports(tmp_path: Path, form: Form) -> None:
    # One of two imports: the other confirms the pin.
    made = Process(load(form))
    put(made, "libA.dll", 0xFFFF)
    put(made, "libB.dll", 0xFFFF)
    state = explain(tmp_path, made)
    place = made.loader.known["liba.dll"].entry + offsets(form).load_count
    assert f"but libA.dll, which imports it, is pinned: its own at {place:#x} is 0xffff" in said(state, "libC.dll")
    assert is_unknown(state, "libC.dll")
    # Neither of two: then it is that count that is wrong.
    made = Process(load(form))
    put(made, "libA.dll", 0xFFFF)
    state = explain(tmp_path, made)
    assert "is 0xffff, but a pin extends to imports, and that of libB.dll is 3" in said(state, "libA.dll")
    assert is_unknown(state, "libA.dll")
    # The only import: it can be either.
    made = Process(load(form))
    put(made, "pindep.dll", 2, DLL | ATTACHED | STATIC_LINK)
    assert is_unknown(explain(tmp_path, made), "pinned.dll", "pindep.dll")


def test_pins_under_wine(tmp_path: Path) -> None:
    """Its own DLLs have one since the start; others are of one DLL alone."""
    for name in ("prog.exe", "ntdll.dll"):
        made = Process(load(WINE))
        put(made, name, 3)
        state = explain(tmp_path, made)
        assert is_unknown(state, name)
        assert "is 0x3, but the loader pins it at the start, with 0xffff" in said(state, name)
    made = Process(load(WINE))
    put(made, "libA.dll", 0xFFFF)
    put(made, "static.dll", 1)
    state = explain(tmp_path, made)
    assert is_unknown(state)
    assert (kinds(state, "libA.dll"), state.problems) == (["pinned"], ())


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_flags_of_windows_8_say_nothing_before(tmp_path: Path, form: Form) -> None:
    """The bit of ProcessStaticImport is that of forced integrity checks."""
    made = Process(load(form))
    put(made, "ntdll.dll", 0xFFFF, DLL | ATTACHED | 0x20)
    state = explain(tmp_path, made)
    assert (kinds(state, "ntdll.dll"), find(state, "ntdll.dll").holds[0].origin) == (["pinned"], "loader")


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_counts_that_do_not_come_out_even_are_told(tmp_path: Path, form: Form) -> None:
    made = Process(load(form))
    put(made, "libB.dll", 1)
    state = explain(tmp_path, made)
    told = "its count is 1, but loads of its importers account for 3: which loads are its own is not known"
    assert said(state, "libB.dll") == told
    assert find(state, "libB.dll").held
    made = Process(load(form))
    put(made, "cx.dll", 7)
    told = "the counts of cx.dll, cy.dll, which import one another, do not come out even"
    assert told in said(explain(tmp_path, made), "cx.dll")


# -- nodes of Wine's ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("member", "place"), [("LoadCount", WIDE.node_count), ("State", WIDE.node_state)])
def test_one_node_makes_no_other_loader(tmp_path: Path, member: str, place: int) -> None:
    made = Process(load(WINE))
    before = explain(tmp_path, made)
    at = made.loader.known["libb.dll"].node + place
    made.memory.number(at, 4, 7)
    state = explain(tmp_path, made)
    assert state.rules[0].rule is LoaderRule.WINE
    assert state.rules[0].reason.startswith("most of the nodes of its graph hold neither counts nor states")
    assert [(dll.held, dll.holds) for dll in state.dlls] == [(dll.held, dll.holds) for dll in before.dlls]
    told = f"{member} at {at:#x} is 0x7, but that of most nodes is 0: it is not used"
    assert said(state, "libB.dll") == told


# -- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CLOSURES, ids=form_id)
def test_imports_of_a_dll_at_another_place_are_found(tmp_path: Path, form: Form) -> None:
    """Its own verdict is not known; where it is mapped tells what it imports, and the program which one that is."""
    for name in ("libA.dll", "prog.exe"):
        made = Process(load(form))
        before = explain(tmp_path, made)
        made.memory.number(made.loader.known[name.lower()].entry + offsets(form).dll_base, 4 if form is XP else 8, 0x41)
        state = explain(tmp_path, made)
        assert is_unknown(state, name)
        assert kinds(state, "static.dll") == kinds(before, "static.dll")
        assert kinds(state, "cx.dll") == kinds(before, "cx.dll")


# -- the lists ------------------------------------------------------------------------------------------------------


def unlink(made: Process, order: int, *names: str) -> None:
    """Take entries out of one of the lists, which stays whole."""
    head, at, word = made.heads[0]
    ring = [made.loader.loaded, made.loader.loaded, made.loader.initialized][order]
    links = [each.entry + at.links[order] for each in ring if each.name not in names]
    links.insert(0, head + at.heads + 2 * word * order)
    for number, link in enumerate(links):
        made.memory.number(link, word, links[(number + 1) % len(links)])
        made.memory.number(link + word, word, links[number - 1])


@pytest.mark.parametrize("form", [*COUNTING, WIN10], ids=form_id)
@pytest.mark.parametrize(("order", "other"), [("load", "memory"), ("memory", "load")])
@pytest.mark.parametrize("name", ["libB.dll", "pinned.dll"])
def test_a_dll_that_is_in_one_list_alone(tmp_path: Path, form: Form, order: str, other: str, name: str) -> None:
    made = Process(load(form))
    unlink(made, ("load", "memory").index(order), name)
    state = explain(tmp_path, made)
    assert is_unknown(state, name)
    text = rf"In{order}OrderLinks at 0x[0-9a-f]+ are not in the list of {order} order, but In\w+ at 0x[0-9a-f]+ are in"
    assert re.search(text, said(state, name), re.IGNORECASE)
    assert f"in that of {other} order" in said(state, name)


@pytest.mark.parametrize("form", [*COUNTING, WIN10], ids=form_id)
def test_a_dll_that_is_in_no_initialisation_order(tmp_path: Path, form: Form) -> None:
    """Only up to Windows 7 an unload goes by it; what is pinned stays anyway."""
    made = Process(load(form))
    unlink(made, 2, "libB.dll", "pinned.dll")
    state = explain(tmp_path, made)
    assert is_unknown(state, *(["libB.dll"] if form in CLOSURES else []))
    # The program is in none, nor is a DLL whose DllMain has not run.
    made = Process(load(form))
    unlink(made, 2, "libB.dll")
    at = offsets(form)
    made.memory.number(made.loader.known["libb.dll"].entry + at.flags, 4, DLL)
    assert find(explain(tmp_path, made), "libB.dll").held


def test_what_is_being_unloaded_is_taken_out_of_the_lists(tmp_path: Path) -> None:
    loader = load(WIN10)
    loader.known["libb.dll"].state, loader.known["libb.dll"].count = -2, 0
    made = Process(loader)
    unlink(made, 0, "libB.dll")
    state = explain(tmp_path, made)
    assert find(state, "libB.dll").holds[0].kind is DllHoldKind.UNLOADING
    assert "order" not in said(state, "libB.dll")


def test_lists_that_are_cut_contradict_nothing(tmp_path: Path) -> None:
    made = process(WIN10)
    made.memory.number(made.loader.known["liba.dll"].entry + WIDE.links[0], 8, 0x1234_5678)
    made.memory.number(made.loader.known["cx.dll"].entry + WIDE.links[0] + 8, 8, 0x1234_5678)
    assert is_unknown(explain(tmp_path, made))
