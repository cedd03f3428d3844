"""Do witnesses that we did not write agree: /proc/PID/maps, dl_iterate_phdr, LD_DEBUG?"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.gdbrun import clean_environment, run_environment, run_live, witnessed
from dlwhy.tests.hosts.mapped import listed_files, mapped_files
from dlwhy.tests.hosts.runs import Runs, named
from dlwhy.tests.hosts.scenario import fixtures, scenarios

SCENARIOS = [(name, run) for name, run in scenarios() if not fixtures()[name].only_system]
# In these a finaliser is under way while the list is read.
UNDER_WAY = {"closing"}


@pytest.mark.parametrize(("name", "run"), SCENARIOS)
def test_maps(runs: Runs, name: str, run: str) -> None:
    answers = runs.live(name, run)
    for stop in answers.stops:
        if "error" in answers.documents[stop] or stop == fixtures()[name].starti:
            continue
        maps = (answers.folder / f"{stop}.maps").read_text(encoding="utf-8", errors="surrogateescape")
        assert listed_files(answers.documents[stop]) == mapped_files(maps), f"stop {stop}"


@pytest.mark.parametrize(("name", "run"), SCENARIOS)
def test_dl_iterate_phdr(runs: Runs, name: str, run: str) -> None:
    answers = runs.live(name, run)
    seen = 0
    for stop in answers.stops:
        listed = witnessed(answers.output, stop)
        if not listed:  # a stop inside the loader, where the program cannot print
            continue
        seen += 1
        document = answers.documents[stop]
        libraries = [each for each in document["libraries"] if each["namespace"] == 0]
        # The main program has an empty name here.
        assert listed[0] == (int(libraries[0]["load_bias"], 16), ""), f"stop {stop}"
        expected = [(int(each["load_bias"], 16), each["path"]) for each in libraries[1:]]
        assert listed[1:] == expected, f"stop {stop}"
    assert seen


@pytest.mark.parametrize(("name", "run"), [(name, run) for name, run in SCENARIOS if name not in UNDER_WAY])
def test_ld_debug(runs: Runs, name: str, run: str) -> None:
    """What is no longer listed at a stop is what the loader said it finalised since the stop before."""
    fixture, its_run = named(name, run)
    answers = runs.live(name, run)
    folder = runs.build(name)
    finalised = ld_debug(folder / fixture.program, run_environment(its_run, folder))
    before: set[tuple[int, str]] = set()
    for stop in answers.stops:
        document = answers.documents[stop]
        if "error" in document or stop == fixture.starti:
            continue
        now = {(each["namespace"], each["path"]) for each in document["libraries"] if not each["proxy"]}
        assert before - now <= finalised.get(stop, set()), f"stop {stop}"
        before = now


def ld_debug(program: Path, environment: dict[str, str]) -> dict[int, set[tuple[int, str]]]:
    """Run a program under LD_DEBUG=files; return by stop namespace and path of what was finalised since the last."""
    answered = subprocess.run(
        [str(program)],
        env=clean_environment({**environment, "LD_DEBUG": "files", "FIXTURE_WAIT": "1"}),
        input="\n" * 100,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        check=True,
    )
    finalised: dict[int, set[tuple[int, str]]] = {}
    since: set[tuple[int, str]] = set()
    for line in answered.stdout.splitlines():
        stop = re.fullmatch(r"stop (\d+)", line)
        fini = re.fullmatch(r"\s*\d+:\s*calling fini: (.*) \[(\d+)\]", line)
        if fini is not None:
            since.add((int(fini[2]), fini[1]))
        elif stop is not None:
            finalised[int(stop[1])] = since
            since = set()
    return finalised


@pytest.mark.parametrize(("name", "run"), [("story", "rust"), ("relocation", "plain"), ("startup", "plain")])
def test_eu_unstrip(tmp_path: Path, name: str, run: str) -> None:
    """What elfutils finds in a core has the build-ids and load addresses that dlstate gives."""
    fixture, its_run = named(name, run)
    answers = run_live(tmp_path / "live", build(fixture), fixture, its_run)
    for stop, core in answers.cores().items():
        listing = subprocess.run(
            ["eu-unstrip", "-n", f"--core={core}"], capture_output=True, text=True, check=True
        ).stdout
        found = dict(re.findall(r"^0x([0-9a-f]+)\+0x[0-9a-f]+ ([0-9a-f]+)@", listing, re.MULTILINE))
        libraries = {each["range"][0][2:]: each["build_id"] for each in answers.documents[stop]["libraries"]}
        assert libraries == found, f"stop {stop}"
