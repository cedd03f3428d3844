"""Does FreeLibrary do what dllplan says, in the real loader of Wine under the real engine?

Never may a DLL be predicted to go that stays. More may go than was said only where the plan says "at least".
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from dlwhy.tests.lab.graphs import Run, build, random_dlls, random_script, run
from dlwhy.tests.lab.windows import Lab
from dlwhy.tests.support.naming import names_of


def went_away(free: dict[str, Any]) -> set[str]:
    """Give the names of the DLLs that a FreeLibrary unloaded, by the engine's own list."""
    return {name.partition(".")[0] for name in set(free["before"]) - set(free["after"])}


def check(free: dict[str, Any], detached: list[str]) -> None:
    """Compare a plan with what happened."""
    plan = free["plan"]
    predicted = [name.partition(".")[0] for name in names_of(plan["unloads"])]
    gone = went_away(free)
    what = f"FreeLibrary({plan['library']['name']})"
    assert set(predicted) <= gone, f"{what}: {set(predicted) - gone} did not go"
    if plan["may_unload_more"]:
        return
    assert set(predicted) == gone, f"{what}: {gone - set(predicted)} went as well"
    called = [u["name"].partition(".")[0] for u in plan["unloads"] if u["gets_process_detach"]]
    assert called == detached, f"{what}: another order"


def check_all(found: Run) -> int:
    """Compare every plan with what happened, and give how many DLLs went."""
    detached = [line.partition(" ")[0] for line in found.log if line.endswith("-")]
    gone = 0
    for free in found.frees:
        went = len(went_away(free))
        check(free, detached[gone : gone + went])
        gone += went
        assert [each["rule"] for each in free["plan"]["rules"]] == ["wine"]
    assert gone == len(detached)
    return gone


def test_every_way_to_load(lab: Lab, story: Path) -> None:
    script = (
        "load a.dll load a.dll load b.dll free a.dll free b.dll free a.dll "
        "load x.dll free x.dll load y.dll load c.dll free y.dll free c.dll "
        "load loader.dll load c.dll free c.dll free loader.dll "
        "load keeper.dll free keeper.dll free b.dll "
        "load late.dll call late.dll free late.dll free c.dll "
        "load user.dll call user.dll free user.dll free forwarder.dll "
        "load pinned.dll pin pinned.dll free pinned.dll free below.dll free below.dll"
    )
    found = run(lab, story, script.split())
    gone = check_all(found)
    plans = [free["plan"] for free in found.frees]
    outcomes = [(p["library"]["name"], p["outcome"], names_of(p["unloads"])) for p in plans]
    assert outcomes[:3] == [
        ("a.dll", "keeps", []),
        ("b.dll", "keeps", []),
        ("a.dll", "unloads", ["a.dll", "b.dll", "c.dll"]),
    ]
    assert [p["import_cycles"] for p in plans if p["library"]["name"] in ("x.dll", "y.dll")] == [
        [["x.dll", "y.dll"]],
        [["y.dll", "x.dll"]],
    ]
    by_name = {p["library"]["name"]: p for p in plans}
    assert by_name["loader.dll"]["may_unload_more"] == ["loader.dll"], "its DllMain frees c.dll"
    assert names_of(by_name["keeper.dll"]["unloads"]) == ["keeper.dll"], "what its DllMain loaded stays"
    assert names_of(by_name["late.dll"]["unloads"]) == ["late.dll"], "what it loaded late has no edge"
    assert (by_name["pinned.dll"]["outcome"], by_name["pinned.dll"]["refusal"]) == ("no-effect", "pinned")
    assert gone >= 10


def try_random_graphs(lab: Lab, folder: Path, seed: int, rounds: int) -> None:
    """Make up DLLs and what is done with them, and compare every FreeLibrary with its plan."""
    chooser = random.Random(seed)
    dlls = random_dlls(chooser, 10)
    build(folder, dlls)
    assert check_all(run(lab, folder, random_script(chooser, dlls, rounds))) > 0


def test_random_graphs(lab: Lab, tmp_path: Path) -> None:
    try_random_graphs(lab, tmp_path, 0, 3)


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_random_graphs(lab: Lab, tmp_path: Path, seed: int) -> None:
    try_random_graphs(lab, tmp_path, seed, 10)
