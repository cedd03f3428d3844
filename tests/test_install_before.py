"""Does an installation that an older install.py made keep working, or does doctor say how to repair it?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from shlex import quote

import pytest
from dlwhy.common.setup import windbg
from dlwhy.tests.installing import ROOT, content, run

#: What install wrote when install.py was one file, and has written from the first on: written here as it was.
INIT_FILE = """\
# >>> dlwhy >>> written by install.py, which also removes it: python3 install.py uninstall (the file is ours)
{line}
# <<< dlwhy <<<
"""
GDB_LINE = "source {root}/gdb_ext/dlwhy_gdb.py"
LLDB_LINE = 'command script import "{root}/lldb_ext/dlwhy_lldb.py"'
COMMAND = """\
#!/bin/sh
# written by dlwhy's install.py, which also removes it: python3 install.py uninstall
exec {python} -IS {program} "$@"
"""
ALIAS = 'aS !dllshare !py -g "{root}/windbg_ext/dlwhy_windbg.py" dllshare\n'


@pytest.fixture
def old(home: Path, environment: dict[str, str]) -> dict[str, str]:
    """Make a home folder in which the older install.py has installed; return its environment."""
    run(environment, "install")
    packages = home / ".local/share/dlwhy"
    shutil.move(packages, home.parent / "packages")
    run(environment, "uninstall")
    assert content(home) == {}
    write(home, ROOT)
    shutil.move(home.parent / "packages", packages)
    return environment


def write(home: Path, root: Path) -> None:
    """Write what the older install.py wrote, for a checkout."""
    (home / ".gdbinit").write_text(INIT_FILE.format(line=GDB_LINE.format(root=root)))
    (home / ".lldbinit").write_text(INIT_FILE.format(line=LLDB_LINE.format(root=root)))
    command = home / ".local/bin/dlwhy"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(COMMAND.format(python=quote(sys.executable), program=quote(f"{root}/__main__.py")))
    command.chmod(0o755)


def test_it_works_and_is_taken_for_ours(home: Path, old: dict[str, str]) -> None:
    asked = subprocess.run(["gdb", "-batch", "-ex", "help dlstate"], env=old, capture_output=True, text=True)
    assert "Usage: dlstate" in asked.stdout, asked.stderr
    answer = subprocess.check_output([home / ".local/bin/dlwhy", "--pid", str(os.getpid()), "dlstate"], text=True)
    assert "libraries: " in answer
    assert "FAIL" not in run(old, "doctor")
    before = content(home)
    assert run(old, "install") == "dlwhy is installed already: nothing to do\n"
    assert content(home) == before
    run(old, "uninstall")
    assert content(home) == {}


def test_doctor_repairs_that_of_a_checkout_that_has_gone(home: Path, old: dict[str, str]) -> None:
    write(home, Path("/nowhere/dlwhy"))
    report = run(old, "doctor", status=1)
    remedy = "python3 install.py install"
    line = GDB_LINE.format(root="/nowhere/dlwhy")
    assert f"FAIL  {home}/.gdbinit loads another checkout ({line}): {remedy}" in report
    assert f"FAIL  {home}/.lldbinit loads another checkout (command script import" in report
    assert f"FAIL  {home}/.local/bin/dlwhy does not run this checkout: {remedy}" in report
    run(old, "install")
    assert "FAIL" not in run(old, "doctor")


def test_doctor_repairs_one_without_packages(home: Path, old: dict[str, str]) -> None:
    shutil.rmtree(home / ".local/share/dlwhy")
    report = run(old, "doctor", status=1)
    assert "FAIL  packages missing in gdb's Python (tabulate" in report
    assert "python3 install.py install" in report
    run(old, "install")
    assert "FAIL" not in run(old, "doctor")


def test_windbgs_aliases_run_what_they_ran() -> None:
    script = windbg.windbg_lines(Path("C:/pykd.dll"))
    assert script.startswith(".load C:/pykd.dll\n")
    assert ALIAS.format(root=ROOT) in script
    assert (ROOT / "windbg_ext" / "dlwhy_windbg.py").is_file()
