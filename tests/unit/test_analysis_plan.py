"""Does a prediction follow from what the loader has noted: the set, the order, the outcome, the least change?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

import pytest
from dlwhy.common.commands.dlplan.document import plan_document
from dlwhy.common.commands.dlplan.text import plan_view
from dlwhy.common.errors import NotFoundError
from dlwhy.common.linux import plan as plan_module
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.linux.model import HoldKind
from dlwhy.common.linux.plan import plan_all, plan_close
from dlwhy.common.linux.plan_model import Action, Plan, Plans
from dlwhy.common.memory import Memory
from dlwhy.common.model import Outcome, Problem
from dlwhy.common.render.text import render
from dlwhy.tests.fakes import FakeTarget
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.glibc import Layout, Library
from dlwhy.tests.synth.glibc_layouts import LOCK_IS_HELD, V233, V235, V236, V239, V240_LIVE, process_of


def target(libraries: Sequence[Library], version: tuple[int, int] = (2, 40), layout: Layout = V239) -> FakeTarget:
    """Make a process with these libraries."""
    return process_of(libraries, version, layout).target()


def number(text: str) -> int:
    """Evaluate as the shell's host does."""
    try:
        return int(text, 0)
    except ValueError as error:
        raise NotFoundError(text) from error


def plan(libraries: Sequence[Library], name: str, closes: Optional[int] = 1, **more: Any) -> Plan:
    """Predict one close."""
    return plan_close(target(libraries, **more), name, number, closes).plans[0]


def names(plan: Plan) -> list[str]:
    """Name what goes."""
    return [library.name for library in plan.unloads]


def steps(plan: Plan) -> list[tuple[Action, str, int]]:
    """Give the steps of the least change."""
    assert plan.remedy is not None
    assert plan.remedy.blocker is None
    return [(step.action, step.library, step.total) for step in plan.remedy.steps]


CHAIN = [
    Library("libtop.so", opencount=1, needs=["libmiddle.so", "liblow.so"]),
    Library("libmiddle.so", needs=["liblow.so"]),
    Library("liblow.so"),
]


def test_all_that_only_it_keeps_goes_with_it_in_order() -> None:
    found = plan(CHAIN, "libtop.so")
    assert found.outcome is Outcome.UNLOADS
    assert found.is_unloaded
    assert names(found) == ["libtop.so", "libmiddle.so", "liblow.so"]
    assert found.order_algorithm == "depth-first"
    assert found.unload_bytes == 3 * 0x5000
    assert found.remedy is None
    assert found.kept == ()


def test_a_count_that_stays_above_zero_unloads_nothing_not_even_garbage() -> None:
    found = plan([Library("liba.so", opencount=3), Library("libgarbage.so")], "liba.so")
    assert (found.outcome, names(found), found.open_count) == (Outcome.KEEPS, [], 3)
    assert found.kept[0].holds[0].total == 2
    assert steps(found) == [(Action.CLOSE, "liba.so", 2)]


def test_all_closes_and_garbage_that_goes_with_them() -> None:
    found = plan([Library("liba.so", opencount=3), Library("libgarbage.so")], "liba.so", None)
    assert (found.outcome, found.close_count) == (Outcome.UNLOADS, 3)
    assert sorted(names(found)) == ["liba.so", "libgarbage.so"]


def test_a_nodelete_library_returns_early() -> None:
    found = plan([Library("liba.so", opencount=2, nodelete=True, elf_nodelete=True)], "liba.so", None)
    assert (found.outcome, names(found)) == (Outcome.NO_EFFECT, [])
    assert found.remedy is not None
    assert found.remedy.blocker is not None
    assert [(h.kind, h.origin) for h in found.remedy.blocker.holds] == [(HoldKind.NODELETE, "elf-flag")]


def test_what_is_not_open() -> None:
    found = plan(CHAIN, "liblow.so")
    assert (found.outcome, names(found)) == (Outcome.NOT_OPEN, [])
    assert steps(found) == [(Action.CLOSE, "libtop.so", 1)]


def test_what_a_library_that_stays_needs_by_its_file_is_not_known_to_go() -> None:
    user = Library("libuser.so", opencount=1, needed_names=["libheld.so"], names=["libuser.so"])
    opener, held = Library("liba.so", opencount=1, needs=["libheld.so"]), Library("libheld.so")
    assert plan([user, opener, held], "liba.so").outcome is Outcome.UNKNOWN
    alone = replace(user, opencount=0)
    found = plan([replace(opener, needs=["libheld.so", "libuser.so"]), alone, held], "liba.so")
    assert (found.outcome, len(found.unloads)) == (Outcome.UNLOADS, 3)


