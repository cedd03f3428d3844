"""Do demo, install, doctor and then our commands work on a bare Debian 13, and on 11 to sid (marker matrix)?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import pytest
from dlwhy.tests.hosts import glibcs
from dlwhy.tests.hosts.releases import RELEASES, SAMPLE, Machine, Release, machine
from dlwhy.tests.hosts.scenario import Json
from dlwhy.tests.support.naming import names_of

SEPARATE = [pytest.param(release, marks=pytest.mark.matrix) for release in RELEASES]
QUESTIONS = ("dlstate --json", "dlstate libowed.so --json", "dlplan libleak.so --json")
HELD = {"libleak.so": "open-count", "libunique.so": "nodelete", "libowed.so": "tls-destructors"}
DESTRUCTOR = "(anonymous namespace)::Connection::~Connection()"
VERSIONS = "import sys; print('embeds', '%d.%d' % sys.version_info[:2])"
FAILURE = re.compile(r"Traceback|a bug in dlwhy|Python Exception|^FAIL ", re.MULTILINE)


@pytest.fixture(scope="module", params=[SAMPLE, *SEPARATE], ids=lambda release: release.name)
def debian(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Return one machine after the other, on which dlwhy is installed."""
    release: Release = request.param
    with machine(release, tmp_path_factory.mktemp(f"debian-{release.name}")) as found:
        yield found


def documents(output: str) -> list[Json]:
    """Return the JSON documents in what a debugger or the shell printed."""
    assert not FAILURE.search(output), output
    parts = f"\n{output}".split('\n{\n  "schema"')[1:]
    return [json.JSONDecoder().raw_decode('{\n  "schema"' + part)[0] for part in parts]


def gdb(debian: Machine, *commands: str, about: Sequence[str] = ()) -> str:
    """Run commands in gdb, which reads the user's init file."""
    words = [word for command in commands for word in ("-ex", command)]
    return debian.run("gdb", "-batch", "-iex", "set pagination off", *words, *(about or [str(debian.program)]))


def lldb(debian: Machine, *commands: str, about: Sequence[str] = ()) -> str:
    """Run commands in LLDB, which reads the user's init file."""
    words = [word for command in commands for word in ("-o", command)]
    return debian.run("lldb", "--batch", *words, *(about or [str(debian.program)]), **debian.lldb)


def check_answers(state: Json, owed: Json, plan: Json) -> None:
    """Check what is said about the program at its stop."""
    ours = {each["name"]: each for each in state["libraries"] if each["name"] in {*HELD, "libclean.so"}}
    assert {name: each["holds"][0]["kind"] for name, each in ours.items()} == HELD
    assert all(each["held"] for each in ours.values())
    assert state["problems"] == owed["problems"] == plan["problems"] == []
    destructors = owed["libraries"][0]["holds"][0]["destructors"]
    names = [each["function"]["name"] for each in destructors]
    assert names == [DESTRUCTOR] * 2, "pyelftools and the demangler have given the names"
    threads = [each["thread"]["tid"] for each in destructors]
    assert threads == sorted(threads), "every host has the same order"
    assert (plan["outcome"], names_of(plan["unloads"])) == ("unloads", ["libleak.so"])


def check_trace(report: Json) -> None:
    """Check what was seen from main to the stop."""
    expected = {
        "opens": 5,
        "closes": 4,
        "closes_predicted_exactly": 4,
        "closes_that_unloaded": 1,
        "closes_that_kept": 2,
    }
    assert {name: report["totals"][name] for name in expected} == expected
    assert {each["name"]: each["open_count_now"] for each in report["library_totals"]} == {
        "libleak.so": 1,
        "libunique.so": 1,
        "libclean.so": 0,
        "libowed.so": 0,
    }
    assert report["problems"] == []


def test_demo(debian: Machine) -> None:
    _, table, owed, logged = debian.said["demo"].split("(gdb) dlstate")
    assert "libB.so" in table
    assert "libA.so" not in table
    assert "libB.so stays loaded: 1 pending TLS destructor." in owed
    assert "libA.so stays loaded: 1 pending TLS destructor." in logged


def test_install_and_doctor(debian: Machine) -> None:
    assert "dlwhy is installed: start gdb or lldb" in debian.said["install"]
    said = debian.said["doctor"]
    assert not FAILURE.search(said), said
    for line in (
        "gdb knows the command dlstate",
        "gdb can attach to your processes",
        r"lldb\S* knows the command dlstate",
        r"\S+/dlwhy runs dlwhy in the shell",
    ):
        assert re.search(f"^ok    {line}", said, re.MULTILINE), said


def test_in_gdb(debian: Machine) -> None:
    asked = ("break stop_here", "continue", "dltrace report --json", *QUESTIONS)
    report, *answers = documents(gdb(debian, "break main", "run", "dltrace start", *asked))
    check_trace(report)
    check_answers(*answers)


def test_in_lldb(debian: Machine) -> None:
    asked = ("breakpoint set --name stop_here", "process continue", "dltrace report --json", *QUESTIONS)
    begin = ("breakpoint set --name main", "process launch", "dltrace start")
    report, *answers = documents(lldb(debian, *begin, *asked))
    check_trace(report)
    check_answers(*answers)


def test_in_the_shell_attached_and_on_a_core(debian: Machine) -> None:
    core = debian.folder / "main.core"
    command = str(debian.home / ".local" / "bin" / "dlwhy")
    with debian.running() as pid:
        gdb(debian, f"generate-core-file {core}", about=["-p", str(pid)])
        for about in (("--pid", str(pid)), ("--core", str(core))):
            answers = [documents(debian.run(command, *about, *question.split())) for question in QUESTIONS]
            check_answers(*(document for (document,) in answers))
            text = debian.run(command, *about, "dlstate", "libleak.so")
            assert text.startswith("libleak.so stays loaded: opened once, not closed.\n")
        for option, value in (("-p", str(pid)), ("-c", str(core))):
            check_answers(*documents(lldb(debian, *QUESTIONS, about=[option, value])))
        check_answers(*documents(gdb(debian, *QUESTIONS, about=["-p", str(pid)])))
    check_answers(*documents(gdb(debian, *QUESTIONS, about=[str(debian.program), str(core)])))
    core.unlink()


def test_versions(debian: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    of_gdb = gdb(debian, "show version", f"python {VERSIONS}")
    of_lldb = lldb(debian, "version", f"script {VERSIONS}")
    pythons = {tuple(map(int, each)) for each in re.findall(r"^embeds (\d+)\.(\d+)", of_gdb + of_lldb, re.MULTILINE)}
    assert len(pythons) == 1
    (python,) = pythons
    assert python == debian.release.python or (not debian.release.is_final and python > debian.release.python)
    loader = glibcs.find_loader(debian.tree)
    assert loader is not None
    row = [f"Debian {debian.release.name}", *re.findall(r"^GNU gdb \(.*\) (\d+\.\d+)", of_gdb, re.MULTILINE)]
    row += re.findall(r"^lldb version (\S+)", of_lldb, re.MULTILINE)
    row += ["{}.{}".format(*python), "{}.{}".format(*glibcs.version_of(loader.with_name("libc.so.6")))]
    assert len(row) == 5, of_gdb + of_lldb
    with capsys.disabled():
        print(f"\n| {' | '.join(row)} |")
