"""Is each file that the quick tests are about executed as far as its floor says?  tests/covered.py has all files."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from dlwhy.tests.covered import FLOORS, ROOT, SAMPLE_FILES, VARIABLE, chosen, find_below


def test_a_file_below_its_floor_or_without_one_is_named() -> None:
    found = {"common/a.py": 89.9, "common/b.py": 90.0, "common/new.py": 10.0}
    assert find_below(found, {"common/a.py": 90, "common/b.py": 90, "common/gone.py": 1}) == [
        "common/a.py: 89.9 % is below its floor of 90 %",
        "common/gone.py: 0.0 % is below its floor of 1 %",
        "common/new.py: has no floor; --write gives it one",
    ]
    assert find_below({"common/b.py": 90.0}, {"common/b.py": 90}) == []


def test_the_sample_has_floors_of_its_own() -> None:
    found = {"common/linux/plan.py": 1.0, "common/linux/trace/tracer.py": 2.0, "gdb_ext/live.py": 3.0}
    assert chosen(found, is_sample=True) == {"common/linux/plan.py": 1.0, "common/linux/trace/tracer.py": 2.0}
    assert chosen(found, is_sample=False) == found


def test_every_floor_is_that_of_a_file() -> None:
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))
    assert set(floors) == {"sample", "whole"}
    for name in {*floors["sample"], *floors["whole"]}:
        assert (ROOT / name).is_file(), name
    assert all(name.startswith(SAMPLE_FILES) for name in floors["sample"])


def test_the_quick_tests_reach_their_floors() -> None:
    if VARIABLE in os.environ:
        return  # all of it is being measured
    words = [sys.executable, str(ROOT / "tests" / "covered.py"), "--sample"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
