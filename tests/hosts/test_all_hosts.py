"""Is the answer about one process, and about one core, the same in gdb, two LLDBs and the shell, to the byte?"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.comparing import ALL, ask_all, compare, first_difference, unexpected
from dlwhy.tests.hosts.cores import as_kernel, kernel_core, kernel_writes_files
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL, Hosts, Reply, Subject, ask_shell
from dlwhy.tests.hosts.gdbrun import libraries_at, run_environment
from dlwhy.tests.hosts.processes import at_first_instruction, at_stops
from dlwhy.tests.hosts.runs import named
from dlwhy.tests.hosts.scenario import Json, scenarios

SCENARIOS = scenarios()
SEVERAL = [("tls_cpp", "plain"), ("relocation", "plain"), ("nodelete_unique", "plain"), ("startup", "plain")]
PLANS = "dlplan --all --json"


@pytest.fixture(scope="module")
def hosts_without_debug_info(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Return the hosts; the debuggers find no debug information of the system's."""
    made = Hosts(tmp_path_factory.mktemp("hosts"), debug_info=False)
    yield made
    made.close()


def ask_all_with_plans(hosts: Hosts, subject: Subject) -> tuple[dict[str, Reply], dict[str, Reply]]:
    """Ask every host for the state of everything, and what closing any library would do."""
    both = {host: hosts.ask(host, subject, [ALL, PLANS]) for host in HOSTS}
    return {host: replies[0] for host, replies in both.items()}, {host: replies[1] for host, replies in both.items()}


def look(hosts: Hosts, folder: Path, name: str, run_name: str) -> list[str]:
    """Ask all hosts about a process at each stop, about gdb's core of it, and that core cut as the kernel does."""
    fixture, run = named(name, run_name)
    program_folder = build(fixture)
    program = program_folder / fixture.program
    found = []
    core, cut = folder / "gdb.core", folder / "cut.core"
    with at_stops(fixture, run, program_folder) as stops:
        seen = []
        for pid, stop in stops:
            seen.append(stop)
            where = f"{name} ({run_name}) stop {stop}"
            smaps = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="surrogateescape")
            subject = Subject(pid=pid, program=program)
            live, plans = ask_all_with_plans(hosts, subject)
            found += compare(plans, f"{where}, plans, live")
            core.unlink(missing_ok=True)
            hosts.ask(GDB, subject, (), core)
            again = hosts.ask(SHELL, subject, [ALL])[0]
            found += compare({SHELL: live[SHELL], "the shell once more": again}, where)
            found += compare(live, f"{where}, live")
            found += unexpected(live, fixture, run, stop, "live", thread_names=True)
            dumped, plans = ask_all_with_plans(hosts, Subject(core=core, program=program))
            found += compare(plans, f"{where}, plans, core", thread_names=False)
            found += compare(dumped, f"{where}, core", thread_names=False)
            found += unexpected(dumped, fixture, run, stop, "core", thread_names=False)
            both = {"live": live[SHELL], "core": dumped[SHELL]}
            found += compare(both, f"{where}, live and core", thread_names=False)
            as_kernel(core, smaps, cut)
            kernels = {"core": dumped[SHELL], **ask_all(hosts, Subject(core=cut))}
            found += compare(kernels, f"{where}, the kernel's core", thread_names=False)
    missing = [stop for stop in fixture.stops if stop not in (*seen, fixture.starti)]
    return found + ([f"{name} ({run_name}) never stopped at {missing}"] if missing else [])


@pytest.mark.parametrize(("name", "run"), SCENARIOS)
def test_same_answer(hosts: Hosts, tmp_path: Path, name: str, run: str) -> None:
    found = look(hosts, tmp_path, name, run)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("name", "run"),
    [each if each in SEVERAL else pytest.param(*each, marks=pytest.mark.matrix) for each in SCENARIOS],
)
def test_same_answer_without_debug_info(hosts_without_debug_info: Hosts, tmp_path: Path, name: str, run: str) -> None:
    found = look(hosts_without_debug_info, tmp_path, name, run)
    assert not found, "\n".join(["", *found])


