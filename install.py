#!/usr/bin/env python3
"""Install, remove, examine, demonstrate or test dlwhy, straight from its checkout.

``install`` adds one marked block to gdb's init file, one to LLDB's, writes the shell's command dlwhy, and puts the
pure-Python packages that dlwhy uses into a private folder for each of their Pythons, by the hashes in requirements/.
On Windows it writes a script that WinDbg runs at its start.  No system Python and nothing else of the user's is
touched.  Nothing of the current folder is run: programs come from absolute folders of PATH and start in the checkout,
Pythons start isolated.  As root it works only where no other user can change what it reads, writes and runs.
"""

import sys

if sys.version_info < (3, 9):
    THIS_PYTHON = ".".join(map(str, sys.version_info[:2]))
    sys.exit("install.py: needs Python 3.9 or later, this is " + THIS_PYTHON + "; try python3.11 install.py")

import argparse
import errno
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Mapping, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent
ENTRY_SCRIPT = ROOT / "gdb_ext" / "dlwhy_gdb.py"
LLDB_ENTRY_SCRIPT = ROOT / "lldb_ext" / "dlwhy_lldb.py"
WINDBG_ENTRY_SCRIPT = ROOT / "windbg_ext" / "dlwhy_windbg.py"
# pykd's wheels end here, and our code begins here.
WINDBG_PYTHON = (3, 9)
OLDEST_PYTHON = (3, 9)

COMMAND_MARK = "# written by dlwhy's install.py, which also removes it: python3 install.py uninstall\n"
BLOCK_BEGIN = b"# >>> dlwhy >>> written by install.py, which also removes it: python3 install.py uninstall"
BLOCK_END = b"# <<< dlwhy <<<"
CREATED_FILE = b" (the file is ours)"
ADDED_LINE_END = b" (the line end above is ours)"
BLOCK = re.compile(
    b"^"
    + re.escape(BLOCK_BEGIN)
    + rb"(?P<note>[^\n]*)\n(?P<body>(?:[^\n]*\n)*?)"
    + re.escape(BLOCK_END)
    + rb"(?:\n|\Z)",
    re.MULTILINE,
)

# Debian package -> the command that shows that it is there, None: only dpkg can tell.  "a | b": the first that apt has,
# as releases of Debian differ, and either command.
INSTALL_PACKAGES = {"gdb": "gdb"}
DEMO_PACKAGES = {"gdb": "gdb", "g++": "g++", "libc6-dev": None}
TEST_PACKAGES = {
    "apache2-bin": "/usr/sbin/apache2",
    "bzip2": "bzip2",
    "clang": "clang",
    "elfutils": "eu-unstrip",
    "g++": "g++",
    "gcc": "gcc",
    "gcc-mingw-w64-x86-64-win32": "x86_64-w64-mingw32-gcc",
    "gdb": "gdb",
    "gdbserver": "gdbserver",
    "imagemagick-7.q16 | imagemagick-6.q16": "convert-im7.q16 | convert-im6.q16",
    "libc6-dbg": None,
    "libc6-dev": None,
    "lld": "lld-link",
    "lz4": "lz4",
    "make": "make",
    "mmdebstrap": "mmdebstrap",
    "musl-tools": "musl-gcc",
    "opencryptoki": "/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0",
    "perl": "perl",
    "python3": None,
    "wine64": "/usr/lib/wine/wine64",
    "xz-utils": "xz",
    "zlib1g-dev": None,
    "zstd": "zstd",
}
APT_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends", "--no-remove")
# Requirements whose module has another name.
MODULE_NAMES = {"pyelftools": "elftools"}


class Failure(Exception):
    """Say in one line what cannot be done, and the remedy."""


class Unusable(Failure):
    """Say why a debugger cannot load dlwhy; another one may."""


class Changes:
    """Carry out changes, each once, and name them; in a dry run only name them."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.count = 0
        self._named: set[str] = set()

    def make(self, what: str, action: Callable[..., object], *arguments: object) -> None:
        """Name the change ``what``, an imperative, and carry it out by ``action``."""
        if what in self._named:
            return
        self.count += 1
        self._named.add(what)
        say(f"would {what}" if self.dry_run else what)
        if not self.dry_run:
            action(*arguments)


class Gdb(NamedTuple):
    """The gdb on PATH: ``python`` is the version that it embeds, None without one."""

    path: str
    version: tuple[int, ...]
    python: Optional[tuple[int, ...]]


class Lldb(NamedTuple):
    """An LLDB on PATH: its Python works with ``variables`` in the environment, or fails with ``failure``."""

    path: str
    version: tuple[int, ...]
    python: Optional[tuple[int, ...]]
    variables: Mapping[str, str] = {}
    failure: str = ""


def say(text: str) -> None:
    """Print a line at once, so that it stands in order with the output of child processes."""
    print(text, flush=True)


def dotted(version: tuple[int, ...]) -> str:
    """Write a version as 3.11."""
    return ".".join(map(str, version))


def in_words(error: OSError) -> str:
    """Say what the system refused, and of which file."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


# Programs, and files that may be anything


def folders_on_path() -> list[str]:
    """List the folders in which programs are looked for: those of PATH that do not depend on the current folder."""
    return [folder for folder in os.get_exec_path() if os.path.isabs(folder)]


def find_program(name: str) -> Optional[str]:
    """Find a program on PATH, never in the current folder; shutil.which looks there first on Windows."""
    endings = [*os.environ.get("PATHEXT", ".EXE").split(os.pathsep), ""] if sys.platform == "win32" else [""]
    for folder in [""] if os.path.isabs(name) else folders_on_path():
        for ending in endings:
            path = os.path.join(folder, name + ending)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    return None


def unreadable_folders() -> list[str]:
    """List what on PATH cannot be looked into."""
    found = []
    for folder in folders_on_path():
        try:
            os.scandir(folder).close()
        except PermissionError as error:
            found.append(in_words(error))
        except OSError:
            continue  # PATH names it, and there is no such folder
    return found


def output_of(command: list[str], **variables: str) -> str:
    """Run a command without input and return what it prints, errors included; nothing if there is no such."""
    program = find_program(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, **variables},
        )
    except OSError as error:
        return in_words(error)
    except subprocess.TimeoutExpired as error:
        return f"{program} gave no answer in {error.timeout:g} seconds"
    return done.stdout.decode(errors="replace")


