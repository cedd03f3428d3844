"""How does a test run a program until it is ready, and tell it what to do?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional, Union

from dlwhy.tests.hosts.gdbrun import clean_environment

NONE: Mapping[str, str] = {}
#: The system's Python, which gdb embeds too: another one, built without its optimisations, takes a third more.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin") or sys.executable


@contextmanager
def running(
    words: Sequence[Union[str, Path]], environment: Mapping[str, str] = NONE, *, folder: Optional[Path] = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program until it has written "ready", and end it afterwards."""
    with subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=clean_environment(environment),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", f"{words[0]} did not get ready"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], text: str) -> str:
    """Write to a program; return the line that it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(text)
    process.stdin.flush()
    return process.stdout.readline().strip()


def output_of(words: Sequence[str], folder: Path, environment: Mapping[str, str] = NONE) -> str:
    """Run a command without input; return all that it wrote."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        cwd=folder,
        env=clean_environment(environment),
        timeout=120,
        check=False,
    )
    return done.stdout
