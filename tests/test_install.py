"""Does install.py change what it says, nothing else, and take it back to the byte?"""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from dlwhy.common.setup.gdb import find_gdb
from dlwhy.common.setup.lldb import ask_lldb
from dlwhy.common.setup.pip import listed
from dlwhy.common.setup.rust import find_rustc
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.installing import ROOT, content, copy_of_checkout, only, run, tools_without_gdb

ENTRY = ROOT / "gdb_ext" / "dlwhy_gdb.py"
LLDB_ENTRY = ROOT / "lldb_ext" / "dlwhy_lldb.py"
LLDB = Path(lldbs.installed()[0]).name
USERS_OWN = b"set history save on\n# caf\xe9, not UTF-8\n"


def test_install_twice_then_uninstall(home: Path, environment: dict[str, str]) -> None:
    first = run(environment, "install")
    assert f"write the dlwhy block into {home}/.gdbinit" in first
    assert "help dlstate" in first
    installed = content(home)
    assert (home / ".gdbinit").read_text().splitlines()[1] == f"source {ENTRY}"
    assert (home / ".lldbinit").read_text().splitlines()[1] == f'command script import "{LLDB_ENTRY}"'
    assert [name for name in installed if name.endswith(("tabulate.py", "elftools/__init__.py"))]
    assert not [name for name in installed if name.endswith((".so", ".pyc"))]

    assert run(environment, "install") == "dlwhy is installed already: nothing to do\n"
    assert content(home) == installed

    assert f"remove {home}/.gdbinit" in run(environment, "uninstall")
    assert content(home) == {}
    assert not (home / ".local/share/dlwhy").exists()
    assert run(environment, "uninstall") == "dlwhy is not installed: nothing to do\n"


@pytest.mark.parametrize("command", ["install", "uninstall", "demo", "test"])
def test_a_dry_run_changes_nothing(home: Path, environment: dict[str, str], command: str) -> None:
    if command == "uninstall":
        run(environment, "install")
    before = content(home)
    lines = run(environment, command, "--dry-run").splitlines()
    assert content(home) == before
    assert [line for line in lines if line.startswith("would ")]


@pytest.mark.parametrize(
    "original",
    [USERS_OWN, USERS_OWN.rstrip(b"\n"), b"", b"\n\n", USERS_OWN.replace(b"\n", b"\r\n")],
    ids=["lines", "no line end", "empty", "blank lines", "CRLF"],
)
def test_init_files_are_restored_to_the_byte(home: Path, environment: dict[str, str], original: bytes) -> None:
    inits = [home / ".gdbinit", home / ".lldbinit"]
    for init in inits:
        init.write_bytes(original)
        init.chmod(0o640)
    run(environment, "install")
    installed = content(home)
    for init in inits:
        assert init.read_bytes().startswith(original)
        assert b"dlwhy" in init.read_bytes()
        assert stat.S_IMODE(init.stat().st_mode) == 0o640
    run(environment, "install")
    assert content(home) == installed
    run(environment, "uninstall")
    for init in inits:
        assert init.read_bytes() == original
        assert stat.S_IMODE(init.stat().st_mode) == 0o640


def test_lines_added_after_the_block_stay(home: Path, environment: dict[str, str]) -> None:
    init = home / ".gdbinit"
    init.write_bytes(b"set pagination off")
    run(environment, "install")
    with init.open("ab") as file:
        file.write(b"set height 0\n")
    run(environment, "uninstall")
    assert init.read_bytes() == b"set pagination off\nset height 0\n"


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_written_through(home: Path, environment: dict[str, str], exists: bool) -> None:
    target = home / "dotfiles"
    target.mkdir()
    if exists:
        (target / "gdbinit").write_bytes(USERS_OWN)
    (home / ".gdbinit").symlink_to("dotfiles/gdbinit")
    run(environment, "install")
    assert (home / ".gdbinit").is_symlink()
    assert b"dlwhy" in (target / "gdbinit").read_bytes()
    run(environment, "uninstall")
    assert (home / ".gdbinit").is_symlink()
    assert content(target) == ({"gdbinit": USERS_OWN} if exists else {})


