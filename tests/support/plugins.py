"""How are plugins built, and a program made to open and close them?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dlwhy
from dlwhy.common.linux.model import Library

HOST = Path(__file__).resolve().parent / "plugins.c"
RTLD_LAZY, RTLD_NOW, RTLD_GLOBAL, RTLD_NODELETE = 1, 2, 0x100, 0x1000


def build_plugin(folder: Path, name: str, source: str, *flags: str) -> None:
    """Build a library of C++, or of C where the name of its source is given as a flag `-xc`."""
    words = ["g++" if "-xc" not in flags else "gcc", "-g", "-O1", "-fPIC", "-shared", "-Wl,-rpath,$ORIGIN", "-L."]
    language = [] if "-xc" in flags else ["-xc++"]
    words += ["-o", name, f"-Wl,-soname,{name}", "-Wl,--no-as-needed"]
    before = [flag for flag in flags if not flag.startswith("-l")]
    after = [flag for flag in flags if flag.startswith("-l")]
    done = subprocess.run(
        [*words, *before, *language, "-", "-xnone", *after],
        input=source,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def build_host(folder: Path, *flags: str) -> None:
    """Build the program that opens plugins."""
    words = ["gcc", "-g", "-O1", "-o", "host", str(HOST), *flags, "-ldl", "-lpthread"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)


class Host:
    """The program, as it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, *lines: str) -> None:
        """Do what the lines say, one after the other."""
        for line in lines:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            assert self._read() == "done", line

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def verdict(self, name: str) -> Library:
        """Ask about one library."""
        with dlwhy.open(self._process.pid) as target:
            state: Any = target.state(name)
        (library,) = state.libraries
        assert isinstance(library, Library)
        return library

    def is_loaded(self, name: str) -> bool:
        """Look into the kernel's list of mappings."""
        maps = Path(f"/proc/{self._process.pid}/maps").read_text(encoding="utf-8")
        return any(line.endswith(f"/{name}") for line in maps.splitlines())


@contextmanager
def hosting(folder: Path, *lines: str) -> Iterator[Host]:
    """Run the program, and do what the lines say."""
    process = subprocess.Popen(
        ["./host"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        host = Host(process)
        assert host._read() == "ready"
        host.do(*lines)
        yield host
    finally:
        process.kill()
        process.communicate()
