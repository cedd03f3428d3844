"""Does each chain that keeps a library name its links, their kind, and what stands for it in memory?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from dlwhy.common.linux.model import Hold, HoldKind
from dlwhy.common.linux.model import Library as Verdict
from dlwhy.common.linux.state.examine import explain
from dlwhy.tests.synth.glibc import Library
from dlwhy.tests.synth.glibc_layouts import process_of


def verdicts(libraries: Sequence[Library]) -> Mapping[str, Verdict]:
    """Judge the libraries of a process."""
    return {each.name: each for each in explain(process_of(libraries).target()).libraries}


def only_hold(libraries: Sequence[Library], name: str) -> Hold:
    """Give the one reason of a library."""
    (hold,) = verdicts(libraries)[name].holds
    return hold


def members(hold: Hold) -> list[str]:
    """Name the members that stand for a hold."""
    return [each.member for each in hold.evidence]


def test_what_is_bound_to_is_not_reached_by_way_of_what_is_needed() -> None:
    """The nearest holder is bound to it; a way of dependencies leads there as well, by the files."""
    libraries = [
        Library("liba.so", opencount=1, needs=["libb.so"], bound_to=["libx.so"], imports={"hook": "libx.so"}),
        Library("libb.so", needs=["libx.so"]),
        Library("libx.so", symbols={"hook": (0x2000, 8)}),
    ]
    hold = only_hold(libraries, "libx.so")
    assert (hold.kind, hold.chain) == (HoldKind.RELOCATION, ("liba.so", "libx.so"))
    assert (hold.symbols, hold.symbols_omitted, members(hold)) == (("hook",), 0, ["l_reldeps"])


def test_what_is_needed_is_kept_by_l_initfini_and_not_by_symbols() -> None:
    libraries = [
        Library("liba.so", opencount=1, needs=["libx.so"], imports={"hook": "libx.so"}),
        Library("libx.so", symbols={"hook": (0x2000, 8)}),
    ]
    hold = only_hold(libraries, "libx.so")
    assert (hold.kind, hold.chain) == (HoldKind.DEPENDENCY, ("liba.so", "libx.so"))
    assert (hold.symbols, hold.symbols_omitted, members(hold)) == ((), 0, ["l_initfini"])


def test_the_last_link_of_a_chain_decides_on_its_kind() -> None:
    libraries = [
        Library("liba.so", opencount=1, bound_to=["libb.so"]),
        Library("libb.so", needs=["libx.so"]),
        Library("libx.so", bound_to=["liby.so"]),
        Library("liby.so"),
    ]
    found = verdicts(libraries)
    (hold,) = found["libx.so"].holds
    assert (hold.kind, hold.chain) == (HoldKind.DEPENDENCY, ("liba.so", "libb.so", "libx.so"))
    (hold,) = found["liby.so"].holds
    assert (hold.kind, hold.chain) == (HoldKind.RELOCATION, ("liba.so", "libb.so", "libx.so", "liby.so"))


@pytest.mark.parametrize("between", ["libb.so", "libodd.so"])
def test_libraries_between_are_found_by_their_file_and_by_their_soname(between: str) -> None:
    """The list of what was opened names indirect dependencies; its file says which it needs itself."""
    libraries = [
        Library("liba.so", opencount=1, needs=["libx.so", "libb.so"], needed_names=[between]),
        Library("libb.so", needs=["libx.so"], soname="libodd.so"),
        Library("libx.so"),
    ]
    chains = [hold.chain for hold in verdicts(libraries)["libx.so"].holds]
    assert chains == [("liba.so", "libb.so", "libx.so")]


def test_where_the_file_is_not_in_memory_the_list_alone_is_told() -> None:
    libraries = [
        Library("liba.so", opencount=1, needs=["libx.so", "libb.so"], needed_names=["libb.so"]),
        Library("libb.so", needs=["libx.so"]),
        Library("libx.so"),
    ]
    process = process_of(libraries)
    made = process.target()
    made.forget(process.base(process.library("liba.so")), 4)
    found = {each.name: each for each in explain(made).libraries}
    assert [hold.chain for hold in found["libx.so"].holds] == [("liba.so", "libx.so")]


def test_of_many_holders_one_that_is_bound_and_never_goes_is_not_left_out() -> None:
    holders = [Library(f"lib{number:02}.so", opencount=1, needs=["libheld.so"]) for number in range(20)]
    pinned = Library("libpinned.so", nodelete=True, elf_nodelete=True, bound_to=["libheld.so"])
    found = verdicts([*holders, pinned, Library("libheld.so")])["libheld.so"]
    assert [(hold.kind, hold.chain) for hold in found.holds[:1]] == [
        (HoldKind.RELOCATION, ("libpinned.so", "libheld.so"))
    ]
    assert (len(found.holds), found.holds_omitted) == (17, 4)
