"""Does dlstate answer on other processors: 32 bits, big-endian, other thread pointers, relocations and guards?

i386 runs on this machine.  The others run below qemu-user: `python3 install.py test -- -m matrix -k architectures`.
"""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.cores import kernel_core, kernel_writes_files
from dlwhy.tests.hosts.crossbuild import (
    EMULATED,
    I386,
    Architecture,
    as_emulators,
    build_for,
    emulated_core,
    fixture_for,
    portable,
    run_emulated,
    sysroot_of,
    with_flags,
)
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL, Hosts, Reply, Subject, ask_shell
from dlwhy.tests.hosts.gdbrun import Answers, comparable, run_environment, witnessed
from dlwhy.tests.hosts.processes import at_stops
from dlwhy.tests.hosts.scenario import Fixture, Json, Run, check, fixtures
from dlwhy.tests.support.naming import names_of

NAMES = (
    "combination",
    "dependency",
    "nodelete_elf",
    "nodelete_unique",
    "open_count",
    "relocation",
    "startup",
    "story",
    "tls_c",
    "tls_cpp",
)
CASES = [(name, run.name) for name in NAMES for run in portable(name).runs]
ALL = "dlstate --json"
PLANS = "dlplan --all --json"
Plans = dict[str, tuple[str, list[str]]]
ON_TRUST = "taken on trust"
SYSTEMS = [pytest.param(each, suite, id=f"{each.name}-{suite}") for each in EMULATED for suite in each.suites]
WITH_CORES = [
    pytest.param(each, suite, id=f"{each.name}-{suite}")
    for each in EMULATED
    for suite in each.suites
    if each.writes_cores
]


def run_of(fixture: Fixture, name: str) -> Run:
    """Find a run of a fixture."""
    return next(each for each in fixture.runs if each.name == name)


def differences(fixture: Fixture, run: str, stop: int, document: Json, architecture: Architecture) -> list[str]:
    """Compare an answer with what the fixture expects; cores and stubs know no thread's name."""
    found = check(fixture, run, stop, document, thread_names=False)
    if "error" not in document and document["target"]["arch"] != architecture.gnu:
        found.append(f"stop {stop}: the target is said to be {document['target']['arch']}")
    return found


def against_witness(answers: Answers, stop: int) -> list[str]:
    """Compare bases and paths with what dl_iterate_phdr listed inside the program."""
    libraries = answers.documents[stop]["libraries"]
    # The main program has an empty name there.
    listed = [(int(each["load_bias"], 16), each["path"]) for each in libraries]
    listed[0] = (listed[0][0], "")
    seen = witnessed(answers.output, stop)
    return [] if listed == seen else [f"stop {stop}: dl_iterate_phdr says {seen}, dlstate {listed}"]


def failed(found: list[str], answers: Answers) -> str:
    """Write failures one below the other, with the end of what gdb said."""
    return "\n".join(["", *found, answers.output[-3000:]])


def plans_of(document: Json) -> Plans:
    """Return what closing each open library would do and unload, in order, by names."""
    if "error" in document:
        return {document["error"]: ("", [])}
    return {each["library"]["name"]: (each["outcome"], names_of(each["unloads"])) for each in document["plans"]}


def without_order(plans: Plans) -> Plans:
    """Return the plans with their libraries sorted by name: glibc 2.39 changed the order of the finalisers."""
    return {name: (outcome, sorted(unloads)) for name, (outcome, unloads) in plans.items()}


@cache
def native_plans(name: str, run: str) -> dict[int, Plans]:
    """Return the same of this machine's own processor, at each stop."""
    fixture = fixtures()[name]
    with at_stops(fixture, run_of(fixture, run), build(fixture)) as stops:
        return {stop: plans_of(ask_shell(Subject(pid=pid), PLANS.split()).document) for pid, stop in stops}


# i386, on this machine


def compare_all(fixture: Fixture, run: str, stop: int, replies: dict[str, Reply], what: str) -> list[str]:
    """Compare what each host answers with the fixture, and with the shell."""
    found = []
    for host, reply in replies.items():
        found += [f"{what}, {host}: {each}" for each in differences(fixture, run, stop, reply.document, I386)]
        if comparable(reply.document) != comparable(replies[SHELL].document):
            found.append(f"{what}, stop {stop}: {host} does not answer as the shell")
    return found


