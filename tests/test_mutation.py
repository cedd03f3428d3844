"""Do the tests notice when the rules are wrong, as far as a sample tells?  tests/mutation.py has all of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dlwhy.tests.mutation import ROOT, mutants_of, mutate, subjects

#: A sample of this seed takes less than a minute; the score of all is in CONTRIBUTING.md.
# The share that is killed of so few varies by ten points either way when the code changes, and others are chosen.
SAMPLE, SEED, FLOOR = 24, 1, 60


def changed(source: str) -> list[str]:
    """Write a function as each mutant of it has it."""
    numbers = [mutant.number for mutant in mutants_of("x.py", source)]
    return [ast.unparse(mutate(source, number).body[0]) for number in numbers]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return a < 1", ["return None", "return a <= 1", "return a < 2"]),
        ("f(a and not b)", ["pass", "f(a or not b)", "f(not b)", "f(a)", "f(a and b)"]),
        ("x = [*a, *b]", ["x = [*b, *a]", "x = [*b]", "x = [*a]"]),
        ("x = [b for b in a if b]", ["x = [b for b in a]"]),
        ("if a:\n        b = a[True]", ["if True:", "if False:", "b = a[False]"]),
        ("a.b += 1", ["a.b -= 1", "pass", "a.b += 2"]),
        ("yield a", []),
        ("assert a == 1", []),
        ("'Words.'", []),
        ("raise E(a + 1)", ["pass"]),
        ("x = f'{a + 1}'", []),
    ],
)
def test_a_function_is_changed_a_little(body: str, expected: list[str]) -> None:
    found = changed(f"def f(a: int = 1) -> int:\n    {body}\n")
    assert len(found) == len(expected), found
    for one, other in zip(found, expected):
        assert other in one


def test_what_is_not_executed_is_left_alone() -> None:
    assert mutants_of("x.py", "LIMIT = 1\nclass A:\n    size: int = 1 + 1\n") == []


# The eight that a review made by hand, and that no unit test noticed.
BY_HAND = {
    "common/linux/plan.py": [
        r"without 'link_map\.l_type != LT_LOADED'",
        r"without 'not m\.is_proxy'",
        r"'not [\w.]*graph\.complete' is False",
        r"'\[\*exits, \*closes\]' the other way round",
    ],
    "common/windows/loader/unload.py": [r"'unit\.pinned' is False"],
    "common/linux/loader/order.py": ["39 becomes 40"],
    "common/lists.py": [r"'address in self\._seen' is False"],
    "common/windows/kernel/files.py": [r"without 'values\['Size'\] != self\._file_size'"],
}


@pytest.mark.parametrize("path", BY_HAND)
def test_mutants_made_by_hand_are_among_them(path: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    found = {mutant.what for mutant in mutants_of(path, source)}
    for wanted in BY_HAND[path]:
        assert any(re.fullmatch(wanted, what) for what in found), wanted


def test_every_subject_and_its_tests_are_there() -> None:
    found = subjects([])
    assert {Path(path).name for path in found} >= {"plan.py", "collector.py", "order.py", "unload.py"}
    for path, tests in found.items():
        assert (ROOT / path).is_file()
        for name in tests:
            assert (ROOT / "tests" / "unit" / name).is_file(), name


def test_a_sample_is_noticed() -> None:
    words = [sys.executable, str(ROOT / "tests" / "mutation.py"), "--sample", str(SAMPLE), "--seed", str(SEED)]
    done = subprocess.run([*words, "--floor", str(FLOOR)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
