"""Do verdicts follow from what the loader has noted, also where many libraries hold one, or hold each other?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
from dlwhy.common.commands.dlstate.document import state_document
from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.errors import NotFoundError
from dlwhy.common.linux.loader.maps import LinkMap
from dlwhy.common.linux.model import HoldKind, State
from dlwhy.common.linux.model import Library as Verdict
from dlwhy.common.linux.rebuild_model import Obstacle, ObstacleKind
from dlwhy.common.linux.state.examine import explain, explain_chosen
from dlwhy.common.linux.state.matching import by_address, select
from dlwhy.common.linux.state.verdict import Choice, GlibcExamination
from dlwhy.common.model import Problem, Thread
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import render
from dlwhy.tests.fakes import FakeHost, FakeTarget, snapshot
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.support.limits import lower
from dlwhy.tests.synth.glibc import Layout, Library, Process
from dlwhy.tests.synth.glibc_layouts import LOCK_IS_HELD, V228, V235, V239, V240_LIVE, process_of


def answer(libraries: Sequence[Library], version: tuple[int, int] = (2, 40), layout: Layout = V239) -> State:
    """Explain a process with these libraries."""
    return explain(process_of(libraries, version, layout).target())


def words_on(state: State, name: str) -> str:
    """Give the answer about one library on one line."""
    chosen = tuple(library for library in state.libraries if library.name == name)
    return " ".join(render(state_view(state._replace(libraries=chosen, asked=name), verbose=False)).split())


def test_of_many_holders_those_that_never_go_are_not_left_out() -> None:
    holders = [Library(f"lib{number:02}.so", opencount=1, needs=["libheld.so"]) for number in range(40)]
    pinned = Library("libpinned.so", nodelete=True, elf_nodelete=True, needs=["libheld.so"])
    state = answer([*holders, pinned, Library("libheld.so")])
    held = next(library for library in state.libraries if library.name == "libheld.so")
    assert len(held.holds) + held.holds_omitted == 41
    assert held.holds[0].root is not None
    assert held.holds[0].root.kinds == (HoldKind.NODELETE,)
    assert "Nothing unloads it in this process, because libpinned.so is NODELETE" in words_on(state, "libheld.so")


def test_many_holders_are_counted() -> None:
    holders = [Library(f"lib{number:02}.so", opencount=1, needs=["libheld.so"]) for number in range(40)]
    state = answer([*holders, Library("libheld.so")])
    text = words_on(state, "libheld.so")
    assert "dlclose has closed lib00.so" in text
    assert "24 more" in text


def test_a_cycle_that_nothing_holds_is_garbage() -> None:
    state = answer([Library("libleft.so", needs=["libright.so"]), Library("libright.so", needs=["libleft.so"])])
    assert [library.held for library in state.libraries[3:]] == [False, False]
    assert all(library.holds == () for library in state.libraries[3:])


def test_a_cycle_that_is_open_holds_itself() -> None:
    libraries = [
        Library("libleft.so", opencount=1, needs=["libright.so"]),
        Library("libright.so", needs=["libleft.so"]),
    ]
    left, right = answer(libraries).libraries[3:]
    assert [hold.kind for hold in left.holds] == [HoldKind.OPEN_COUNT]
    assert [hold.chain for hold in right.holds] == [("libleft.so", "libright.so")]


def test_a_map_that_is_not_the_first_of_its_own_list() -> None:
    left = Library("libleft.so", opencount=1, needs=["libright.so"], listed_last=True)
    state = answer([left, Library("libright.so", needs=["libleft.so"])], (2, 35), V235)
    assert state.problems == ()
    assert len(state.libraries) == 5
    assert state.libraries[3].held is True


def test_the_shortest_chain_is_told() -> None:
    libraries = [
        Library("libtop.so", opencount=1, needs=["libmiddle.so", "liblow.so"]),
        Library("libmiddle.so", needs=["liblow.so"]),
        Library("liblow.so", needs=["libbottom.so"]),
        Library("libbottom.so"),
    ]
    state = answer(libraries)
    chains = {library.name: [hold.chain for hold in library.holds] for library in state.libraries[4:]}
    assert chains == {
        "libmiddle.so": [("libtop.so", "libmiddle.so")],
        "liblow.so": [("libtop.so", "liblow.so")],
        "libbottom.so": [("libtop.so", "liblow.so", "libbottom.so")],
    }
    assert all(library.held for library in state.libraries)


def test_two_kinds_of_holders() -> None:
    libraries = [
        Library("libneeds.so", opencount=1, needs=["libheld.so"]),
        Library("libbinds.so", opencount=2, bound_to=["libheld.so"]),
        Library("libheld.so", opencount=1),
    ]
    held = answer(libraries).libraries[-1]
    assert [hold.kind for hold in held.holds] == [HoldKind.OPEN_COUNT, HoldKind.DEPENDENCY, HoldKind.RELOCATION]


def test_a_brief_state_has_the_same_table(rich_core: Path) -> None:
    whole = explain(snapshot(rich_core))
    brief = explain(snapshot(rich_core), brief=True)
    assert render(state_view(brief, verbose=False)) == render(state_view(whole, verbose=False))
    assert [library.held for library in brief.libraries] == [library.held for library in whole.libraries]
    assert brief.problems == whole.problems
    assert any(library.soname and library.fields for library in whole.libraries)
    assert not any(library.soname or library.fields for library in brief.libraries)


def at(address: int) -> Choice:
    return lambda libraries: by_address(libraries, address)


def test_a_chosen_library_has_the_same_verdict(rich_core: Path) -> None:
    whole = explain(snapshot(rich_core)).libraries
    for library in (whole[0], *whole[-8:]):
        (alone,) = explain_chosen(snapshot(rich_core), at(library.link_map)).libraries
        assert alone._replace(rebuild=None) == library


def test_what_is_not_chosen_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile library, with thousands of destructors or symbols to name, delays no answer about another."""
    libraries = [
        Library("libevil.so", nodelete=True, opencount=1, needs=["libheld.so"]),
        Library("libheld.so"),
        Library("libother.so", opencount=1),
    ]
    asked: list[str] = []
    verdict = GlibcExamination.verdict

    def note(self: GlibcExamination, link_map: LinkMap, identify: bool, file_state: Optional[str]) -> Verdict:
        asked.append(link_map.name)
        return verdict(self, link_map, identify, file_state)

    monkeypatch.setattr(GlibcExamination, "verdict", note)
    state = explain_chosen(process_of(libraries, (2, 40), V239).target(), lambda found: found[-1:])
    assert [library.name for library in state.libraries] == ["libother.so"]
    assert [name.rpartition("/")[2] for name in asked] == ["libother.so"]


