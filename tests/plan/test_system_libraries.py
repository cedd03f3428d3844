"""How often is a close of a real library flagged "at least" that unloads just what was predicted?

Each library of this system is opened by a process of its own, predicted, and closed; -s prints what is flagged.
All libraries, not a sample: python3 install.py test -- tests/plan -m matrix -s
"""

from __future__ import annotations

import subprocess
import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import dlwhy
import pytest
from dlwhy.common.linux.plan_model import ClosingWay, Plan
from dlwhy.tests.hosts.gdbrun import clean_environment

OPENER = Path(__file__).with_name("opener.c")
FOLDER = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))
SAMPLE = 40
#: The most of all closes that may be flagged needlessly for what finalisers reach through others.
MOST_NEEDLESS = 0.05


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("opener") / "opener"
    subprocess.run(["gcc", "-O1", "-rdynamic", "-o", str(program), str(OPENER), "-ldl"], check=True)
    return program


def libraries() -> list[Path]:
    """List the system's libraries, each once."""
    found = {path.resolve() for pattern in ("*.so*", "*/*.so") for path in FOLDER.glob(pattern)}
    return sorted(path for path in found if path.is_file())


def close(opener: Path, library: Path) -> Optional[tuple[Plan, set[str]]]:
    """Predict a close, and do it; return the plan and the paths of what went, None if it cannot be opened or closed."""
    with subprocess.Popen(
        [str(opener), str(library)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="surrogateescape",
        env=clean_environment({}),
    ) as process:
        try:
            before = listed(process)
            if before is None:
                return None
            with dlwhy.open(process.pid) as examined:
                (plan,) = examined.plan(f"&{before.pop(0)}").plans
            assert process.stdin is not None
            process.stdin.write("x")
            process.stdin.flush()
            after = listed(process)
            return None if after is None else (plan, set(before) - set(after))
        finally:
            process.kill()


def listed(process: subprocess.Popen[str]) -> Optional[list[str]]:
    """Read a list of libraries; None if the process ends before."""
    assert process.stdout is not None
    found: list[str] = []
    for line in process.stdout:
        if line == ".\n":
            return found
        found.append(line.rstrip("\n"))
    return None


def measure(opener: Path, paths: Sequence[Path]) -> Counter[str]:
    """Close libraries; count closes, flags by what is flagged, and those that proved needless."""
    counts: Counter[str] = Counter()
    for path in paths:
        done = close(opener, path)
        if done is None:
            counts["not closed"] += 1
            continue
        plan, gone = done
        predicted = {library.path for library in plan.unloads}
        counts["closes"] += 1
        counts["missed"] += bool(gone - predicted and not plan.may_unload_more)
        counts["wrong"] += bool(predicted - gone)
        ways = {closer.way for closer in plan.closers}
        if ways:
            kind = "by import" if ClosingWay.IMPORT in ways else "by what is reached"
            counts[f"flagged {kind}"] += 1
            counts[f"needless {kind}"] += gone == predicted
    return counts


def judge(counts: Counter[str]) -> None:
    print(dict(counts))
    assert counts["closes"] > 0
    assert counts["missed"] == counts["wrong"] == 0
    assert counts["needless by what is reached"] <= max(1, MOST_NEEDLESS * counts["closes"])


def test_a_sample_of_real_closes(opener: Path) -> None:
    every = libraries()
    judge(measure(opener, every[:: max(1, len(every) // SAMPLE)]))


@pytest.mark.matrix
def test_all_real_closes(opener: Path) -> None:
    judge(measure(opener, libraries()))
