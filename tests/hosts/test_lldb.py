"""Do our commands behave in two generations of LLDB as LLDB's own do, and leave everything else as it was?"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import termios
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.chroots import packages
from dlwhy.tests.hosts.comparing import text_of
from dlwhy.tests.hosts.debuggers import LLDB_SCRIPT
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment
from dlwhy.tests.hosts.processes import started, stops_of
from dlwhy.tests.hosts.scenario import Json, fixtures

VERSIONS = pytest.mark.parametrize("version", [lldbs.OLD, lldbs.NEW])
LOAD = f'command script import "{LLDB_SCRIPT}"'
TIMEOUT = 120
LAYOUT_SOURCE = """
#include <stddef.h>
struct inner { char tag; long value; };
struct sample {
    char first;
    unsigned int low : 3, : 2, high : 5, wide : 20;
    struct inner inner;
    union { int number; struct { short one, two; }; };
    struct { int unnamed_type; } named;
    struct sample *next;
    int list[4];
    _Bool flag : 1;
};
struct sample object;
void stop_here(int number) { object.first = number; }
int main(void) { stop_here(1); return 0; }
"""


@dataclass(frozen=True)
class Run:
    """What an LLDB printed, and its exit status."""

    status: int
    output: str
    errors: str


def lldb(version: str, *commands: str, home: Path, extra: Mapping[str, str] | None = None, stdin: str = "") -> Run:
    """Run commands in batch mode, or those on standard input where there are any."""
    found = lldbs.get(version)
    words = [*found.command, "--no-lldbinit"]
    words += [] if stdin else ["--batch"]
    for command in commands:
        words += ["-o", command]
    environment = {**found.environment, "HOME": str(home), "XDG_DATA_HOME": str(home / "data"), **(extra or {})}
    done = subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env=clean_environment(environment),
        timeout=TIMEOUT,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def printed(run: Run, marker: str) -> str:
    """Return the rest of the line that a script printed after a marker."""
    lines = [line for line in run.output.splitlines() if line.startswith(f"{marker} ")]
    assert lines, f"{run.output}\n{run.errors}"
    return lines[-1][len(marker) + 1 :]


def documents(run: Run) -> list[Json]:
    """Return the JSON documents that were printed."""
    found = []
    for part in run.output.split('\n{\n  "schema"')[1:]:
        found.append(json.JSONDecoder().raw_decode('{\n  "schema"' + part)[0])
    return found


def at_stop(name: str, number: int) -> list[str]:
    """Return the commands that take a fixture to a stop."""
    program = build(fixtures()[name]) / fixtures()[name].program
    breakpoint_ = f'breakpoint set --name stop_here --condition "number == {number}"'
    return [f'target create "{program}"', breakpoint_, "process launch"]


def running(folder: Path, source: str) -> str:
    """Return the command that runs code of Python in LLDB, with the ``debugger``."""
    script = folder / "script.py"
    script.write_text("def __lldb_init_module(debugger, session):\n" + textwrap.indent(source, "    "))
    return f"command script import {script}"


def answering(folder: Path, source: str) -> str:
    """Return the command that lets dlstate be answered by code of Python, with the ``session``."""
    return running(
        folder,
        "from dlwhy.common.commands.dlstate import command\n"
        f"def answer(session, arguments):\n{textwrap.indent(source, '    ')}"
        "command.answer = answer\n",
    )


@VERSIONS
def test_help(tmp_path: Path, version: str) -> None:
    run = lldb(version, LOAD, "help dlstate", "help", home=tmp_path)
    assert run.status == 0
    assert "Usage: dlstate [-h] [-v] [--json]" in run.output
    assert "Explain why a shared library is still loaded." in run.output.rpartition("(lldb) help")[2]


@VERSIONS
def test_loading_leaves_the_module_path_alone(tmp_path: Path, version: str) -> None:
    copy = tmp_path / "a folder with spaces"
    for name in ("common", "lldb_ext"):
        shutil.copytree(ROOT / name, copy / name)
    shutil.copy(ROOT / "__init__.py", copy)
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / "entry.py").symlink_to(copy / "lldb_ext" / "dlwhy_lldb.py")
    site = tmp_path / "site"
    site.mkdir()
    (site / "dlwhy").symlink_to(copy)
    ask = "script import sys; print('PATH', sys.path, '@', sys.modules['dlwhy'].__file__)"
    entry = "lldb_ext/dlwhy_lldb.py"
    files = [copy / entry, copy / entry, tmp_path / "link" / entry, tmp_path / "entry.py"]
    before = printed(lldb(version, "script import sys; print('PATH', sys.path)", home=tmp_path), "PATH")
    for file in files:
        load = f'command script import "{file}"'
        run = lldb(version, load, load, ask, "dlstate", home=tmp_path)
        path, _, loaded = printed(run, "PATH").partition(" @ ")
        assert (path, Path(loaded).resolve()) == (before, copy / "__init__.py"), file
        assert run.errors.strip().splitlines()[-1].startswith("error: dlstate: no target"), run.errors
    installed = "command script import dlwhy.lldb_ext.dlwhy_lldb"
    extra = {"PYTHONPATH": ":".join(filter(None, [str(site), lldbs.get(version).environment.get("PYTHONPATH")]))}
    run = lldb(version, installed, installed, ask, "help dlstate", home=tmp_path, extra=extra)
    assert run.status == 0, run.errors
    assert printed(run, "PATH").endswith(f"{site}/dlwhy/__init__.py")


@VERSIONS
def test_the_session_is_left_as_it_was(tmp_path: Path, version: str) -> None:
    look = ["settings show", "thread list", "frame info", "script print('PATH', sys.path)", "breakpoint list"]
    marked = ["script print('BEGIN')", *look, "script print('END')"]
    select = ["script import sys", "thread select 2", "frame select 1"]
    commands = ["dlstate", "dlstate libdep.so -v", "dlstate --json"]
    # LLDB tells of the selected thread when it likes, mostly at once: not in the second list any more.
    at = [LOAD, *at_stop("tls_cpp", 1), *select]
    run = lldb(version, *at, *marked, *marked, *commands, *marked, home=tmp_path)
    assert run.status == 0, run.errors
    _, before, after = (part.partition("\nEND\n")[0] for part in run.output.split("\nBEGIN\n")[1:])
    assert len(before.splitlines()) > 100
    assert before == after


@VERSIONS
def test_exit_status_and_messages(tmp_path: Path, version: str) -> None:
    at = at_stop("dependency", 1)
    assert lldb(version, LOAD, *at, "dlstate", home=tmp_path).status == 0
    cases = [
        ([*at, "dlstate libnothing.so"], "error: dlstate: "),
        ([*at, "dlstate --nothing"], "error: dlstate: unrecognized arguments: --nothing; see help dlstate"),
        ([*at, 'dlstate "a'], "error: dlstate: No closing quotation"),
        (["dlstate"], "error: dlstate: no target: use target create"),
        ([at[0], "dlstate"], "error: dlstate: no process and no core: use run, process attach or target create --core"),
    ]
    for commands, message in cases:
        run = lldb(version, LOAD, *commands, "script print('went on')", home=tmp_path)
        assert message in run.errors, run.errors
        assert "Traceback" not in run.errors
        # In batch mode LLDB ends at a command that fails, and exits with 1.
        assert run.status == 1
        assert "\nwent on" not in run.output


@VERSIONS
def test_a_process_that_runs(tmp_path: Path, version: str) -> None:
    ask = running(
        tmp_path,
        "import lldb, time\n"
        "process = debugger.GetSelectedTarget().GetProcess()\n"
        "debugger.SetAsync(True)\n"
        "process.Continue()\n"
        "while process.GetState() != lldb.eStateRunning:\n"
        "    time.sleep(0.01)\n"
        "result = lldb.SBCommandReturnObject()\n"
        "debugger.GetCommandInterpreter().HandleCommand('dlstate', result)\n"
        "print('SAID', result.GetError())\n"
        "debugger.SetAsync(False)\n"
        "process.Kill()\n",
    )
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            attach = f"process attach --pid {process.pid}"
            run = lldb(version, LOAD, attach, ask, home=tmp_path)
        finally:
            process.kill()
    assert printed(run, "SAID") == "error: dlstate: the process is running: use process interrupt first"


@VERSIONS
def test_a_bug_is_no_success(tmp_path: Path, version: str) -> None:
    broken = answering(tmp_path, "raise RuntimeError('it is broken')\n")
    run = lldb(version, LOAD, broken, *at_stop("dependency", 1), "dlstate", home=tmp_path)
    assert run.status == 1
    assert "error: dlstate: a bug in dlwhy:" in run.errors
    assert "RuntimeError: it is broken" in run.errors


@VERSIONS
def test_expressions(tmp_path: Path, version: str) -> None:
    words = ["main", "$pc", "stop_here", "&stop_here", "&environ", "(long)$sp", "libdep.so"]
    asked = [f"dlstate '{word}' --json" for word in words]
    run = lldb(version, LOAD, *at_stop("tls_cpp", 1)[:-1], "process launch", *asked[1:4], asked[6], home=tmp_path)
    names = [document["libraries"][0]["name"] for document in documents(run)]
    assert names == ["main", "main", "main", "libdep.so"], run.errors
    run = lldb(version, LOAD, *at_stop("tls_cpp", 1), "dlstate no_such_symbol", home=tmp_path)
    assert "dlstate: " in run.errors
    assert "no_such_symbol" in run.errors


@VERSIONS
def test_started_by_lldb_as_seen_by_the_shell(tmp_path: Path, version: str) -> None:
    """While LLDB has the process stopped, the shell reads the same; neither has pyelftools, so no local names."""
    ask_beside = running(
        tmp_path,
        "import subprocess\n"
        "pid = debugger.GetSelectedTarget().GetProcess().GetProcessID()\n"
        f"command = ['/usr/bin/python3', {str(ROOT)!r}, '--pid', str(pid), 'dlstate', '--json']\n"
        f"print(subprocess.run(command, capture_output=True, text=True, env={{'HOME': {str(tmp_path)!r}}}).stdout)\n",
    )
    at = at_stop("tls_cpp", 2)
    run = lldb(version, LOAD, *at, "dlstate --json", ask_beside, home=tmp_path)
    inside, beside = documents(run)
    assert inside["target"]["kind"] == beside["target"]["kind"] == "live"
    assert text_of(inside) == text_of(beside)


@VERSIONS
def test_remote(tmp_path: Path, version: str) -> None:
    """What a server runs is no process of this machine, even where it is one: nothing in /proc is looked at."""
    program = build(fixtures()["relocation"]) / "main"
    port = free_port()
    found = lldbs.get(version)
    server_program = Path(found.command[0]).resolve().with_name("lldb-server")
    command = [str(server_program), "gdbserver", f"127.0.0.1:{port}", "--", str(program)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(found.environment),
    ) as server:
        try:
            wait_for_listener(port, server)
            connect = [f"target create {program}", "breakpoint set --name stop_here", f"gdb-remote 127.0.0.1:{port}"]
            run = lldb(version, LOAD, *connect, "process continue", "dlstate --json", home=tmp_path)
        finally:
            server.kill()
    assert documents(run), f"{run.output}{run.errors}"
    (document,) = documents(run)
    assert document["target"]["kind"] == "remote"
    assert document["problems"] == []
    assert "libc.so.6" in [each["name"] for each in document["libraries"]]


def wait_for_listener(port: int, server: subprocess.Popen[bytes]) -> None:
    """Wait until a port of this machine is listened on; a connection would use the server's only one up."""
    wanted = f":{port:04X} "
    deadline = time.monotonic() + 20
    while wanted not in Path("/proc/net/tcp").read_text(encoding="ascii"):
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.01)


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_minidump(tmp_path: Path) -> None:
    """A minidump of a Linux process, as Breakpad writes them too, is no process of this machine."""
    dump = tmp_path / "small.dmp"
    save = f"process save-core --plugin-name=minidump --style=full {dump}"
    run = lldb(lldbs.NEW, LOAD, *at_stop("relocation", 2), "dlstate --json", save, home=tmp_path)
    (live,) = documents(run)
    for version in (lldbs.OLD, lldbs.NEW):
        run = lldb(version, LOAD, f"target create --core {dump}", "dlstate --json", home=tmp_path)
        (document,) = documents(run)
        assert document["target"]["kind"] == "dump"
        names = [(each["name"], each["held"]) for each in document["libraries"]]
        assert names == [(each["name"], each["held"]) for each in live["libraries"]]


