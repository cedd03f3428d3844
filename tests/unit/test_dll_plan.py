"""Is it predicted rightly what FreeLibrary unloads, in which order, and what else must be freed?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from dlwhy.common.commands.dllplan.document import dll_plan_document
from dlwhy.common.errors import NotFoundError, UnsupportedError
from dlwhy.common.model import Outcome
from dlwhy.common.render.json_parts import dump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import DllPlan, ImportCycleAlternative, LoaderRule
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.state import DllExplainer, WindowsExamination
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import EXE, KERNEL32, WIN7, WIN10, WINE, XP, Form, Loader, Module, Process
from dlwhy.tests.synth.ntfree import free_before_windows_8, free_on_windows_10
from dlwhy.tests.synth.windows import FORMS, form_id, process, story, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(text) from error


def plan(folder: Path, made: Process, name: str, frees: Optional[int] = 1) -> DllPlan:
    plans = plan_free(MinidumpTarget(str(write(folder, made.dump()))), name, number, frees)
    VALIDATOR.validate(json.loads(dump(dll_plan_document("dllplan", plans))))
    return plans.plans[0]


def document(folder: Path, made: Process, name: str, frees: Optional[int] = 1) -> Any:
    plans = plan_free(MinidumpTarget(str(write(folder, made.dump()))), name, number, frees)
    return json.loads(dump(dll_plan_document("dllplan", plans)))


def load(form: Form, *modules: Module, loads: Sequence[str], wide: bool = True) -> Process:
    """Start a program and load DLLs."""
    loader = Loader(form, wide)
    loader.define(*modules)
    loader.start(Module(EXE, [KERNEL32]))
    for name in loads:
        loader.load(name)
    return Process(loader)


def names(found: DllPlan) -> list[str]:
    return [dll.name.partition(".")[0] for dll in found.unloads]


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_siblings_are_detached_by_the_rule_of_the_form(tmp_path: Path, form: Form, wide: bool) -> None:
    made = load(form, Module("a.dll", ["b.dll", "c.dll"]), Module("b.dll"), Module("c.dll"), loads=["a.dll"], wide=wide)
    found = plan(tmp_path, made, "a")
    assert found.outcome is Outcome.UNLOADS
    if form.graph and not form.wine:
        assert (names(found), found.order_algorithm, found.order_certain) == (["a", "b", "c"], "import-order", False)
    else:
        assert (names(found), found.order_algorithm, found.order_certain) == (
            ["a", "c", "b"],
            "reverse-initialization",
            True,
        )
    assert len(found.gets_process_detach) == 3
    assert found.unload_bytes == 3 * 0x4000


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_what_is_still_loaded_stays_and_what_must_be_freed_is_told(tmp_path: Path, form: Form, wide: bool) -> None:
    made = process(form, wide)
    once = plan(tmp_path, made, "libA.dll")
    assert (once.outcome, once.unloads, once.load_count, once.loadlibrary_count) == (Outcome.KEEPS, (), 3, 3)
    assert [(step.library, step.total) for step in once.steps] == [("libA.dll", 2)]
    every = plan(tmp_path, made, "libA.dll", None)
    assert (every.close_count, every.outcome) == (3, Outcome.UNLOADS)
    assert names(every) == ["libA", "libB"]
    assert every.may_unload_more == ("libA.dll",)
    assert [dll.name for dll in every.kept] == ["libC.dll"]
    shared = plan(tmp_path, made, "libC.dll")
    assert shared.outcome is Outcome.KEEPS
    assert {(step.library, step.total) for step in shared.steps} == {("libA.dll", 3), ("cx.dll", 1)}


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_a_cycle_goes_as_a_whole_and_is_named(tmp_path: Path, form: Form, wide: bool) -> None:
    found = plan(tmp_path, process(form, wide), "cx.dll")
    assert set(names(found)) == {"cx", "cy"}
    assert found.import_cycles == (("cx.dll", "cy.dll"),)
    # Before Windows 8 a cycle that was loaded through one of its DLLs does not go through another one.
    elsewhere = plan(tmp_path, process(form, wide), "cy.dll")
    expected = [("cy.dll", elsewhere.unloads, elsewhere.load_count_after is None)]
    described = [(e.library, e.would_unload, e.would_pin == ("cy.dll",)) for e in found.import_cycle_alternatives]
    if found.rule is LoaderRule.WIN8:
        assert (described, elsewhere.outcome) == ([], Outcome.UNLOADS)
        return
    assert described == [(name, tuple(dll.name for dll in gone), pinned) for name, gone, pinned in expected]
    if found.rule in (LoaderRule.XP, LoaderRule.WIN7):
        assert found.import_cycle_alternatives == (ImportCycleAlternative("cy.dll", (), ("cy.dll",)),)


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_pinned_and_static_do_nothing(tmp_path: Path, form: Form, wide: bool) -> None:
    made = process(form, wide)
    for name, blocker in (("pinned.dll", "pinned.dll"), ("ucrt.dll", "ucrt.dll"), (EXE, EXE)):
        found = plan(tmp_path, made, name)
        assert (found.outcome, found.refusal, found.unloads) == (Outcome.NO_EFFECT, "pinned", ())
        assert found.blocker is not None
        assert found.blocker.name == blocker


def test_an_importer_that_stays_is_the_blocker(tmp_path: Path) -> None:
    loader = Loader(WIN10)
    loader.define(Module("top.dll", ["low.dll"]), Module("low.dll"))
    loader.start(Module(EXE, [KERNEL32]))
    loader.load("low.dll")
    loader.load("top.dll")
    loader.pin("top.dll")
    loader.known["low.dll"].count = 2
    found = plan(tmp_path, Process(loader), "low.dll")
    assert found.outcome is Outcome.KEEPS
    assert found.blocker is not None
    assert found.blocker.name == "top.dll"


def test_the_counts_of_imports_cannot_be_taken_on_windows_10_but_are_in_wine(tmp_path: Path) -> None:
    modules = [Module("a.dll", ["b.dll"]), Module("b.dll")]
    refused = plan(tmp_path, load(WIN10, *modules, loads=["a.dll"]), "b.dll")
    assert (refused.outcome, refused.refusal) == (Outcome.NO_EFFECT, "importers-only")
    modules = [Module("a.dll", ["b.dll"]), Module("b.dll")]
    assert names(plan(tmp_path, load(WINE, *modules, loads=["a.dll"]), "b.dll")) == ["b"]


@pytest.mark.parametrize("form", [XP, WIN7], ids=form_id)
def test_a_free_that_pins_what_it_was_called_for_is_the_last_one(tmp_path: Path, form: Form) -> None:
    # The cycle lowers the count of cy.dll twice, from 1 by way of 0 to 0xffff, which means that it is pinned.
    found = plan(tmp_path, process(form, False), "cy.dll", 3)
    assert (found.outcome, found.refusal, found.unloads, found.load_count_after) == (Outcome.KEEPS, None, (), None)
    assert found.excess_closes == 1


def test_a_diamond_counts_each_edge_before_windows_8(tmp_path: Path) -> None:
    modules = [Module("a.dll", ["b.dll", "c.dll"]), Module("b.dll", ["c.dll"]), Module("c.dll")]
    made = load(WIN7, *modules, loads=["a.dll", "a.dll"])
    assert [module.count for module in modules] == [2, 2, 4]
    assert plan(tmp_path, made, "a").unloads == ()
    assert names(plan(tmp_path, made, "a", 2)) == ["a", "b", "c"]


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_what_is_left_is_judged_where_even_the_program_went(tmp_path: Path, form: Form, wide: bool) -> None:
    """Damaged counts let a free take everything along."""
    made = load(form, Module("a.dll"), loads=["a.dll"], wide=wide)
    examined = WindowsExamination(MinidumpTarget(str(write(tmp_path, made.dump()))))
    loader, after = examined.loaders[0], examined.import_graphs[0].copy()
    assert loader.main is not None
    del after.units[after.by_entry[loader.main.address]]
    explainer = DllExplainer(loader, after)
    assert [explainer.describe(each, None).name for unit in after.units.values() for each in unit.entries]


def test_an_exiting_process_frees_nothing(tmp_path: Path) -> None:
    loader = story(WIN10)
    loader.shutdown = True
    found = plan(tmp_path, Process(loader), "libA.dll", 3)
    assert (found.outcome, found.refusal) == (Outcome.NO_EFFECT, "process-exiting")
    assert (found.steps, found.blocker) == ((), None), "no other free helps"


def test_a_count_that_is_not_there_is_not_known(tmp_path: Path) -> None:
    made = process(WIN10)
    for module in made.loader.loaded:
        made.memory.forget(module.node, 0x50)
    found = plan(tmp_path, made, "libA.dll")
    assert (found.outcome, found.refusal, found.unloads, found.steps) == (Outcome.UNKNOWN, None, (), ())
    written = document(tmp_path, made, "libA.dll")
    unknown = ("outcome", "excess_closes", "unloads", "may_unload_more", "unload_bytes", "kept", "import_cycles")
    assert [written[key] for key in unknown] == [None] * 7


def test_the_remedy_is_there_where_something_helps_or_nothing_does(tmp_path: Path) -> None:
    made = process(WIN10)
    steps = document(tmp_path, made, "libA.dll")["remedy"]
    assert steps == {
        "possible": True,
        "blocker": None,
        "steps": [{"action": "close", "library": "libA.dll", "count": 2}],
    }
    goes = document(tmp_path, made, "libA.dll", None)
    assert (goes["outcome"], goes["remedy"]) == ("unloads", None)
    assert [(each["name"], each["gets_process_detach"]) for each in goes["unloads"]] == [
        ("libA.dll", True),
        ("libB.dll", True),
    ]
    pinned = document(tmp_path, made, "pinned.dll")
    assert (pinned["remedy"]["possible"], pinned["remedy"]["blocker"]["name"]) == (False, "pinned.dll")
    assert (pinned["load_count"], pinned["loadlibrary_count"], pinned["load_count_after"]) == (None, None, None)


def test_what_is_not_known_is_null_in_json(tmp_path: Path) -> None:
    made = process(WIN10)
    for module in made.loader.loaded:
        made.memory.forget(module.node, 0x50)
    found = document(tmp_path, made, "libA.dll")
    assert (found["outcome"], found["refusal"], found["remedy"], found["load_count"]) == (None, None, None, None)


def test_no_loader_no_plan(tmp_path: Path) -> None:
    made = process(WIN10)
    made.memory.forget(made.peb, 0x100)
    with pytest.raises(UnsupportedError, match="dump with memory"):
        plan(tmp_path, made, "libA.dll")


def test_two_of_a_name_are_to_be_told_apart_by_address(tmp_path: Path) -> None:
    made = Process(story(WIN10, True), story(WIN10, False))
    with pytest.raises(NotFoundError, match="2 loaded DLLs match"):
        plan(tmp_path, made, "libA.dll")
    assert made.wow64 is not None
    base = made.wow64.known["liba.dll"].base
    assert plan(tmp_path, made, f"{base:#x}", 3).library.loader == "wow64"


# -- compared with a loader that really frees ---------------------------------------------------------------------


GRAPHS = st.lists(st.lists(st.integers(0, 11), max_size=4, unique=True), min_size=3, max_size=12)


def build(form: Form, graph: list[list[int]], loads: list[int], wide: bool) -> tuple[Loader, list[str]]:
    size = len(graph)
    loader = Loader(form, wide)
    loader.define(
        *(Module(f"m{n}.dll", [f"m{t}.dll" for t in targets if t < size and t != n]) for n, targets in enumerate(graph))
    )
    loader.start(Module(EXE, ["m0.dll", KERNEL32]))
    loaded = [f"m{n % size}.dll" for n in loads]
    for name in loaded:
        loader.load(name)
    return loader, loaded


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=GRAPHS, loads=st.lists(st.integers(0, 11), min_size=1, max_size=5), wide=st.booleans())
@pytest.mark.parametrize("form", [WIN10, WIN7, XP], ids=form_id)
def test_random_graphs_go_as_the_loaders_description_says(
    tmp_path: Path, form: Form, graph: list[list[int]], loads: list[int], wide: bool
) -> None:
    wide = wide and form is not XP
    loader, loaded = build(form, graph, loads, wide)
    for name in dict.fromkeys(loaded):
        found = plan(tmp_path, Process(loader), name)
        free = free_on_windows_10 if form is WIN10 else free_before_windows_8
        expected = free(build(form, graph, loads, wide)[0], name)
        assert [dll.name for dll in found.unloads] == expected
        unit_has_own = found.loadlibrary_count is not None and found.loadlibrary_count > 0
        assert unit_has_own or found.refusal or form is not WIN10
