"""Where does a Windows come from? Wine, CPython 3.9 for Windows, pykd, and with it Microsoft's own debugger engine.

All comes from the registries that apt and pip are configured with, and is put together once, below the cache folder:

- Debian: wine64, mingw, clang and lld (installed), and the pure-Python library of CPython 3.9 (extracted).
- PyPI: pykd, whose wheel holds dbgeng, dbghelp and msdia140; panda3d, whose wheel holds the official python39.dll
  and extension modules; pytest and what our package and its tests import.
- ``native/``: python.exe, a debugger's prompt, the bootstrapper's ``!py``, and an mscoree.dll, in C.

Nothing of Wine outlives the test sessions that use it: its services end with the last of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from dlwhy.common.setup.pip import read_lock
from dlwhy.common.setup.programs import isolated
from dlwhy.tests.hosts.build import cache_folder
from dlwhy.tests.hosts.glibcs import locked, unpack

NATIVE = Path(__file__).resolve().parent / "native"
WINE = "/usr/lib/wine/wine64"
WINESERVER = "/usr/lib/wine/wineserver64"
TIMEOUT = 1200
IDLE_SECONDS = 300

STDLIB = ("libpython3.9-stdlib", "libpython3.9-minimal")
NOT_NEEDED = (
    *("test", "idlelib", "tkinter", "lib2to3", "ensurepip", "lib-dynload", "site-packages", "__pycache__"),
    "sitecustomize.py",  # a link to a file of Debian's
)
ENGINE = ("dbgeng", "dbghelp", "DbgModel", "msdia140", "symsrv", "srcsrv")
PROGRAMS = {
    "python.exe": ("python.c", "-municode"),
    "prompt.exe": ("prompt.c",),
    "mscoree.dll": ("mscoree.c", "-shared"),
    "bootstrapper.dll": ("bootstrapper.c", "-shared"),
}
COMPILER = ("x86_64-w64-mingw32-gcc", "-O1", "-s", "-Wall", "-Wextra", "-Werror", "-Wno-cast-function-type")

REGISTRY = (
    # Else Wine is a Windows 7.
    ("HKCU\\Software\\Wine", "Version", "win10"),
    # Else a crash waits for a debugger.
    ("HKLM\\Software\\Microsoft\\Windows NT\\CurrentVersion\\AeDebug", "Debugger", ""),
)
# explorer.exe would keep a run's pipes open for a second; the engine's DLLs are Microsoft's, where Wine has its own.
OVERRIDES = (
    "explorer.exe,winemenubuilder.exe,winedbg.exe,mshtml=d;dbghelp,dbgeng,dbgmodel,symsrv,srcsrv,msdia140,mscoree=n,b"
)
END_OF_ANSWER = "\4"


@dataclass(frozen=True)
class Outcome:
    """What a program printed, and its exit status."""

    output: str
    errors: str
    status: int


@dataclass(frozen=True)
class Lab:
    """A Windows with CPython 3.9, pykd and the debugger engine; ``python`` is the folder that holds them."""

    python: Path
    prefix: Path

    @property
    def bootstrapper(self) -> str:
        """Return the path of the extension that has ``!py``."""
        return windows_path(self.python / "bootstrapper.dll")

    def run(
        self,
        program: Path,
        *arguments: str,
        typed: str = "",
        symbols: Optional[Path] = None,
        folder: Optional[Path] = None,
        variables: Optional[Mapping[str, str]] = None,
    ) -> Outcome:
        """Run a Windows program, ``typed`` into it; the engine takes PDBs from the folder ``symbols``."""
        environment = {
            **self.environment,
            # Without any the engine takes Microsoft's symbol server.
            "_NT_SYMBOL_PATH": windows_path(symbols or self.python / "symbols"),
            **(variables or {}),
        }
        # Pipes, all three: under Wine 8 CPython dies of a regular file or /dev/null as a standard stream.
        run = subprocess.run(
            [WINE, str(program), *arguments],
            input=typed.encode(),
            capture_output=True,
            check=False,
            timeout=TIMEOUT,
            cwd=folder,
            env=environment,
        )
        output, errors = (text.decode(errors="replace").replace("\r\n", "\n") for text in (run.stdout, run.stderr))
        return Outcome(output, errors, run.returncode)

    @property
    def environment(self) -> dict[str, str]:
        """Return what a program under Wine needs; PYTHONHOME and the like are for Linux's Pythons."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {
            **inherited,
            "WINEPREFIX": str(self.prefix),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": OVERRIDES,
            "PYTHONNOUSERSITE": "1",
            "PYTHONIOENCODING": "utf-8",
        }

    def run_python(
        self,
        *arguments: str,
        symbols: Optional[Path] = None,
        folder: Optional[Path] = None,
        variables: Optional[Mapping[str, str]] = None,
    ) -> Outcome:
        """Run the Windows CPython 3.9 with these words."""
        return self.run(self.python / "python.exe", *arguments, symbols=symbols, folder=folder, variables=variables)

    def run_prompt(
        self,
        subject: Sequence[str],
        commands: Sequence[str],
        symbols: Optional[Path] = None,
        folder: Optional[Path] = None,
    ) -> list[str]:
        """Type commands at the prompt of the real engine and return what each printed.

        ``subject`` is what is opened, with Windows' paths: ``-z DUMP``, ``-o PROGRAM`` or ``-p PID``.

        :raises AssertionError: if it cannot be opened or the prompt dies.
        """
        typed = "".join(f"{command}\n" for command in commands)
        outcome = self.run(self.python / "prompt.exe", *subject, typed=typed, symbols=symbols, folder=folder)
        assert outcome.status == 0, f"the prompt ended with {outcome.status}: {outcome.output}{outcome.errors}"
        answers = outcome.output.split(f"{END_OF_ANSWER}\n")
        # First comes what the engine says when it opens the subject; after the last mark there is nothing.
        return answers[1 : len(commands) + 1]


