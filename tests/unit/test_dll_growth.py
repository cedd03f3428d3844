"""Does what is read and searched for the DLLs of a process grow as their number, and no faster?"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from dlwhy.common.memory import ALLOWANCE
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.state import WindowsExamination
from dlwhy.tests.synth.minidump import WIN7, WIN10, Form
from dlwhy.tests.synth.windows import form_id, large


def spent(path: Path) -> int:
    """Return the units of the budget that the verdicts on all DLLs of a dump take."""
    examined = WindowsExamination(MinidumpTarget(str(path)))
    assert examined.state().problems == ()
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
