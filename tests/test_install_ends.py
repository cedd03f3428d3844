"""How does install.py end where a part of the work cannot be done, or nobody takes what it says?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.setup import programs
from dlwhy.tests.installing import ROOT, content, run, tools_without_gdb

INSTALL = str(ROOT / "install.py")
FULL = "cannot write: No space left on device"


def end(environment: dict[str, str], stdout: Optional[str], *words: str) -> tuple[int, str]:
    """Run a Python program with a standard output that takes nothing; return its status and what it complains."""
    reader, writer = os.pipe()
    os.close(reader)
    target = writer if stdout is None else os.open(stdout, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, *words], env=environment, stdin=subprocess.DEVNULL, stdout=target, stderr=subprocess.PIPE
    )
    for number in {writer, target}:
        os.close(number)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("words", [["-h"], ["install", "-h"], ["uninstall"]])
def test_a_full_disk_is_said_as_dlwhy_says_it(environment: dict[str, str], words: list[str]) -> None:
    assert end(environment, "/dev/full", INSTALL, *words) == (3, f"install.py: {FULL}\n")
    assert end(environment, "/dev/full", str(ROOT), "-h") == (3, f"dlwhy: {FULL}\n")


def test_a_reader_that_has_gone_is_no_failure(environment: dict[str, str]) -> None:
    assert end(environment, None, INSTALL, "-h") == end(environment, None, str(ROOT), "-h") == (0, "")
    assert end(environment, None, INSTALL, "install") == (0, "")
    assert run(environment, "install") == "dlwhy is installed already: nothing to do\n"


def test_a_closed_output_is_no_failure(environment: dict[str, str], home: Path) -> None:
    for words in ("-h", "install", "uninstall"):
        line = f'exec "{sys.executable}" "{INSTALL}" {words} >&- 2>&-'
        assert subprocess.run(["sh", "-c", line], env=environment, stdin=subprocess.DEVNULL).returncode == 0
        assert (home / ".local/bin/dlwhy").exists() == (words == "install")


def make_unusable(path: Path, kind: str) -> None:
    """Put something that is no file, or not ours alone, in the place of an init file."""
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.write_text("# >>> dlwhy >>> written by install.py, which also removes it: python3 install.py uninstall\n")


@pytest.mark.parametrize(("kind", "reason"), [("FIFO", "not a regular file"), ("damaged", "is damaged: remove its")])
def test_every_part_is_tried(home: Path, environment: dict[str, str], kind: str, reason: str) -> None:
    for name in (".gdbinit", ".lldbinit"):
        make_unusable(home / name, kind)
    lines = run(environment, "install", status=1).splitlines()
    assert f"write the command {home}/.local/bin/dlwhy" in lines
    complaints = [line for line in lines if line.startswith("install.py: ")]
    assert [re.findall(r"/(\.\w+)", line) for line in complaints] == [[".gdbinit"], [".lldbinit"]]
    assert all(reason in line for line in complaints)
    assert not [line for line in lines if "nothing to do" in line or "dlwhy is installed" in line]
    again = run(environment, "install", status=1).splitlines()
    assert again == complaints
    assert "Usage: dlstate" in subprocess.check_output([home / ".local/bin/dlwhy", "help", "dlstate"], text=True)


def test_a_damaged_init_file_keeps_nothing_from_the_other_debugger(home: Path, environment: dict[str, str]) -> None:
    make_unusable(home / ".gdbinit", "damaged")
    said = run(environment, "install", status=1)
    assert "dlwhy is installed: start lldb" in said
    assert said.splitlines()[-1].startswith(f"install.py: the dlwhy block in {home}/.gdbinit is damaged")
    assert b"command script import" in (home / ".lldbinit").read_bytes()
    assert (home / ".local/bin/dlwhy").exists()
    assert "is damaged" in run(environment, "uninstall", status=1)
    assert sorted(content(home)) == [".gdbinit"], "what can be taken back is"


def test_without_a_debugger_the_shell_has_its_command(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    environment["PATH"] = tools_without_gdb(tmp_path / "bin")
    lines = run(environment, "install", status=1).splitlines()
    assert lines[-1] == "install.py: install with your package manager what Debian calls: gdb"
    assert (home / ".local/bin/dlwhy").exists()


def test_a_part_that_has_failed_is_not_taken_for_done(home: Path, environment: dict[str, str]) -> None:
    """The debuggers and the shell can share a Python, and so its folder of packages."""
    environment["PIP_FIND_LINKS"] = home.as_uri()
    lines = run(environment, "install", status=1).splitlines()
    assert not (home / ".gdbinit").exists()
    assert not (home / ".local/bin/dlwhy").exists()
    named = [line for line in lines if line.startswith("install ")]
    assert len(named) == len(set(named)) == len([line for line in lines if line.startswith("install.py: ")])


def test_an_unreadable_folder_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    (tmp_path / "link").symlink_to(closed)
    monkeypatch.setenv("PATH", f"{closed}:/usr/bin:{closed}/:{tmp_path}/link:{closed}")
    scandir = os.scandir

    def refuse(path: str) -> object:  # root may read any folder
        if os.path.realpath(path) == str(closed):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert programs.unreadable_folders() == [f"{closed}: Permission denied"]


def test_nothing_of_rustup_is_left_behind(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """To tell a server what there is, pip asks rustc; rustup's stand-in for it writes settings where there are none."""
    (tmp_path / "bin").mkdir()
    environment["PATH"] = f"{tmp_path}/bin:{environment['PATH']}"
    environment.pop("RUSTUP_HOME", None)
    rustc = tmp_path / "bin" / "rustc"
    log = tmp_path / "asked"
    rustc.write_text(
        f'#!/bin/sh\nfolder="${{RUSTUP_HOME:-$HOME/.rustup}}"; /bin/mkdir -p "$folder"; : > "$folder/settings.toml"\n'
        f'echo "$folder" >> {log}; echo "no default toolchain" >&2; exit 1\n'
    )
    rustc.chmod(0o755)
    run(environment, "install")
    run(environment, "demo")
    asked = log.read_text().splitlines()
    assert asked, "pip asks no more: then this can go"
    assert not [folder for folder in asked if os.path.exists(folder)]
    assert not (home / ".rustup").exists()
    (home / ".rustup").mkdir()
    run(environment, "demo")
    assert log.read_text().splitlines()[-1] == f"{home}/.rustup", "where the user's toolchains are, they count"
