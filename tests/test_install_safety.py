"""Does install.py run nothing of the current folder, stop at no odd file, and keep root out of folders of others?"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from dlwhy.common.errors import SetupError, UnusableError
from dlwhy.common.setup import files, ownership, pip, programs, shell
from dlwhy.tests.environment import fill_environment
from dlwhy.tests.installing import ROOT, content, copy_of_checkout, run

OTHER = 12345
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")

# Modules that a Python of ours, pip's or a debugger's could import, and programs that could be started.
MODULES = ("pip", "venv", "ensurepip", "sitecustomize", "argparse", "tabulate", "pygments", "elftools", "lldb", "six")
PROGRAMS = ("gdb", "lldb", "lldb-14", "apt-get", "apt-cache", "dpkg-query", "sleep", "rustc", "g++", "python3")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Make a folder in which everything that is run leaves a file."""
    folder = tmp_path / "trap"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'RAN')!r}, 'a').write('module {name}\\n')\n")
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho program {name} >> '{folder}/RAN'\n")
        (folder / name).chmod(0o755)
    (folder / ".gdbinit").write_text(f"shell echo gdbinit >> '{folder}/RAN'\n")
    (folder / ".lldbinit").write_text(f"script open({str(folder / 'RAN')!r}, 'a').write('lldbinit\\n')\n")
    return folder


def ran(trap: Path) -> str:
    return (trap / "RAN").read_text() if (trap / "RAN").exists() else ""


@pytest.mark.parametrize("command", ["install", "demo", "doctor", "test"])
def test_nothing_of_the_current_folder_is_run(environment: dict[str, str], trap: Path, command: str) -> None:
    environment["PATH"] = f".:{environment['PATH']}::"
    if command == "doctor":
        run(environment, "install", cwd=trap)
    run(environment, command, *(["--dry-run"] if command == "test" else []), cwd=trap)
    assert ran(trap) == ""


def test_the_checkout_is_no_place_of_modules(tmp_path: Path) -> None:
    checkout = copy_of_checkout(tmp_path / "checkout")
    files = sorted(content(checkout))
    program = (
        "import runpy, sys; sys.argv[1:] = ['-h']; sys.path.insert(0, {0!r})\n"
        "try: runpy.run_path({0!r} + '/install.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import importlib.util as u\n"
        "print([name for name in ('common', 'gdb_ext', 'tests', 'install') if u.find_spec(name)], sys.modules['dlwhy'])"
    )
    words = [sys.executable, "-I", "-c", program.format(str(checkout))]
    said = subprocess.check_output(words, cwd=tmp_path, text=True)
    assert said.splitlines()[-1] == f"[] <module 'dlwhy' from '{checkout}/__init__.py'>"
    assert sorted(content(checkout)) == files, "no byte code either"


def test_python_alone_will_do(environment: dict[str, str], home: Path) -> None:
    """No package is needed, not even those that Python's own site has."""
    words = [sys.executable, "-S", str(ROOT / "install.py")]
    for command in ("-h", "doctor", "uninstall"):
        done = subprocess.run([*words, command], env=environment, capture_output=True, text=True)
        assert done.stderr == ""
    assert done.stdout == "dlwhy is not installed: nothing to do\n"
    assert content(home) == {}


def test_what_needs_the_checkout_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    checkout = copy_of_checkout(tmp_path / "checkout")
    line = f"install.py: there are no tests in {checkout}: run it in the checkout, which has them\n"
    assert run(environment, "test", status=1, root=checkout) == line


def test_the_environment_of_the_tests_is_made_from_elsewhere(
    environment: dict[str, str], trap: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trap)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = trap.parent / "venv"
    fill_environment(folder, folder / "bin" / "python", pip.read_lock("runtime"))
    assert ran(trap) == ""
    assert sorted(path.name for path in (folder / "wheels").iterdir()) == sorted(each.name for each in wheels.iterdir())


def test_a_python_that_does_not_know_its_path_is_refused(environment: dict[str, str], trap: Path) -> None:
    folder = trap.parent / "bin"
    folder.mkdir()
    for name in ("sh", "gdb"):
        (folder / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        ["", str(ROOT / "install.py"), "install"],
        executable="/usr/bin/python3",
        env={**environment, "PATH": str(folder)},
        cwd=trap,
        capture_output=True,
        text=True,
    )
    line = "this Python does not know its own path: start it by that, as in /usr/bin/python3 install.py"
    assert (done.returncode, done.stderr) == (1, f"install.py: {line}\n")
    assert ran(trap) == ""


def test_without_its_own_path_python_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("", None, "python3"):
        monkeypatch.setattr(sys, "executable", path)
        with pytest.raises(SetupError, match=r"does not know its own path: start it by that"):
            shell.command_text()
        with pytest.raises(SetupError, match=r"does not know its own path: start it by that"):
            programs.isolated("-m", "pip")


