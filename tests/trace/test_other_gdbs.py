"""Does dltrace work in gdb 10 to the newest, of which some lose breakpoints in ld.so (marker matrix)?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.chroots import SUITES, get
from dlwhy.tests.hosts.gdbrun import SCRIPT
from dlwhy.tests.hosts.scenario import fixtures
from dlwhy.tests.trace.attached import document_in

COMMANDS = (
    "set startup-with-shell off",
    "break main",
    "run",
    "delete",
    "dltrace start --tls",
    "continue",
    "dltrace report --json",
)


@pytest.mark.matrix
@pytest.mark.parametrize("fixture", ["namespace", "story"])
@pytest.mark.parametrize("name", SUITES)
def test_other_gdbs(name: str, fixture: str, tmp_path: Path) -> None:
    debugger = get(name, tmp_path / f"gdb-{name}")
    folder = debugger.build(fixture)
    words = ["gdb", "-nx", "-batch", "-iex", "set auto-load safe-path /", "-iex", "set pagination off"]
    words += ["-x", str(SCRIPT)]
    for command in COMMANDS:
        words += ["-ex", command]
    done = subprocess.run(
        [*words, str(folder / fixtures()[fixture].program)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=debugger.environment(),
        cwd=folder,
        check=False,
        timeout=120,
    )
    assert "exited normally" in done.stdout, done.stdout
    report = document_in(done.stdout)
    totals = report["totals"]
    assert (totals["opens"], totals["closes"], totals["exact"]) == (2, 2, 2)
    assert totals["mismatches"] == totals["unended"] == totals["unseen_opens"] == totals["unseen_closes"] == 0
    assert report["problems"] == []
    if fixture == "story":
        assert {each["name"] for each in report["kept"]} >= {"libB.so"}
        assert [each["library"]["name"] for each in report["registrations"]] == ["libB.so"]