def test_garbage_needs_a_collection() -> None:
    found = plan([Library("libgarbage.so")], "libgarbage.so")
    assert found.outcome is Outcome.NOT_OPEN
    assert steps(found) == [(Action.COLLECT, "libgarbage.so", 0)]


def test_tls_destructors_keep_it_until_their_threads_exit() -> None:
    found = plan([Library("liba.so", opencount=1, owed=2)], "liba.so")
    assert (found.outcome, found.is_unloaded) == (Outcome.KEEPS, False)
    assert steps(found) == [(Action.THREAD_EXIT, "liba.so", 2), (Action.COLLECT, "liba.so", 0)]
    assert found.remedy is not None
    assert len(found.remedy.steps[0].threads) == 1


def test_every_root_has_to_cease() -> None:
    libraries = [
        Library("liba.so", opencount=1),
        Library("libb.so", opencount=2, needs=["libc.so"]),
        Library("libc.so", bound_to=["liba.so"], owed=1),
        Library("libother.so", opencount=4),
    ]
    found = plan(libraries, "liba.so")
    # Threads exit first: a close that comes before collects nothing that they still keep.
    assert steps(found) == [(Action.THREAD_EXIT, "libc.so", 1), (Action.CLOSE, "libb.so", 2)]


def test_what_is_needed_by_way_of_others_stays_too() -> None:
    libraries = [
        Library("liba.so", opencount=1, needs=["libdeep.so"]),
        Library("libb.so", opencount=1, needs=["libnear.so"]),
        Library("libnear.so", bound_to=["libfar.so"]),
        Library("libfar.so", needs=["libdeep.so"]),
        Library("libdeep.so"),
    ]
    found = plan(libraries, "liba.so")
    assert (names(found), [library.name for library in found.kept]) == (["liba.so"], ["libdeep.so"])


def test_a_permanent_holder_blocks() -> None:
    libraries = [
        Library("liba.so", opencount=1),
        Library("libpinned.so", nodelete=True, elf_nodelete=True, needs=["liba.so"], owed=1),
        Library("libuser.so", opencount=1, needs=["libpinned.so"]),
    ]
    found = plan(libraries, "liba.so")
    assert found.remedy is not None
    assert found.remedy.blocker is not None
    assert (found.remedy.blocker.name, found.remedy.blocker.soname) == ("libpinned.so", None)
    # Of its reasons those are left out that could cease.
    assert [hold.kind for hold in found.remedy.blocker.holds] == [HoldKind.NODELETE]


def test_what_libc_opened_only_libc_closes() -> None:
    found = plan([Library("libgcc_s.so.1", opencount=2)], "libgcc_s.so.1")
    assert steps(found) == [(Action.LIBC_CLOSE, "libgcc_s.so.1", 1)]


def test_what_was_loaded_at_start_stays() -> None:
    found = plan([], "libc.so.6")
    assert found.outcome is Outcome.NOT_OPEN
    assert found.remedy is not None
    assert found.remedy.blocker is not None
    assert found.remedy.blocker.holds[0].kind is HoldKind.STARTUP


CYCLE = [
    Library("libleft.so", opencount=1, needs=["libright.so"]),
    Library("libright.so", needs=["libleft.so"]),
]


@pytest.mark.parametrize(
    ("version", "layout", "order"),
    [
        ((2, 40), V239, ["libleft.so", "libright.so"]),
        ((2, 39), V239, ["libleft.so", "libright.so"]),
        ((2, 38), V236, ["libright.so", "libleft.so"]),
        ((2, 35), V235, ["libright.so", "libleft.so"]),
    ],
)
def test_since_2_39_the_closed_library_is_finalised_first(
    version: tuple[int, int], layout: Layout, order: list[str]
) -> None:
    assert names(plan(CYCLE, "libleft.so", version=version, layout=layout)) == order


def test_an_order_that_rests_on_an_environment_that_is_not_there_is_not_certain() -> None:
    assert plan(CYCLE, "libleft.so").order_certain is False