def test_names_are_completed(tmp_path: Path) -> None:
    """LLDB 14 completes no arguments of script commands."""
    complete = running(
        tmp_path,
        "import lldb\n"
        "found = lldb.SBStringList()\n"
        "debugger.GetCommandInterpreter().HandleCompletion('dlstate libd', 12, 0, -1, found)\n"
        "print('COMPLETED', [found.GetStringAtIndex(i) for i in range(found.GetSize())])\n",
    )
    run = lldb(lldbs.NEW, LOAD, *at_stop("tls_cpp", 1), complete, home=tmp_path)
    assert "libdep.so" in printed(run, "COMPLETED")


def test_an_empty_line_does_not_repeat(tmp_path: Path) -> None:
    """LLDB 14 repeats every script command."""
    synchronous = "script lldb.debugger.SetAsync(False)"
    at = "\n".join([synchronous, LOAD, *at_stop("dependency", 1), "dlstate", "", "", "quit"])
    run = lldb(lldbs.NEW, home=tmp_path, stdin=f"{at}\n")
    assert run.output.count("stay loaded") == 1


def test_interrupt(tmp_path: Path) -> None:
    """^C ends a command that reads memory; LLDB 14 does not deliver it to a script."""
    endless = answering(
        tmp_path,
        "print('IT', 'BEGINS', flush=True)\nwhile True:\n    session.target.read(session.target.auxv()[3], 8)\n",
    )
    found = lldbs.get(lldbs.NEW)
    words = [*found.command, "--no-lldbinit", "-o", "script lldb.debugger.SetAsync(False)"]
    for command in [LOAD, *at_stop("dependency", 1), endless, "dlstate"]:
        words += ["-o", command]
    environment = clean_environment({**found.environment, "HOME": str(tmp_path)})
    shown = on_terminal(words, environment, {"IT BEGINS": "\x03", "dlstate: interrupted": "quit\ny\n"})
    assert "error: dlstate: interrupted" in shown


