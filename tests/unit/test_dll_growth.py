"""Does what is read and searched for the DLLs of a process grow as their number, and no faster?"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from dlwhy.common.commands.dllstate.text import dll_state_view
from dlwhy.common.memory import ALLOWANCE
from dlwhy.common.render.text import render
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.plan import rank_frees
from dlwhy.common.windows.state import WindowsExamination, explain_dlls
from dlwhy.tests.synth.minidump import WIN7, WIN10, Form
from dlwhy.tests.synth.windows import FORMS, form_id, large, process, write


def spent(path: Path, *, brief: bool = False) -> int:
    """Return the units of the budget that the verdicts on all DLLs of a dump take."""
    examined = WindowsExamination(MinidumpTarget(str(path)))
    assert examined.state(brief=brief).problems == ()
    return ALLOWANCE - examined.memory.units_left


@pytest.mark.parametrize("form", [WIN10, WIN7], ids=form_id)
def test_four_times_as_many_dlls(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "large.dmp"
    units = []
    for modules in (400, 1600):
        path.write_bytes(large(form, modules, 0))
        units.append(spent(path))
    # Most of 400 have chains of names of the full length.
    assert math.log(units[1] / units[0], 4) < 1.15


@pytest.mark.parametrize("form", [WIN10, WIN7], ids=form_id)
def test_five_thousand_dlls_are_answered_whole(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "large.dmp"
    path.write_bytes(large(form, 5000, 0))
    # The table needs a small part of the budget, all holds with their chains most of it.
    assert spent(path, brief=True) < ALLOWANCE // 3
    assert spent(path) < ALLOWANCE
    ranking = rank_frees(MinidumpTarget(str(path)))
    assert ranking.problems == ()
    assert [len(plan.unloads) for plan in ranking.plans] == [4997]


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_in_brief_the_table_is_the_same(tmp_path: Path, form: Form, wide: bool) -> None:
    path = str(write(tmp_path, process(form, wide).dump()))
    whole, brief = explain_dlls(MinidumpTarget(path)), explain_dlls(MinidumpTarget(path), brief=True)
    assert render(dll_state_view(brief, verbose=True)) == render(dll_state_view(whole, verbose=True))
    assert [dll.held for dll in brief.dlls] == [dll.held for dll in whole.dlls]
    assert all(dll.fields for dll in whole.dlls)
    assert not any(dll.fields for dll in brief.dlls)


@pytest.mark.parametrize("form", [WIN10, WIN7], ids=form_id)
def test_in_brief_the_table_of_long_chains_is_the_same(tmp_path: Path, form: Form) -> None:
    path = str(write(tmp_path, large(form, 300, 0)))
    whole, brief = explain_dlls(MinidumpTarget(path)), explain_dlls(MinidumpTarget(path), brief=True)
    assert render(dll_state_view(brief, verbose=False)) == render(dll_state_view(whole, verbose=False))
    assert max(len(hold.chain) for dll in brief.dlls for hold in dll.holds) == 3
