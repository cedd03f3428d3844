"""Does install.py on Windows find what WinDbg needs, or say how to get it, and does the script that it writes work?"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dlwhy.common.setup.pip import read_lock
from dlwhy.tests.lab.asking import ROOT
from dlwhy.tests.lab.windows import Lab, Outcome, windows_path
from dlwhy.tests.synth.windows import process, write

INSTALL = windows_path(ROOT / "install.py")


class Home:
    """A user's folders on Windows, with WinDbg and the bootstrapper of pykd where the tests put them."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab = lab
        self.local = folder / "Local Data"
        self.kits = folder / "Program Files"
        private = self.local / "dlwhy" / "python3.9"
        private.mkdir(parents=True)
        # As if pip had been here: the lab's Python has the packages itself.
        (private / "dlwhy-requirements.txt").write_bytes(read_lock("runtime").stamp.encode())

    @property
    def script(self) -> Path:
        return self.local / "dlwhy" / "dlwhy.wds"

    def add_bootstrapper(self) -> None:
        folder = self.local / "DBG" / "EngineExtensions"
        folder.mkdir(parents=True)
        shutil.copy(self._lab.python / "bootstrapper.dll", folder / "pykd.dll")

    def add_windbg(self) -> None:
        folder = self.kits / "Windows Kits" / "10" / "Debuggers" / "x64"
        folder.mkdir(parents=True)
        (folder / "windbg.exe").touch()

    def run(self, *words: str) -> Outcome:
        # Windows sets these variables itself when a program starts: a program of ours sets them anew.
        program = (
            "import os, runpy, sys;"
            f"os.environ['LOCALAPPDATA'] = {windows_path(self.local)!r};"
            f"os.environ['ProgramFiles(x86)'] = os.environ['ProgramFiles'] = {windows_path(self.kits)!r};"
            f"sys.argv[:] = [{INSTALL!r}, *sys.argv[1:]];"
            f"runpy.run_path({INSTALL!r}, run_name='__main__')"
        )
        return self._lab.run_python("-c", program, *words)


@pytest.fixture
def home(lab: Lab, tmp_path: Path) -> Home:
    return Home(lab, tmp_path)


def test_what_is_missing_is_said(home: Home) -> None:
    found = home.run("install")
    assert (found.output, found.status) == ("", 1)
    assert found.errors.startswith("install.py: the bootstrapper of pykd, pykd.dll, was not found: put it into ")
    assert not home.script.exists()


def test_a_dry_run_shows_the_script_and_writes_nothing(home: Home) -> None:
    home.add_bootstrapper()
    home.add_windbg()
    found = home.run("install", "--dry-run")
    assert found.status == 0, found
    assert found.output.startswith(f"would write {windows_path(home.script)}:\n.load ")
    assert f'aS !dllshare !py -g "{windows_path(ROOT)}\\windbg_ext\\dlwhy_windbg.py" dllshare\n' in found.output
    assert "start WinDbg so: windbg.exe -c " in found.output
    assert not home.script.exists()


def test_the_script_that_is_written_works(lab: Lab, home: Home, tmp_path: Path) -> None:
    home.add_bootstrapper()
    found = home.run("install")
    assert found.status == 0, found
    assert "note: no WinDbg was found" in found.output
    assert "nothing to do" in home.run("install").output
    dump = write(tmp_path, process().dump())
    typed = [f"$$><{windows_path(home.script)}", "!dllstate libA", "!dllshare --help"]
    _, state, share = lab.run_prompt(("-z", windows_path(dump)), typed)
    assert "libA.dll stays loaded" in state
    assert "Usage: dllshare" in share
    examined = home.run("doctor")
    assert examined.status == 0, examined
    assert f"{windows_path(home.script)} loads dlwhy into WinDbg" in examined.output
    assert home.run("uninstall").status == 0
    assert not home.script.exists()
    assert home.run("doctor").status == 1


def test_a_python_that_the_registry_knows(lab: Lab) -> None:
    program = f"""
import runpy, winreg
runpy.run_path({INSTALL!r})["_load_package"]({windows_path(ROOT)!r})
from dlwhy.common.setup.windbg import windows_pythons
key = "SOFTWARE\\\\Python\\\\PythonCore\\\\3.9\\\\InstallPath"
winreg.SetValue(winreg.HKEY_CURRENT_USER, key, winreg.REG_SZ, "C:\\\\Some Python\\\\")
try:
    print(*windows_pythons(), sep="|")
finally:
    winreg.DeleteKey(winreg.HKEY_CURRENT_USER, key)
"""
    found = lab.run_python("-c", program)
    assert found.output == f"{windows_path(lab.python / 'python.exe')}|C:\\Some Python\\python.exe\n", found


def test_no_program_of_the_current_folder_is_found(lab: Lab, tmp_path: Path) -> None:
    """Windows itself looks there first, and so does shutil.which."""
    (tmp_path / "pip.exe").write_bytes(b"MZ")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "tool.exe").write_bytes(b"MZ")
    program = f"""
import os, runpy, shutil
runpy.run_path({INSTALL!r})["_load_package"]({windows_path(ROOT)!r})
from dlwhy.common.setup.programs import find_program
os.environ["PATH"] = os.pathsep.join([".", "", {windows_path(tmp_path / "path")!r}])
print(shutil.which("pip"), find_program("pip"), find_program("tool"), sep="|")
"""
    found = lab.run_python("-c", program, folder=tmp_path)
    there, pip, tool = found.output.rstrip().lower().split("|")
    assert there.endswith("pip.exe"), found
    assert pip == "none"
    assert tool == windows_path(tmp_path / "path" / "tool.exe").lower()