def test_first_instruction(hosts: Hosts) -> None:
    fixture, run = named("starti", "plain")
    assert fixture.starti is not None
    program = build(fixture) / fixture.program
    replies = {}
    for host in HOSTS:
        with at_first_instruction(str(program), {}) as pid:
            replies[host] = hosts.ask(host, Subject(pid=pid, program=program), [ALL])[0]
    found = compare(replies, "at the first instruction")
    found += unexpected(replies, fixture, run, fixture.starti, "live", thread_names=True)
    assert not found, "\n".join(["", *found])


def quoted(host: str, library: str) -> str:
    """Quote a library's name as that host's users do."""
    if host == SHELL:
        return library
    return '"' + library.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(("name", "run"), [*SEVERAL, ("odd_names", "plain"), ("namespace", "plain")])
def test_one_library_and_text(hosts: Hosts, name: str, run: str) -> None:
    """What is asked by name is answered alike, and the words are the same too."""
    fixture, its_run = named(name, run)
    folder = build(fixture)
    found = []
    with at_stops(fixture, its_run, folder) as stops:
        for pid, stop in stops:
            libraries = libraries_at(fixture, run).get(str(stop), [])
            subject = Subject(pid=pid, program=folder / fixture.program)
            answers = {host: ask_about(hosts, host, subject, libraries) for host in HOSTS}
            for host, (documents, texts) in answers.items():
                reference, words = answers[SHELL]
                for index, document in enumerate(documents):
                    found += compare({SHELL: reference[index], host: document}, f"stop {stop} {libraries[index]!r}")
                for one, other in zip(map(without_numbers, words), map(without_numbers, texts)):
                    if one != other:
                        found.append(f"stop {stop}: text of {host}: {first_difference(other, one)}")
    assert not found, "\n".join(["", *found])


def without_numbers(reply: Reply) -> str:
    """Return the words without the debugger's own numbers of threads: gdb 16 does not give them in the LWPs' order."""
    return re.sub(r"thread \d+ \(LWP", "thread N (LWP", f"{reply.output.rstrip()}{reply.error}")


def ask_about(hosts: Hosts, host: str, subject: Subject, libraries: Sequence[str]) -> tuple[list[Reply], list[Reply]]:
    """Ask for the documents of single libraries, and for the texts of all and of each."""
    if host == SHELL:
        documents = [ask_shell(subject, ["dlstate", library, "--json"]) for library in libraries]
        texts = [ask_shell(subject, [command, library]) for library in libraries for command in ("dlstate", "dlplan")]
        return documents, [ask_shell(subject, ["dlstate"]), *texts]
    names = [quoted(host, library) for library in libraries]
    commands = [f"dlstate {name} --json" for name in names] + ["dlstate"]
    commands += [f"{command} {name}" for name in names for command in ("dlstate", "dlplan")]
    replies = hosts.ask(host, subject, commands)
    return replies[: len(names)], replies[len(names) :]


if kernel_writes_files():  # not a skip: where cores go to a program, there is nothing to install

    @pytest.mark.parametrize(("name", "run"), SEVERAL)
    def test_core_of_the_kernel(hosts: Hosts, tmp_path: Path, name: str, run: str) -> None:
        fixture, its_run = named(name, run)
        folder = build(fixture)
        found = []
        for stop in fixture.stops:
            where = tmp_path / str(stop)
            core = kernel_core(folder / fixture.program, run_environment(its_run, folder), stop, where)
            for subject in (Subject(core=core), Subject(core=core, program=folder / fixture.program)):
                replies = ask_all(hosts, subject)
                found += compare(replies, f"stop {stop}", thread_names=False)
                found += unexpected(replies, fixture, its_run, stop, f"stop {stop}", thread_names=False)
            core.unlink()
        assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(("name", "run"), [*SEVERAL, ("open_count", "plain"), ("dependency", "plain")])
