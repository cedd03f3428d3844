"""Do verdicts follow from what the loader has noted, also where many libraries hold one, or hold each other?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.linux.model import HoldKind, State
from dlwhy.common.linux.state.examine import explain
from dlwhy.common.render.text import render
from dlwhy.tests.fakes import snapshot
from dlwhy.tests.synth.glibc import Layout, Library
from dlwhy.tests.synth.glibc_layouts import V235, V239, process_of


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