def run_or_fail(command: list[str], what: str) -> None:
    """Run a command quietly; when it fails, raise Failure with the end of its output."""
    program = find_program(command[0])
    if program is None:
        raise Failure(f"{what} failed: there is no {command[0]} on PATH")
    done = subprocess.run(
        [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
    )
    if done.returncode:
        raise Failure(f"{what} failed:\n{done.stdout.decode(errors='replace').strip()[-4000:]}")


def this_python() -> str:
    """Give the path of the Python that runs this; it can be started in ways that hide it."""
    if not os.path.isabs(sys.executable or ""):
        raise Failure("this Python does not know its own path: start it by that, as in /usr/bin/python3 install.py")
    return sys.executable


def isolated(*words: str) -> list[str]:
    """Compose a command for this Python that takes modules from Python's own folders only."""
    return [this_python(), "-I", *words]


def open_regular(path: Path, flags: int) -> int:
    """Open a file without waiting for anything and return the descriptor; Unusable is raised for what is no file."""
    irregular = Unusable(f"{path}: not a regular file: left alone")
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise irregular from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise irregular
    return descriptor


def read_file(path: Path) -> Optional[bytes]:
    """Read a regular file; None when there is nothing at its place."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def remove(path: Path) -> None:
    """Remove a folder with what it holds, or whatever else is there; nothing behind a symbolic link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


# Root in another user's folders


def refuse_folders_of_others() -> None:
    """Raise Failure when this is root and another user can change what is read, run or written here.

    Who may write to a folder can put links and programs in it at any moment, so no look at a file itself would do.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    for path in [*init_files(), *lldb_init_files(), command_path(), data_folder(), cache_folder()]:
        reason = find_other_hand(path)
        if reason:
            raise Failure(
                f"root does not work in folders of others, and {reason}: "
                "run this as the user whose they are, or with a HOME and XDG folders of root's own (sudo -H)"
            )


def find_other_hand(path: Path) -> str:
    """Say what lets another user than root decide what a path leads to; nothing when all on the way is root's."""
    at, rest, links = Path("/"), list(path.parts[1:]), 0
    while rest:
        step = at / rest.pop(0)
        try:
            found = os.lstat(step)
        except (FileNotFoundError, NotADirectoryError):
            return f"others may write to {at}" if is_writable_by_others(os.lstat(at)) else ""
        if found.st_uid != 0:
            return f"{step} belongs to the user with the uid {found.st_uid}"
        if stat.S_ISLNK(found.st_mode):
            target, links = Path(os.readlink(step)), links + 1
            if links > 40:
                return f"{step} leads nowhere"
            at = Path("/") if target.is_absolute() else at
            rest[:0] = [part for part in target.parts if part != "/"]
            continue
        at = at.parent if step.name == ".." else step
        # In a folder like /tmp what is there and root's stays; what a device is does not change.
        if is_writable_by_others(found) and not found.st_mode & stat.S_ISVTX:
            return f"others may write to {step}"
    return ""


def is_writable_by_others(found: os.stat_result) -> bool:
    """Return True if others than root may write to a file or add to a folder."""
    mode = found.st_mode
    written = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return written and bool(mode & stat.S_IWOTH or (mode & stat.S_IWGRP and found.st_gid != 0))


# System packages


def alternatives(text: str) -> list[str]:
    """List the names in ``a | b``."""
    return text.split(" | ")


def is_installed(package: str, command: Optional[str]) -> bool:
    """Tell whether a system package is there, by its command or by dpkg; assume it where neither can tell."""
    if command is not None and any(map(find_program, alternatives(command))):
        return True
    if find_program("dpkg-query") is None:
        return command is None
    asked = ["dpkg-query", "-W", "-f", "${db:Status-Status} ", *alternatives(package)]
    return "installed" in output_of(asked).split()


def require_packages(changes: Changes, packages: Mapping[str, Optional[str]]) -> None:
    """Install the missing system packages, or raise Failure with the command for it and what cannot be had."""
    missing = [package for package, command in packages.items() if not is_installed(package, command)]
    if not missing:
        return
    if find_program("apt-get") is None:
        raise Failure(f"install with your package manager what Debian calls: {', '.join(missing)}")
    is_root = os.geteuid() == 0
    if is_root:
        changes.make("update apt's lists of packages", apt, "update", "-q")
    names, refused = choose_packages(missing)
    texts = [f"apt cannot install {', '.join(refused)}"] if refused else []
    if names and is_root:
        changes.make(f"install the system packages {' '.join(names)}", apt_install, names)
    elif names:
        sudo, who = ("sudo ", "") if find_program("sudo") else ("", ", as root")
        texts[:0] = [f"run this first{who}: {sudo}apt-get update && {sudo}{' '.join([*APT_INSTALL, *names])}"]
    if texts:
        raise Failure("; ".join(texts))


def choose_packages(wanted: list[str]) -> tuple[list[str], list[str]]:
    """Choose the packages that apt can install together, one of each ``a | b``; list those that it cannot, too."""
    known = candidates([name for package in wanted for name in alternatives(package)])
    if not known:  # there are no lists yet
        return [alternatives(package)[0] for package in wanted], []
    names = [next((name for name in alternatives(package) if name in known), "") for package in wanted]
    refused = [package for package, name in zip(wanted, names) if not name]
    names = [name for name in names if name]
    if can_install(names):
        return names, refused
    together: list[str] = []
    for name in names:
        (together if can_install([*together, name]) else refused).append(name)
    return together, refused


def candidates(names: list[str]) -> set[str]:
    """Tell which of these packages apt can install, as far as its lists say."""
    # A name that apt does not know is a pattern to it: g++ then also brings git.
    policy = output_of(["apt-cache", "policy", *names], LC_ALL="C")
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)", policy, re.MULTILINE)
    return {name for name, version in found if version != "(none)" and name in names}


def can_install(names: list[str]) -> bool:
    """Try without doing it whether apt can install these packages together, and without removing others."""
    return apt(*APT_INSTALL[1:], "--simulate", *names, quiet=True) == 0


