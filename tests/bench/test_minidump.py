"""How long does the shell take for a minidump of 100 MB with 500 modules? Prints figures, judges none: -m bench -s."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.state import explain_dlls
from dlwhy.tests.hosts.gdbrun import ROOT
from dlwhy.tests.synth.minidump import WIN7, WIN10, Form
from dlwhy.tests.synth.windows import MODULES, form_id, large

ROUNDS = 11

pytestmark = pytest.mark.bench


def took(words: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, capture_output=True, check=True)
    return time.perf_counter() - began


@pytest.mark.parametrize("form", [WIN10, WIN7], ids=form_id)
def test_shell_on_a_large_dump(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "large.dmp"
    path.write_bytes(large(form))
    shell = [sys.executable, str(ROOT), "--dump", str(path), "dllstate"]
    runs = {
        "python3 -c pass": [sys.executable, "-c", "pass"],
        "python3 -c 'import json, struct, mmap, argparse'": [
            sys.executable,
            "-c",
            "import json, struct, mmap, argparse",
        ],
        "dllstate": shell,
        "dllstate d250.dll": [*shell, "d250.dll"],
        "dllplan d0.dll": [*shell[:-1], "dllplan", "d0.dll"],
        "dllgone": [*shell[:-1], "dllgone"],
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, words in runs.items():
            times[name].append(took(words))
    peer = statistics.median(times["python3 -c pass"])
    print(f"\n{path.stat().st_size >> 20} MiB, {MODULES} modules, {form.name}")
    for name, each in times.items():
        median = statistics.median(each)
        print(f"{name:50} {median * 1000:7.0f} ms  {median / peer:5.1f} x")


def test_reads_of_500_modules(tmp_path: Path) -> None:
    path = tmp_path / "large.dmp"
    path.write_bytes(large(WIN10))
    target = MinidumpTarget(str(path))
    reads: list[int] = []
    real = target.read

    def counted(address: int, size: int) -> bytes:
        reads.append(size)
        return real(address, size)

    target.read = counted  # type: ignore[method-assign]
    began = time.perf_counter()
    explain_dlls(target)
    print(f"\n{len(reads)} reads of {sum(reads) >> 10} KiB, {(time.perf_counter() - began) * 1000:.0f} ms")