def test_core_of_files_that_are_not_here(hosts: Hosts, tmp_path: Path, name: str, run: str) -> None:
    """Of a program and libraries that are gone the core alone gives the verdicts; with --sysroot, all there was."""
    fixture, its_run = named(name, run)
    folder = tmp_path / "elsewhere" / "deep"
    shutil.copytree(build(fixture), folder)
    core, cut = tmp_path / "gdb.core", tmp_path / "cut.core"
    sysroot = tmp_path / "sysroot"
    full, dumped = {}, {}
    with at_stops(fixture, its_run, folder) as stops:
        for pid, stop in stops:
            smaps = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="surrogateescape")
            copy_system_libraries(smaps, sysroot)
            subject = Subject(pid=pid, program=folder / fixture.program)
            full[stop] = hosts.ask(SHELL, subject, [ALL])[0]
            hosts.ask(GDB, subject, (), core)
            dumped[stop] = tmp_path / f"{stop}.core"
            as_kernel(core, smaps, dumped[stop])
            core.unlink()
    moved = sysroot / folder.relative_to("/")
    moved.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(moved)
    found = []
    for stop, cut in dumped.items():
        where = f"{name} ({run}) stop {stop}"
        replies = ask_all(hosts, Subject(core=cut))
        found += compare(replies, where, thread_names=False)
        found += [f"{where}: {each}" for each in contradictions(full[stop].document, replies[SHELL].document)]
        helped = ask_shell(Subject(core=cut), [*ALL.split()], ["--sysroot", str(sysroot)])
        both = {"live": full[stop], "--sysroot": helped}
        found += compare(both, where, thread_names=False)
    assert not found, "\n".join(["", *found])


def copy_system_libraries(smaps: str, sysroot: Path) -> None:
    """Copy the libraries of the system's that a process maps, with the links by which they are named."""
    for path in {line.split(None, 5)[5] for line in smaps.splitlines() if " /usr/lib" in line}:
        copy = sysroot / path[1:]
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    for name in ("lib", "lib64"):
        if not (sysroot / name).is_symlink():
            (sysroot / name).symlink_to(f"/usr/{name}")


def contradictions(whole: Json, partial: Json) -> Iterator[str]:
    """Say where an answer from less knowledge claims something else than the one from all of it."""
    if "error" in partial:
        yield partial["error"]
        return
    names = [(each["namespace"], each["name"], each["base"]) for each in whole["libraries"]]
    if names != [(each["namespace"], each["name"], each["base"]) for each in partial["libraries"]]:
        yield "another list of libraries"
        return
    for one, other in zip(whole["libraries"], partial["libraries"]):
        if other["held"] not in (one["held"], None):
            yield f"{one['name']}: held is {other['held']}, not {one['held']}"
        if other["fields"] != one["fields"]:
            yield f"{one['name']}: other fields"
        for key in ("soname", "build_id"):
            if other[key] not in (one[key], None):
                yield f"{one['name']}: {key} is {other[key]}, not {one[key]}"
        kinds = [hold["kind"] for hold in one["holds"]]
        if [hold["kind"] for hold in other["holds"]] != kinds:
            yield f"{one['name']}: {[hold['kind'] for hold in other['holds']]}, not {kinds}"
        for hold, claimed in zip(one["holds"], other["holds"]):
            for key in ("symbols", "chain"):
                if not set(claimed.get(key, ())) <= set(hold.get(key, ())):
                    yield f"{one['name']}: {key} {claimed[key]}, not {hold[key]}"
            if claimed.get("origin") not in (hold.get("origin"), "dlopen-flag-or-dlsym", None):
                yield f"{one['name']}: {hold['kind']} origin {claimed['origin']}, not {hold['origin']}"
