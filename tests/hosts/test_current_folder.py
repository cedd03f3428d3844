"""Does code of the current folder never run, and are the private packages found by their own path alone?

LLDB 14 has ``.`` at the end of ``sys.path``; gdb gets it here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.gdbrun import ROOT, clean_environment
from dlwhy.tests.hosts.scenario import fixtures
from dlwhy.tests.hosts.typed import DEBUGGERS, ask

#: What an answer imports, at its start or later; wcwidth and org are tried by tabulate and the standard library's copy.
MODULES = ["tabulate", "wcwidth", "rust_demangler", "json", "argparse", "re", "textwrap", "fnmatch", "difflib"]
MODULES += ["traceback", "copy", "pickle", "struct", "zlib", "ctypes", "subprocess", "common", "readline"]
PACKAGES = ["pygments", "elftools", "org"]
MARK = "import os; open({mark!r}, 'a').write(__name__ + '\\n'); raise ImportError('of the current folder')\n"
WAYS = {
    "checkout": [str(ROOT)],
    "module": ["-m", "dlwhy"],
    "console": ["SCRIPT"],
}


def hostile(folder: Path) -> Path:
    """Fill a folder with modules that leave a mark; return the mark's file."""
    folder.mkdir(parents=True)
    mark = folder.parent / "mark"
    for name in MODULES:
        (folder / f"{name}.py").write_text(MARK.format(mark=str(mark)))
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(MARK.format(mark=str(mark)))
    return mark


def session(host: str) -> list[str]:
    """Return commands that make dlwhy import all it can."""
    program = build(fixtures()["story"]) / "progA"
    gdb = host == GDB
    stop, go = ("break stop_here", "continue") if gdb else ("breakpoint set -n stop_here", "process continue")
    commands = [f"file {program}" if gdb else f'target create "{program}"']
    commands += ["break main" if gdb else "breakpoint set -n main", "run", "dltrace start --tls --log log.jsonl"]
    commands += [stop, "dlstate", "dlstate --json", "dlstate libc.so.6 -v --color=always", "dlplan --all", go]
    commands += ["dltrace report", "dltrace report --json", "help dlstate", "dlstate --help", go, "dltrace report"]
    return [*commands, "complete dlstate lib"] if gdb else commands


def marks(mark: Path) -> set[str]:
    """Return the names of what left a mark."""
    return set(mark.read_text().splitlines()) if mark.exists() else set()


def by_itself(host: str, folder: Path) -> set[str]:
    """Return what a debugger runs of the current folder by itself: LLDB imports copy, and that tries org."""
    mark = hostile(folder / "itself" / "here")
    ask(host, ["python 1" if host == GDB else "script 1"], folder / "itself" / "here", with_dlwhy=False)
    return marks(mark)


def path_of(output: str, marker: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if line.startswith(marker)]
    found: list[str] = json.loads(line[len(marker) :])
    return found


SHOW = "import json, sys; print('{}' + json.dumps(sys.path))"


@pytest.mark.parametrize("host", DEBUGGERS)
@pytest.mark.parametrize("entry", [".", ""])
def test_no_code_of_the_current_folder(host: str, entry: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "here")
    python = "python" if host == GDB else "script"
    add = f"{python} import sys; sys.path.append({entry!r})"
    before, after = (f"{python} {SHOW.format(word)}" for word in ("BEFORE", "AFTER"))
    begin, commands = session(host)[:3], session(host)[3:]
    if host == GDB:
        begin.insert(0, "set auto-load python-scripts off")  # those of libstdc++ add to the path
    output = ask(host, [add, *begin, before, *commands, after], tmp_path / "here", {"HOME": str(tmp_path / "home")})
    assert marks(mark) <= by_itself(host, tmp_path)
    assert "a bug in dlwhy" not in output
    assert "dltrace" in output
    assert path_of(output, "BEFORE") == path_of(output, "AFTER")


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_command_that_fails(host: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "here")
    commands = ["python import sys; sys.path.append('.')"] if host == GDB else []
    # In batch mode LLDB ends at the first of them.
    for words in (["dlstate libnone.so"], ["dlstate --none"], ["dlstate"]):
        begin = session(host)[:3] if words != ["dlstate"] else []
        ask(host, [*commands, *begin, *words], tmp_path / "here")
    assert marks(mark) <= by_itself(host, tmp_path)