def apt(*words: str, quiet: bool = False) -> int:
    """Run apt-get and return its status."""
    return subprocess.run(
        [find_program("apt-get") or "apt-get", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.DEVNULL if quiet else None,
        cwd=ROOT,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    ).returncode


def apt_install(names: list[str]) -> None:
    """Install packages; the lists may be good enough when their update has failed."""
    # Packages of different versions of LLDB exclude one another: the user's own stays.
    if apt(*APT_INSTALL[1:], *names):
        raise Failure(f"this command failed: {' '.join([*APT_INSTALL, *names])}")


# gdb and its Python


def find_gdb() -> Optional[Gdb]:
    """Ask the gdb on PATH for its version and that of its Python."""
    path = find_program("gdb")
    if path is None:
        return None
    banner = output_of([path, "-nx", "--version"]).partition("\n")[0]
    version = re.search(r"\)\D*(\d+(?:\.\d+)+)", banner)
    asked = "python import sys; print('embeds %d.%d' % sys.version_info[:2])"
    python = re.search(r"embeds (\d+)\.(\d+)", output_of([path, "-nx", "-batch", "-ex", asked]))
    return Gdb(
        path,
        tuple(map(int, version[1].split("."))) if version else (),
        (int(python[1]), int(python[2])) if python else None,
    )


def require_gdb(changes: Changes, packages: Mapping[str, Optional[str]]) -> Optional[Gdb]:
    """Find a gdb that can load dlwhy, installing it if need be; None only in a dry run."""
    require_packages(changes, packages)
    gdb = find_gdb()
    if gdb is None and not changes.dry_run:
        raise Failure("there is still no gdb on PATH")
    if gdb is not None:
        python_of(gdb)
    return gdb


def python_of(gdb: Gdb) -> tuple[int, ...]:
    """Give the version of gdb's Python, or raise Unusable when it is not good enough."""
    if gdb.python is None:
        raise Unusable(f"{gdb.path} was built without Python: install a full gdb (in Debian: gdb, not gdb-minimal)")
    if gdb.python < OLDEST_PYTHON:
        raise Unusable(f"{gdb.path} embeds Python {dotted(gdb.python)}, dlwhy needs 3.9: install a newer gdb")
    return gdb.python


# LLDB and its Python

EMBEDS = "import sys; print('embeds %d.%d' % sys.version_info[:2], hasattr(lldb, 'SBDebugger'))"


def find_lldbs() -> list[Lldb]:
    """Ask every LLDB on PATH for its version and that of its Python."""
    return [ask_lldb(path) for path in lldb_paths()]


def lldb_paths() -> list[str]:
    """List the LLDBs on PATH; they are called lldb, lldb-14 and so on."""
    names: set[str] = set()
    for folder in folders_on_path():
        try:
            names.update(name for name in os.listdir(folder) if re.fullmatch(r"lldb(-\d+)?", name))
        except OSError:
            continue  # unreadable_folders names it
    # lldb is a link to one of the others: one of them speaks for both.
    paths = filter(None, map(find_program, sorted(names, reverse=True)))
    return sorted({os.path.realpath(path): path for path in paths}.values())


def ask_lldb(path: str) -> Lldb:
    """Ask an LLDB for its version and that of its Python, and find out what it needs for its Python to work.

    Debian's LLDB 14 looks for its modules where they are not, and for others where the first python3 on PATH has them.
    """
    version = re.search(r"version (\d+(?:\.\d+)+)", output_of([path, "--version"]))
    found = Lldb(path, tuple(map(int, version[1].split("."))) if version else (), None)
    library = Path(os.path.realpath(path)).parent.parent / "lib"
    places = sorted(library.glob("python3*/*-packages/lldb/embedded_interpreter.py"))
    modules = [{}, *({"PYTHONPATH": str(place.parent.parent)} for place in places)]
    for more in ({}, {"PATH": os.pathsep.join(["/usr/bin", os.environ.get("PATH", "")])}):
        for variables in ({**each, **more} for each in modules):
            output = output_of([path, "--no-lldbinit", "--batch", "-o", f"script {EMBEDS}"], **variables)
            python = re.search(r"^embeds (\d+)\.(\d+) True", output, re.MULTILINE)
            if python:
                return found._replace(python=(int(python[1]), int(python[2])), variables=variables, failure="")
            # The last error says more than the first: it came with the right folder.
            errors = re.findall(r"^\w*Error: .*", output, re.MULTILINE)
            found = found._replace(failure=errors[0] if errors else "")
    return found


def lldb_python(lldb: Lldb) -> tuple[int, ...]:
    """Give the version of LLDB's Python, or raise Unusable when it is not good enough."""
    if lldb.python is None and "six" in lldb.failure:
        raise Unusable(f"{lldb.path} cannot load its Python modules ({lldb.failure}): apt-get install python3-six")
    if lldb.python is None and lldb.failure:
        raise Unusable(f"{lldb.path} cannot load its Python modules ({lldb.failure}): apt-get install {packaged(lldb)}")
    if lldb.python is None:
        raise Unusable(f"{lldb.path} was built without Python: install a full LLDB")
    if lldb.python < OLDEST_PYTHON:
        raise Unusable(f"{lldb.path} embeds Python {dotted(lldb.python)}, dlwhy needs 3.9: install a newer LLDB")
    return lldb.python


def packaged(lldb: Lldb) -> str:
    """Name Debian's package of LLDB's Python modules."""
    return f"python3-lldb-{lldb.version[0] if lldb.version else 'VERSION'}"


def advice(lldb: Lldb) -> str:
    """Say how to start an LLDB whose Python needs something in the environment."""
    settings = [f"PATH={value.split(os.pathsep)[0]}:$PATH" for name, value in lldb.variables.items() if name == "PATH"]
    settings += [f"{name}={value}" for name, value in lldb.variables.items() if name != "PATH"]
    return f"start it as: {' '.join(settings)} {Path(lldb.path).name}"


# The private folder of Python packages


def home_folder() -> Path:
    """Give the user's home folder."""
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise Failure(f"the home folder is not known, it would be {home}: set HOME to its path")
    return Path(home)


def base_folder(variable: str, default: str) -> Path:
    """Give a folder of the XDG base directory specification, which ignores relative paths."""
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else home_folder() / default


def data_folder() -> Path:
    """Give the folder that holds the private folders, one for each debugger Python."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home_folder()) / "dlwhy"
    return base_folder("XDG_DATA_HOME", ".local/share") / "dlwhy"


def cache_folder() -> Path:
    """Give the folder that holds the tests' environment."""
    return base_folder("XDG_CACHE_HOME", ".cache") / "dlwhy"


def private_folder(python: tuple[int, ...]) -> Path:
    """Give the folder in which dlwhy finds its packages in a debugger with this Python."""
    return data_folder() / f"python{dotted(python)}"


def listed(key: str) -> list[str]:
    """Read a list of strings from pyproject.toml, one to a line there; 3.9 and 3.10 have no tomllib."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{key} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise Failure(f"pyproject.toml has no list {key!r}")
    return re.findall(r'^ *"([^"]+)"', found[1], re.MULTILINE)


def package_name(requirement: str) -> str:
    """Give the name in a requirement."""
    return re.split(r"[^\w.-]", requirement)[0]


class Requirements(NamedTuple):
    """What pip is to install: its words for that, and the text that marks a folder filled with it; none, if newest."""

    words: list[str]
    stamp: str


def read_lock(name: str) -> Requirements:
    """Give what a lock lists: a version of each package, and the hashes of its files."""
    lock = ROOT / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    return Requirements(["--no-deps", "--require-hashes", "-r", str(lock)], f"{lock.name} sha256:{digest}\n")


def read_ranges(*keys: str) -> Requirements:
    """Give what pyproject.toml asks for, so the newest of it, which a folder may no longer hold."""
    return Requirements([requirement for key in keys for requirement in listed(key)], "")


def is_filled(folder: Path, stamp: str) -> bool:
    """Tell whether a folder was filled to the end with the requirements ``stamp``."""
    try:
        return read_file(folder / "dlwhy-requirements.txt") == stamp.encode()
    except (OSError, Unusable):
        return False


def prepare_dependencies(changes: Changes, python: tuple[int, ...], wanted: Optional[Requirements] = None) -> None:
    """Fill the private folder of a debugger's Python, unless it holds what is wanted: without a word, the lock's."""
    wanted = wanted or read_lock("runtime")
    folder = private_folder(python)
    if wanted.stamp and is_filled(folder, wanted.stamp):
        return
    require_pip(changes)
    names = ", ".join(map(package_name, listed("dependencies")))
    changes.make(f"install {names} into {folder}", fill_folder, folder, python, wanted)


def require_pip(changes: Changes) -> None:
    """Make sure that this Python has pip."""
    if has_pip():
        return
    require_packages(changes, {"python3-pip": None})
    if not changes.dry_run and not has_pip():
        python = this_python()
        raise Failure(f"{python} has no pip: run {python} -m ensurepip, or use another python3")


def has_pip() -> bool:
    """Tell whether this Python has pip in its own folders."""
    return re.search(r"^pip \d", output_of(isolated("-m", "pip", "--version")), re.MULTILINE) is not None


def pure_wheels(python: tuple[int, ...]) -> list[str]:
    """List the options that make pip choose wheels without compiled code, for that version of Python."""
    options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--python-version", dotted(python)]
    return [*options, "--implementation", "py", "--abi", "none", "--platform", "any"]


def fill_folder(folder: Path, python: tuple[int, ...], wanted: Requirements) -> None:
    """Install pure-Python wheels for ``python`` beside ``folder`` and put them in its place when complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=folder.parent) as name:
        fresh = Path(name) / folder.name
        # Byte code would be that of the Python that runs pip.
        words = ["install", *pure_wheels(python), "--no-compile", "--target", str(fresh), *wanted.words]
        run_or_fail(isolated("-m", "pip", *words), "pip install")
        (fresh / "dlwhy-requirements.txt").write_bytes(wanted.stamp.encode())
        remove(folder)
        fresh.rename(folder)


