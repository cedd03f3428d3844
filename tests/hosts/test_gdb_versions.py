"""Do our commands behave as gdb's own do, in the system's gdb, and in gdb 10 to the newest (marker matrix)?"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dlwhy.tests.hosts.chroots import SUITES, SYSTEM, Debugger, get
from dlwhy.tests.hosts.gdbrun import ROOT, SCRIPT, comparable, run_attached, run_cores, run_environment, run_live
from dlwhy.tests.hosts.processes import started, stops_of
from dlwhy.tests.hosts.runs import failures, named
from dlwhy.tests.hosts.scenario import Json, fixtures, scenarios

TIMEOUT = 60
OLD_AND_NEW = [pytest.param(name, marks=pytest.mark.matrix) for name in SUITES]
SCENARIOS = [(name, run) for name, run in scenarios() if not fixtures()[name].only_system]
PROMPT = re.compile(r"\(gdb\) \r?\n?\Z")
COLOUR = re.compile(r"\x1b\[[0-9;]*m|\\e\[|\\033\[")
FAILURE = re.compile(r"Traceback|Python Exception|executing Python|occurred in Python|KeyboardInterrupt")
STARTED = re.compile(r"[\r\n]started\r?\n")
READY = re.compile(r"[\r\n]ready\r?\n[^\0]*\(gdb\) \Z")
PAGER = re.compile(r"--Type <RET> for more")
QUIET = ("set debuginfod enabled off", "set auto-load safe-path /", "set confirm off", "set width 0")
STOPPED = ("file {}", "break stop_here if number == 2", "run")
NO_PROCESS = "dlstate: no process and no core: use run, attach, target remote or core-file first"
UNKNOWN = "dlstate: no loaded library matches 'libowde.so'; near: libowed.so"
DIGEST = """
import hashlib
def digest():
    result = hashlib.sha256()
    pid = gdb.selected_inferior().pid
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, access, _, _, _, *name = line.split()
            if access[0] == "r" and not (name and name[0].startswith(("[vvar", "[vsyscall"))):
                start, end = (int(each, 16) for each in span.split("-"))
                for address in range(start, end, 4096):
                    memory.seek(address)
                    try:
                        result.update(memory.read(4096))
                    except OSError:  # a guard page within a mapping, since Linux 6.13
                        result.update(b"none")
    return result.hexdigest()
"""
LONG = """
define long
    echo started\\n
    dlstate libowed.so -v
    dlstate --json
    echo the end\\n
end
"""

# What gdb until 13 says where the processor's state, that of AMX included, is larger than it knows.
NO_REGISTERS = "Couldn't write extended state status"


@pytest.fixture(scope="module", params=[SYSTEM, *OLD_AND_NEW])
def debugger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Debugger:
    """Return one gdb after the other."""
    return get(request.param, tmp_path_factory.getbasetemp() / f"gdb-{request.param}")


@pytest.fixture
def as_gdb(debugger: Debugger, monkeypatch: pytest.MonkeyPatch) -> Debugger:
    """Make this gdb the one that `gdb` stands for."""
    for name, value in debugger.variables().items():
        monkeypatch.setenv(name, value)
    return debugger


@pytest.fixture(scope="module")
def program(debugger: Debugger) -> Path:
    """Return a program with threads that owe libowed.so destructors."""
    return debugger.build("tls_cpp") / "main"


@pytest.fixture(scope="module")
def core(debugger: Debugger, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a core file of that program."""
    path = tmp_path_factory.mktemp("core") / "core-\u00e9"
    batch(debugger, *at_stop(program), f"generate-core-file {path}")
    yield path
    path.unlink()


def at_stop(program: Path) -> list[str]:
    """Return the commands that take a program to its second stop."""
    return [command.format(program) for command in STOPPED]


def batch(debugger: Debugger, *commands: str, **variables: str) -> list[str]:
    """Run commands in gdb without a terminal; return the output of each, errors included."""
    words = ["gdb", "-nx", "-batch", *(word for command in QUIET for word in ("-iex", command)), "-x", str(SCRIPT)]
    for command in commands:
        words += ["-ex", "echo \\n@@@\\n", "-ex", command]
    output = run(debugger, words, "", **variables)
    assert not FAILURE.search(output), output
    return [part.strip("\n") for part in output.split("\n@@@\n")[1:]]