def test_wheels_of_other_content_are_refused(
    home: Path, environment: dict[str, str], wheels: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(wheels, tmp_path / "other wheels")
    (wheel,) = folder.glob("tabulate-*.whl")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("sitecustomize.py", "")
    environment["PIP_FIND_LINKS"] = folder.as_uri()
    assert "DO NOT MATCH THE HASHES" in run(environment, "install", status=1)
    assert not list((home / ".local/share/dlwhy").iterdir())


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # the name of a socket is short
        made.bind(path.name)


ODD: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "folder": Path.mkdir,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize(("name", "kind"), [(".gdbinit", "FIFO"), (".lldbinit", "FIFO"), (".lldbinit-lldb", "device")])
def test_an_init_file_that_is_no_file_is_a_line(
    home: Path, environment: dict[str, str], kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    other = home / (".lldbinit" if name == ".gdbinit" else ".gdbinit")
    ODD[kind](home / name)
    before = os.lstat(home / name)
    line = f"{home}/{name}: not a regular file: left alone"
    said = run(environment, "install")
    assert f"note: {line}" in said
    assert "dlwhy is installed: start " in said
    assert b"dlwhy" in other.read_bytes()
    again = run(environment, "install")
    assert again.splitlines() == [f"note: {line}", "dlwhy is installed already: nothing to do"]
    assert f"FAIL  {line}" in run(environment, "doctor", status=1)
    assert f"note: {line}" in run(environment, "uninstall")
    assert not other.exists()
    assert stat.S_IFMT(os.lstat(home / name).st_mode) == stat.S_IFMT(before.st_mode)


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "dlwhy-requirements.txt"
    ODD[kind](path)
    with pytest.raises(UnusableError, match=r"dlwhy-requirements.txt: not a regular file: left alone$"):
        files.read_file(path)
    assert not pip.is_filled(tmp_path, "")
    assert shell.read_command(path) is None
    files.remove(path)
    assert not os.path.lexists(path)


def test_a_command_that_is_no_file_is_a_line(home: Path, environment: dict[str, str]) -> None:
    command = home / ".local/bin/dlwhy"
    command.parent.mkdir(parents=True)
    os.mkfifo(command)
    assert f"note: {command} is not ours and stays" in run(environment, "install")
    assert f"note  {command} is not ours" in run(environment, "doctor")
    run(environment, "uninstall")
    assert os.path.lexists(command)


@pytest.mark.parametrize("what", ["stamp", "private folder"])
def test_what_stands_in_the_way_of_the_packages_goes(home: Path, environment: dict[str, str], what: str) -> None:
    run(environment, "install")
    for folder in (home / ".local/share/dlwhy").iterdir():
        way = folder if what == "private folder" else folder / "dlwhy-requirements.txt"
        files.remove(way)
        os.mkfifo(way)
    assert "install tabulate" in run(environment, "install")
    assert "nothing to do" in run(environment, "install")
    assert "FAIL" not in run(environment, "doctor")


def test_a_folder_that_cannot_be_made_is_a_line(home: Path, environment: dict[str, str]) -> None:
    (home / ".local").mkdir()
    (home / ".local/bin").write_text("a file\n")
    said = run(environment, "install")
    assert f"note: {home}/.local/bin: File exists" in said
    assert "dlwhy is installed: start " in said
    run(environment, "uninstall")
    assert content(home) == {".local/bin": b"a file\n"}


def test_an_installation_of_before_keeps_working(home: Path, environment: dict[str, str]) -> None:
    run(environment, "install")
    for stamp in (home / ".local/share/dlwhy").glob("*/dlwhy-requirements.txt"):
        stamp.write_text("tabulate>=0.8.10\npygments>=2.11\n")
    assert "FAIL" not in run(environment, "doctor")
    assert "install tabulate" in run(environment, "install")


def test_a_home_that_depends_on_the_current_folder_is_refused(environment: dict[str, str], trap: Path) -> None:
    environment["HOME"] = "somewhere"
    said = run(environment, "install", status=1, cwd=trap)
    assert said == "install.py: the home folder is not known, it would be somewhere: set HOME to its path\n"
    environment.update(HOME=str(trap.parent / "a home"), XDG_CONFIG_HOME="conf")
    (trap / "conf/gdb").mkdir(parents=True)
    (trap / "conf/gdb/gdbinit").touch()
    run(environment, "install", cwd=trap)
    assert (trap / "conf/gdb/gdbinit").read_text() == ""


# Root and folders of others


def give_away(path: Path) -> None:
    os.chown(path, OTHER, OTHER, follow_symlinks=False)


def everything(folder: Path) -> dict[str, tuple[int, int, str]]:
    """List what is below a folder without following a link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = os.lstat(path)
        found[str(path)] = (seen.st_mode, seen.st_uid, os.readlink(path) if path.is_symlink() else "")
    return found


@AS_ROOT
@pytest.mark.parametrize("command", ["install", "uninstall", "doctor", "demo", "test"])
def test_root_stays_out_of_the_home_of_another(home: Path, environment: dict[str, str], command: str) -> None:
    victim = home.parent / "victim"
    victim.write_text("root's own\n")
    (home / ".gdbinit").symlink_to(victim)
    (home / ".local").symlink_to(home.parent)
    give_away(home)
    before = everything(home.parent)
    said = run(environment, command, status=1)
    assert said == (
        f"install.py: root does not work in folders of others, and {home} belongs to the user with the uid {OTHER}: "
        "run this as the user whose they are, or with a HOME and XDG folders of root's own (sudo -H)\n"
    )
    assert everything(home.parent) == before
    assert victim.read_text() == "root's own\n"


@AS_ROOT
@pytest.mark.parametrize("where", [".gdbinit", ".config", ".local", ".local/bin", ".local/share/dlwhy", ".cache"])
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_root_follows_no_link_of_another(home: Path, environment: dict[str, str], where: str, kind: str) -> None:
    (home.parent / "etc").mkdir()
    path = home / where
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(home.parent / "etc")
    else:
        path.mkdir()
    give_away(path)
    said = run(environment, "install", status=1)
    assert f"{path} belongs to the user with the uid {OTHER}" in said
    assert content(home.parent) == {}


@AS_ROOT
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_root_stays_out_of_a_home_that_others_may_write_to(home: Path, environment: dict[str, str], mode: int) -> None:
    os.chown(home, 0, OTHER)
    home.chmod(mode)
    assert f"and others may write to {home}: " in run(environment, "install", status=1)
    assert content(home) == {}


@AS_ROOT
def test_links_of_roots_own_are_followed(home: Path, environment: dict[str, str]) -> None:
    """As stow makes them: from ~/.gdbinit to ~/dotfiles, and a home folder that is a link itself."""
    link = home.parent / "by link"
    link.symlink_to("a home")
    (home / "dotfiles").mkdir()
    (home / "dotfiles/gdbinit").write_bytes(b"set height 0\n")
    (home / ".gdbinit").symlink_to("dotfiles/../dotfiles/gdbinit")
    (home / ".local").symlink_to(home / "dotfiles")
    environment["HOME"] = str(link)
    run(environment, "install")
    assert b"source " in (home / "dotfiles/gdbinit").read_bytes()
    assert (home / "dotfiles/bin/dlwhy").exists()
    assert "FAIL" not in run(environment, "doctor")
    run(environment, "uninstall")
    assert (home / ".gdbinit").is_symlink()
    assert content(home / "dotfiles") == {"gdbinit": b"set height 0\n"}


def test_a_ring_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert ownership.find_foreign_writer(tmp_path / "a" / "c") or os.geteuid() != 0


# As another user than root


@pytest.fixture
def public() -> Iterator[Path]:
    """Make a folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="dlwhy-public-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@AS_ROOT
def test_an_unreadable_folder_on_path_is_a_line(environment: dict[str, str], wheels: Path, public: Path) -> None:
    checkout = copy_of_checkout(public / "checkout")
    shutil.copytree(wheels, public / "wheels")
    home, closed = public / "home", public / "closed"
    home.mkdir()
    give_away(home)
    closed.mkdir(mode=0o700)
    environment.update(HOME=str(home), PATH=f"{closed}:{closed}/bin:/nowhere:/usr/bin:/bin")
    environment["PIP_FIND_LINKS"] = (public / "wheels").as_uri()

    def as_user(command: str) -> subprocess.CompletedProcess[str]:
        words = ["/usr/bin/python3", str(checkout / "install.py"), command]
        return subprocess.run(
            words, env=environment, user=OTHER, group=OTHER, extra_groups=[], cwd="/", capture_output=True, text=True
        )

    done = as_user("install")
    assert f"note: PATH: {closed}: Permission denied\n" in done.stdout, done.stdout + done.stderr
    assert f"note: PATH: {closed}/bin: Permission denied\n" in done.stdout
    assert "dlwhy is installed: start " in done.stdout
    assert (home / ".gdbinit").exists()
    (home / ".gdbinit").chmod(0o600)
    examined = as_user("doctor")
    assert f"note  PATH: {closed}: Permission denied: what is in there is not found\n" in examined.stdout
    assert "FAIL" not in examined.stdout
    os.chown(home / ".gdbinit", 0, 0)
    assert f"FAIL  {home}/.gdbinit: Permission denied" in as_user("doctor").stdout
    assert f"note: {home}/.gdbinit: Permission denied" in as_user("install").stdout
    failed = as_user("uninstall")
    assert failed.returncode == 1
    assert failed.stderr == f"install.py: {home}/.gdbinit: Permission denied\n"
    assert not (home / ".lldbinit").exists()
