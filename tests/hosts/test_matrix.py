"""Does dlstate answer the same with other versions of glibc, extracted from the distribution's packages?"""

from __future__ import annotations

import pytest
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.hosts.gdbrun import comparable
from dlwhy.tests.hosts.runs import Runs, failures
from dlwhy.tests.hosts.scenario import fixtures, scenarios

SCENARIOS = [(name, run) for name, run in scenarios() if not fixtures()[name].only_system]
SAMPLE = [
    ("story", "rust-log"),
    ("tls_c", "plain"),
    ("relocation", "plain"),
    ("nodelete_unique", "plain"),
    ("namespace", "plain"),
    ("startup", "plain"),
]
REST = [each for each in SCENARIOS if each not in SAMPLE]


def look(runs: Runs, name: str, run: str, glibc: str) -> None:
    """Run a fixture with that glibc, live and on cores, without debug information for it."""
    version = glibcs.get(glibc).version
    live = runs.live(name, run, debug_info=False, glibc=glibc)
    found = failures(live, name, run, glibc=version)
    assert not found, "\n".join(["", *found])
    cores = runs.cores(name, run, debug_info=False, glibc=glibc)
    for stop in live.stops:
        assert comparable(cores.documents[stop]) == comparable(live.documents[stop]), f"stop {stop}"
        if "error" not in live.documents[stop]:
            assert live.documents[stop]["loader"]["version"].startswith("{}.{}".format(*version))


@pytest.mark.parametrize("glibc", glibcs.SUITES)
@pytest.mark.parametrize(("name", "run"), SAMPLE)
def test_sample(runs: Runs, name: str, run: str, glibc: str) -> None:
    look(runs, name, run, glibc)


@pytest.mark.matrix
@pytest.mark.parametrize("glibc", glibcs.SUITES)
@pytest.mark.parametrize(("name", "run"), REST)
def test_all(runs: Runs, name: str, run: str, glibc: str) -> None:
    look(runs, name, run, glibc)