def run(debugger: Debugger, words: list[str], commands: str, **variables: str) -> str:
    """Run gdb with commands on standard input; return its output."""
    process = subprocess.run(
        words,
        env=debugger.environment(**{"TERM": "xterm", **variables}),
        cwd=ROOT,
        input=commands,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return process.stdout


def mi(debugger: Debugger, *commands: str) -> list[str]:
    """Run commands in gdb's machine interface; return what it answers to each."""
    words = ["gdb", "-nx", "-quiet", "-i=mi3", *(word for command in QUIET for word in ("-iex", command))]
    lines = [f'-interpreter-exec console "source {SCRIPT}"', *commands, "-gdb-exit"]
    output = run(debugger, words, "".join(f"{line}\n" for line in lines))
    assert not FAILURE.search(output), output
    return re.split(r"(?m)^\(gdb\) \n", output)[2:]


class Terminal:
    """A gdb at a pseudo terminal of 200 columns and lines."""

    def __init__(self, debugger: Debugger, *arguments: str, **variables: str) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 200, 0, 0))
        quiet = [word for command in QUIET for word in ("-iex", command)]
        self._process = subprocess.Popen(
            ["setsid", "--ctty", "gdb", "-nx", "-quiet", *quiet, "-x", str(SCRIPT), *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            env=debugger.environment(**{"TERM": "xterm", **variables}),
            cwd=ROOT,
        )
        os.close(side)
        self.seen = ""

    def __enter__(self) -> Terminal:
        self.read(PROMPT)
        return self

    def __exit__(self, *_: object) -> None:
        """End gdb, and with it the program that it runs."""
        try:
            self.send("kill\nquit\n")
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        os.close(self._main)

    def send(self, text: str) -> None:
        os.write(self._main, text.encode())

    def read(self, until: re.Pattern[str]) -> str:
        """Read what gdb writes until it ends with a pattern."""
        text, end = "", time.monotonic() + TIMEOUT
        while not until.search(text):
            ready, _, _ = select.select([self._main], [], [], end - time.monotonic())
            assert ready, f"gdb did not write {until.pattern!r} but {text!r}"
            text += os.read(self._main, 65536).decode(errors="replace")
        self.seen += text
        assert not FAILURE.search(text), text
        return text.replace("\r\n", "\n")

    def ask(self, command: str, until: re.Pattern[str] = PROMPT) -> str:
        self.send(f"{command}\n")
        return self.read(until)


@pytest.fixture
def terminal(debugger: Debugger, program: Path) -> Iterator[Terminal]:
    """Return a gdb at a terminal, with the program at its stop."""
    arguments = [word for command in at_stop(program) for word in ("-ex", command)]
    with Terminal(debugger, *arguments) as opened:
        yield opened


def test_versions(debugger: Debugger) -> None:
    at_least = {"10": (10, 1), "16": (16, 3), "newest": (18, 1), SYSTEM: (10, 1)}[debugger.name]
    assert debugger.version >= at_least
    assert debugger.python >= (3, 9)
    print(debugger.name, debugger.version, debugger.python, debugger.glibc)


def test_commands(debugger: Debugger, program: Path) -> None:
    answers = batch(
        debugger,
        *at_stop(program),
        "dlstate",
        "info dlstate",
        "dlstate libowed.so",
        "info dlstate libowed.so",
        "dlstate libowed.so -v",
        "dlstate libowed.so --json",
        "dlstate $pc",
        "dlstate libowed.so --color=always",
        f"source {SCRIPT}",
        "dlstate",
        "kill",
        "dlstate",
    )[len(STOPPED) :]
    everything, info, text, info_text, verbose, document, by_address, coloured, _, again, _, gone = answers
    assert "libowed.so" in everything
    assert everything == info == again
    assert text == info_text
    assert text.startswith("libowed.so stays loaded: 4 pending TLS destructors.\n")
    assert text.splitlines()[:4] == verbose.splitlines()[:4]
    assert "l_tls_dtor_count = 4" in verbose
    assert [each["name"] for each in json.loads(document)["libraries"]] == ["libowed.so"]
    assert by_address.startswith("main stays loaded")
    assert COLOUR.sub("", coloured) == text
    assert COLOUR.search(coloured)
    assert not COLOUR.search("".join([everything, text, verbose, document]))
    assert gone == NO_PROCESS


def test_errors_are_one_line(debugger: Debugger, program: Path) -> None:
    wrong = ("dlstate libowde.so", "info dlstate libowde.so", "dlstate --bogus", "dlstate libowed.so --color=blue")
    without = batch(debugger, "dlstate", "info dlstate", "dlstate libowed.so", f"file {program}", "dlstate")
    assert [each for each in without if "dlstate" in each] == [NO_PROCESS] * 4
    answers = batch(debugger, *at_stop(program), *wrong)[len(STOPPED) :]
    assert [each.count("\n") for each in answers] == [0] * len(wrong)
    assert answers[0].startswith(UNKNOWN)
    assert answers[1] == answers[0]
    assert answers[2] == "dlstate: unrecognized arguments: --bogus; see help dlstate"
    assert answers[3].startswith("dlstate: argument --color: invalid choice: 'blue'")


def test_help(debugger: Debugger) -> None:
    text, info, asked, listed, found = batch(
        debugger,
        "help dlstate",
        "help info dlstate",
        "dlstate --help",
        "help status",
        "apropos shared library is still loaded",
    )
    assert text.startswith("Explain why a shared library is still loaded.\nUsage: dlstate [")
    assert all(option in text for option in ("--verbose", "--json", "--color", "LIBRARY"))
    assert info == asked == text
    assert "dlstate -- Explain why a shared library is still loaded" in listed
    assert found.count("Explain why a shared library is still loaded") == 2


def test_completion(debugger: Debugger, program: Path) -> None:
    completed = {
        "dlsta": ["dlstate"],
        "info dlsta": ["info dlstate"],
        "dlstate libow": ["dlstate libowed.so"],
        "info dlstate libow": ["info dlstate libowed.so"],
        "dlstate libstdc+": ["dlstate libstdc++.so.6"],
        "dlstate ld-linux-x8": ["dlstate ld-linux-x86-64.so.2"],
        "dlstate -v libde": ["dlstate -v libdep.so"],
        "dlstate nothing": [],
    }
    asked = [f"complete {start}" for start in completed]
    answers = batch(debugger, *asked, *at_stop(program), *asked)
    assert answers[2 : len(asked)] == [""] * (len(asked) - 2)
    assert [each.splitlines() for each in answers[-len(asked) :]] == list(completed.values())


def test_keeps_selection_and_memory(debugger: Debugger, program: Path, tmp_path: Path) -> None:
    script = tmp_path / "digest.py"
    script.write_text(DIGEST, encoding="ascii")
    looks = ("thread", "frame", "info registers", "show values", "python print(digest())")
    ours = ("dlstate", "dlstate libowed.so -v", "info dlstate libdep.so", "complete dlstate lib", "dlstate --json")
    source = f"python exec(open({str(script)!r}).read())"
    answers = batch(debugger, source, *at_stop(program), "thread 2", "frame 1", *looks, *ours, *looks)
    before, after = answers[-len(looks) * 2 - len(ours) : -len(looks) - len(ours)], answers[-len(looks) :]
    assert before == after
    assert before[0].startswith("[Current thread is 2 ")
    assert before[1].startswith("#1 ")
    assert re.fullmatch("[0-9a-f]{64}", before[4])


def own(answer: str) -> str:
    """Return an answer without gdb's warnings, which may come when it first reads a thread's registers."""
    return "".join(line for line in answer.splitlines(keepends=True) if not line.startswith("warning: "))


def test_core(debugger: Debugger, program: Path, core: Path) -> None:
    asked = ("thread 3", "frame 1", "thread", "frame", "dlstate libowed.so", "dlstate --json", "thread", "frame")
    answers = [own(answer) for answer in batch(debugger, f"file {program}", f"core-file {core}", *asked)[2:]]
    assert answers[2:4] == answers[6:8]
    assert answers[4].startswith("libowed.so stays loaded: 4 pending TLS destructors.\n")
    document = json.loads(answers[5])
    assert document["target"]["kind"] == "core"
    assert document["problems"] == []


def result_of(record: str) -> str:
    """Return the result record among those of a command."""
    found = [line for line in record.splitlines() if line.startswith("^")]
    assert len(found) == 1, record
    return found[0]


@pytest.mark.parametrize("kind", ["live", "core"])
def test_mi(debugger: Debugger, program: Path, core: Path, kind: str) -> None:
    load = f'-interpreter-exec console "core-file {core}"'
    start = [load] if kind == "core" else ["-break-insert -c number==2 stop_here", "-exec-run"]
    asked = ["-dlstate libowed.so", "-dlstate", "-dlstate libowde.so", "-dlstate --bogus", "-dlstate -v libdep.so"]
    typed = ["dlstate libowed.so", '-interpreter-exec console "dlstate libowed.so"', "dlstate --json"]
    answers = mi(debugger, "-dlstate", f"-file-exec-and-symbols {program}", *start, *asked, *typed)
    without, answers = result_of(answers[0]), answers[-len(asked) - len(typed) - 1 :]
    found, everything, unknown, wrong, _ = map(result_of, answers[: len(asked)])
    if debugger.version < (12, 0):
        assert without.startswith('^error,msg="Undefined MI command: dlstate"')
        assert found.startswith('^error,msg="Undefined MI command: dlstate"')
    else:
        assert without == f'^error,msg="{NO_PROCESS.partition(": ")[2]}"'
        assert found.startswith(f'^done,schema="dlwhy/1",command="dlstate",target={{kind="{kind}"')
        assert 'name="libowed.so"' in found
        assert 'kind="tls-destructors"' in found
        assert everything.count("soname=") > found.count("soname=") == 1
        assert unknown.startswith(f'^error,msg="{UNKNOWN.partition(": ")[2]}')
        assert wrong.startswith('^error,msg="unrecognized arguments: --bogus')
    for answer in answers[len(asked) : -2]:
        assert '~"libowed.so stays loaded: 4 pending TLS destructors.\\n' in answer
        assert not COLOUR.search(answer)
    assert f'\\"kind\\": \\"{kind}\\"' in answers[-2]


def test_mi_writes_all_names_with_dashes(debugger: Debugger, program: Path, core: Path) -> None:
    load = f'-interpreter-exec console "core-file {core}"'
    answers = mi(debugger, f"-file-exec-and-symbols {program}", load, "-dlplan libowed.so")
    plan = next(line for answer in answers for line in answer.splitlines() if "dlplan" in line)
    if debugger.version < (12, 0):
        assert plan.startswith('^error,msg="Undefined MI command: dlplan"')
    else:
        assert plan.startswith('^done,schema="dlwhy/1",command="dlplan"')
        assert ',open-count="' in plan
        assert re.search(r"[{,]\w*_\w*=", plan) is None


def test_mi_at_a_terminal(debugger: Debugger, program: Path) -> None:
    with Terminal(debugger, "-i=mi3") as terminal:
        for command in at_stop(program):
            text = terminal.ask(command)
        while "*stopped" not in text:
            text += terminal.read(PROMPT)
        answer = terminal.ask("dlstate libowed.so")
    assert "stays loaded: 4 pending TLS destructors." in answer
    assert not COLOUR.search(answer)


def test_no_colour_without_a_terminal(debugger: Debugger, program: Path) -> None:
    commands = "".join(f"{command}\n" for command in [*QUIET, f"source {SCRIPT}", *at_stop(program), "dlstate"])
    output = run(debugger, ["gdb", "-nx", "-quiet"], commands)
    assert "pending TLS destructors" in output
    assert not COLOUR.search(output)


def test_style(terminal: Terminal) -> None:
    assert COLOUR.search(terminal.ask("dlstate"))
    assert COLOUR.search(terminal.ask("dlstate libowed.so"))
    assert not COLOUR.search(terminal.ask("dlstate libowed.so --color=never"))
    assert not COLOUR.search(terminal.ask("dlstate libowed.so --json"))
    assert not COLOUR.search(terminal.ask("dlstate libowde.so"))
    terminal.ask("set style enabled off")
    assert not COLOUR.search(terminal.ask("dlstate"))
    terminal.ask("set style enabled on")
    assert COLOUR.search(terminal.ask("dlstate"))


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_environment_without_colour(debugger: Debugger, program: Path, core: Path, variables: dict[str, str]) -> None:
    with Terminal(debugger, "-ex", f"file {program}", "-ex", f"core-file {core}", **variables) as terminal:
        answer = terminal.ask("dlstate libowed.so")
    assert "stays loaded: 4 pending TLS destructors." in answer
    assert not COLOUR.search(answer)


def test_return_does_not_repeat(terminal: Terminal) -> None:
    assert "stays loaded" in COLOUR.sub("", terminal.ask("dlstate libowed.so"))
    assert "loaded" not in terminal.ask("")
    assert "libraries" in terminal.ask("info dlstate")
    assert "libraries" not in terminal.ask("")


def test_tabulator(terminal: Terminal) -> None:
    terminal.send("dlstate libow\t")
    assert "dlstate libowed.so" in terminal.read(re.compile(r"libowed\.so"))
    assert "stays loaded" in COLOUR.sub("", terminal.ask(""))


def test_pagination(terminal: Terminal) -> None:
    terminal.ask("set style enabled off")
    whole = terminal.ask("dlstate")
    terminal.ask("set pagination on")
    terminal.ask("set height 5")
    for command in ("dlstate", "dlstate libowed.so -v", "info dlstate", "dlstate --json"):
        shown = terminal.ask(command, PAGER)
        assert shown.count("\n") <= 6
        rest = terminal.ask("q")
        assert "pending" not in rest
    terminal.ask("dlstate", PAGER)
    terminal.send("\x03")
    assert "pending" not in terminal.read(PROMPT)
    shown = terminal.ask("dlstate", PAGER)
    shown += terminal.ask("c")
    kept = [line for line in whole.splitlines() if line.startswith(("lib", "ld-", "main"))]
    assert [line for line in shown.splitlines() if line in kept] == kept
    assert "State of pagination is on." in terminal.ask("show pagination")


def test_interrupt(terminal: Terminal, tmp_path: Path) -> None:
    """Press ^C ever later after the command began, until it came in its midst a few times."""
    script = tmp_path / "long.gdb"
    script.write_text(LONG, encoding="ascii")
    terminal.ask(f"source {script}")
    interrupted = 0
    for attempt in range(60):
        terminal.ask("long", STARTED)
        time.sleep(attempt % 15 / 1000)
        terminal.send("\x03")
        time.sleep(0.1)
        answer = terminal.ask("echo ready\\n", READY)
        interrupted += "Quit" in answer and "the end" not in answer
        if interrupted == 3:
            break
    assert interrupted == 3
    assert "stays loaded: 4 pending" in COLOUR.sub("", terminal.ask("dlstate libowed.so"))


def test_non_stop(debugger: Debugger, program: Path) -> None:
    answers = batch(debugger, "set non-stop on", *at_stop(program), "info threads", "dlstate libowed.so --json")
    assert answers[-2].count("(running)") == 2
    document = json.loads(answers[-1])
    threads = destructor_threads(document)
    assert len(threads) == 4
    assert set(threads) == {"worker-1", "worker-2"}


def destructor_threads(document: Json) -> list[str]:
    """Return the names of the threads that owe destructors."""
    holds = [hold for library in document["libraries"] for hold in library["holds"]]
    return [each["thread"]["name"] for hold in holds for each in hold.get("destructors", [])]


def test_several_inferiors(debugger: Debugger, program: Path, core: Path) -> None:
    other = debugger.build("relocation") / "main"
    commands = (
        *at_stop(program),
        "dlstate",
        f"add-inferior -exec {other}",
        "inferior 2",
        "dlstate",
        "run",
        "dlstate",
        "dlstate libowed.so",
        f"add-inferior -no-connection -exec {program}",
        "inferior 3",
        f"core-file {core}",
        "dlstate --json",
        "inferior 1",
        "dlstate",
        "kill inferiors 2",
        "inferior 1",
        "dlstate",
        "dlstate --json",
    )
    answers = [own(answer) for answer in batch(debugger, *commands)]
    first, nothing, second, unknown, of_core, first_again, first_alone, of_process = (
        answer for command, answer in zip(commands, answers) if command.startswith("dlstate")
    )
    assert "libowed.so" in first
    assert nothing == NO_PROCESS
    assert "libraries: " in second
    assert "libowed.so" not in second
    assert unknown.startswith("dlstate: no loaded library matches 'libowed.so'")
    assert first == first_again == first_alone
    assert json.loads(of_process)["target"]["kind"] == "live"
    document = json.loads(of_core)
    assert document["target"]["kind"] == "core"
    assert document["target"]["description"].endswith(core.name)
    assert document["problems"] == []


def test_checkpoints(debugger: Debugger) -> None:
    single = debugger.build("relocation") / "main"
    answers = batch(
        debugger,
        f"file {single}",
        "break stop_here",
        "run",
        "dlstate",
        "checkpoint",
        "continue",
        "dlstate",
        "restart 1",
        "dlstate",
        "dlstate --json",
        "restart 0",
        "dlstate",
    )
    if NO_REGISTERS in answers[4]:
        return  # gdb itself cannot take one on this processor, and ends at the next command about it
    earlier, later, restarted, document, back = (answers[index] for index in (3, 6, 8, 9, 11))
    assert earlier != later
    assert restarted == earlier
    assert back == later
    assert json.loads(document)["problems"] == []


@pytest.mark.parametrize(("name", "run_name"), SCENARIOS)
@pytest.mark.parametrize("debugger", OLD_AND_NEW, indirect=True)
def test_scenarios(as_gdb: Debugger, tmp_path: Path, name: str, run_name: str) -> None:
    fixture, its_run = named(name, run_name)
    folder = as_gdb.build(name)
    live = run_live(tmp_path / "live", folder, fixture, its_run)
    found = failures(live, name, run_name, glibc=as_gdb.glibc)
    cores = run_cores(tmp_path / "cores", folder, fixture, its_run, live.cores())
    found += failures(cores, name, run_name, glibc=as_gdb.glibc, thread_names=False)
    assert not found, "\n".join(["", *found])
    for stop in live.stops:
        assert comparable(cores.documents[stop]) == comparable(live.documents[stop]), f"stop {stop}"
        if "error" not in live.documents[stop]:
            assert live.documents[stop]["loader"]["version"].startswith("{}.{}".format(*as_gdb.glibc))


@pytest.mark.parametrize(("name", "run_name"), [("tls_cpp", "plain"), ("story", "rust"), ("namespace", "plain")])
@pytest.mark.parametrize("debugger", OLD_AND_NEW, indirect=True)
def test_gdbserver(as_gdb: Debugger, tmp_path: Path, name: str, run_name: str) -> None:
    fixture, its_run = named(name, run_name)
    answers = run_live(tmp_path / "remote", as_gdb.build(name), fixture, its_run, remote=True, cores="")
    found = failures(answers, name, run_name, glibc=as_gdb.glibc)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(("name", "run_name", "stop"), [("story", "rust", 2), ("tls_c", "plain", 2)])
@pytest.mark.parametrize("debugger", OLD_AND_NEW, indirect=True)
def test_attach(as_gdb: Debugger, tmp_path: Path, name: str, run_name: str, stop: int) -> None:
    fixture, its_run = named(name, run_name)
    folder = as_gdb.build(name)
    program = folder / fixture.program
    environment = {**as_gdb.variables(), **run_environment(its_run, folder)}
    with started(as_gdb.words(str(program)), environment) as process:
        assert stop in stops_of(process)
        answers = run_attached(tmp_path / "attached", fixture, its_run, stop, program, process.pid)
    found = [each for each in failures(answers, name, run_name, glibc=as_gdb.glibc) if "never stopped" not in each]
    assert not found, "\n".join(["", *found])
