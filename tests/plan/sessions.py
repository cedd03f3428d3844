"""How is the driver told what to do, and what is predicted from outside before each close?"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dlwhy.common.errors import UnsupportedError
from dlwhy.common.linux.dumps.procfs import ProcTarget
from dlwhy.common.linux.loader.collector import mark
from dlwhy.common.linux.loader.rendezvous import Rendezvous
from dlwhy.common.linux.model import Library
from dlwhy.common.linux.plan import Planner
from dlwhy.common.linux.plan_model import Plan
from dlwhy.common.linux.state.examine import examine
from dlwhy.common.linux.state.process import GlibcProcess
from dlwhy.common.linux.state.verdict import GlibcExamination
from dlwhy.common.memory import Memory
from dlwhy.tests.hosts.gdbrun import UNWANTED

TIMEOUT = 60.0


class View(NamedTuple):
    """The loader's state as it was read once, with what is needed to predict closes of it."""

    examined: GlibcExamination
    planner: Planner

    def handles(self) -> list[int]:
        """List the handles that can be closed."""
        return [m.address for m in self.examined.process.graph.by_address.values() if self.planner.has_handle(m)]

    def libraries(self) -> list[Library]:
        """List what is loaded, without the proxies of the loader."""
        maps = self.examined.process.graph.by_address.values()
        return [self.examined.describe(m, identify=False) for m in maps if not m.is_proxy]

    def plan(self, handle: int) -> Plan:
        """Predict one close."""
        return self.planner.plan(self.examined.process.graph.by_address[handle])

    def with_nested(self, handle: int, nested: Sequence[int]) -> set[int]:
        """Mark once more as the collector does after its destructors have closed others; gives what is unloaded."""
        by_address = self.examined.process.graph.by_address
        counts = {handle: by_address[handle].l_direct_opencount - 1}
        for address in nested:
            other = by_address[address]
            if not other.nodelete:
                counts[address] = counts.get(address, other.l_direct_opencount) - 1
        process = self.examined.process
        namespace = process.namespaces[by_address[handle].l_ns]
        kept = mark(namespace, process.graph, process.rules, counts)
        return {m.address for m in namespace.maps if m.address not in kept and not m.is_proxy}


def look(target: ProcTarget) -> View:
    """Read the state of a process from outside."""

    def of_glibc(process: GlibcProcess) -> View:
        examined = GlibcExamination.of(process)
        return View(examined, Planner(examined))

    def of_musl(memory: Memory, start: Rendezvous) -> View:
        raise UnsupportedError(f"{memory.target.description} runs musl: {start.maps}")

    view, problems = examine(target, of_glibc, of_musl)
    assert problems == ()
    assert view.examined.process.problems == [], view.examined.process.problems
    return view


def mapped_at(pid: int) -> set[tuple[int, str]]:
    """List the start of each mapping of a process with its file."""
    found = set()
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        words = line.split(None, 5)
        if len(words) == 6:
            found.add((int(words[0].partition("-")[0], 16), words[5]))
    return found


class Session:
    """A driver in a folder with libraries."""

    def __init__(self, driver: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [str(driver)],
            cwd=folder,
            env={**environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.rest = b""
        self.read_until(".")
        self.target = ProcTarget(self.process.pid)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.target.close()
        self.process.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        return self.process.pid

    def finish(self) -> None:
        """Let the driver come to its end: it has nothing more to read."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def send(self, text: str) -> None:
        """Write to the driver."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def read_until(self, *ends: str) -> list[str]:
        """Read lines up to one that begins with one of these words."""
        assert self.process.stdout is not None
        lines: list[str] = []
        deadline = time.monotonic() + TIMEOUT
        while True:
            while b"\n" in self.rest:
                raw, _, self.rest = self.rest.partition(b"\n")
                lines.append(raw.decode())
                if lines[-1].startswith(ends):
                    return lines
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, left))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                what = "died" if ready else "hangs"
                raise RuntimeError(f"the driver {what} ({self.process.poll()}) after {lines}")
            self.rest += data

    def tell(self, command: str) -> list[str]:
        """Give a command and its answer."""
        self.send(command + "\n")
        return self.read_until(".")[:-1]


def clean_environment() -> dict[str, str]:
    """Give an environment in which nobody asks the loader for anything."""
    return {k: v for k, v in os.environ.items() if not k.startswith((*UNWANTED, "GLIBC_TUNABLES"))}