@pytest.mark.parametrize(("name", "run"), CASES)
def test_i386(hosts: Hosts, tmp_path: Path, name: str, run: str) -> None:
    fixture = fixture_for(I386, name)
    its_run, folder = run_of(fixture, run), build_for(I386, fixture)
    program = folder / fixture.program
    core = tmp_path / "gdb.core"
    found, seen = [], []
    with at_stops(fixture, its_run, folder) as stops:
        for pid, stop in stops:
            seen.append(stop)
            process = Subject(pid=pid, program=program)
            both = {host: hosts.ask(host, process, [ALL, PLANS]) for host in HOSTS}
            found += compare_all(fixture, run, stop, {host: replies[0] for host, replies in both.items()}, "live")
            planned = {host: plans_of(replies[1].document) for host, replies in both.items()}
            expected = native_plans(fixture.name, run)[stop]
            found += [
                f"stop {stop}: {host} plans {each}, not {expected}"
                for host, each in planned.items()
                if each != expected
            ]
            hosts.ask(GDB, process, (), core)
            dumped = {host: hosts.ask(host, Subject(core=core, program=program), [ALL])[0] for host in HOSTS}
            found += compare_all(fixture, run, stop, dumped, "core")
            core.unlink()
    assert seen == list(fixture.stops)
    assert not found, "\n".join(["", *found])


if kernel_writes_files():  # not a skip: where cores go to a program, there is nothing to install

    @pytest.mark.parametrize("name", ["tls_cpp", "relocation"])
    def test_i386_core_of_the_kernel(hosts: Hosts, tmp_path: Path, name: str) -> None:
        fixture = fixture_for(I386, name)
        folder = build_for(I386, fixture)
        found = []
        for stop in fixture.stops:
            environment = run_environment(fixture.runs[0], folder)
            core = kernel_core(folder / fixture.program, environment, stop, tmp_path / str(stop))
            replies = {host: hosts.ask(host, Subject(core=core), [ALL])[0] for host in HOSTS}
            found += compare_all(fixture, "plain", stop, replies, "core of the kernel")
            core.unlink()
        assert not found, "\n".join(["", *found])


# Cores that do not list their files


def as_built(architecture: Optional[Architecture], name: str) -> tuple[Fixture, Path]:
    """Return a fixture and its folder, for this machine's own architecture or another one."""
    if architecture is None:
        return fixtures()[name], build(fixtures()[name])
    fixture = fixture_for(architecture, name)
    return fixture, build_for(architecture, fixture)


@pytest.mark.parametrize("architecture", [None, I386], ids=["native", "i386"])
@pytest.mark.parametrize("name", ["nodelete_unique", "tls_cpp"])
def test_core_without_a_list_of_files(tmp_path: Path, architecture: Optional[Architecture], name: str) -> None:
    """With its program and its libraries here, such a core says what the process says."""
    fixture, folder = as_built(architecture, name)
    program = folder / fixture.program
    hosts = Hosts(tmp_path / "hosts")
    found = []
    with at_stops(fixture, fixture.runs[0], folder) as stops, closing(hosts):
        for pid, stop in stops:
            live = hosts.ask(SHELL, Subject(pid=pid), [ALL])[0].document
            hosts.ask(GDB, Subject(pid=pid, program=program), (), tmp_path / "gdb.core")
            assert as_emulators(tmp_path / "gdb.core", tmp_path / "cut.core") >= 4
            document = ask_shell(Subject(core=tmp_path / "cut.core"), ALL.split(), ["--exe", str(program)]).document
            assert "error" not in document, document["error"]
            (trusted,) = document["problems"]
            assert ON_TRUST in trusted["message"]
            for one, other in zip(document["libraries"], live["libraries"]):
                if comparable(one) != comparable(other):
                    found.append(f"stop {stop}: the core says {one}, the process {other}")
            assert len(document["libraries"]) == len(live["libraries"]), f"stop {stop}"
    assert not found, "\n".join(["", *found])


# The others, in the emulator


@pytest.mark.matrix
@pytest.mark.parametrize(("architecture", "suite"), SYSTEMS)
@pytest.mark.parametrize(("name", "run"), CASES)
def test_gdb_over_qemu(tmp_path: Path, architecture: Architecture, suite: str, name: str, run: str) -> None:
    fixture = fixture_for(architecture, name)
    folder, sysroot = build_for(architecture, fixture), sysroot_of(architecture, suite)
    answers = run_emulated(architecture, sysroot, fixture, run_of(fixture, run), folder, tmp_path / "out")
    assert answers.stops == fixture.stops, answers.output
    found = []
    for stop in answers.stops:
        found += differences(fixture, run, stop, answers.documents[stop], architecture)
        found += against_witness(answers, stop)
        planned, expected = plans_of(answers.plans(stop)), native_plans(name, run)[stop]
        if without_order(planned) != without_order(expected):
            found.append(f"stop {stop}: plans {planned}, not {expected}")
    assert not found, failed(found, answers)


