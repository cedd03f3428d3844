"""What does a plan say of frees beyond the last, of what stays, and of what must still be freed?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.errors import NotFoundError
from dlwhy.common.model import Outcome
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import DllHoldKind, DllPlan, DllPlans
from dlwhy.common.windows.plan import plan_free
from dlwhy.tests.synth.minidump import EXE, KERNEL32, NARROW, WIDE, WIN7, WIN10, WINE, XP, Form, Loader, Module, Process
from dlwhy.tests.synth.windows import form_id, write

FORMS = [XP, WIN7, WIN10, WINE]


def number(text: str) -> int:
    """Evaluate as the shell's host does."""
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(text) from error


def load(form: Form, loads: Sequence[str], **imports: str) -> Loader:
    """Start a program and load DLLs of one letter."""
    loader = Loader(form, form is not XP)
    loader.define(*(Module(f"{name}.dll", [f"{each}.dll" for each in needed]) for name, needed in imports.items()))
    loader.start(Module(EXE, [KERNEL32]))
    for name in loads:
        loader.load(f"{name}.dll")
    return loader


def plans(folder: Path, made: Process, name: str, frees: Optional[int] = 1) -> DllPlans:
    return plan_free(
        MinidumpTarget(str(write(folder, made.dump(), f"{len(list(folder.iterdir()))}.dmp"))),
        f"{name}.dll",
        number,
        frees,
    )


def plan(folder: Path, loader: Loader, name: str, frees: Optional[int] = 1) -> DllPlan:
    return plans(folder, Process(loader), name, frees).plans[0]


def unloads(found: DllPlan) -> str:
    return "".join(dll.name[0] for dll in found.unloads)


def steps(found: DllPlan) -> list[tuple[str, int]]:
    return [(step.library[0], step.total) for step in found.steps]


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_counts_before_and_after(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["a", "a", "a"], a="b", b="")
    once = plan(tmp_path, loader, "a")
    assert (once.load_count, once.loadlibrary_count, once.close_count, once.load_count_after) == (3, 3, 1, 2)
    assert (once.outcome, once.excess_closes, once.refusal, unloads(once)) == (Outcome.KEEPS, 0, None, "")
    assert (steps(once), once.blocker) == ([("a", 2)], None)
    every = plan(tmp_path, loader, "a", None)
    assert (every.close_count, every.load_count_after, every.excess_closes) == (3, 0, 0)
    assert (every.outcome, unloads(every), every.kept) == (Outcome.UNLOADS, "ab", ())
    assert (every.steps, every.blocker) == ((), None)
    # More than there are have no more effect than all.
    more = plan(tmp_path, loader, "a", 9)
    assert (more.close_count, more.load_count_after, more.excess_closes, unloads(more)) == (9, 0, 0, "ab")


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_what_imports_a_dll_has_to_be_freed_as_often_as_it_was_loaded(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["a", "a", "b", "c", "c"], a="b", b="c", c="")
    found = plan(tmp_path, loader, "c")
    assert (found.outcome, found.loadlibrary_count) == (Outcome.KEEPS, 2)
    assert sorted(steps(found)) == [("a", 2), ("b", 1), ("c", 1)]
    found = plan(tmp_path, loader, "c", None)
    assert (found.close_count, found.outcome) == (2, Outcome.KEEPS)
    assert sorted(steps(found)) == [("a", 2), ("b", 1)]
    assert [dll.name for dll in found.kept] == ["c.dll"]


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_frees_take_loads_of_others_once_the_own_are_used_up(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["a", "b"], a="b", b="")
    found = plan(tmp_path, loader, "b", 2)
    if form is WIN10:
        assert (found.outcome, found.refusal, found.excess_closes) == (Outcome.KEEPS, "importers-only", 0)
        assert (found.load_count_after, steps(found)) == (1, [("a", 1)])
    else:
        assert (found.outcome, found.refusal, found.excess_closes) == (Outcome.UNLOADS, None, 1)
        assert (found.load_count_after, unloads(found)) == (0, "b")


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_all_frees_of_what_was_never_loaded_itself_are_one(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["a"], a="b", b="")
    found = plan(tmp_path, loader, "b", None)
    assert (found.close_count, found.loadlibrary_count) == (1, 0)
    assert found.outcome is (Outcome.NO_EFFECT if form is WIN10 else Outcome.UNLOADS)