def test_an_ambiguous_name_is_refused() -> None:
    with pytest.raises(NotFoundError, match=r"2 loaded libraries match .*: name one by its handle, &0x\w+ \(libleft"):
        plan(CYCLE, "lib[lr]*t.so")
    with pytest.raises(NotFoundError, match="2 loaded libraries match"):
        plan([Library("liba.so"), Library("libb.so")], "lib[ab].so")


def test_a_handle_names_a_library() -> None:
    handle = plan(CYCLE, "libleft.so").library.link_map
    assert plan(CYCLE, f"&{handle:#x}").library.name == "libleft.so"
    assert plan(CYCLE, f"{handle:#x}").library.name == "libleft.so"


def ranked(libraries: Sequence[Library]) -> Plans:
    """Rank open libraries."""
    return plan_all(target(libraries))


def test_all_open_libraries_are_ranked() -> None:
    pinned = Library("libpinned.so", opencount=5, nodelete=True)
    plans = ranked([pinned, Library("libalone.so", opencount=2), *CHAIN, Library("libgarbage.so")])
    assert [(p.library.name, p.close_count, p.outcome) for p in plans.plans] == [
        ("libtop.so", 1, Outcome.UNLOADS),
        ("libalone.so", 2, Outcome.UNLOADS),
        ("libpinned.so", 5, Outcome.NO_EFFECT),
    ]
    assert [library.name for library in plans.garbage or ()] == ["libgarbage.so"]
    assert ranked([]).plans == ()


# -- what keeps a close from unloading ------------------------------------------------------------------------


def test_the_last_close_of_what_was_loaded_at_start_collects_nothing() -> None:
    # _dl_close_worker returns at once: only a library of type lt_loaded starts a collection.
    found = plan([Library("libstart.so", type=1, opencount=1), Library("libgarbage.so")], "libstart.so")
    assert (found.outcome, names(found)) == (Outcome.KEEPS, [])


def test_ld_so_in_another_namespace_is_not_unloaded_with_that() -> None:
    space = [
        Library("libspace.so", namespace=1, opencount=1, needs=["libc.so.6"]),
        Library("libc.so.6", namespace=1, needs=["ld.so"], tls_size=0x90),
        Library("ld.so", namespace=1, is_proxy=True),
    ]
    found = plan(space, "libspace.so")
    assert (found.outcome, names(found)) == (Outcome.UNLOADS, ["libspace.so", "libc.so.6"])
    assert found.unload_bytes == 2 * 0x5000


def test_garbage_of_another_namespace_stays() -> None:
    space = [
        Library("libspace.so", namespace=1, opencount=1),
        Library("libgarbage.so", namespace=1),
        Library("liba.so", opencount=1),
    ]
    assert names(plan(space, "liba.so")) == ["liba.so"]


def damaged(libraries: Sequence[Library], name: str) -> FakeTarget:
    """Make a process whose layouts the debugger knows, and in which a library's map cannot be read."""
    process = process_of(libraries)
    memory = Memory(process.target())
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    made = process.target(choose_layouts(memory, start, private).layouts.layouts)
    made.forget(process.map_of(name), 8)
    return made


def test_where_libraries_are_not_known_what_a_close_unloads_is_not_known() -> None:
    made = damaged([Library("liba.so", opencount=1), Library("libhidden.so", opencount=1)], "libhidden.so")
    (found,) = plan_close(made, "liba.so", number).plans
    assert (found.outcome, names(found), found.remedy) == (Outcome.UNKNOWN, [], None)
    document = json.loads(json.dumps(plan_document("dlplan", plan_close(made, "liba.so", number))))
    VALIDATOR.validate(document)
    assert [document[key] for key in ("outcome", "unloads", "kept", "garbage", "remedy")] == [None] * 5
    assert found.kept[0].held is None
    # What does not depend on the others is known all the same.
    made = damaged([Library("liba.so", opencount=2), Library("libhidden.so", opencount=1)], "libhidden.so")
    (found,) = plan_close(made, "liba.so", number).plans
    assert found.outcome is Outcome.KEEPS
    made = damaged([Library("liba.so", opencount=1, nodelete=True), Library("libhidden.so")], "libhidden.so")
    (found,) = plan_close(made, "liba.so", number).plans
    assert found.outcome is Outcome.NO_EFFECT


# -- what is asked for ----------------------------------------------------------------------------------------


def test_a_library_is_named_by_its_soname_too() -> None:
    found = plan([Library("liba.so.1.2", opencount=1, soname="liba.so.1")], "liba.so.1")
    assert (found.library.name, found.library.soname) == ("liba.so.1.2", None)
    assert found.library.build_id is None


