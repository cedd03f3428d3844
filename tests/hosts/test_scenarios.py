"""Does dlstate in gdb answer what the fixtures expect: live, on cores, remote, attached, with and without libc6-dbg?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.cores import as_kernel, kernel_core, kernel_writes_files
from dlwhy.tests.hosts.gdbrun import (
    Answers,
    comparable,
    libraries_at,
    run_attached,
    run_cores,
    run_environment,
    run_live,
)
from dlwhy.tests.hosts.processes import started, stops_of
from dlwhy.tests.hosts.runs import Runs, failures, named
from dlwhy.tests.hosts.scenario import Json, fixtures, is_named, scenarios

SCENARIOS = scenarios()
SEVERAL = [("tls_cpp", "plain"), ("relocation", "plain"), ("nodelete_unique", "plain"), ("startup", "plain")]
# test_all_hosts.py asks about all of them without debug information too, in the shell.
SAMPLE = [each if each in SEVERAL else pytest.param(*each, marks=pytest.mark.matrix) for each in SCENARIOS]
DEBUG_INFO = pytest.mark.parametrize(
    ("name", "run", "debug_info"),
    [
        pytest.param(
            *each,
            debug_info,
            id="-".join([*each, "libc6-dbg" if debug_info else "no-debug-info"]),
            marks=() if debug_info or each in SEVERAL else pytest.mark.matrix,
        )
        for each in SCENARIOS
        for debug_info in (True, False)
    ],
)


def report(found: list[str]) -> str:
    """Write failures so that pytest shows them one below the other."""
    return "\n".join(["", *found])


def without_remedy(library: Json) -> Json:
    """Leave out what only the answer about this library has."""
    return {key: value for key, value in library.items() if key != "rebuild"}


def same_as_alone(answers: Answers, name: str, run: str) -> list[str]:
    """Compare `dlstate LIBRARY --json` with that library's part of `dlstate --json`."""
    fixture = fixtures()[name]
    found = []
    for stop in answers.stops:
        whole = answers.documents[stop]
        if "error" in whole:
            continue
        for index, library in enumerate(libraries_at(fixture, run).get(str(stop), [])):
            alone = answers.document(stop, index)
            there = [each for each in whole["libraries"] if is_named(each, library)]
            if not there and "error" not in alone:
                found.append(f"stop {stop}: dlstate {library!r} answered, but it is not listed")
            elif there and "error" in alone:
                found.append(f"stop {stop}: dlstate {library!r}: {alone['error']}")
            elif there and [without_remedy(each) for each in alone["libraries"]] != there:
                found.append(f"stop {stop}: dlstate {library!r} says {alone['libraries']}, dlstate {there}")
    return found


@DEBUG_INFO
def test_live(runs: Runs, name: str, run: str, debug_info: bool) -> None:
    answers = runs.live(name, run, debug_info=debug_info)
    found = failures(answers, name, run) + same_as_alone(answers, name, run)
    assert not found, report(found)


@DEBUG_INFO
def test_cores_say_the_same(runs: Runs, name: str, run: str, debug_info: bool) -> None:
    live = runs.live(name, run, debug_info=debug_info)
    answers = runs.cores(name, run, debug_info=debug_info)
    found = failures(answers, name, run, thread_names=False)
    assert not found, report(found)
    for stop in live.stops:
        assert comparable(answers.documents[stop]) == comparable(live.documents[stop]), f"stop {stop}"


@pytest.mark.parametrize(("name", "run"), SAMPLE)
def test_debug_information_changes_nothing(runs: Runs, name: str, run: str) -> None:
    def shape(answers: Answers) -> list[tuple[object, ...]]:
        return [
            (stop, library["namespace"], library["name"], library["held"], [hold["kind"] for hold in library["holds"]])
            for stop in answers.stops
            for library in answers.documents[stop].get("libraries", [])
        ]

    assert shape(runs.live(name, run, debug_info=True)) == shape(runs.live(name, run, debug_info=False))


@pytest.mark.parametrize(("name", "run"), SCENARIOS)
def test_text_is_fit_for_a_terminal(runs: Runs, name: str, run: str) -> None:
    for file, text in runs.live(name, run).texts():
        assert "\x1b" not in text, file
        assert "Traceback" not in text, file
        assert text.strip(), file


@pytest.mark.parametrize(("name", "run"), [("tls_cpp", "plain"), ("relocation", "plain")])
def test_gdbserver(tmp_path: Path, name: str, run: str) -> None:
    fixture, its_run = named(name, run)
    answers = run_live(tmp_path / "remote", build(fixture), fixture, its_run, remote=True, cores="")
    found = failures(answers, name, run)
    assert not found, report(found)


@pytest.mark.parametrize("through_loader", [False, True], ids=["program", "through-ld.so"])
@pytest.mark.parametrize(("name", "run", "stop"), [("story", "rust", 2), ("relocation", "plain", 2)])
def test_attach(tmp_path: Path, name: str, run: str, stop: int, through_loader: bool) -> None:
    fixture, its_run = named(name, run)
    folder = build(fixture)
    program = folder / fixture.program
    command = [str(program)]
    if through_loader:
        command.insert(0, interpreter(program))
    with started(command, run_environment(its_run, folder)) as process:
        assert stop in stops_of(process)
        answers = run_attached(tmp_path / "attached", fixture, its_run, stop, Path(command[0]), process.pid)
    found = [each for each in failures(answers, name, run) if "never stopped" not in each]
    assert not found, report(found)


def interpreter(program: Path) -> str:
    """Return the loader that a program names."""
    listing = subprocess.run(["readelf", "-lW", str(program)], capture_output=True, text=True, check=True).stdout
    return listing.partition("Requesting program interpreter: ")[2].partition("]")[0]


@pytest.mark.parametrize("with_files", [True, False], ids=["files", "no-debug-info"])
@pytest.mark.parametrize(("name", "run"), SEVERAL)
def test_core_without_file_pages(tmp_path: Path, name: str, run: str, with_files: bool) -> None:
    fixture, its_run = named(name, run)
    folder = build(fixture)
    live = run_live(tmp_path / "live", folder, fixture, its_run, debug_info=with_files, cores="full")
    cut = {}
    for stop, core in live.cores().items():
        cut[stop] = tmp_path / f"{stop}.core"
        smaps = (live.folder / f"{stop}.smaps").read_text(encoding="utf-8")
        assert as_kernel(core, smaps, cut[stop]) > 5
    answers = run_cores(tmp_path / "cores", folder, fixture, its_run, cut, debug_info=with_files)
    found = failures(answers, name, run, thread_names=False)
    assert not found, report(found)


if kernel_writes_files():  # not a skip: where cores go to a program, there is nothing to install

    @pytest.mark.parametrize(("name", "run"), SEVERAL)
    def test_core_of_the_kernel(tmp_path: Path, name: str, run: str) -> None:
        fixture, its_run = named(name, run)
        folder = build(fixture)
        environment = run_environment(its_run, folder)
        cores = {
            stop: kernel_core(folder / fixture.program, environment, stop, tmp_path / str(stop))
            for stop in fixture.stops
        }
        answers = run_cores(tmp_path / "cores", folder, fixture, its_run, cores)
        found = failures(answers, name, run, thread_names=False)
        assert not found, report(found)