def test_a_choice_of_nothing_tells_what_could_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(_: Sequence[Verdict]) -> Sequence[Verdict]:
        raise NotFoundError("no loaded library matches 'x'")

    target = process_of([Library("libfirst.so", opencount=1)], (2, 40), V239).target()
    with pytest.raises(NotFoundError, match=r"^no loaded library matches 'x'$"):
        explain_chosen(target, choose)
    monkeypatch.setattr(type(target), "problems", lambda _: (Problem("threads", "cannot be read"),))
    with pytest.raises(NotFoundError, match=r"'x'; threads: cannot be read$"):
        explain_chosen(target, choose)


# -- each reason, and what it rests on ------------------------------------------------------------------------


def verdicts(libraries: Sequence[Library], **more: Any) -> dict[str, Verdict]:
    """Explain a process of today's glibc, and return the verdicts by name."""
    return {each.name: each for each in answer(libraries, layout=V240_LIVE, **more).libraries}


def reasons(verdict: Verdict) -> list[tuple[str, Optional[str]]]:
    """Return kind and origin of each hold."""
    return [(hold.kind.value, hold.origin) for hold in verdict.holds]


def evidence(verdict: Verdict) -> dict[str, int]:
    """Return the members that the first hold rests on."""
    return {each.expression.rpartition("->")[2]: each.value for each in verdict.holds[0].evidence}