# The init files


def init_files() -> list[Path]:
    """List the places of the user's gdb init file, the one that gdb prefers first."""
    return [base_folder("XDG_CONFIG_HOME", ".config") / "gdb" / "gdbinit", home_folder() / ".gdbinit"]


def init_file(gdb: Optional[Gdb]) -> Path:
    """Give the init file that this gdb reads: since gdb 11 the one below .config, if it exists."""
    preferred, classic = init_files()
    return preferred if os.path.exists(preferred) and (gdb is None or gdb.version >= (11,)) else classic


def lldb_init_files() -> list[Path]:
    """List the places of the user's LLDB init file, the one that the command line's LLDB prefers first."""
    return [home_folder() / ".lldbinit-lldb", home_folder() / ".lldbinit"]


def lldb_init_file() -> Path:
    """Give the init file that LLDB reads: the one for the program lldb, if it exists, instead of the general one."""
    preferred, general = lldb_init_files()
    return preferred if os.path.exists(preferred) else general


def read_init(path: Path) -> bytes:
    """Read an init file, or nothing when there is none."""
    return read_file(path) or b""


def find_block(path: Path, content: bytes) -> "Optional[re.Match[bytes]]":
    """Find our block, or raise Failure when it is damaged or there twice."""
    marks = [line for line in content.splitlines() if line.startswith((BLOCK_BEGIN, BLOCK_END))]
    found = BLOCK.search(content)
    if len(marks) != (2 if found else 0):
        raise Failure(f"the dlwhy block in {path} is damaged: remove its lines by hand, then run this again")
    return found


def gdb_line() -> bytes:
    """Compose the command that makes gdb load dlwhy."""
    entry = os.fsencode(ENTRY_SCRIPT)
    if b"\n" in entry:
        raise Unusable(f"gdb cannot source a file whose path holds a line end: {ENTRY_SCRIPT}")
    return b"source " + entry


def lldb_line() -> bytes:
    """Compose the command that makes LLDB load dlwhy; LLDB evaluates what stands between backquotes."""
    entry = os.fsencode(LLDB_ENTRY_SCRIPT)
    if re.search(rb"[\n`]", entry):
        raise Unusable(f"LLDB cannot import a file whose path holds a line end or `: {LLDB_ENTRY_SCRIPT}")
    return b'command script import "' + re.sub(rb'(["\\])', rb"\\\1", entry) + b'"'


def block(note: bytes, line: bytes) -> bytes:
    """Compose our block; ``note`` tells uninstall what else there is to take back."""
    return BLOCK_BEGIN + note + b"\n" + line + b"\n" + BLOCK_END + b"\n"


def with_block(path: Path, content: bytes, line: bytes) -> bytes:
    """Give the content with our block in it, up to date."""
    found = find_block(path, content)
    if found:
        return content[: found.start()] + block(found["note"], line) + content[found.end() :]
    if content and not content.endswith(b"\n"):
        return content + b"\n" + block(ADDED_LINE_END, line)
    return content + block(b"" if os.path.exists(path) else CREATED_FILE, line)