@VERSIONS
@pytest.mark.parametrize(
    ("extra", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_colour(tmp_path: Path, version: str, extra: dict[str, str], coloured: bool) -> None:
    found = lldbs.get(version)
    commands = [LOAD, *at_stop("dependency", 1), "script print('FROM')", "dlstate", "script print('TO')"]
    words = [*found.command, "--no-lldbinit", "--batch"]
    for command in commands:
        words += ["-o", command]
    python = printed(
        lldb(version, "script import sys; print('PYTHON', *sys.version_info[:2])", home=tmp_path), "PYTHON"
    )
    major, minor = map(int, python.split())
    own = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(packages((major, minor)))}
    output = on_terminal(words, clean_environment({**found.environment, **own, **extra}))
    text = output.rpartition("\r\nFROM\r\n")[2].partition("\r\nTO\r\n")[0]
    # LLDB's own remarks about debug information come first, in its own colours.
    assert ("\x1b[" in text[text.index("stay loaded") :]) is coloured


def on_terminal(words: Sequence[str], environment: dict[str, str], answers: Mapping[str, str] | None = None) -> str:
    """Run a command on a terminal of 100 columns; return what it shows. When a text is shown, its answer is typed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], list(words), environment)
    open_answers = dict(answers or {})
    shown = b""
    deadline = time.monotonic() + TIMEOUT
    try:
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # nobody has it open any more
                break
            shown += piece
            for text in [text for text in open_answers if text.encode() in shown]:
                os.write(terminal, open_answers.pop(text).encode())
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return shown.decode(errors="replace")


def test_debians_lldb_14_as_it_comes(tmp_path: Path) -> None:
    """It does not find its own modules: one line says what to do; where it does, there is nothing to say."""
    run = lldb(lldbs.OLD, LOAD, "help dlstate", home=tmp_path, extra={"PYTHONPATH": ""})
    found = lldbs.get(lldbs.OLD)
    remedy = f"PYTHONPATH={found.environment.get('PYTHONPATH')} {Path(found.command[0]).name}"
    assert remedy in run.errors or "Usage: dlstate" in run.output


@VERSIONS
def test_layouts_are_those_of_gdb(tmp_path: Path, version: str) -> None:
    (tmp_path / "sample.c").write_text(LAYOUT_SOURCE)
    program = tmp_path / "sample"
    subprocess.run(["gcc", "-g", "-Wl,--build-id", "-o", program, tmp_path / "sample.c"], check=True)
    ask = (
        "import sys, json\n"
        "layout = {target}.find_layout('sample', Module('sample', 0, '{build_id}'))\n"
        "none = {target}.find_layout('sample', Module('sample', 0, '00'))\n"
        "print('LAYOUT', json.dumps([layout.size, sorted(layout.fields.items()), none]))\n"
    )
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True).stdout
    build_id = notes.partition("Build ID: ")[2].split()[0]
    (tmp_path / "in_gdb.py").write_text(
        "from dlwhy.gdb_ext.target import selected_target\nfrom dlwhy.common.model import Module\n"
        + ask.format(target="selected_target()", build_id=build_id)
    )
    in_lldb = running(
        tmp_path,
        "from dlwhy.lldb_ext.target import LldbTarget\nfrom dlwhy.common.model import Module\n"
        + ask.format(target="LldbTarget(debugger.GetSelectedTarget())", build_id=build_id),
    )
    script = ROOT / "gdb_ext" / "dlwhy_gdb.py"
    words = ["gdb", "-nx", "-batch", "-ex", "break stop_here", "-ex", "run"]
    words += ["-x", str(script), "-x", str(tmp_path / "in_gdb.py"), str(program)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=clean_environment({}))
    expected = printed(Run(0, done.stdout, done.stderr), "LAYOUT")
    at = [f'target create "{program}"', "breakpoint set --name stop_here", "process launch"]
    run = lldb(version, LOAD, *at, in_lldb, home=tmp_path)
    assert json.loads(printed(run, "LAYOUT")) == json.loads(expected)
    assert json.loads(expected)[0] > 0


@VERSIONS
def test_a_core_whose_file_was_replaced(tmp_path: Path, version: str) -> None:
    """The file at a core's path is read only if it is the core that LLDB has open."""
    fixture = fixtures()["relocation"]
    program = build(fixture) / fixture.program
    cores = []
    with started([str(program)], {}) as process:
        for stop in stops_of(process):
            cores.append(tmp_path / f"{stop}.core")
            words = ["gdb", "-nx", "-batch", "-p", str(process.pid), "-ex", f"generate-core-file {cores[-1]}"]
            subprocess.run(words, check=True, capture_output=True, env=clean_environment({}))
    replace = f"script import os; os.rename({str(cores[1])!r}, {str(cores[0])!r})"
    open_it = [f"target create --core {cores[0]} {program}"]
    run = lldb(version, LOAD, *open_it, "dlstate --json", replace, "dlstate --json", home=tmp_path)
    first, second = documents(run)
    # Where no table lists this glibc, its version is known only with the libraries' files, which that core names.
    second["loader"]["version"] = second["loader"]["version"] or first["loader"]["version"]
    assert text_of(first, thread_names=False) == text_of(second, thread_names=False)
