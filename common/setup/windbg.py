"""Which parts of WinDbg and its Python are installed, does it load dlwhy, and how is it made to?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple, Optional

from ..commands.registry import commands_of
from ..errors import SetupError
from .changes import Changes
from .checks import Check
from .files import write_text
from .folders import ROOT, data_folder, home_folder
from .pip import prepare_dependencies
from .programs import output_of, this_python
from .report import dotted, say

WINDBG_ENTRY_SCRIPT = ROOT / "windbg_ext" / "dlwhy_windbg.py"
# The last version with a pykd wheel, and the first one that dlwhy supports.
WINDBG_PYTHON = (3, 9)
PYKD = "print('pykd is there')"


class WinDbg(NamedTuple):
    """What WinDbg needs to run dlwhy, None for missing parts: WinDbg, CPython with pykd, pykd's bootstrapper."""

    program: Optional[Path]
    python: Optional[Path]
    has_pykd: bool
    bootstrapper: Optional[Path]


def find_windbg() -> WinDbg:
    """Find WinDbg, CPython with pykd, and pykd's bootstrapper in the folders of their installers."""
    program_files = [Path(os.environ[name]) for name in ("ProgramFiles(x86)", "ProgramFiles") if os.environ.get(name)]
    kits = registry_values("SOFTWARE\\Microsoft\\Windows Kits\\Installed Roots", "WindowsDebuggersRoot10")
    kits += [folder / "Windows Kits" / "10" / "Debuggers" for folder in program_files]
    local = Path(os.environ.get("LOCALAPPDATA") or home_folder())
    programs = [folder / "x64" / "windbg.exe" for folder in kits]
    programs.append(local / "Microsoft" / "WindowsApps" / "WinDbgX.exe")
    extensions = [local / "DBG" / "EngineExtensions" / "pykd.dll"]
    extensions += [folder / "x64" / "winext" / "pykd.dll" for folder in kits]
    pythons = [path for path in windows_pythons() if path.exists()]
    with_pykd = [path for path in pythons if "pykd is there" in output_of([str(path), "-c", f"import pykd; {PYKD}"])]
    return WinDbg(
        next((path for path in programs if os.path.lexists(path)), None),
        next(iter(with_pykd + pythons), None),
        bool(with_pykd),
        next((path for path in extensions if path.exists()), None),
    )


def windows_pythons() -> list[Path]:
    """List the CPythons of the version that pykd needs: the running one, and all in the registry."""
    found = [Path(this_python())] if sys.version_info[:2] == WINDBG_PYTHON else []
    folders = registry_values(f"SOFTWARE\\Python\\PythonCore\\{dotted(WINDBG_PYTHON)}\\InstallPath", "")
    return found + [folder / "python.exe" for folder in folders]


def registry_values(key: str, name: str) -> list[Path]:
    """Read a value that is a path from the registry, the machine's and the user's; empty without one."""
    found: list[Path] = []
    if sys.platform == "win32":
        import winreg

        for root in (winreg.HKEY_LOCAL_MACHINE, winreg.HKEY_CURRENT_USER):
            try:
                with winreg.OpenKey(root, key) as opened:
                    found.append(Path(str(winreg.QueryValueEx(opened, name)[0])))
            except OSError:
                continue
    return found


def windbg_script() -> Path:
    """Return the path of the script that WinDbg runs when it starts."""
    return data_folder() / "dlwhy.wds"


def windbg_lines(bootstrapper: Path) -> str:
    """Build the script that loads the bootstrapper and defines an alias for each Windows command."""
    aliases = [f'aS !{name} !py -g "{WINDBG_ENTRY_SCRIPT}" {name}\n' for name in commands_of("windows")]
    return f".load {bootstrapper}\n" + "".join(aliases)


def install_into_windbg(changes: Changes) -> int:
    """Write WinDbg's script and fill the folder for its Python; print how to get missing parts."""
    found = find_windbg()
    if found.python is None or not found.has_pykd or found.bootstrapper is None:
        missing = [check for check in check_windbg_parts(found) if check.kind == "FAIL"]
        raise SetupError("; ".join(f"{check.what}: {check.remedy}" for check in missing))
    prepare_dependencies(changes, WINDBG_PYTHON)
    script, text = windbg_script(), windbg_lines(found.bootstrapper)
    if not script.exists() or script.read_text(encoding="utf-8") != text:
        changes.make(f"write {script}:\n{text}", write_text, script, text)
    if changes.count == 0:
        say("dlwhy is installed already: nothing to do")
    if found.program is None:
        say("note: no WinDbg was found; to have it: winget install Microsoft.WinDbg")
    program = (found.program or Path("WinDbgX.exe")).name
    say(f'start WinDbg so: {program} -c "$$><{script}", and type: !dllstate --help')
    return 0


def check_windbg_parts(found: WinDbg) -> list[Check]:
    """Return checks of WinDbg and its Python."""
    version = dotted(WINDBG_PYTHON)
    pip = f"{found.python or 'python'} -m pip install pykd"
    return [
        Check("ok", f"WinDbg is {found.program}")
        if found.program
        else Check("note", "no WinDbg was found", "winget install Microsoft.WinDbg; python with pykd opens dumps too"),
        Check("ok", f"CPython {version} is {found.python}")
        if found.python
        else Check("FAIL", f"no CPython {version} was found", "winget install Python.Python.3.9 (64 bits)"),
        Check("ok", "it has pykd") if found.has_pykd else Check("FAIL", f"no CPython {version} has pykd", pip),
        Check("ok", f"the bootstrapper of pykd is {found.bootstrapper}")
        if found.bootstrapper
        else Check(
            "FAIL",
            "the bootstrapper of pykd, pykd.dll, was not found",
            "put it into %LOCALAPPDATA%\\DBG\\EngineExtensions; it is pykd_ext, https://github.com/ivellioscolin/pykd",
        ),
    ]


def check_windbg() -> list[Check]:
    """Check what WinDbg needs, and that its script is ours."""
    found = find_windbg()
    checks = check_windbg_parts(found)
    script = windbg_script()
    if found.bootstrapper is None or not script.exists():
        return [*checks, Check("FAIL", f"there is no {script}", "install.py install")]
    if script.read_text(encoding="utf-8") != windbg_lines(found.bootstrapper):
        return [*checks, Check("FAIL", f"{script} loads another checkout", "install.py install")]
    return [*checks, Check("ok", f"{script} loads dlwhy into WinDbg")]