@pytest.mark.parametrize(("count", "ending"), [(8, r"namespace 0\)"), (9, "and 1 more")])
def test_of_many_that_fit_eight_are_named(count: int, ending: str) -> None:
    with pytest.raises(NotFoundError, match=f"{count} loaded libraries match .*{ending}$") as caught:
        plan([Library(f"lib{number}.so") for number in range(count)], "lib?.so")
    assert str(caught.value).count("&0x") == 8


@pytest.mark.parametrize(
    ("ranked_ones", "first_line"),
    [
        (
            2,
            "3 libraries are open, 2 of them ranked; closing lib0.so frees the most of what is known: 1 library",
        ),
        (0, "3 libraries are open; what closing any of them frees is not known."),
    ],
)
def test_what_is_open_is_counted_also_where_not_all_are_ranked(
    monkeypatch: pytest.MonkeyPatch, ranked_ones: int, first_line: str
) -> None:
    every = [Library(f"lib{number}.so", opencount=1) for number in range(3)]
    spend = Memory.spend
    left = iter([True] * ranked_ones)

    def run_out(memory: Memory, units: int, what: str, address: Optional[int] = None) -> bool:
        is_prediction = what == "predictions" and units > plan_module._UNLOAD_UNITS
        return spend(memory, units, what, address) and (not is_prediction or next(left, False))

    monkeypatch.setattr(Memory, "spend", run_out)
    found = ranked(every)
    assert [each.library.name for each in found.plans] == ["lib0.so", "lib1.so"][:ranked_ones]
    assert found.unranked == 3 - ranked_ones
    assert [each.message for each in found.problems] == [f"3 libraries are open, only {ranked_ones} are ranked"]
    assert " ".join(render(plan_view(found, verbose=False)).split()).startswith(first_line)


def test_a_ranking_says_neither_what_stays_nor_what_would_make_it_go() -> None:
    held = [Library("liba.so", opencount=1), Library("libb.so", opencount=1, needs=["liba.so"])]
    for each in ranked(held).plans:
        assert (each.kept, each.remedy) == ((), None)
    (alone,) = plan_close(target(held), "liba.so", number).plans
    assert [library.name for library in alone.kept] == ["liba.so"]
    assert alone.remedy is not None


def test_what_libc_opened_for_auditing_and_what_stands_for_ld_so_is_not_ranked() -> None:
    libraries = [
        Library("libaudit.so", opencount=1, auditing=True),
        Library("libspace.so", namespace=1, opencount=1),
        Library("ld.so", namespace=1, opencount=1, is_proxy=True),
    ]
    plans = plan_all(target(libraries, layout=V240_LIVE))
    assert [each.library.name for each in plans.plans] == ["libspace.so"]
    assert plans.garbage == ()


def test_what_stays_is_listed_with_what_it_needs_and_is_bound_to_each_once() -> None:
    libraries = [
        Library("liba.so", opencount=1, owed=1, needs=["libb.so", "libc.so.6"], bound_to=["libbound.so", "liba.so"]),
        Library("libb.so", needs=["liba.so"]),
        Library("libbound.so", needs=["libb.so"]),
    ]
    found = plan(libraries, "liba.so")
    assert [library.name for library in found.kept] == ["liba.so", "libb.so", "libbound.so"]
    assert all(library.soname is None and library.held for library in found.kept)


# -- a close that is running ----------------------------------------------------------------------------------


def closing(*condemned: str, held: bool = True) -> FakeTarget:
    """Make a process in which a thread runs the destructors of a close."""
    every = [
        Library("libone.so", needs=["libtwo.so"]),
        Library("libtwo.so"),
        Library("libx.so", opencount=1, needs=["liby.so"]),
        Library("liby.so"),
    ]
    process = process_of(every, layout=V240_LIVE)
    process.lock = (4711, 1) if held else (0, 0)
    for index, library in enumerate(process.libraries):
        if library.name in condemned:
            library.map_used, library.idx = False, index
    return process.target()


def test_a_close_within_another_one_is_put_off_and_its_libraries_go_with_that() -> None:
    plans = plan_close(closing("libone.so", "libtwo.so"), "libx.so", number)
    (found,) = plans.plans
    assert (found.outcome, names(found)) == (Outcome.DEFERRED, ["libx.so", "liby.so"])
    assert found.is_unloaded
    # None of the others is garbage: they are going.
    assert plans.garbage == ()
    assert [each.message for each in plans.problems] == [LOCK_IS_HELD]


