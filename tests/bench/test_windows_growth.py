"""Do answers grow as the number of DLLs?  Prints figures, judges none: -m bench -s."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts.gdbrun import ROOT
from dlwhy.tests.synth.minidump import WIN7, WIN10, Form
from dlwhy.tests.synth.windows import form_id, large

ROUNDS = 3

pytestmark = pytest.mark.bench


def took(path: Path, words: str) -> float:
    """Return the processors' time of the shell's command, start included: the least of some runs."""
    spent = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, str(ROOT), "--dump", str(path), *words.split()], capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def report(paths: Sequence[tuple[int, Path]], words: str) -> None:
    times = [took(path, words) for _, path in paths]
    growth = math.log(times[-1] / times[0], paths[-1][0] / paths[0][0])
    print(f"\n{words}: ", ", ".join(f"{n}: {t:.2f} s" for (n, _), t in zip(paths, times)), f"; n^{growth:.2f}", end="")


@pytest.mark.parametrize("form", [WIN10, WIN7], ids=form_id)
def test_growth_with_dlls(tmp_path: Path, form: Form) -> None:
    paths = []
    for modules in (500, 1500, 5000):
        paths.append((modules, tmp_path / f"{modules}.dmp"))
        paths[-1][1].write_bytes(large(form, modules, 0))
    for words in ("dllstate", "dllstate --json", "dllplan --all"):
        report(paths, words)
