"""How do dlstate and dlplan grow with the libraries, and with what these need of one another?

Prints figures: -m bench -s.  ``DLWHY_SHAPES=300,1000`` says how many libraries there are (by default 100 and 300: to
build them takes most of the time).  "Examination" is the processors' time of reading, marking and judging in a Python
that has imported the command.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.bench import shapes
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment
from dlwhy.tests.support.children import SYSTEM_PYTHON

COUNTS = tuple(map(int, os.environ.get("DLWHY_SHAPES", "100,300").split(",")))
ROUNDS = 5
#: Run in a Python of its own, so that nothing is left of another answer.
MEASURE = """
import gc, json, os, sys, time
from importlib.machinery import SourceFileLoader
root, pid = sys.argv[1], int(sys.argv[2])
package = type(sys)("dlwhy")
package.__file__, package.__package__, package.__path__ = os.path.join(root, "__init__.py"), "dlwhy", [root]
package.__loader__ = SourceFileLoader("dlwhy", package.__file__)
sys.modules["dlwhy"] = package
package.__loader__.exec_module(package)
from dlwhy.common.host import Host
from dlwhy.common.linux.dumps.procfs import ProcTarget
from dlwhy.common.linux.loader import threads, tls_lists
from dlwhy.common.linux.plan import plan_all
from dlwhy.common.linux.state.examine import explain, explain_chosen
from dlwhy.common.linux.state.matching import select
questions = {
    "dlstate": lambda target: explain(target, brief=True),
    "dlstate LIB": lambda target: explain_chosen(target, lambda found: select(found, "lib7.so", None), "lib7.so"),
    "dlplan --all": plan_all,
}
gc.disable()
begin = time.process_time()
answer = questions[sys.argv[3]](ProcTarget(pid))
taken = time.process_time() - begin
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([taken * 1000, int(peak.split()[1]) / 1024]))
"""

pytestmark = pytest.mark.bench


def measured(pid: int, question: str) -> tuple[float, float]:
    """Return the least milliseconds of several examinations, and the megabytes that one takes."""
    found = []
    for _ in range(ROUNDS):
        words = [SYSTEM_PYTHON, "-IS", "-c", MEASURE, str(ROOT), str(pid), question]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=clean_environment({}))
        found.append(tuple(json.loads(done.stdout)))
    return min(found)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_shape(shape: str, tmp_path: Path) -> None:
    folder = tmp_path / shape
    folder.mkdir()
    program = shapes.build(shape, max(COUNTS), folder)
    for opened in ("all", "last"):
        before: dict[str, tuple[int, float]] = {}
        for count in COUNTS:
            with shapes.running(program, count, opened) as pid:
                for question in ("dlstate", "dlstate LIB", "dlplan --all"):
                    if question == "dlstate LIB" and f"{folder}/lib7.so" not in Path(f"/proc/{pid}/maps").read_text():
                        continue  # it is not among those that the last one needs
                    taken, megabytes = measured(pid, question)
                    line = f"{shape:<7} {opened:<5} {count:>5}  {question:<13} {taken:8.1f} ms  {megabytes:5.0f} MB"
                    if question in before:
                        less, then = before[question]
                        line += f"  grows with n^{math.log(taken / then) / math.log(count / less):.2f}"
                    before[question] = count, taken
                    print(f"\n{line}", end="")