@pytest.mark.parametrize("form", [WIN10, WINE], ids=form_id)
def test_who_is_pinned_above_it_is_the_blocker(tmp_path: Path, form: Form) -> None:
    """Up to Windows 7 a pin extends to imports."""
    loader = load(form, ["b", "a"], a="b", b="c", c="")
    for each in ("b.dll", "c.dll"):
        loader.known[each].count = 2
    loader.known["a.dll"].count = 0xFFFFFFFF if form is WIN10 else 0xFFFF
    found = plan(tmp_path, loader, "b")
    assert (found.outcome, found.steps) == (Outcome.KEEPS, ())
    assert found.blocker is not None
    assert (found.blocker.name, [hold.kind for hold in found.blocker.holds]) == ("a.dll", [DllHoldKind.PINNED])


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_pinned_imports_are_not_among_what_stays(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["a", "a"], a="bc", b="", c="")
    loader.known["b.dll"].count = 0xFFFFFFFF if form is WIN10 else 0xFFFF
    assert [dll.name for dll in plan(tmp_path, loader, "a").kept] == ["a.dll", "c.dll"]
    found = plan(tmp_path, loader, "b")
    assert (found.outcome, found.refusal, found.load_count) == (Outcome.NO_EFFECT, "pinned", None)
    assert (found.loadlibrary_count, found.load_count_after, found.excess_closes) == (None, None, 0)
    assert [dll.name for dll in found.kept] == ["b.dll"]


@pytest.mark.parametrize("form", [WIN10, WINE], ids=form_id)
def test_which_dlls_main_may_free_others(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["a"], a="bcd", b="k", c="k", d="k", k="")
    loader.known["c.dll"].functions = ["LdrUnloadDll"]
    # It ends its thread, as no DllMain can.
    loader.known["d.dll"].functions = ["FreeLibraryAndExitThread"]
    made = Process(loader)
    made.memory.forget(loader.known["b.dll"].base + 0x2000, 8)
    found = plans(tmp_path, made, "a")
    assert found.plans[0].may_unload_more == ("c.dll",)
    told = [each for each in found.problems if each.where == "b.dll"]
    assert [each.message.partition(":")[0] for each in told] == ["its imports are not in memory"]
    # Nor are they where its headers are not.
    made = Process(loader)
    made.memory.forget(loader.known["k.dll"].base, 0x100)
    found = plans(tmp_path, made, "a")
    assert [each.where for each in found.problems if "DllMain" in each.message] == ["k.dll"]


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_who_hears_of_it(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["a"], a="b", b="")
    made = Process(loader)
    at = NARROW if form is XP else WIDE
    made.memory.number(loader.known["a.dll"].entry + at.entry_point, 4 if form is XP else 8, 0)
    found = plans(tmp_path, made, "a").plans[0]
    assert (unloads(found), found.gets_process_detach) == ("ab", (loader.known["b.dll"].base,))
    assert found.unload_bytes == 2 * 0x4000


@pytest.mark.parametrize("form", [XP, WIN7, WINE], ids=form_id)
def test_cycles_are_named_from_where_they_are_entered(tmp_path: Path, form: Form) -> None:
    loader = load(form, ["x"], x="ya", y="", a="b", b="ac", c="d", d="c")
    assert plan(tmp_path, loader, "x").import_cycles == (("c.dll", "d.dll"), ("a.dll", "b.dll"))
    assert plan(tmp_path, loader, "b").import_cycles == (("c.dll", "d.dll"), ("b.dll", "a.dll"))
    assert plan(tmp_path, loader, "y").import_cycles == ()
    others = [each.library for each in plan(tmp_path, loader, "x").import_cycle_alternatives]
    assert others == ["c.dll", "d.dll", "a.dll", "b.dll"]
    assert [each.library for each in plan(tmp_path, loader, "a").import_cycle_alternatives] == [
        "c.dll",
        "d.dll",
        "b.dll",
    ]
    assert plan(tmp_path, loader, "y").import_cycle_alternatives == ()


def test_on_windows_10_a_cycle_is_a_node_and_the_dll_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    loader = load(WIN10, ["x"], x="ya", y="", a="b", b="ac", c="d", d="c")
    assert set(plan(tmp_path, loader, "x").import_cycles) == {("a.dll", "b.dll"), ("c.dll", "d.dll")}
    assert plan(tmp_path, loader, "b").import_cycles == (("b.dll", "a.dll"), ("c.dll", "d.dll"))
    assert plan(tmp_path, loader, "y").import_cycles == ()
    assert plan(tmp_path, loader, "b").import_cycle_alternatives == ()