def without_block(path: Path, content: bytes) -> Optional[bytes]:
    """Give the content as it was before our block; None when the file is to go."""
    found = find_block(path, content)
    if found is None:
        return content
    before, after = content[: found.start()], content[found.end() :]
    if found["note"] == ADDED_LINE_END and not after:
        before = before[:-1]
    return None if found["note"] == CREATED_FILE and not before + after else before + after


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Turn a file's content from ``old`` to ``new`` in place; what both begin with is not written again."""
    differing = (at for at, (one, other) in enumerate(zip(old, new)) if one != other)
    start = next(differing, min(len(old), len(new)))
    with os.fdopen(open_regular(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
        file.seek(start)
        file.write(new[start:])
        file.truncate()


# The shell's command


def command_path() -> Path:
    """Give the place of the command dlwhy: the folder for a user's own programs that systemd and Debian put on PATH."""
    return home_folder() / ".local" / "bin" / "dlwhy"


def command_text() -> str:
    """Compose the command; without site (-S), of which dlwhy needs nothing, Python starts a third faster."""
    words = [this_python(), "-IS", str(ROOT / "__main__.py")]
    return f'#!/bin/sh\n{COMMAND_MARK}exec {shlex.join(words)} "$@"\n'


def read_command(path: Path) -> Optional[str]:
    """Read the command dlwhy; None where there is none, or something that is not ours."""
    try:
        text = (read_file(path) or b"").decode(errors="surrogateescape")
    except (OSError, Unusable):
        return None
    return text if COMMAND_MARK in text else None


def write_command(path: Path, text: str) -> None:
    """Write the command so that it is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".dlwhy-", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
        fresh.chmod(0o755)
        fresh.replace(path)


def install_into_shell(changes: Changes) -> None:
    """Write the command and fill the folder for its Python; one that is not ours stays."""
    path = command_path()
    old = read_command(path)
    if old is None and os.path.lexists(path):
        raise Unusable(f"{path} is not ours and stays; the shell's command is {this_python()} {ROOT}")
    prepare_dependencies(changes, sys.version_info[:2])
    if old != command_text():
        changes.make(f"write the command {path}", write_command, path, command_text())


# Sub-commands


def install(changes: Changes) -> int:
    """Make gdb and LLDB, those of them that are here, load dlwhy at their start; on Windows WinDbg."""
    if sys.platform == "win32":
        return install_into_windbg(changes)
    gdb, lldbs = find_gdb(), find_lldbs()
    if gdb is None and not lldbs:
        gdb = require_gdb(changes, INSTALL_PACKAGES)
    usable: list[str] = []
    failures: list[str] = []
    if (gdb is not None or not lldbs) and attempt(failures, install_into_gdb, changes, gdb):
        usable.append("gdb")
    if lldbs and attempt(failures, install_into_lldb, changes, lldbs):
        usable.append(Path(lldbs[-1].path).name)
    if not usable:
        raise Failure("; ".join(failures))
    attempt(failures, install_into_shell, changes)
    failures += [f"PATH: {text}" for text in unreadable_folders()]
    if changes.count:
        lost = [lldb for lldb in lldbs if lldb.variables]
        failures += [f"{lldb.path} does not find its Python modules by itself: {advice(lldb)}" for lldb in lost]
    for text in failures:
        say(f"note: {text}")
    if changes.count == 0:
        say("dlwhy is installed already: nothing to do")
    elif not changes.dry_run:
        say(f"dlwhy is installed: start {' or '.join(usable)} and type: help dlstate")
        if read_command(command_path()) and str(command_path().parent) not in os.environ.get("PATH", "").split(":"):
            say(f"note: the shell finds {command_path()} when its folder is on PATH")
    return 0


def attempt(failures: list[str], action: Callable[..., None], *arguments: object) -> bool:
    """Carry out a part of a sub-command and tell whether that could be done; if not, keep the reason."""
    try:
        action(*arguments)
    except Unusable as failure:
        failures.append(str(failure))
    except OSError as error:
        failures.append(in_words(error))
    else:
        return True
    return False


def install_into_gdb(changes: Changes, gdb: Optional[Gdb]) -> None:
    """Write gdb's init file and fill the folder for its Python; without a gdb, in a dry run, for any."""
    if gdb is not None:
        prepare_dependencies(changes, python_of(gdb))
    write_block(changes, init_file(gdb), gdb_line())


def install_into_lldb(changes: Changes, lldbs: list[Lldb]) -> None:
    """Write LLDB's init file and fill the folders for the Pythons of all that there are."""
    pythons = {lldb.python for lldb in lldbs if lldb.python is not None and lldb.python >= OLDEST_PYTHON}
    if not pythons:
        lldb_python(lldbs[-1])
    for python in sorted(pythons):
        prepare_dependencies(changes, python)
    write_block(changes, lldb_init_file(), lldb_line())


def write_block(changes: Changes, path: Path, line: bytes) -> None:
    """Write our block with that command into an init file, unless it is there."""
    old = read_init(path)
    new = with_block(path, old, line)
    if new != old:
        changes.make(f"write the dlwhy block into {path}", rewrite, path, old, new)


def uninstall(changes: Changes) -> int:
    """Take our blocks out of the debuggers' init files, remove the shell's command, WinDbg's script and our folders."""
    failures: list[str] = []
    if os.path.exists(windbg_script()):
        changes.make(f"remove {windbg_script()}", windbg_script().unlink)
    for path in [*init_files(), *lldb_init_files()]:
        attempt(failures, remove_block, changes, path)
    if read_command(command_path()) is not None:
        attempt(failures, changes.make, f"remove {command_path()}", command_path().unlink)
    for folder in private_folders():
        attempt(failures, changes.make, f"remove {folder}", remove, folder)
    if failures:
        raise Failure("; ".join(failures))
    if changes.count == 0:
        say("dlwhy is not installed: nothing to do")
    elif not changes.dry_run and data_folder().exists() and not any(data_folder().iterdir()):
        data_folder().rmdir()
    return 0


def remove_block(changes: Changes, path: Path) -> None:
    """Take our block out of an init file, and remove the file when it is ours."""
    try:
        old = read_init(path)
    except Unusable as failure:
        say(f"note: {failure}")
        return
    new = without_block(path, old)
    if new is None:
        changes.make(f"remove {path}", path.resolve().unlink)
    elif new != old:
        changes.make(f"remove the dlwhy block from {path}", rewrite, path, old, new)


def private_folders() -> list[Path]:
    """List the folders that were filled for the Pythons of debuggers."""
    try:
        names = os.listdir(data_folder())
    except OSError:
        return []
    return [data_folder() / name for name in sorted(names) if name.startswith("python3.")]


class Check(NamedTuple):
    """The outcome of one of doctor's checks; ``remedy`` of a failure or a note is what the user can do."""

    kind: str
    what: str
    remedy: str = ""


def doctor() -> int:
    """Examine the installation, one line a check; 1 when something is broken."""
    if sys.platform == "win32":
        return tell(check_windbg())
    gdb, lldbs = find_gdb(), find_lldbs()
    checks = [check_gdb(gdb, needed=not lldbs)]
    if gdb is not None:
        checks.append(check_python(gdb))
        if gdb.python is not None and gdb.python >= OLDEST_PYTHON:
            checks.append(check_dependencies(gdb.path, gdb.python))
        checks += check_gdb_start(gdb)
        checks.append(check_attach(gdb))
    for lldb in lldbs:
        checks += check_lldb(lldb, is_only=gdb is None and len(lldbs) == 1)
    if any(lldb.python is not None for lldb in lldbs):
        checks.append(check_init_file("LLDB", lldb_init_file(), lldb_line()))
    if not lldbs:
        checks.append(Check("note", "no LLDB on PATH", "not needed; in Debian: apt-get install lldb"))
    checks += [check_shell(), check_debug_symbols()]
    checks += [Check("note", f"PATH: {text}", "what is in there is not found") for text in unreadable_folders()]
    return tell(checks)


def tell(checks: "list[Check]") -> int:
    """Print the outcome of each check; 1 when something is broken."""
    for check in checks:
        say(f"{check.kind:<4}  {check.what}" + (f": {check.remedy}" if check.remedy else ""))
    return int(any(check.kind == "FAIL" for check in checks))


def check_gdb(gdb: Optional[Gdb], needed: bool) -> Check:
    """Check that there is a gdb; it is needed where there is no LLDB."""
    if gdb is None and not needed:
        return Check("note", "no gdb on PATH", "not needed; in Debian: apt-get install gdb")
    if gdb is None:
        return Check("FAIL", "no gdb on PATH", "python3 install.py install, or in Debian: apt-get install gdb")
    return Check("ok", f"gdb {dotted(gdb.version)} is {gdb.path}")


def check_python(gdb: Gdb) -> Check:
    """Check that gdb has a Python, and one that is new enough."""
    try:
        return Check("ok", f"gdb embeds Python {dotted(python_of(gdb))}")
    except Failure as failure:
        what, _, remedy = str(failure).partition(": ")
        return Check("FAIL", what, remedy)


def check_dependencies(gdb: str, python: tuple[int, ...]) -> Check:
    """Check that the packages that dlwhy uses can be imported in gdb."""
    output = output_of([gdb, "-nx", "-batch", "-ex", f"python {packages_script(python)}"])
    return judge_packages("gdb", output)


def packages_script(python: tuple[int, ...]) -> str:
    """Compose a line of Python that prints which packages a debugger's Python lacks."""
    modules = [MODULE_NAMES.get(name, name) for name in map(package_name, listed("dependencies"))]
    script = f"import importlib.util as u, sys; sys.path.append({str(private_folder(python))!r}); "
    return script + f"print('lacks', *[m for m in {modules!r} if not u.find_spec(m)])"


def judge_packages(debugger: str, output: str) -> Check:
    """Judge what that script printed."""
    lacking = re.search("^lacks(.*)", output, re.MULTILINE)
    if lacking is None or lacking[1].split():
        what = f"packages missing in {debugger}'s Python ({lacking[1].strip() if lacking else output.strip()})"
        return Check("FAIL", what, "python3 install.py install")
    return Check("ok", f"{debugger}'s Python has {', '.join(map(package_name, listed('dependencies')))}")


def check_lldb(lldb: Lldb, is_only: bool) -> list[Check]:
    """Check an LLDB: its Python, our packages, our commands; what is wrong with one of several is a note."""
    name = Path(lldb.path).name
    bad = "FAIL" if is_only else "note"
    checks = [Check("ok", f"LLDB {dotted(lldb.version)} is {lldb.path}")]
    try:
        python = lldb_python(lldb)
    except Failure as failure:
        what, _, remedy = str(failure).rpartition(": ")
        return [*checks, Check(bad, what, remedy)]
    checks.append(Check("ok", f"{name} embeds Python {dotted(python)}"))
    if lldb.variables:
        checks.append(Check(bad, f"{name} does not find its Python modules by itself", advice(lldb)))
    script = packages_script(python)
    output = output_of([lldb.path, "--no-lldbinit", "--batch", "-o", f"script {script}"], **lldb.variables)
    checks.append(judge_packages(name, output))
    if not all(map(is_readable, lldb_init_files())):
        return checks  # LLDB could wait for ever; check_init_file says why
    output = output_of([lldb.path, "--batch", "-o", "help dlstate"], **lldb.variables)
    if "Usage: dlstate" in output:
        checks.append(Check("ok", f"{name} knows the command dlstate"))
    else:
        checks.append(Check("FAIL", f"{name} has no command dlstate", f"it says {output.strip()[-300:]!r}"))
    return checks


def check_init_file(debugger: str, path: Path, line: bytes) -> Check:
    """Check that the init file that a debugger reads loads this checkout."""
    try:
        found = find_block(path, read_init(path))
    except OSError as error:
        return Check("FAIL", in_words(error))
    except Failure as failure:
        return Check("FAIL", str(failure))
    if found is None:
        return Check("FAIL", f"{path} does not load dlwhy", "python3 install.py install")
    if found["body"].strip() != line:
        source = os.fsdecode(found["body"]).strip()
        return Check("FAIL", f"{path} loads another checkout ({source})", "python3 install.py install")
    return Check("ok", f"{path} loads dlwhy into {debugger}: {os.fsdecode(line)}")


def check_gdb_start(gdb: Gdb) -> list[Check]:
    """Check that gdb loads dlwhy at its start; it is not started where it could wait for ever for its init file."""
    path = init_file(gdb)
    checks = [check_init_file("gdb", path, gdb_line())]
    return [*checks, check_command(gdb)] if is_readable(path) else checks


def is_readable(path: Path) -> bool:
    """Return True if a file can be read, or there is none."""
    try:
        read_file(path)
    except (OSError, Unusable):
        return False
    return True


def check_command(gdb: Gdb) -> Check:
    """Check in a real gdb, with the user's init file, that the commands are there."""
    output = output_of([gdb.path, "-batch", "-ex", "help dlstate"])
    if "Usage: dlstate" not in output:
        return Check("FAIL", "gdb has no command dlstate", f"gdb says {output.strip()[-300:]!r}")
    return Check("ok", "gdb knows the command dlstate")


def check_attach(gdb: Gdb) -> Check:
    """Check by doing it that gdb can attach to a process of the user's."""
    ask = ["-ex", "python print('attached', gdb.selected_inferior().pid)"]
    with subprocess.Popen(isolated("-c", "import time; time.sleep(60)"), cwd=ROOT) as process:
        try:
            output = output_of(
                [gdb.path, "-nx", "-batch", "-iex", "set auto-solib-add off", "-p", f"{process.pid}", *ask]
            )
        finally:
            process.kill()
    if f"attached {process.pid}" in output:
        return Check("ok", "gdb can attach to your processes")
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and scope.read_text(encoding="ascii").strip() != "0":
        return Check(
            "note",
            "gdb cannot attach to running processes (programs started in gdb, and cores, are fine)",
            "sudo sysctl kernel.yama.ptrace_scope=0, or run gdb by sudo",
        )
    return Check("FAIL", "gdb cannot attach to processes", "allow ptrace; in a container: --cap-add=SYS_PTRACE")


def check_shell() -> Check:
    """Check that the shell's command runs this checkout."""
    path = command_path()
    if read_command(path) is None:
        where = "is not ours" if os.path.lexists(path) else "is not there"
        return Check("note", f"{path} {where}", f"the shell's command is python3 {ROOT}; python3 install.py install")
    output = output_of([str(path), "help", "dlstate"])
    if read_command(path) != command_text() or "Usage: dlstate" not in output:
        return Check("FAIL", f"{path} does not run this checkout", "python3 install.py install")
    return Check("ok", f"{path} runs dlwhy in the shell")


def check_debug_symbols() -> Check:
    """Check for glibc's debug symbols, which dlwhy can do without."""
    if find_program("dpkg-query") is None:
        return Check("note", "no dpkg to ask for glibc's debug symbols", "dlwhy does not need them")
    if is_installed("libc6-dbg", None):
        return Check("ok", "libc6-dbg is installed")
    return Check("note", "libc6-dbg is not installed", "not needed; to have it: apt-get install libc6-dbg")


# WinDbg and its Python


class WinDbg(NamedTuple):
    """What WinDbg needs to run dlwhy, None what was not found: itself, CPython with pykd, the bootstrapper of pykd."""

    program: Optional[Path]
    python: Optional[Path]
    has_pykd: bool
    bootstrapper: Optional[Path]


PYKD = "print('pykd is there')"


def find_windbg() -> WinDbg:
    """Look for WinDbg and what makes Python run in it, where their installers put them."""
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


def windows_pythons() -> "list[Path]":
    """List the CPythons of the version that pykd needs: this one, and those that the registry knows."""
    found = [Path(this_python())] if sys.version_info[:2] == WINDBG_PYTHON else []
    folders = registry_values(f"SOFTWARE\\Python\\PythonCore\\{dotted(WINDBG_PYTHON)}\\InstallPath", "")
    return found + [folder / "python.exe" for folder in folders]


def registry_values(key: str, name: str) -> "list[Path]":
    """Read a path out of the registry, the machine's and the user's; none where there is no such value."""
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
    """Give the script that WinDbg runs at its start."""
    return data_folder() / "dlwhy.wds"


def windows_commands() -> "list[str]":
    """List the names of the commands about Windows, by their declarations."""
    if "dlwhy" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "dlwhy", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        if spec is None or spec.loader is None:
            raise Failure(f"there is no package at {ROOT}")
        sys.modules["dlwhy"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["dlwhy"])
    from dlwhy.common.commands.registry import commands_of

    return list(commands_of("windows"))


def windbg_lines(bootstrapper: Path) -> str:
    """Compose that script: it loads the bootstrapper, and defines an alias for each command about Windows."""
    aliases = [f'aS !{name} !py -g "{WINDBG_ENTRY_SCRIPT}" {name}\n' for name in windows_commands()]
    return f".load {bootstrapper}\n" + "".join(aliases)


def install_into_windbg(changes: Changes) -> int:
    """Write WinDbg's script and fill the folder for its Python; say how to get what is missing."""
    found = find_windbg()
    if found.python is None or not found.has_pykd or found.bootstrapper is None:
        missing = [check for check in check_windbg_parts(found) if check.kind == "FAIL"]
        raise Failure("; ".join(f"{check.what}: {check.remedy}" for check in missing))
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


def write_text(path: Path, text: str) -> None:
    """Write a file and the folder it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def check_windbg_parts(found: WinDbg) -> "list[Check]":
    """Judge what was found of WinDbg and its Python."""
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


def check_windbg() -> "list[Check]":
    """Check what WinDbg needs, and that its script is ours."""
    found = find_windbg()
    checks = check_windbg_parts(found)
    script = windbg_script()
    if found.bootstrapper is None or not script.exists():
        return [*checks, Check("FAIL", f"there is no {script}", "install.py install")]
    if script.read_text(encoding="utf-8") != windbg_lines(found.bootstrapper):
        return [*checks, Check("FAIL", f"{script} loads another checkout", "install.py install")]
    return [*checks, Check("ok", f"{script} loads dlwhy into WinDbg")]


STORY_FOLDER = ROOT / "tests" / "fixtures" / "story"
STORY = """\
The story: progA opens libA, which needs libB, lets a thread work with it, and closes libA again.
libA goes; libB does not. With STORY_LOG=1 in the environment libA stays as well. Why?
"""


def demo(changes: Changes) -> int:
    """Build a program whose libraries stay loaded, and show what dlwhy says about it in gdb."""
    gdb = require_gdb(changes, DEMO_PACKAGES)
    if gdb is not None:
        prepare_dependencies(changes, python_of(gdb))
    rustc = find_rustc()
    if rustc is None:
        say("there is no rustc that works here: libA is written in C++ instead of Rust")
    with tempfile.TemporaryDirectory(prefix="dlwhy-demo-") as folder:
        for command in story_build(Path(folder), rustc):
            source = next(Path(word).name for word in command if word.startswith(str(STORY_FOLDER)))
            changes.make(f"build {Path(command[-1]).name} from {source}", run_or_fail, command, command[0])
        if gdb is None or changes.dry_run:
            say("would run gdb twice on progA and show what it says")
            return 0
        say(f"\n{STORY}")
        plain = show_story(gdb, Path(folder), ["dlstate", "dlstate libB.so"])
        logged = show_story(gdb, Path(folder), ["dlstate libA.so"], "STORY_LOG=1")
    return plain or logged


def story_build(folder: Path, rustc: Optional[str]) -> list[list[str]]:
    """List the commands that build the story; the last argument of each is the file that it makes."""
    shared = ["g++", "-g", "-shared", "-fPIC", "-Wl,-rpath,$ORIGIN", f"-L{folder}"]
    liba = [*shared, str(STORY_FOLDER / "liba.cpp"), "-lB"]
    if rustc is not None:
        liba = [rustc, "-g", "--crate-type=cdylib", f"-Lnative={folder}", "-lB"]
        liba += ["-Clink-arg=-Wl,-rpath,$ORIGIN", str(STORY_FOLDER / "liba.rs")]
    program = ["g++", "-g", "-pthread", "-Wl,-rpath,$ORIGIN", str(STORY_FOLDER / "progA.cpp"), "-ldl"]
    return [
        [*shared, str(STORY_FOLDER / "libb.cpp"), "-o", str(folder / "libB.so")],
        [*liba, "-o", str(folder / "libA.so")],
        [*program, "-o", str(folder / "progA")],
    ]


def show_story(gdb: Gdb, folder: Path, questions: list[str], setting: str = "") -> int:
    """Stop progA after dlclose(libA), ask the questions in gdb, print the answers and give gdb's status."""
    command = [gdb.path, "-nx", "-batch", "-ex", f"source {ENTRY_SCRIPT}"]
    if setting:
        command += ["-ex", f"set environment {setting}"]
    command += ["-ex", "set disable-randomization off", "-ex", "break stop_here if number == 2", "-ex", "run"]
    for question in questions:
        command += ["-ex", rf"echo \n(gdb) {question}\n", "-ex", question]
    done = subprocess.run(
        [*command, str(folder / "progA")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
    )
    before, prompt, answers = done.stdout.decode(errors="replace").partition("(gdb) ")
    say(f"progA{' with ' + setting if setting else ''}, stopped after dlclose(libA):\n")
    say(prompt + answers if prompt else before)
    return done.returncode


def run_tests(changes: Changes, pytest_arguments: list[str], by_lock: bool) -> int:
    """Install what the tests need, then run the linters, the type checker and, last, pytest."""
    prepare_test_packages(changes)
    python = prepare_test_environment(changes, by_lock)
    prepare_debugger_dependencies(changes, by_lock)
    ruff = [str(python.parent / "ruff")]
    commands = {
        "ruff check": [*ruff, "check", "."],
        "ruff format": [*ruff, "format", "--check", "."],
        "mypy": [str(python), "tests/typecheck.py"],
        # Not "python -m pytest": that puts the checkout on sys.path.
        "pytest": [str(python), str(python.parent / "pytest"), *pytest_arguments],
    }
    failed: list[str] = []
    for name, command in commands.items():
        if failed and name == "pytest":
            say(f"FAILED so far: {', '.join(failed)}")
        changes.make(f"run {name}", run_check, name, command, failed)
    return int(bool(failed))


def run_check(name: str, command: list[str], failed: list[str]) -> None:
    """Run a check of the tree and note its name when it fails."""
    if subprocess.run(command, cwd=ROOT).returncode:
        failed.append(name)


def prepare_test_packages(changes: Changes) -> None:
    """Install the system packages of the tests; where that cannot be, name them and go on."""
    packages = dict(TEST_PACKAGES)
    if find_rustc() is None:
        packages["rustc"] = None
    if not lldb_paths():
        packages["lldb"] = None  # of any version, so that of this release
    try:
        require_packages(changes, packages)
    except Failure as failure:
        say(f"install.py: tests that need what is missing will fail: {failure}")


def prepare_debugger_dependencies(changes: Changes, by_lock: bool) -> None:
    """Fill the private folders for the Pythons of the debuggers in which the tests run dlwhy."""
    gdb = find_gdb()
    pythons = {lldb.python for lldb in find_lldbs()} | {gdb.python if gdb is not None else None}
    for version in sorted(python for python in pythons if python is not None and python >= OLDEST_PYTHON):
        prepare_dependencies(changes, version, None if by_lock else read_ranges("dependencies"))


def find_rustc() -> Optional[str]:
    """Find the first rustc on PATH that works; rustup's stand-in without a toolchain does not."""
    for folder in folders_on_path():
        path = find_program(os.path.join(folder, "rustc"))
        if path and output_of([path, "--version"]).startswith("rustc "):
            return path
    return None


def prepare_test_environment(changes: Changes, by_lock: bool) -> Path:
    """Make the virtual environment of the tests, unless it is as wanted; give its Python."""
    version = dotted(sys.version_info[:2])
    folder = cache_folder() / f"test-venv-{version}"
    wanted = read_lock("test") if by_lock else read_ranges("dependencies", "test")
    wanted = wanted._replace(stamp=wanted.stamp + read_lock("runtime").stamp)
    python = folder / "bin" / "python"
    filled = by_lock and is_filled(folder, wanted.stamp)
    if not filled or f"Python {version}" not in output_of([str(python), "--version"]):
        if importlib.util.find_spec("ensurepip") is None:
            require_packages(changes, {"python3-venv": None})
        changes.make(f"make the virtual environment {folder}", fill_environment, folder, python, wanted)
    return python


def fill_environment(folder: Path, python: Path, wanted: Requirements) -> None:
    """Make a virtual environment and install the requirements into it; add the wheels that tests of install need."""
    run_or_fail(isolated("-m", "venv", "--clear", str(folder)), "making the virtual environment")
    pip = [str(python), "-I", "-m", "pip"]
    run_or_fail([*pip, "install", "--quiet", *wanted.words], "pip install")
    runtime = ["download", *pure_wheels(OLDEST_PYTHON), "--dest", str(folder / "wheels"), *read_lock("runtime").words]
    run_or_fail([*pip, *runtime], "pip download")
    (folder / "dlwhy-requirements.txt").write_bytes(wanted.stamp.encode())


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="install.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in {
        "install": "make gdb and LLDB load dlwhy",
        "uninstall": "undo install",
        "doctor": "examine the installation",
        "demo": "build a small program, ask dlwhy about it in gdb, show the answers",
        "test": "install what the tests need, then run them; what follows -- goes to pytest",
    }.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--dry-run", action="store_true", help="only say what would be done")
        if name == "test":
            unlocked = "install the newest packages that pyproject.toml allows, not those of the lock"
            command.add_argument("--unlocked", action="store_true", help=unlocked)
            command.add_argument("pytest_arguments", nargs="*", metavar="PYTEST_ARGUMENT")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run one sub-command and return the exit status."""
    options = parse_arguments(arguments)
    changes = Changes(options.dry_run)
    try:
        refuse_folders_of_others()
        if options.command == "test":
            return run_tests(changes, options.pytest_arguments, by_lock=not options.unlocked)
        if options.command == "doctor":
            return doctor()
        return {"install": install, "uninstall": uninstall, "demo": demo}[options.command](changes)
    except (Failure, OSError) as error:
        print(f"install.py: {in_words(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
