"""Does dllplan --all rank what LoadLibrary has loaded by what freeing it unloads, as dllplan says of each?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dlwhy.common import cli
from dlwhy.common.commands.dllplan.document import dll_plan_document
from dlwhy.common.commands.dllplan.text import dll_plan_view
from dlwhy.common.errors import UnsupportedError
from dlwhy.common.model import Outcome
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import MAX_WIDTH, render
from dlwhy.common.windows import plan as planning
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.plan import plan_free, rank_frees
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import EXE, KERNEL32, WIN10, WINE, XP, Form, Loader, Module, Process
from dlwhy.tests.synth.windows import FORMS, form_id, process, story, write


def target(folder: Path, made: Process) -> MinidumpTarget:
    return MinidumpTarget(str(write(folder, made.dump())))


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_each_is_what_dllplan_says_of_it(tmp_path: Path, form: Form, wide: bool) -> None:
    opened = target(tmp_path, process(form, wide))
    ranking = rank_frees(opened)
    document = json.loads(dump(dll_plan_document("dllplan", ranking)))
    VALIDATOR.validate(document)
    assert {plan.library.name for plan in ranking.plans} == {"libA.dll", "libC.dll", "cx.dll"}
    assert [plan.unload_bytes for plan in ranking.plans] == sorted(
        (p.unload_bytes for p in ranking.plans), reverse=True
    )
    for plan in ranking.plans:
        alone = plan_free(opened, plan.library.name, int, None).plans[0]
        assert (plan.close_count, plan.outcome, plan.load_count_after) == (
            alone.close_count,
            alone.outcome,
            alone.load_count_after,
        )
        assert [each.name for each in plan.unloads] == [each.name for each in alone.unloads]
        assert (plan.gets_process_detach, plan.may_unload_more) == (alone.gets_process_detach, alone.may_unload_more)
    text = render(dll_plan_view(ranking, False))
    assert "3 DLLs were loaded by LoadLibrary; freeing " in text
    assert max(map(len, text.splitlines())) <= MAX_WIDTH


def test_the_number_of_frees(tmp_path: Path) -> None:
    opened = target(tmp_path, process(WIN10))
    outcomes = {plan.library.name: plan.outcome for plan in rank_frees(opened, 1).plans}
    assert outcomes["libA.dll"] is Outcome.KEEPS
    outcomes = {plan.library.name: plan.outcome for plan in rank_frees(opened, 3).plans}
    assert outcomes["libA.dll"] is Outcome.UNLOADS


def test_an_exiting_process_and_one_that_has_loaded_nothing(tmp_path: Path) -> None:
    loader = story(WIN10)
    loader.shutdown = True
    ranking = rank_frees(target(tmp_path, Process(loader)))
    assert {plan.refusal for plan in ranking.plans} == {"process-exiting"}
    assert "freeing any of them unloads nothing" in render(dll_plan_view(ranking, False))
    empty = Loader(WINE)
    empty.start(Module(EXE, [KERNEL32]))
    assert "there is nothing to free" in render(dll_plan_view(rank_frees(target(tmp_path, Process(empty))), False))


def test_counts_that_are_not_known_are_not_ranked(tmp_path: Path) -> None:
    made = process(WIN10)
    made.memory.forget(made.loader.known["liba.dll"].node, 0x50)
    ranking = rank_frees(target(tmp_path, made))
    assert "libA.dll" not in {plan.library.name for plan in ranking.plans}
    assert any("LoadLibrary has loaded 1 DLL is not known" in problem.message for problem in ranking.problems)


def test_many_are_not_all_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_RANKED", 2)
    ranking = rank_frees(target(tmp_path, process(XP, False)))
    assert len(ranking.plans) == 2
    assert any("3 DLLs were loaded, only 2 are ranked" in problem.message for problem in ranking.problems)


def test_a_dump_without_the_loaders_lists(tmp_path: Path) -> None:
    made = process(WIN10)
    made.memory.forget(made.teb, 0x4000)
    with pytest.raises(UnsupportedError, match="PEB: not in memory"):
        rank_frees(target(tmp_path, made))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, process(WIN10).dump()))
    assert cli.main(["--dump", path, "dllplan", "--all", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert {plan["library"]["name"]: plan["close_count"] for plan in plans} == {
        "libA.dll": 3,
        "libC.dll": 1,
        "cx.dll": 1,
    }
    assert cli.main(["--dump", path, "dllplan", "--all", "--frees", "1"]) == 0
    assert "libA.dll" in capsys.readouterr().out
    for words in (["dllplan"], ["dllplan", "libA", "--all"]):
        assert cli.main(["--dump", path, *words]) == 2
        assert "name one DLL, or give --all" in capsys.readouterr().err