@pytest.mark.parametrize("variable", [None, "XDG_CONFIG_HOME"])
def test_the_file_that_gdb_prefers_is_used(home: Path, environment: dict[str, str], variable: str | None) -> None:
    config = home / "conf" if variable else home / ".config"
    if variable:
        environment[variable] = str(config)
    (config / "gdb").mkdir(parents=True)
    (config / "gdb" / "gdbinit").write_bytes(USERS_OWN)
    (home / ".gdbinit").write_bytes(USERS_OWN)
    run(environment, "install")
    # gdb itself is the judge: it reads one of the two.
    gdb = find_gdb()
    assert gdb is not None
    written = [path for path in (config / "gdb" / "gdbinit", home / ".gdbinit") if b"dlwhy" in path.read_bytes()]
    assert len(written) == 1
    assert written[0].name == ("gdbinit" if gdb.version >= (11,) else ".gdbinit")
    assert "ok    gdb knows the command dlstate" in run(environment, "doctor")
    run(environment, "uninstall")
    assert written[0].read_bytes() == USERS_OWN


def test_another_checkout_takes_over(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    other = copy_of_checkout(tmp_path / "an other")
    (home / ".gdbinit").write_bytes(USERS_OWN)
    run(environment, "install", root=other)
    report = run(environment, "doctor", status=1)
    assert f"loads another checkout (source {other}" in report
    assert "dlwhy block" in run(environment, "install")
    assert (home / ".gdbinit").read_bytes().count(b"\nsource ") == 1
    assert "FAIL" not in run(environment, "doctor")
    run(environment, "uninstall", root=other)
    assert (home / ".gdbinit").read_bytes() == USERS_OWN


def test_a_damaged_block_is_left_alone(home: Path, environment: dict[str, str]) -> None:
    run(environment, "install")
    init = home / ".gdbinit"
    damaged = b"".join(init.read_bytes().splitlines(keepends=True)[:-1])
    init.write_bytes(damaged)
    for command in ("install", "uninstall"):
        assert "is damaged: remove its lines by hand" in run(environment, command, status=1)
        assert init.read_bytes() == damaged
    assert "is damaged" in run(environment, "doctor", status=1)


def test_an_interrupted_installation_of_packages_is_done_again(home: Path, environment: dict[str, str]) -> None:
    run(environment, "install")
    stamps = list((home / ".local/share/dlwhy").glob("python3.*/dlwhy-requirements.txt"))
    stamps[0].unlink()
    assert "install tabulate" in run(environment, "install")
    assert stamps[0].exists()


def test_the_shells_command(home: Path, environment: dict[str, str]) -> None:
    command = home / ".local/bin/dlwhy"
    words = [str(command), "--pid", str(os.getpid()), "dlstate", "--color=always"]
    assert f"note: the shell finds {command} when its folder is on PATH" in run(environment, "install")
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert "libraries: " in done.stdout
    assert "\x1b[" in done.stdout, "the private folder has pygments"

    command.write_text(command.read_text().replace(str(ROOT), "/nowhere"))
    assert f"FAIL  {command} does not run this checkout: python3 install.py install" in run(
        environment, "doctor", status=1
    )
    run({**environment, "PATH": f"{command.parent}:{environment['PATH']}"}, "install")
    assert f"ok    {command} runs dlwhy in the shell" in run(environment, "doctor")


def test_a_command_of_somebody_else_stays(home: Path, environment: dict[str, str]) -> None:
    command = home / ".local/bin/dlwhy"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\necho other\n")
    assert f"note: {command} is not ours and stays; the shell's command is " in run(environment, "install")
    assert f"note  {command} is not ours: the shell's command is python3 {ROOT}" in run(environment, "doctor")
    run(environment, "uninstall")
    assert command.read_text() == "#!/bin/sh\necho other\n"


def test_doctor_before_and_after(home: Path, environment: dict[str, str]) -> None:
    before = run(environment, "doctor", status=1)
    assert re.search(r"^ok    gdb \d+\.\d+ is /", before, re.MULTILINE)
    assert f"FAIL  {home}/.gdbinit does not load dlwhy: python3 install.py install" in before
    assert "FAIL  gdb has no command dlstate" in before
    run(environment, "install")
    after = run(environment, "doctor")
    assert "FAIL" not in after
    lines = [
        f"{home}/.gdbinit loads dlwhy into gdb: source {ENTRY}",
        f'{home}/.lldbinit loads dlwhy into LLDB: command script import "{LLDB_ENTRY}"',
        "gdb knows the command dlstate",
        f"{LLDB} knows the command dlstate",
        f"{LLDB}'s Python has tabulate, pygments, pyelftools",
    ]
    for line in lines:
        assert f"ok    {line}" in after
    assert "tabulate, pygments, pyelftools" in after


def test_without_gdb_and_apt_the_package_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    environment["PATH"] = tools_without_gdb(tmp_path / "bin")
    assert "install with your package manager what Debian calls: gdb" in run(environment, "install", status=1)
    report = run(environment, "doctor", status=1)
    assert "FAIL  no gdb on PATH: " in report
    assert "note  no LLDB on PATH: " in report


def test_an_lldb_without_python_is_named(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    environment["PATH"] = only(tmp_path / "bin", "gdb")
    lldb = tmp_path / "bin" / "lldb"
    lldb.write_text("#!/bin/sh\necho lldb version 17.0.1\n")
    lldb.chmod(0o755)
    said = run(environment, "install")
    assert f"note: {lldb} was built without Python: install a full LLDB" in said
    assert "start gdb and type" in said
    assert not (home / ".lldbinit").exists()
    assert f"note  {lldb} was built without Python: install a full LLDB" in run(environment, "doctor")
    (tmp_path / "bin" / "gdb").unlink()
    assert "was built without Python: install a full LLDB" in run(environment, "install", status=1)
    assert f"FAIL  {lldb} was built without Python: " in run(environment, "doctor", status=1)


def test_with_gdb_alone(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    environment["PATH"] = only(tmp_path / "bin", "gdb")
    assert "dlwhy is installed: start gdb and type: help dlstate" in run(environment, "install")
    assert not (home / ".lldbinit").exists()
    report = run(environment, "doctor")
    assert "note  no LLDB on PATH: not needed" in report
    run(environment, "uninstall")
    assert content(home) == {}


def test_with_lldb_alone(home: Path, environment: dict[str, str], tmp_path: Path, modules: str) -> None:
    environment["PATH"] = only(tmp_path / "bin", LLDB)
    environment["PYTHONPATH"] = modules
    assert f"dlwhy is installed: start {LLDB} and type: help dlstate" in run(environment, "install")
    assert not (home / ".gdbinit").exists()
    report = run(environment, "doctor")
    assert "note  no gdb on PATH: not needed" in report
    assert f"ok    {LLDB} knows the command dlstate" in report
    assert "by itself" not in report
    assert run(environment, "install") == "dlwhy is installed already: nothing to do\n"
    run(environment, "uninstall")
    assert content(home) == {}


@pytest.fixture
def modules() -> str:
    """Return where Debian's LLDB 14 has its Python modules; nothing for those that find them by themselves."""
    return lldbs.get(lldbs.installed()[1]).environment.get("PYTHONPATH", "")


def test_the_real_lldbs_load_dlwhy(home: Path, environment: dict[str, str]) -> None:
    (home / ".lldbinit").write_bytes(b"settings set stop-line-count-before 1")
    run(environment, "install")
    for version in (lldbs.OLD, lldbs.NEW):
        lldb = lldbs.get(version)
        words = [*lldb.command, "--batch", "-o", "help dlstate", "-o", "settings show stop-line-count-before"]
        done = subprocess.run(words, env={**environment, **lldb.environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Usage: dlstate" in done.stdout
        assert re.search(r"^stop-line-count-before \(\w+\) = 1$", done.stdout, re.MULTILINE)
        assert done.stderr == ""


def test_the_file_that_lldb_prefers_is_used(home: Path, environment: dict[str, str], modules: str) -> None:
    environment["PYTHONPATH"] = modules
    for name in (".lldbinit", ".lldbinit-lldb"):
        (home / name).write_bytes(USERS_OWN.replace(b"set history save on", b"# nothing"))
    before = content(home)
    run(environment, "install")
    assert (home / ".lldbinit").read_bytes() == before[".lldbinit"]
    assert b"command script import" in (home / ".lldbinit-lldb").read_bytes()
    assert f"ok    {LLDB} knows the command dlstate" in run(environment, "doctor")
    run(environment, "uninstall")
    assert content(home) == before


@pytest.mark.parametrize("alone", [False, True])
def test_doctor_knows_debians_lldb_14(environment: dict[str, str], tmp_path: Path, modules: str, alone: bool) -> None:
    """It looks for its Python modules in a wrong folder, and says so in a dozen lines at each start."""
    environment.pop("PYTHONPATH", None)
    environment["PATH"] = only(tmp_path / "bin", *([LLDB] if alone else ["gdb", LLDB]))
    path = tmp_path / "bin" / LLDB
    if not ask_lldb(str(path)).variables:
        return  # mended by Debian
    advice = f"does not find its Python modules by itself: start it as: PYTHONPATH={modules} {LLDB}"
    assert f"note: {path} {advice}" in run(environment, "install")
    report = run(environment, "doctor", status=int(alone))
    assert f"{'FAIL' if alone else 'note'}  {LLDB} {advice}" in report
    assert f"ok    {LLDB} knows the command dlstate" in report


@pytest.mark.parametrize("version", [lldbs.OLD, lldbs.NEW])
def test_a_path_with_quotes_is_loaded(environment: dict[str, str], tmp_path: Path, version: str) -> None:
    other = copy_of_checkout(tmp_path / 'an "other" \\ one')
    run(environment, "install", root=other)
    lldb = lldbs.get(version)
    words = [*lldb.command, "--batch", "-o", "help dlstate"]
    words += ["-o", "script import sys; print(sys.modules['dlwhy'].__file__)"]
    done = subprocess.run(words, env={**environment, **lldb.environment}, capture_output=True, text=True)
    assert str(other / "__init__.py") in done.stdout, done.stderr


def test_a_path_that_lldb_cannot_import_is_refused(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    other = copy_of_checkout(tmp_path / "a `whoami` b")
    report = run(environment, "install", root=other)
    assert "note: LLDB cannot import a file whose path holds a line end or `" in report
    assert not (home / ".lldbinit").exists()


def test_a_rustc_that_does_not_work_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rustc = tmp_path / "rustc"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_rustc() is None
    rustc.write_text("#!/bin/sh\necho error: no default toolchain >&2; exit 1\n")
    rustc.chmod(0o755)
    assert find_rustc() is None
    working = tmp_path / "later" / "rustc"
    working.parent.mkdir()
    working.write_text("#!/bin/sh\necho rustc 1.63.0\n")
    working.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{working.parent}")
    assert find_rustc() == str(working)


def test_lists_are_read_as_toml_reads_them() -> None:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    settings = toml.loads((ROOT / "pyproject.toml").read_text())
    assert listed("dependencies") == settings["project"]["dependencies"]
    assert listed("test") == settings["project"]["optional-dependencies"]["test"]
    assert listed("packages") == settings["tool"]["setuptools"]["packages"]


def test_an_old_python_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 6, 15, "final", 0))
    with pytest.raises(SystemExit) as refusal:
        runpy.run_path(str(ROOT / "install.py"))
    assert str(refusal.value) == ("install.py: needs Python 3.9 or later, this is 3.6; try python3.11 install.py")


def test_the_demo_shows_the_verdict_without_an_installation(environment: dict[str, str], home: Path) -> None:
    transcript = run(environment, "demo")
    if shutil.which("rustc") is None:
        assert "C++ instead of Rust" in transcript
    table, asked, logged = transcript.split("(gdb) dlstate")[1:]
    assert "libB.so" in table
    assert "libA.so" not in table
    assert "libB.so" in asked.splitlines()[1]
    assert "TLS destructor" in asked
    assert "libA.so" in logged.splitlines()[1]
    assert "TLS destructor" in logged
    assert not (home / ".gdbinit").exists()
