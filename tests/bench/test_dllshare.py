"""How long does dllshare take on a busy machine, and volatility3's vadinfo, which lists VADs but judges nothing?

Prints figures: python3 install.py test -- -m bench -s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dlwhy.tests.synth.isf import write_isf
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import busy

ROOT = Path(__file__).resolve().parent.parent.parent
PROCESSES = 400
VADS = 50
ROUNDS = 5

pytestmark = pytest.mark.bench

# vadinfo without its table: what takes time is the walk.
PEER = "import sys, volatility3.cli; sys.argv[0] = 'vol'; volatility3.cli.main()"


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def test_dllshare_beside_vadinfo(tmp_path: Path) -> None:
    machine = busy(windows("10.0.19041.3570"), PROCESSES, VADS)
    path = machine.save(tmp_path / "MEMORY.DMP", "bitmap")
    write_isf(machine, tmp_path)
    (tmp_path / "cache").mkdir()
    ours = [sys.executable, str(ROOT), "--dump", str(path), "dllshare", "library7.dll", "--json"]
    start = [sys.executable, str(ROOT), "help"]
    peer = [sys.executable, "-c", PEER, "--offline", "-q", "--cache-path", str(tmp_path / "cache")]
    peer += ["-s", str(tmp_path), "-f", str(path)]
    one, idle, listed = [], [], []
    for _ in range(ROUNDS):
        idle.append(seconds(start))
        one.append(seconds(ours))
        listed.append(seconds([*peer, "windows.pslist"]))
    whole = seconds([*peer, "windows.vadinfo"])
    mine = statistics.median(one)
    print(f"\n{PROCESSES} processes, {PROCESSES * VADS} VADs: dllshare {mine:.2f} s", end="")
    print(f" (start alone {statistics.median(idle):.2f} s)", end="")
    print(f"; volatility3 pslist {statistics.median(listed):.2f} s, vadinfo {whole:.0f} s: {whole / mine:.0f} times")
    assert mine < whole