def test_what_a_running_close_has_condemned_goes_anyway() -> None:
    (found,) = plan_close(closing("libone.so", "libtwo.so"), "libtwo.so", number).plans
    assert (found.outcome, names(found), found.remedy) == (Outcome.NOT_OPEN, [], None)


def test_without_the_lock_nothing_is_being_closed_whatever_marks_were_left() -> None:
    plans = plan_close(closing("libone.so", "libtwo.so", held=False), "libx.so", number)
    (found,) = plans.plans
    assert (found.outcome, names(found)) == (Outcome.UNLOADS, ["libx.so", "libone.so", "libtwo.so", "liby.so"])
    assert not plans.garbage  # no finished close leaves such marks: whether they go by themselves is not known
    assert plans.problems == ()


def test_a_close_of_another_namespace_collects_in_its_own() -> None:
    every = [
        Library("libone.so", namespace=1),
        Library("libleft.so", namespace=1),
        Library("libx.so", opencount=1),
    ]
    process = process_of(every, layout=V240_LIVE)
    process.lock = (4711, 1)
    one = process.library("libone.so", 1)
    one.map_used, one.idx = False, 0
    (found,) = plan_close(process.target(), "libx.so", number).plans
    assert (found.outcome, names(found)) == (Outcome.DEFERRED, ["libleft.so"])


# -- order, size, destructors ---------------------------------------------------------------------------------


def test_one_library_alone_has_an_order_that_is_certain_as_far_as_the_rule_is() -> None:
    found = plan([Library("liba.so", opencount=1)], "liba.so")
    assert (found.order_algorithm, found.order_certain) == ("depth-first", False)
    old = plan([Library("liba.so", opencount=1)], "liba.so", version=(2, 34), layout=V233)
    assert (old.order_algorithm, old.order_certain) == ("original", True)
    nothing = plan([Library("liba.so", opencount=2)], "liba.so")
    assert (nothing.order_algorithm, nothing.order_certain) == (None, True)


def test_where_sorting_gives_up_the_libraries_are_in_list_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "finaliser_order", lambda *_: None)
    found = plan(CHAIN, "libtop.so")
    assert (names(found), found.order_algorithm, found.order_certain) == (
        ["libtop.so", "libmiddle.so", "liblow.so"],
        None,
        True,
    )


def test_only_libraries_that_import_dlclose_can_close_others() -> None:
    libraries = [
        Library("liba.so", opencount=1, needs=["libb.so", "libc1.so"], imports={"dlclose": None, "puts": None}),
        Library("libb.so", imports={"puts": None}),
        # The name alone, in a symbol of its own, says nothing.
        Library("libc1.so", symbols={"dlclose": (0x2000, 8)}, imports={"puts": None}),
    ]
    assert plan(libraries, "liba.so").may_unload_more == ("liba.so",)


def test_a_library_whose_imports_cannot_be_read_can_close_others() -> None:
    process = process_of([Library("liba.so", opencount=1), Library("libb.so", opencount=1)])
    made = process.target()
    made.forget(process.base(process.library("liba.so")) + 0x700, 1)
    assert plan_close(made, "liba.so", number).plans[0].may_unload_more == ("liba.so",)
    assert plan_close(made, "libb.so", number).plans[0].may_unload_more == ()
    # Nor can one without an image be known.
    made = process.target()
    made.forget(process.base(process.library("libb.so")), 1)
    plans = plan_close(made, "libb.so", number)
    assert plans.plans[0].may_unload_more == plans.plans[0].imports_unread == ("libb.so",)
    text = render(plan_view(plans, verbose=False))
    assert "At least these: what libb.so can close is not known, because the imports cannot be read." in text
    assert "imports dlclose" not in text
    message = "its ELF headers cannot be read: soname, build-id, symbols and imports are not known"
    assert plans.problems == (Problem("libb.so", message),)
    assert plan_close(made, "liba.so", number).problems == ()


def test_sizes_are_in_pages_of_the_process() -> None:
    process = process_of([Library("liba.so", opencount=1)])
    made = FakeTarget(process.segments(), auxv={**process.auxv(), 6: 0x10000})
    assert plan_close(made, "liba.so", number).plans[0].unload_bytes == 0x10000