def windows_path(path: Path) -> str:
    """Return a path as Windows programs see it: Wine shows / as the drive Z:."""
    return "Z:" + str(path.absolute()).replace("/", "\\")


@contextmanager
def session() -> Iterator[Lab]:
    """Give the lab, put together if need be, with Wine's services running; they end with the last session."""
    python, prefix = prepare()
    lab = Lab(python, prefix)
    with (cache_folder() / "windows-sessions.lock").open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        _start_services(lab)
        try:
            yield lab
        finally:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another session needs them
            else:
                _run_quietly(lab.environment, WINESERVER, "-k")


def _start_services(lab: Lab) -> None:
    """Start Wine's server and services, so that no captured run does: its reader would wait for them to end."""
    _run_quietly(lab.environment, WINESERVER, f"-p{IDLE_SECONDS}")
    _run_quietly(lab.environment, WINE, "cmd.exe", "/c", "exit")


def _run_quietly(environment: Mapping[str, str], *words: str) -> None:
    null = subprocess.DEVNULL
    subprocess.run(words, stdin=null, stdout=null, stderr=null, check=False, timeout=TIMEOUT, env=environment)


def prepare() -> tuple[Path, Path]:
    """Put together what is missing; return the folders of Python and of Wine's prefix.

    :raises FileNotFoundError: if a Debian package is missing.
    """
    for needed in (WINE, WINESERVER, COMPILER[0]):
        if shutil.which(needed) is None:
            raise FileNotFoundError(f"{needed} is needed: python3 install.py test installs it")
    sources = b"".join(path.read_bytes() for path in sorted(NATIVE.iterdir()))
    recipe = (STDLIB, read_lock("windows").stamp, NOT_NEEDED, ENGINE, PROGRAMS, COMPILER)
    python = _made_once("windows-python", sources + repr(recipe).encode(), _make_python)
    version = subprocess.run([WINE, "--version"], capture_output=True, check=True).stdout
    prefix = _made_once("windows-prefix", version + repr(REGISTRY).encode(), _make_prefix)
    return python, prefix


def _made_once(name: str, content: bytes, make: Callable[[Path], None]) -> Path:
    """Return a folder that is named after what goes into it; made under a lock when it is not there."""
    digest = hashlib.sha256(content).hexdigest()[:12]
    folder = cache_folder() / f"{name}-{digest}"
    with locked(cache_folder() / f"{name}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=f"{name}-new-", dir=cache_folder()) as scratch:
                make(Path(scratch) / "made")
                (Path(scratch) / "made").rename(folder)
    return folder


def _make_python(folder: Path) -> None:
    """Put CPython 3.9, the packages, the engine and our own programs into a folder."""
    site = folder / "Lib" / "site-packages"
    site.mkdir(parents=True)
    (folder / "DLLs").mkdir()
    (folder / "symbols").mkdir()
    with tempfile.TemporaryDirectory(prefix="dlwhy-python-") as scratch:
        unpack("bullseye", Path(scratch, "tree"), "download", *STDLIB)
        library = Path(scratch, "tree", "usr", "lib", "python3.9")
        shutil.copytree(library, folder / "Lib", ignore=shutil.ignore_patterns(*NOT_NEEDED), dirs_exist_ok=True)
        _pip("download", "--dest", scratch, *read_lock("windows").words)
        wheels = set(Path(scratch).glob("*.whl"))
        (interpreter,) = Path(scratch).glob("panda3d-*.whl")
        _extract_interpreter(interpreter, folder)
        _pip("install", "--no-deps", "--no-compile", "--target", str(site), *map(str, wheels - {interpreter}))
    for name, (source, *options) in PROGRAMS.items():
        subprocess.run([*COMPILER, "-o", str(folder / name), str(NATIVE / source), *options], check=True)
    for name in ENGINE:
        (folder / f"{name}.dll").symlink_to(Path("Lib", "site-packages", "pykd", f"{name}.dll"))
    shutil.copy(folder / "mscoree.dll", site / "pykd")


def _pip(command: str, *words: str) -> None:
    """Run pip for the Windows CPython 3.9, for which the lock was made: pip would judge markers by its own Python."""
    selection = ["--only-binary=:all:", "--python-version=3.9", "--implementation=cp"]
    selection += ["--platform=win_amd64", "--platform=any"]
    pip = isolated("-m", "pip", command, "--quiet", "--disable-pip-version-check")
    run = subprocess.run([*pip, *selection, *words], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"pip {command} {' '.join(words)}:\n{run.stdout}{run.stderr}")


def _extract_interpreter(wheel: Path, folder: Path) -> None:
    """Take CPython's DLLs and extension modules out of the panda3d wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.rpartition("/")[2]
            if member.startswith("deploy_libs/") and name in ("python39.dll", "VCRUNTIME140.dll"):
                (folder / name).write_bytes(archive.read(member))
            elif member.startswith("deploy_libs/") and (name.endswith(".pyd") or name == "libffi-7.dll"):
                (folder / "DLLs" / name).write_bytes(archive.read(member))


def _make_prefix(folder: Path) -> None:
    """Make a prefix: Wine's C: drive and registry."""
    lab = Lab(folder, folder)
    _run_quietly(lab.environment, WINE, "wineboot.exe", "-i")
    for key, name, value in REGISTRY:
        _run_quietly(lab.environment, WINE, "reg.exe", "add", key, "/v", name, "/t", "REG_SZ", "/d", value, "/f")
    _run_quietly(lab.environment, WINESERVER, "-w")
    if not (folder / "system.reg").is_file():
        raise RuntimeError("wineboot made no prefix")