def test_what_was_there_at_start_was_needed_or_preloaded() -> None:
    process = process_of(
        [
            Library("libneeded.so.1.2", type=1, soname="libneeded.so.1"),
            Library("libbyname.so", type=1),
            Library("libpreload.so", type=1, needs=["libbyname.so"]),
            Library("linux-vdso.so.1", type=1, path="linux-vdso.so.1"),
        ]
    )
    process.libraries[0].dynamic = []
    process.libraries[0].needs = []
    target = process.target()
    state = explain(target)
    assert [reasons(each)[0][1] for each in state.libraries[3:]] == ["preload", "needed", "preload", "vdso"]
    assert [reasons(each)[0][1] for each in state.libraries[:3]] == [None, "preload", "rtld"]


@pytest.mark.parametrize("what", ["names", "headers"])
def test_what_the_program_needs_is_not_preloaded_because_that_cannot_be_read(what: str) -> None:
    """A kernel's core without its program, whose DT_NEEDED names are not in its first page."""
    process = process_of([Library("libx.so", type=1)])
    process.libraries[0].needs = ["libc.so.6", "libx.so"]
    place, size = {"names": (0x700, 0x100), "headers": (0, 0x40)}[what]
    target = process.target()
    target.forget(process.base(process.libraries[0]) + place, size)
    state = explain(target)
    assert reasons(state.libraries[3]) == [("startup", None)]
    assert state.libraries[3].held is True
    told = {problem.where: problem.message for problem in state.problems}
    assert told["libx.so"] == "what the main program needs or is called cannot be read: it can be needed, or preloaded"
    assert "preload" not in render(state_view(state, verbose=False)).partition("problem")[0]
    document = state_document("dlstate", state)
    assert document["libraries"][3]["holds"][0]["origin"] is None
    VALIDATOR.validate(json.loads(dump(document)))


def test_a_library_whose_own_name_cannot_be_read_is_not_preloaded() -> None:
    process = process_of([Library("libx.so.1.2", type=1, soname="libx.so.1")])
    process.libraries[0].needs = ["libc.so.6", "libx.so.1.2"]
    process.libraries[0].needed_names = ["libc.so.6", "libx.so.1"]
    target = process.target()
    target.forget(process.base(process.library("libx.so.1.2")) + 0x700, 0x100)
    state = explain(target)
    assert reasons(state.libraries[3]) == [("startup", None)]
    assert "what libx.so.1.2 needs or is called cannot be read" in state.problems[-1].message


def test_the_vdso_is_known_by_where_it_lies_too() -> None:
    process = process_of([Library("liba.so", type=1)])
    at = process.base(process.library("liba.so"))
    target = FakeTarget(process.segments(), auxv={**process.auxv(), 33: at})
    assert reasons(explain(target).libraries[3]) == [("startup", "vdso")]


@pytest.mark.parametrize("soname", ["linux-vdso.so.1", None])
def test_a_vdso_that_the_loader_leaves_nameless_has_its_name(soname: Optional[str]) -> None:
    process = process_of([Library("linux-vdso.so.1", type=1, path="", soname=soname)])
    at = process.base(process.library("linux-vdso.so.1"))
    target = FakeTarget(process.segments(), auxv={**process.auxv(), 33: at})
    if soname is None:
        target.forget(at, 0x1000)
    state = explain(target)
    assert (state.libraries[3].name, state.libraries[3].path) == ("linux-vdso.so.1", None)
    document = state_document("dlstate", state)["libraries"][3]
    assert (document["name"], document["path"]) == ("linux-vdso.so.1", None)


def test_a_library_whose_name_cannot_be_read_has_no_path() -> None:
    process = process_of([Library("liba.so", path="")])
    library = explain(process.target()).libraries[3]
    assert (library.name, library.path) == (f"link_map {library.link_map:#x}", None)
    assert "path not known" in words_on(explain(process.target()), library.name)


def test_ld_so_in_another_namespace_is_mapped_where_the_real_one_is() -> None:
    process = process_of([Library("ld.so", namespace=1, is_proxy=True)])
    libraries = explain(process.target()).libraries
    (real,) = [each for each in libraries if each.name == libraries[2].name and not each.proxy]
    (proxy,) = [each for each in libraries if each.proxy]
    assert (proxy.base, proxy.start, proxy.end) == (real.base, real.start, real.end)
    assert proxy.base


def test_a_library_that_is_half_loaded_may_stay_or_not() -> None:
    found = verdicts([Library("liba.so", relocated=False), Library("libb.so", relocated=False, opencount=1)])
    assert (found["liba.so"].held, reasons(found["liba.so"])) == (None, [("half-loaded", None)])
    assert evidence(found["liba.so"]) == {"l_relocated": 0}
    assert found["libb.so"].held is True