@pytest.mark.parametrize("host", DEBUGGERS)
def test_a_script_that_asks(host: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "here")
    python = "python" if host == GDB else "script"
    ask_by_api = "process = dlwhy.open(); trace = process.trace(tls=True); trace.stop(); dlwhy.DllState"
    asked = "print('ASKED', len(process.state().libraries), len(process.plan().plans), trace.report().watching)"
    commands = [f"{python} import sys; sys.path.append('.')", *session(host)[:3]]
    commands += [f"{python} import dlwhy; {ask_by_api}; {asked}"]
    output = ask(host, commands, tmp_path / "here", {"HOME": str(tmp_path / "home")})
    assert marks(mark) <= by_itself(host, tmp_path)
    assert re.search(r"^ASKED \d+ 0 False$", output, re.MULTILINE), output


@pytest.mark.parametrize("host", DEBUGGERS)
@pytest.mark.parametrize("package", ["tabulate", "pygments"])
def test_private_packages_by_their_own_path(host: str, package: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "here")
    python = "python" if host == GDB else "script"
    version = ask(host, [f"{python} import sys; print('PYTHON%d.%d' % sys.version_info[:2])"], tmp_path)
    version = next(line for line in version.splitlines() if line.startswith("PYTHON"))[len("PYTHON") :]
    private = tmp_path / "data" / "dlwhy" / f"python{version}"
    private.mkdir(parents=True)
    used = tmp_path / "used"
    (private / f"{package}.py").write_text(MARK.format(mark=str(used)))
    show = [f"{python} {SHOW.format('PATH')}"]
    commands = [*session(host)[:3], "dlstate --color=always", *show]
    output = ask(host, commands, tmp_path / "here", {"XDG_DATA_HOME": str(tmp_path / "data")})
    assert set(used.read_text().splitlines()) == {package}
    assert marks(mark) <= by_itself(host, tmp_path)
    assert str(private) not in path_of(output, "PATH")
    assert "stay loaded" in output, "what fails in any way costs only what it gives"


def shell(
    way: Sequence[str], words: Sequence[str], cwd: Path, other: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the shell's command; dlwhy can be imported."""
    site = cwd.parent / "site"
    site.mkdir(exist_ok=True)
    if not (site / "dlwhy").exists():
        (site / "dlwhy").symlink_to(ROOT)
    # As pip writes it.
    (cwd.parent / "dlwhy").write_text("from dlwhy.common.cli import entry\nentry()\n")
    way = [str(cwd.parent / "dlwhy") if word == "SCRIPT" else word for word in way]
    environment = clean_environment({"PYTHONPATH": str(site)})
    return subprocess.run(
        [sys.executable, *way, *words], capture_output=True, text=True, check=False, cwd=other or cwd, env=environment
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_shell(way: str, tmp_path: Path) -> None:
    mark = hostile(tmp_path / "here")
    about = ["--pid", str(os.getpid())]
    for words in (
        ["dlstate"],
        ["dlstate", "--color=always"],
        ["dlstate", "--json"],
        ["dlstate", "libnone"],
        ["dltrace"],
    ):
        done = shell(WAYS[way], [*about, *words], tmp_path / "here")
        assert "a bug in dlwhy" not in done.stderr
        assert done.returncode in (0, 2, 4), done.stderr
    for words in (["help"], ["help", "dlstate"], ["--none"]):
        shell(WAYS[way], words, tmp_path / "here")
    assert not mark.exists(), mark.read_text()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cwd", ["checkout", "elsewhere"])
def test_no_folder_of_ours_is_a_module(way: str, cwd: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    seen = tmp_path / "seen"
    probe = f"import importlib.util as u; open({str(seen)!r}, 'w').write(repr((u.find_spec('common'), sys.path)))"
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\nclass Probe:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'dlwhy.common.commands.dlstate.document':\n            {probe}\n"
        "sys.meta_path.insert(0, Probe())\n"
    )
    (tmp_path / "elsewhere").mkdir()
    about = ["--pid", str(os.getpid())]
    done = shell(WAYS[way], [*about, "dlstate", "--json"], tmp_path / "elsewhere", ROOT if cwd == "checkout" else None)
    assert done.returncode in (0, 4), done.stderr
    spec, path = eval(seen.read_text())
    assert spec is None
    assert all(os.path.isabs(entry) for entry in path)
    assert str(ROOT) not in path
