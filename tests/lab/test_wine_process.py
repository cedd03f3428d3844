"""What does the shell say of a Windows program that Wine runs on Linux: of the Linux side of its process?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from dlwhy.tests.hosts.debuggers import Subject, ask_shell
from dlwhy.tests.lab.windows import WINE, Lab

PROGRAM = "import sys; print('ready', flush=True); sys.stdin.readline()"


@pytest.fixture
def subject(lab: Lab) -> Iterator[Subject]:
    """Run a Windows program that waits."""
    words = [WINE, str(lab.python / "python.exe"), "-c", PROGRAM]
    pipe = subprocess.PIPE  # all three: see Lab.run
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=lab.environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        yield Subject(pid=process.pid)
        process.communicate(b"\n")
    assert process.returncode == 0


def test_the_linux_side_of_a_wine_process(subject: Subject) -> None:
    reply = ask_shell(subject, ["dlstate"])
    assert not reply.error
    assert "Wine runs this process: the Windows modules in it are loaded by Wine, and are not listed here." in (
        reply.output.splitlines()
    )
    document = ask_shell(subject, ["dlstate", "--json"]).document
    assert document["problems"] == []
    assert {"ntdll.so", "libc.so.6"} <= {each["name"] for each in document["libraries"]}


def test_a_windows_module_is_not_mistaken_for_a_library_of_linux(subject: Subject) -> None:
    reply = ask_shell(subject, ["dlstate", "kernel32.dll"])
    assert "Wine runs this process and loads Windows modules itself, unknown to glibc" in (reply.error or "")