def test_nodelete_that_is_pending() -> None:
    process = process_of([Library("liba.so", opencount=1, nodelete_pending=True)], layout=V240_LIVE)
    process.lock = (4711, 1)
    found = explain(process.target()).libraries[3]
    assert reasons(found) == [("nodelete", "pending"), ("open-count", "user")]
    assert evidence(found) == {"l_nodelete_pending": 1}


def test_a_library_that_audits() -> None:
    auditor = Library("liba.so", opencount=1, auditing=True, namespace=1, functions={"la_version": 0})
    found = verdicts([auditor, Library("libb.so")])["liba.so"]
    assert reasons(found) == [("audit", None)]
    assert evidence(found) == {"l_auditing": 1, "l_direct_opencount": 1}


def test_what_an_auditing_library_needs_stays_because_of_that() -> None:
    functions = {"la_version": 0}
    auditor = Library("liba.so", opencount=1, auditing=True, needs=["libb.so"], namespace=1, functions=functions)
    libraries = [auditor, Library("libb.so", namespace=1)]
    (hold,) = verdicts(libraries)["libb.so"].holds
    assert hold.root is not None
    assert (hold.root.kinds, hold.root.opened_by) == ((HoldKind.AUDIT,), None)


@pytest.mark.parametrize(
    ("library", "origin"),
    [
        (Library("liba.so", nodelete=True, elf_nodelete=True), "elf-flag"),
        (Library("liba.so", opencount=1, nodelete=True, extra_flags_1=1), "dlopen-flag"),
        (Library("liba.so", nodelete=True, is_global=True), "dlopen-flag-or-dlsym"),
    ],
)
def test_what_made_a_library_nodelete(library: Library, origin: str) -> None:
    found = verdicts([library])["liba.so"]
    assert reasons(found) == [("nodelete", origin)]
    assert evidence(found) == {"l_nodelete_active": 1, "l_direct_opencount": library.opencount}
    assert found.holds[0].dlclose_returns_early is (library.opencount > 0)


def test_until_2_30_the_file_tells_whether_it_asked_for_nodelete() -> None:
    libraries = [Library("liba.so", nodelete=True, elf_nodelete=True), Library("libb.so", nodelete=True)]
    process = process_of(libraries, (2, 28), V228)
    found = explain(process.target())
    assert [reasons(each) for each in found.libraries[3:]] == [
        [("nodelete", "elf-flag")],
        [("nodelete", "dlopen-flag")],
    ]
    assert list(evidence(found.libraries[3])) == ["l_flags_1", "l_direct_opencount"]
    target = process.target()
    target.forget(process.base(process.library("liba.so")) + 0x1000, 0x10)
    state = explain(target)
    assert reasons(state.libraries[3]) == [("nodelete", None)]
    # Of a library that is NODELETE all bindings are edges.
    assert {each.where for each in state.problems} == {"liba.so", "libb.so"}
    message = "not all that can have made it NODELETE is known: its dynamic section cannot be read"
    assert Problem("liba.so", message) in state.problems


def test_symbols_by_which_the_program_bound_to_a_library() -> None:
    tool = Library("libtool.so", type=1, imports={"hook": "liba.so", "other": None})
    pinned = Library("liba.so", nodelete=True, is_global=True, symbols={"hook": (0x2000, 8)})
    found = verdicts([tool, pinned])["liba.so"]
    assert (reasons(found), found.holds[0].symbols) == ([("nodelete", "bound-by-startup")], ("hook",))


def test_many_symbols_are_counted() -> None:
    symbols = {f"hook{number:02}": (0x2000 + 8 * number, 8) for number in range(18)}
    tool = Library("libtool.so", type=1, imports=dict.fromkeys(symbols, "liba.so"))
    found = verdicts([tool, Library("liba.so", nodelete=True, symbols=symbols)])["liba.so"]
    assert (len(found.holds[0].symbols), found.holds[0].symbols_omitted) == (16, 2)
    user = Library("libuser.so", opencount=1, bound_to=["liba.so"], imports=dict.fromkeys(symbols, "liba.so"))
    found = verdicts([user, Library("liba.so", symbols=symbols)])["liba.so"]
    assert (len(found.holds[0].symbols), found.holds[0].symbols_omitted) == (16, 2)
    assert found.holds[0].symbols[0] == "hook00"