@pytest.mark.matrix
@pytest.mark.parametrize(("architecture", "suite"), SYSTEMS)
def test_stripped_libraries_with_the_old_hash_table(tmp_path: Path, architecture: Architecture, suite: str) -> None:
    """Functions are named by the dynamic symbols, which DT_HASH counts: its words have 8 bytes on s390x."""
    fixture = with_flags(fixture_for(architecture, "tls_c"), "-s", "-Wl,--hash-style=sysv")
    folder, sysroot = build_for(architecture, fixture), sysroot_of(architecture, suite)
    answers = run_emulated(architecture, sysroot, fixture, fixture.runs[0], folder, tmp_path / "out")
    found = [
        each
        for stop in fixture.stops
        for each in differences(fixture, "plain", stop, answers.documents[stop], architecture)
    ]
    assert not found, failed(found, answers)


@pytest.mark.matrix
@pytest.mark.parametrize(("architecture", "suite"), SYSTEMS)
def test_threads_by_the_lists_of_glibc(tmp_path: Path, architecture: Architecture, suite: str) -> None:
    """Where the thread pointer is in no register that the debugger knows, glibc's own lists lead to it."""
    fixture = fixture_for(architecture, "tls_cpp")
    folder, sysroot = build_for(architecture, fixture), sysroot_of(architecture, suite)
    first = "python import dlwhy.gdb_ext.target as t; t.GdbTarget.registers = lambda *_: {}"
    answers = run_emulated(architecture, sysroot, fixture, fixture.runs[0], folder, tmp_path / "out", first=[first])
    found = [
        each
        for stop in fixture.stops
        for each in differences(fixture, "plain", stop, answers.documents[stop], architecture)
    ]
    assert not found, failed(found, answers)


def ask_core(core: Path, sysroot: Path, program: Path) -> Json:
    """Ask the shell about a core of the emulator."""
    return ask_shell(Subject(core=core), ALL.split(), ["--exe", str(program), "--sysroot", str(sysroot)]).document


@pytest.mark.matrix
@pytest.mark.parametrize(("architecture", "suite"), WITH_CORES)
@pytest.mark.parametrize("name", ["dependency", "nodelete_unique", "relocation", "tls_c", "tls_cpp"])
def test_core_of_qemu(tmp_path: Path, architecture: Architecture, suite: str, name: str) -> None:
    fixture = fixture_for(architecture, name)
    folder, sysroot = build_for(architecture, fixture), sysroot_of(architecture, suite)
    found = []
    for stop in fixture.stops:
        out = tmp_path / str(stop)
        core = emulated_core(architecture, sysroot, fixture, fixture.runs[0], folder, stop, out)
        document = ask_core(core, sysroot, folder / fixture.program)
        core.unlink()
        assert "error" not in document, document["error"]
        trusted, *others = document["problems"]
        assert ON_TRUST in trusted["message"]
        assert not others
        found += differences(fixture, "plain", stop, {**document, "problems": []}, architecture)
    assert not found, "\n".join(["", *found])


@pytest.mark.matrix
@pytest.mark.parametrize(("architecture", "suite"), WITH_CORES)
def test_a_wrong_file_is_not_used_for_a_core_of_qemu(tmp_path: Path, architecture: Architecture, suite: str) -> None:
    fixture = fixture_for(architecture, "tls_cpp")
    built, sysroot = build_for(architecture, fixture), sysroot_of(architecture, suite)
    folder = tmp_path / "build"
    shutil.copytree(built, folder)
    program = folder / fixture.program
    core = emulated_core(architecture, sysroot, fixture, fixture.runs[0], folder, 2, tmp_path / "out")

    def said(*options: str) -> str:
        return ask_shell(Subject(core=core), ["dlstate"], options).error or "an answer"

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "--exe FILE" in said()
    assert "is not the program that" in said("--exe", str(folder / "libowed.so"), "--sysroot", str(sysroot))
    assert "is not here" in said("--exe", str(program), "--sysroot", str(empty))
    for other in architecture.suites:
        if other != suite:
            wrong = str(sysroot_of(architecture, other))
            assert "is another build here" in said("--exe", str(program), "--sysroot", wrong)
    # A library built anew, and one that is gone: both verdicts stand, by what the core itself holds.
    shutil.copy(folder / "libother.so", folder / "libowed.so")
    (folder / "libdep.so").unlink()
    document = ask_core(core, sysroot, program)
    problems = {each["where"]: each["message"] for each in document["problems"]}
    assert "other builds" in problems["libowed.so"]
    assert "not here" in problems["libdep.so"]
    libraries = {each["name"]: each for each in document["libraries"]}
    assert libraries["libowed.so"]["build_id"] is None
    assert libraries["libowed.so"]["fields"]["l_tls_dtor_count"] == 4
    (hold,) = libraries["libowed.so"]["holds"]
    assert [each["function"]["name"] for each in hold["destructors"]] == [None] * 4
    assert re.search("tls-destructors", str(libraries["libdep.so"]["holds"]))
