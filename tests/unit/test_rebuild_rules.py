"""Is what would let a library go all that is needed, nothing more, and said not to be known where it is not?"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
from dlwhy.common.linux.model import Library as Verdict
from dlwhy.common.linux.rebuild_model import Fix, FixKind, ObstacleKind, Rebuild
from dlwhy.common.linux.state import rebuild
from dlwhy.common.linux.state.examine import explain_chosen
from dlwhy.tests.synth.glibc import Library
from dlwhy.tests.synth.glibc_layouts import V240_LIVE, process_of


def made(name: str, **more: object) -> Library:
    """Make a library in a folder of the program's own."""
    return Library(name, path=f"/opt/app/{name}", **more)  # type: ignore[arg-type]


def verdict(libraries: Sequence[Library], name: str) -> Verdict:
    """Ask about one library."""
    target = process_of([replace(each) for each in libraries], layout=V240_LIVE).target()
    state = explain_chosen(target, lambda found: [each for each in found if each.name == name])
    return state.libraries[0]


def rebuild_of(libraries: Sequence[Library], name: str = "libx.so") -> Rebuild:
    """Give what would let a library go."""
    found = verdict(libraries, name).rebuild
    assert found is not None
    return found


def obstacle_of(libraries: Sequence[Library]) -> tuple[object, ...]:
    """Give why nothing would."""
    found = rebuild_of(libraries)
    assert found.fixes == ()
    assert found.obstacle is not None
    return tuple(found.obstacle)


def pinned(name: str, **more: object) -> Library:
    """Make a library that is linked with -z nodelete."""
    return made(name, nodelete=True, elf_nodelete=True, **more)


def relink(*names: str) -> Rebuild:
    """Say that libraries are to be linked without -z nodelete."""
    return Rebuild(tuple(Fix(FixKind.LINK_WITHOUT_NODELETE, name) for name in names))


def test_of_several_that_need_it_each_is_named() -> None:
    libraries = [pinned("liba.so", needs=["libx.so"]), pinned("libb.so", needs=["libx.so"]), made("libx.so")]
    found = rebuild_of(libraries)
    assert found.obstacle is None
    assert set(found.fixes) == set(relink("liba.so", "libb.so").fixes)


def test_of_a_chain_its_root_is_named_and_nothing_that_only_passes_it_on() -> None:
    libraries = [pinned("liba.so", needs=["libb.so"]), made("libb.so", needs=["libx.so"]), made("libx.so")]
    assert rebuild_of(libraries) == relink("liba.so")


def test_what_opens_and_destructors_hold_needs_no_other_build() -> None:
    libraries = [made("liba.so", opencount=2, needs=["libx.so"]), pinned("libb.so"), made("libx.so", owed=1)]
    assert verdict(libraries, "libx.so").rebuild is None


def test_what_is_auditing_stays() -> None:
    auditor = made("liba.so", auditing=True, opencount=1, needs=["libx.so"], namespace=1, functions={"la_version": 0})
    libraries = [auditor, made("libx.so", namespace=1)]
    assert obstacle_of(libraries) == (ObstacleKind.AUDIT, "liba.so")


def test_a_library_of_the_system_is_not_built_otherwise() -> None:
    libraries = [Library("liba.so", nodelete=True, elf_nodelete=True, needs=["libx.so"]), made("libx.so")]
    assert obstacle_of(libraries) == (ObstacleKind.SYSTEM, "liba.so")


def test_where_the_budget_ends_it_is_not_said_to_be_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = [pinned("liba.so", needs=["libx.so"]), made("libx.so")]
    monkeypatch.setattr(rebuild, "_MARK_UNITS", 1 << 50)
    assert obstacle_of(libraries) == (ObstacleKind.TOO_MUCH, "libx.so")


def test_more_than_can_be_lifted_is_not_said_to_be_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = [*(pinned(f"lib{number}.so", needs=["libx.so"]) for number in range(4)), made("libx.so")]
    assert len(rebuild_of(libraries).fixes) == 4
    monkeypatch.setattr(rebuild, "MAX_LIFTED", 3)
    found = rebuild_of(libraries)
    assert found.obstacle is not None
    assert found.obstacle.kind is ObstacleKind.TOO_MUCH


def built_otherwise(libraries: Sequence[Library], names: Collection[str]) -> list[Library]:
    """Link some libraries without -z nodelete; nothing is open any more, and nothing owed."""
    return [
        replace(
            each,
            opencount=0,
            owed=0,
            nodelete=each.nodelete and each.name not in names,
            elf_nodelete=each.elf_nodelete and each.name not in names,
        )
        for each in libraries
    ]


@pytest.mark.parametrize("seed", range(30))
def test_together_they_are_enough_and_each_is_needed(seed: int) -> None:
    dice = random.Random(seed)
    names = [f"lib{number}.so" for number in range(dice.randint(3, 9))]

    def others(name: str, most: int) -> list[str]:
        return dice.sample([each for each in names if each != name], dice.randint(0, min(most, len(names) - 1)))

    libraries = []
    for name in names:
        more = {"opencount": dice.choice((0, 1)), "owed": dice.choice((0, 0, 1))}
        make = pinned if dice.random() < 0.4 else made
        libraries.append(make(name, needs=others(name, 2), bound_to=others(name, 1), **more))
    for name in names:
        found = verdict(libraries, name).rebuild
        stays = verdict(built_otherwise(libraries, ()), name).held
        assert (found is not None) is stays
        if found is not None:
            fixed = {fix.library for fix in found.fixes}
            assert found.obstacle is None
            assert all(fix.kind is FixKind.LINK_WITHOUT_NODELETE for fix in found.fixes)
            assert verdict(built_otherwise(libraries, fixed), name).held is False
            for one in fixed:
                assert verdict(built_otherwise(libraries, fixed - {one}), name).held is True