def test_a_library_whose_name_cannot_be_read_is_told() -> None:
    process = process_of([Library("liba.so", opencount=1), Library("libb.so")], (2, 40), V240_LIVE)
    target = process.target()
    address = process.map_of("liba.so")
    whole = explain(target)
    assert whole.problems == ()
    target.overwrite(address + 8, (0x1662F).to_bytes(8, "little"))  # l_name, behind l_addr
    damaged = explain(target)
    assert [each.where for each in damaged.problems] == [f"link_map {address:#x}"]
    assert "cannot be asked for by its name" in damaged.problems[0].message
    assert [each.held for each in damaged.libraries] == [each.held for each in whole.libraries]


def test_names_that_cost_too_much_cost_no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command may spend ends at the names of the symbols: the reason that they are for is found by then."""
    symbols = {f"hook{number:02}": (0x2000 + 8 * number, 8) for number in range(18)}
    user = Library("libuser.so", opencount=1, bound_to=["liba.so"], imports=dict.fromkeys(symbols, "liba.so"))
    process = process_of([user, Library("liba.so", symbols=symbols)], (2, 40), V240_LIVE)
    monkeypatch.setattr("dlwhy.common.linux.state.chains._HOLD_UNITS", 1 << 40)
    found = explain(process.target()).libraries[-1]
    assert [hold.kind for hold in found.holds] == [HoldKind.RELOCATION]
    assert found.held


def test_of_thousands_of_symbols_the_first_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlwhy.common.linux.state.chains.MAX_DEMANGLED", 17)
    symbols = {f"hook{number:02}": (0x2000 + 8 * number, 8) for number in range(18)}
    user = Library("libuser.so", opencount=1, bound_to=["liba.so"], imports=dict.fromkeys(symbols, "liba.so"))
    (hold,) = verdicts([user, Library("liba.so", symbols=symbols)])["liba.so"].holds
    assert (len(hold.symbols), hold.symbols_omitted) == (16, 2)


def test_a_brief_answer_has_neither_fields_nor_evidence_nor_symbols_nor_destructors() -> None:
    libraries = [
        Library("libuser.so", opencount=1, bound_to=["liba.so"], imports={"hook": "liba.so"}),
        Library("liba.so", symbols={"hook": (0x2000, 8)}),
        Library("libpinned.so", nodelete=True, elf_nodelete=True),
        Library("libowed.so", owed=1),
    ]
    target = process_of(libraries, layout=V240_LIVE).target()
    whole, brief = explain(target), explain(target, brief=True)
    assert [each.held for each in brief.libraries] == [each.held for each in whole.libraries]
    for one, other in zip(brief.libraries, whole.libraries):
        assert reasons(one) == reasons(other)
        assert (one.fields, one.soname, one.build_id) == ({}, None, None)
        assert all(not (hold.evidence or hold.symbols or hold.destructors) for hold in one.holds)
        assert other.fields
        assert other.build_id is not None
    assert [hold.symbols for hold in whole.libraries[4].holds] == [("hook",)]
    assert [len(hold.destructors) for hold in whole.libraries[6].holds] == [1]


def test_the_members_that_are_reported_have_their_signs() -> None:
    found = verdicts([Library("liba.so", opencount=3)])["liba.so"]
    assert found.fields["l_idx"] == -1
    assert (found.fields["l_direct_opencount"], found.fields["l_type"], found.fields["l_map_used"]) == (3, 2, 1)


def test_a_library_that_is_being_closed_says_so() -> None:
    process = process_of([Library("liba.so"), Library("libb.so")], layout=V240_LIVE)
    process.lock = (4711, 1)
    for name, index, removed in (("liba.so", 3, False), ("libb.so", -1, True)):
        library = process.library(name)
        library.map_used, library.idx, library.removed = False, index, removed
    state = explain(process.target())
    one, other = state.libraries[3:]
    assert (one.held, reasons(one), evidence(one)) == (
        False,
        [("close-in-progress", None)],
        {"l_removed": 0, "l_idx": 3},
    )
    assert evidence(other) == {"l_removed": 1, "l_idx": -1}
    assert [each.message for each in state.problems] == [LOCK_IS_HELD]


def test_garbage_that_a_close_has_left_behind_is_not_being_closed() -> None:
    process = process_of([Library("liba.so", map_used=False)], layout=V240_LIVE)
    process.lock = (4711, 1)
    assert reasons(explain(process.target()).libraries[3]) == []


@pytest.mark.parametrize(
    ("name", "who"),
    [("liba.so", "user"), ("libgcc_s.so.1", "libc"), ("libnss_dns.so.2", "libc"), ("libidn2.so.0", "libc")],
)
def test_who_most_probably_opened_a_library(name: str, who: str) -> None:
    libraries = [Library(name, opencount=1, needs=["libdep.so"]), Library("libdep.so")]
    found = verdicts(libraries)
    assert reasons(found[name]) == [("open-count", who)]
    (hold,) = found["libdep.so"].holds
    assert hold.root is not None
    assert hold.root.opened_by == who


def test_of_a_root_that_is_nodelete_its_count_does_not_matter() -> None:
    libraries = [Library("liba.so", opencount=2, nodelete=True, needs=["libb.so"]), Library("libb.so")]
    found = verdicts(libraries)
    assert reasons(found["liba.so"]) == [("nodelete", "dlopen-flag")]
    assert found["liba.so"].holds[0].dlclose_returns_early is True
    (hold,) = found["libb.so"].holds
    assert hold.root is not None
    assert hold.root.kinds == (HoldKind.NODELETE,)


def test_an_indirect_dependency_is_reached_by_what_the_files_need() -> None:
    # l_initfini of a library that was opened lists all that it needs, the indirect ones too.
    libraries = [
        Library("libtop.so", opencount=1, needs=["libmiddle.so", "liblow.so.1.5"], needed_names=["libmiddle.so"]),
        Library("libmiddle.so", needs=["liblow.so.1.5"], needed_names=["liblow.so.1"]),
        Library("liblow.so.1.5", soname="liblow.so.1"),
    ]
    found = verdicts(libraries)["liblow.so.1.5"]
    assert [hold.chain for hold in found.holds] == [("libtop.so", "libmiddle.so", "liblow.so.1.5")]


def test_a_root_that_never_goes_is_found_among_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    lower(monkeypatch, "common.linux.state", "MAX_SEARCH_STEPS", 3)
    holders = [Library(f"lib{number}.so", opencount=1, needs=["libheld.so"]) for number in range(6)]
    far = [
        Library("libnear.so", needs=["libheld.so"]),
        Library("libpinned.so", nodelete=True, elf_nodelete=True, needs=["libnear.so"]),
    ]
    found = verdicts([*holders, *far, Library("libheld.so")])["libheld.so"]
    assert found.holds[0].chain == ("libpinned.so", "libnear.so", "libheld.so")
    assert found.holds[0].root is not None
    assert found.holds[0].root.kinds == (HoldKind.NODELETE,)
    assert (len(found.holds), found.holds_omitted) == (7, 0)


def test_a_search_for_reasons_that_is_cut_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"lib{number}.so" for number in range(6)]
    libraries = [Library(name, opencount=1, needs=[each for each in names if each != name]) for name in names]
    assert answer(libraries).problems == ()
    lower(monkeypatch, "common.linux.state", "MAX_SEARCH_STEPS", 3)
    (problem,) = answer(libraries).problems
    assert problem.where == "reasons why libraries stay"
    assert "reasons can be missing" in problem.message


def test_glibcs_list_of_threads_that_is_damaged_is_a_problem_of_the_answer() -> None:
    target = process_of([Library("liba.so", owed=1)], (2, 40), V239).target()
    target.threads = lambda: [Thread(1, 4711), Thread(2, 4712)]  # type: ignore[method-assign]
    problems = explain(target).problems
    # Both of its lists are, in the same way.
    assert [problem.where for problem in problems] == ["glibc's threads", "thread 2 (LWP 4712)"]
    assert "threads can be missing" in problems[0].message


def test_what_a_proxy_stands_for() -> None:
    space = [
        Library("libspace.so", namespace=1, opencount=1, needs=["ld.so"]),
        Library("ld.so", namespace=1, is_proxy=True),
    ]
    state = answer(space, layout=V240_LIVE)
    proxy = state.libraries[-1]
    assert (proxy.name, proxy.namespace, proxy.proxy, reasons(proxy)) == ("ld.so", 1, True, [("startup", "proxy")])
    assert list(evidence(proxy)) == ["l_real"]
    assert (proxy.soname, proxy.build_id) == (None, None)


def test_unique_symbols_that_cannot_be_read_are_a_problem_and_no_reason() -> None:
    process = process_of([Library("liba.so", nodelete=True)], layout=V240_LIVE)
    process.unique = [("_ZN3RegIiE4instE", "liba.so")]
    target = process.target()
    assert reasons(explain(target).libraries[3]) == [("nodelete", "unique-symbol")]
    size_at = process.base(process.library("ld.so")) + 0x2000 + 88
    target.overwrite(size_at, (1 << 40).to_bytes(8, "little"))
    state = explain(target)
    assert reasons(state.libraries[3]) == [("nodelete", None)]
    assert [each.where for each in state.problems] == ["unique symbols of namespace 0", "liba.so"]


def test_one_library_whose_dynamic_section_cannot_be_read_does_not_cost_the_answer() -> None:
    process = process_of([Library("liba.so", opencount=1, needs=["libb.so"]), Library("libb.so"), Library("libc1.so")])
    target = process.target()
    target.forget(process.base(process.library("libb.so")) + 0x1000, 0x10)
    state = explain(target)
    assert {each.name: (each.held, each.soname) for each in state.libraries[3:]} == {
        "liba.so": (True, "liba.so"),
        "libb.so": (True, None),
        "libc1.so": (False, "libc1.so"),
    }


def nodelete_process(version: tuple[int, int] = (2, 40), layout: Layout = V239) -> Process:
    """Make a process with a library that is NODELETE for no cause that leaves a trace."""
    made = process_of(
        [Library("libpin.so", opencount=1, nodelete=True), Library("libx.so", opencount=1)], version, layout
    )
    made.library("libc.so.6").imports = {"malloc": None}
    return made


def lose_relocations(made: Process, target: FakeTarget) -> None:
    target.forget(made.base(made.library("libc.so.6")) + 0x3000, 8)


def lose_bound_words(made: Process, target: FakeTarget) -> None:
    target.forget(made.base(made.library("libc.so.6")) + 0x3800, 8)


def lose_headers(made: Process, target: FakeTarget) -> None:
    target.forget(made.base(made.library("libpin.so")), 0x40)


@pytest.mark.parametrize(
    ("damage", "version", "layout", "unread"),
    [
        (lose_relocations, (2, 40), V239, "what libc.so.6 is bound to cannot be read"),
        (lose_bound_words, (2, 40), V239, "what libc.so.6 is bound to cannot be read"),
        (lose_headers, (2, 28), V228, "its dynamic section cannot be read"),
    ],
)
def test_a_cause_that_cannot_be_read_is_not_the_flag_of_dlopen(
    damage: Callable[[Process, FakeTarget], None], version: tuple[int, int], layout: Layout, unread: str
) -> None:
    made = nodelete_process(version, layout)
    sound = explain(made.target())
    assert reasons(sound.libraries[3])[0] == ("nodelete", "dlopen-flag")
    target = made.target()
    damage(made, target)
    state = explain(target)
    assert reasons(state.libraries[3])[0] == ("nodelete", None)
    assert state.libraries[3].held is True
    messages = [problem.message for problem in state.problems if problem.where == "libpin.so"]
    assert f"not all that can have made it NODELETE is known: {unread}" in messages
    text = words_on(state, "libpin.so")
    assert "NODELETE, for a cause that could not be read" in text
    assert "RTLD_NODELETE" not in text
    VALIDATOR.validate(json.loads(dump(state_document("dlstate", state))))
    asked = explain_chosen(target, lambda found: by_address(found, made.map_of("libpin.so")))
    assert asked.libraries[0].rebuild is not None
    assert asked.libraries[0].rebuild.obstacle == Obstacle(ObstacleKind.UNREAD, "libpin.so")
    view = state_view(asked._replace(asked="libpin.so"), verbose=False)
    assert "could not all be read, so there is no advice" in " ".join(render(view).split())
    # A library that is not NODELETE is answered without it.
    assert not any("NODELETE" in p.message for p in explain_chosen(target, by_name(made, "libx.so")).problems)


def by_name(made: Process, name: str) -> Choice:
    return lambda found: by_address(found, made.map_of(name))


def test_a_version_that_cannot_be_read_is_a_problem() -> None:
    made = process_of([Library("liba.so", opencount=1)])
    target = made.target()
    libc = made.base(made.library("libc.so.6"))
    target.forget(libc, 0x40)
    (problem,) = [each for each in explain(target).problems if each.where == "glibc"]
    assert problem.message == "its version cannot be read: the rules of the newest release are assumed"


def test_what_a_file_needs_and_the_loader_does_not_list_is_not_known_to_go() -> None:
    user = Library("libuser.so", opencount=1, needed_names=["./libheld.so"], names=["libuser.so"])
    held, other = Library("libheld.so"), Library("libother.so")
    made = process_of([user, held, other])
    state = explain_chosen(made.target(), by_name(made, "libheld.so"))
    assert [each.held for each in state.libraries] == [None]
    (problem,) = state.problems
    assert problem.where == "libuser.so"
    assert problem.message.startswith("l_initfini at 0x")
    assert problem.message.endswith(
        ", but that list lacks libheld.so, which it needs by DT_NEEDED: whether libheld.so stays is not known"
    )
    assert [each.held for each in explain_chosen(made.target(), by_name(made, "libother.so")).libraries] == [False]


NEEDS_HELD = Library("libuser.so", opencount=1, needed_names=["libheld.so"], names=["libuser.so"])
REAL = Library("libreal.so.1", names=["libreal.so.1"])


@pytest.mark.parametrize(
    ("user", "listed"),
    [
        (NEEDS_HELD, replace(REAL, soname="libheld.so")),
        (NEEDS_HELD, replace(REAL, names=["libreal.so.1", "./libheld.so"])),
        (NEEDS_HELD, replace(REAL, names=())),
        (replace(NEEDS_HELD, needed_names=["libunknown.so"]), REAL),
        (replace(NEEDS_HELD, needed_names=()), REAL),
        (replace(NEEDS_HELD, relocated=False), REAL),
    ],
    ids=["soname", "link", "names not known", "not loaded", "nothing", "half loaded"],
)
def test_a_name_that_something_else_can_have_contradicts_nothing(user: Library, listed: Library) -> None:
    made = process_of([replace(user, needs=[listed.name]), listed, Library("libheld.so")])
    state = explain_chosen(made.target(), by_name(made, "libheld.so"))
    assert ([each.held for each in state.libraries], state.problems) == ([False], ())


def test_a_chain_whose_links_cannot_be_read_says_so() -> None:
    made = process_of([Library("liba.so", opencount=1, needs=["libb.so"]), Library("libb.so")])
    target = made.target()
    target.forget(made.base(made.library("liba.so")) + 0x700, 0x100)
    state = explain_chosen(target, by_name(made, "libb.so"))
    assert any(
        problem.where == "liba.so" and problem.message.startswith("what it needs itself cannot be read")
        for problem in state.problems
    )


@pytest.mark.parametrize("text", ["libfile.so.1", "libnamed.so.1", "libother.so", "lib*.so.1", "/usr/lib/libfile.so.1"])
def test_a_library_is_found_by_each_of_its_names(text: str) -> None:
    """Of hundreds of libraries sonames are read only where they can matter: what is found is the same."""
    libraries = [
        Library("libfile.so.1", opencount=1, soname="libnamed.so.1"),
        Library("libfile.so.1.2", opencount=1, soname="libfile.so.1"),
        Library("libother.so", opencount=1),
    ]
    target = process_of(libraries, (2, 40), V239).target()

    def choose(found: Sequence[Verdict]) -> Sequence[Verdict]:
        return select(found, text, FakeHost(target).evaluate)

    chosen = explain_chosen(target, choose, text)
    assert chosen.libraries == explain_chosen(target, choose).libraries
    assert chosen.libraries
