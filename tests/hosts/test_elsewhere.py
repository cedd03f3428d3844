"""Is a process of another glibc, mount namespace or pid namespace understood from outside?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.comparing import ask_all, compare, unexpected
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL, Hosts, Subject
from dlwhy.tests.hosts.gdbrun import run_environment
from dlwhy.tests.hosts.processes import started, stops_of
from dlwhy.tests.hosts.runs import named
from dlwhy.tests.support.namespaces import unshared, works

NO_GDB = tuple(host for host in HOSTS if host != GDB)
BOTH = pytest.mark.parametrize("asked", [NO_GDB, (SHELL, GDB)], ids=["shell-and-lldb", "gdb"])

OTHERS = pytest.mark.parametrize("glibc", ["2.31", "newest"])
BIND = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Return the hosts; no debug information of the system's fits another glibc."""
    made = Hosts(tmp_path_factory.mktemp("hosts"), debug_info=False)
    yield made
    made.close()


def look(
    hosts: Hosts,
    folder: Path,
    name: str,
    run_name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    version: tuple[int, int] = (99, 0),
    asked: Sequence[str] = HOSTS,
) -> list[str]:
    """Ask hosts about a process at each stop, and about its core."""
    fixture, run = named(name, run_name)
    found = []
    core = folder / "gdb.core"
    with started(command, environment) as process:
        for stop in stops_of(process):
            pid = innermost(process.pid)
            live = ask_all(hosts, Subject(pid=pid), asked=asked)
            core.unlink(missing_ok=True)
            hosts.ask(GDB, Subject(pid=pid), (), core)
            dumped = ask_all(hosts, Subject(core=core), asked=asked)
            found += compare(live, f"stop {stop}, live") + compare(dumped, f"stop {stop}, core", thread_names=False)
            found += compare({"live": live[SHELL], "core": dumped[SHELL]}, f"stop {stop}", thread_names=False)
            for what, replies, thread_names in (("live", live, True), ("core", dumped, False)):
                one = {SHELL: replies[SHELL]}
                found += unexpected(one, fixture, run, stop, what, thread_names=thread_names, version=version)
    return found


def innermost(pid: int) -> int:
    """Return the last of a process's descendants: the program that `unshare --fork` started, or the process itself."""
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        if not children:
            return pid
        pid = int(children[0])


@OTHERS
@pytest.mark.parametrize(("name", "run"), [("tls_c", "plain"), ("relocation", "plain"), ("startup", "plain")])
def test_another_glibc(hosts: Hosts, tmp_path: Path, name: str, run: str, glibc: str) -> None:
    fixture, its_run = named(name, run)
    found = glibcs.get(glibc)
    folder = build(fixture, found.toolchain)
    environment = found.environment(run_environment(its_run, folder))
    command = [str(folder / fixture.program)]
    differences = look(hosts, tmp_path, name, run, command, environment, found.version)
    assert not differences, "\n".join(["", *differences])


@OTHERS
@BOTH
def test_another_glibc_started_through_its_loader(
    hosts: Hosts, tmp_path: Path, glibc: str, asked: Sequence[str]
) -> None:
    """The kernel, and each debugger, take ld.so for the program."""
    fixture, its_run = named("relocation", "plain")
    found = glibcs.get(glibc)
    folder = build(fixture, found.toolchain)
    libraries = ":".join(map(str, found.libraries))
    command = [str(found.loader), "--library-path", libraries, str(folder / fixture.program)]
    environment = run_environment(its_run, folder)
    differences = look(hosts, tmp_path, "relocation", "plain", command, environment, found.version, asked)
    assert not differences, "\n".join(["", *differences])


if works(unshared("--mount")):  # not a skip: where it is forbidden, as in many containers, there is nothing to install

    @BOTH
    def test_another_mount_namespace(tmp_path: Path, asked: Sequence[str]) -> None:
        """The files are those that the process sees; outside, others stand at their paths."""
        fixture, run = named("tls_cpp", "plain")
        real, seen = tmp_path / "real", tmp_path / "seen"
        shutil.copytree(build(fixture), real)
        shutil.copytree(build(named("relocation", "plain")[0]), seen)
        program = seen / fixture.program
        command = [*unshared("--mount"), "/bin/sh", "-c", BIND, "sh", str(real), str(seen), str(program)]
        hosts = Hosts(tmp_path / "hosts")
        found = []
        try:
            with started(command, run_environment(run, seen)) as process:
                for stop in stops_of(process):
                    live = ask_all(hosts, Subject(pid=process.pid), asked=asked)
                    found += compare(live, f"stop {stop}")
                    found += unexpected(live, fixture, run, stop, "live", thread_names=True)
        finally:
            hosts.close()
        assert not found, "\n".join(["", *found])


if works(unshared("--pid", "--fork")):

    @pytest.mark.parametrize(
        ("name", "run"),
        [
            ("relocation", "plain"),
            ("tls_cpp", "plain"),
        ],
    )
    def test_another_pid_namespace(hosts: Hosts, tmp_path: Path, name: str, run: str) -> None:
        """The process's own ids are other ones than those by which it is known outside."""
        fixture, its_run = named(name, run)
        folder = build(fixture)
        command = [*unshared("--pid", "--fork", "--kill-child"), str(folder / fixture.program)]
        found = look(hosts, tmp_path, name, run, command, run_environment(its_run, folder))
        assert not found, "\n".join(["", *found])
