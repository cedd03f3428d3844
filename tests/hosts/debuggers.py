"""What does a debugger answer, asked about one process or core after the other? One debugger process serves them all.

A new debugger for each question would cost most of the time; that one start after the other answers the same is left
to other tests.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.gdbrun import NO_DEBUG_INFO, ROOT, SCRIPT, clean_environment
from dlwhy.tests.hosts.scenario import Json

HERE = Path(__file__).resolve().parent
LLDB_SCRIPT = ROOT / "lldb_ext" / "dlwhy_lldb.py"
TIMEOUT = 120
GDB, LLDB_OLD, LLDB_NEW, SHELL = "gdb", f"lldb-{lldbs.OLD}", f"lldb-{lldbs.NEW}", "shell"
HOSTS = (SHELL, GDB, LLDB_OLD, LLDB_NEW)


@dataclass(frozen=True)
class Subject:
    """What is asked about: a process or a core, and the program's file where the debugger is told it."""

    pid: Optional[int] = None
    core: Optional[Path] = None
    program: Optional[Path] = None

    def request(self) -> dict[str, Any]:
        """Return it as a server takes it."""
        about: dict[str, Any] = {"pid": self.pid} if self.pid is not None else {"core": str(self.core)}
        return {**about, "program": str(self.program) if self.program else None}


@dataclass(frozen=True)
class Reply:
    """What a command printed, and what it failed with."""

    output: str = ""
    error: Optional[str] = None

    @property
    def document(self) -> Json:
        """Return the JSON document, or {"error": message}."""
        if self.error is not None:
            return {"error": self.error}
        # gdb's own warnings may stand before it.
        lines = self.output.splitlines(keepends=True)
        while lines and lines[0].startswith("warning: "):
            del lines[0]
        try:
            document = json.loads("".join(lines))
        except ValueError:
            return {"error": f"no JSON: {self.output[:2000]}"}
        return document if isinstance(document, dict) else {"error": f"no object: {self.output[:2000]}"}


class Server:
    """A debugger that answers, in a process of its own."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        theirs, self._requests = os.pipe()
        self._replies, answers = os.pipe()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=clean_environment({**environment, "DLWHY_SERVER": f"{theirs},{answers}"}),
                pass_fds=(theirs, answers),
                start_new_session=True,
            )
        os.close(theirs)
        os.close(answers)

    def ask(self, subject: Subject, commands: Sequence[str], save: Optional[Path] = None) -> list[Reply]:
        """Ask about a process or a core; ``save`` lets gdb write a core of the process."""
        request = {**subject.request(), "commands": list(commands), "save": str(save) if save else None}
        os.write(self._requests, json.dumps(request).encode() + b"\n")
        reply = json.loads(self._read_line())
        assert "failure" not in reply, f"{reply['failure']}\n{self.log()}"
        return [Reply(each.get("output", ""), _plain(each.get("error"))) for each in reply["replies"]]

    def _read_line(self) -> bytes:
        line = b""
        deadline = time.monotonic() + TIMEOUT
        while not line.endswith(b"\n"):
            ready = select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(self._replies, 1 << 20) if ready else b""
            assert piece, f"the debugger {'ended' if ready else 'does not answer'}:\n{self.log()}"
            line += piece
        return line

    def log(self) -> str:
        """Return the last of what the debugger wrote by itself."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def close(self) -> None:
        """End the debugger."""
        os.close(self._requests)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._replies)


def _plain(error: Optional[str]) -> Optional[str]:
    """Take away what LLDB puts before each error."""
    return None if error is None else error[len("error: ") :] if error.startswith("error: ") else error


def gdb_words(debug_info: bool) -> list[str]:
    """Return the command line of a gdb that serves."""
    words = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set auto-load safe-path /"]
    if not debug_info:
        words += ["-iex", NO_DEBUG_INFO]
    return [*words, "-x", str(SCRIPT), "-x", str(HERE / "gdb_server.py")]


def lldb_words(version: str, debug_info: bool) -> list[str]:
    """Return the command line of an LLDB that serves."""
    words = [*lldbs.get(version).command, "--no-lldbinit", "--batch"]
    commands = [f'command script import "{LLDB_SCRIPT}"', f'command script import "{HERE / "lldb_server.py"}"']
    if not debug_info:
        commands.insert(0, "settings set symbols.enable-external-lookup false")
    for command in commands:
        words += ["-o", command]
    return words


@dataclass
class Hosts:
    """All hosts; debuggers are started when they are first asked."""

    folder: Path
    debug_info: bool = True
    servers: dict[str, Server] = field(default_factory=dict)

    def ask(
        self, host: str, subject: Subject, commands: Sequence[str] = ("dlstate --json",), save: Optional[Path] = None
    ) -> list[Reply]:
        """Ask one host."""
        if host == SHELL:
            return [ask_shell(subject, command.split(" ")) for command in commands]
        if host not in self.servers:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.servers[host] = self._start(host)
        try:
            return self.servers[host].ask(subject, commands, save)
        except AssertionError:
            self.servers.pop(host).close()
            raise

    def _start(self, host: str) -> Server:
        log = self.folder / f"{host}-{self.debug_info}.log"
        if host == GDB:
            return Server(gdb_words(self.debug_info), {}, log)
        version = host.rpartition("-")[2]
        return Server(lldb_words(version, self.debug_info), lldbs.get(version).environment, log)

    def close(self) -> None:
        """End the debuggers."""
        for server in self.servers.values():
            server.close()
        self.servers.clear()


def ask_shell(subject: Subject, words: Sequence[str], options: Sequence[str] = ()) -> Reply:
    """Ask the shell command, as a user does."""
    about = ["--pid", str(subject.pid)] if subject.pid is not None else ["--core", str(subject.core)]
    done = subprocess.run(
        [sys.executable, str(ROOT), *about, *options, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        env=clean_environment({}),
        timeout=TIMEOUT,
    )
    if done.stdout:
        return Reply(done.stdout)
    return Reply(error=done.stderr.strip())
