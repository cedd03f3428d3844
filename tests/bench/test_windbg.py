"""How long do our commands take in the real engine, beside a script that reads the same by pykd and judges nothing?

Prints figures: python3 install.py test -- -m bench -s.
"""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path

import pytest
from dlwhy.tests.lab.asking import ROOT, ask_pykd
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.synth.minidump import WIN10
from dlwhy.tests.synth.ntimage import compile_kernel
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import busy
from dlwhy.tests.synth.windows import large

HERE = Path(__file__).resolve().parent
PROCESSES = 400
VADS = 50
ROUNDS = 5

pytestmark = pytest.mark.bench


def test_dllshare_beside_a_bare_walk(lab: Lab, tmp_path: Path) -> None:
    layout = windows("10.0.19041.3570")
    dump = busy(layout, PROCESSES, VADS, image=compile_kernel(layout, tmp_path)).save(tmp_path / "MEMORY.DMP", "bitmap")
    ours, bare = [], []
    counts = None
    for _ in range(ROUNDS):
        began = time.perf_counter()
        found = ask_pykd(lab, dump, ["dllshare", "library7.dll"], tmp_path)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        walked = lab.run_python(windows_path(HERE / "bare_walk.py"), windows_path(dump), symbols=tmp_path)
        bare.append(time.perf_counter() - began)
        assert found.status == 0, found
        counts = re.fullmatch(r"(\d+) (\d+)\n", walked.output)
        assert counts is not None, walked
    assert counts is not None
    mine, theirs = statistics.median(ours), statistics.median(bare)
    print(f"\n{PROCESSES} processes, {counts[1]} VADs: dllshare {mine:.2f} s, bare walk {theirs:.2f} s: ", end="")
    print(f"{mine / theirs:.1f} times")


def test_dllstate_of_500_modules(lab: Lab, tmp_path: Path) -> None:
    dump = tmp_path / "large.dmp"
    dump.write_bytes(large(WIN10))
    found = lab.run_python(windows_path(HERE / "engine_reads.py"), windows_path(ROOT), windows_path(dump))
    counts = re.search(r"^(\d+) (\S+) (\S+)$", found.output, re.MULTILINE)
    assert counts is not None, found
    modules, whole, reads = (float(each) for each in counts.groups())
    print(f"\n{modules:.0f} modules: dllstate {whole:.0f} ms, its reads alone {reads:.0f} ms")
