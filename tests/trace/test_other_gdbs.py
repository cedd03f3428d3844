"""Does dltrace work in gdb 10 to the newest, of which some lose breakpoints in ld.so (others by marker matrix)?"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts.chroots import SUITES, SYSTEM, get
from dlwhy.tests.hosts.gdbrun import SCRIPT
from dlwhy.tests.hosts.scenario import Json, fixtures
from dlwhy.tests.trace.attached import document_in

GDBS = [SYSTEM, *(pytest.param(name, marks=pytest.mark.matrix) for name in SUITES)]

#: Stops where dltrace has a breakpoint, too.
SAME_PLACES = (
    "python import gc, importlib; own = importlib.import_module('dlwhy.gdb_ext.live')._Breakpoint; "
    "[gdb.Breakpoint(f'*{each.place:#x}') for each in gc.get_objects() if isinstance(each, own)]"
)
#: What gdb does when the user presses the key just before it calls Python: stop() raises where it begins.
INTERRUPTED = (
    "python import importlib, itertools; own = importlib.import_module('dlwhy.gdb_ext.live')._Breakpoint; "
    "real, count, press = own.stop, itertools.count(), lambda: (_ for _ in ()).throw(KeyboardInterrupt); "
    "own.stop = lambda self: press() if next(count) in (1, 3) else real(self)"
)


def trace(name: str, fixture: str, folder: Path, commands: Sequence[str]) -> Json:
    """Trace a fixture from its main to its end; gives the report."""
    debugger = get(name, folder / f"gdb-{name}")
    libraries = debugger.build(fixture)
    words = ["gdb", "-nx", "-batch", "-iex", "set auto-load safe-path /", "-iex", "set pagination off"]
    words += ["-iex", "set debuginfod enabled off"] if debugger.version >= (11, 0) else []
    words += ["-x", str(SCRIPT)]
    given = ["set startup-with-shell off", "break main", "run", "delete", "dltrace start --tls", *commands]
    for command in [*given, "dltrace report --json"]:
        words += ["-ex", command]
    done = subprocess.run(
        [*words, str(libraries / fixtures()[fixture].program)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=debugger.environment(),
        cwd=libraries,
        check=False,
        timeout=120,
    )
    assert "exited normally" in done.stdout, done.stdout
    assert "not being run" not in done.stdout, done.stdout
    report: Json = document_in(done.stdout)
    totals = report["totals"]
    assert (totals["opens"], totals["closes"], totals["closes_predicted_exactly"]) == (2, 2, 2), done.stdout
    assert (
        totals["closes_mispredicted"]
        == totals["end_not_seen"]
        == totals["opens_unseen"]
        == totals["closes_unseen"]
        == 0
    )
    assert report["problems"] == []
    return report


@pytest.mark.parametrize("fixture", ["namespace", "story"])
@pytest.mark.parametrize("name", GDBS)
def test_every_gdb(name: str, fixture: str, tmp_path: Path) -> None:
    report = trace(name, fixture, tmp_path, ["continue"])
    if fixture == "story":
        assert {each["name"] for each in report["kept"]} >= {"libB.so"}
        assert [each["library"]["name"] for each in report["tls_registrations"]] == ["libB.so"]


@pytest.mark.parametrize("name", GDBS)
def test_each_event_counts_once_at_the_users_own_stops(name: str, tmp_path: Path) -> None:
    trace(name, "story", tmp_path, [SAME_PLACES, *["continue"] * 5, "delete", "continue"])


@pytest.mark.parametrize("name", GDBS)
def test_each_event_counts_once_when_the_key_comes_before_python(name: str, tmp_path: Path) -> None:
    trace(name, "story", tmp_path, [INTERRUPTED, *["continue"] * 3])
