"""Does a command that is one new folder appear in every host, and does a host load only what it needs?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.gdbrun import ROOT, SCRIPT, clean_environment
from dlwhy.tests.hosts.scenario import fixtures

DECLARATION = '''"""``dlcount``: how many libraries are loaded?"""

from __future__ import annotations

from ..arguments import argument
from ..registry import Command, Example

COMMAND = Command(
    name="dlcount",
    os="linux",
    summary="count the loaded libraries",
    description="Counts.",
    arguments=(argument("--twice", action="store_true", help="count them twice"),),
    answer="command:answer",
    examples=(Example("dlcount", "count"),),
)
'''
ANSWER = '''"""How is ``dlcount`` answered?"""

from __future__ import annotations

from argparse import Namespace

from ...linux.state.examine import explain
from ...render.document import Document, Sentence
from ..session import Result, Session


def answer(session: Session, arguments: Namespace) -> Result:
    """Answer ``dlcount``."""
    count = len(explain(session.target, brief=True).libraries) * (2 if arguments.twice else 1)
    return Result(lambda: {"count": count}, lambda _: Document((Sentence(f"counted {count}"),)), False, False)
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the package and add one folder to it."""
    copy = tmp_path_factory.mktemp("new") / "checkout"
    for name in ("common", "gdb_ext", "lldb_ext", "windbg_ext"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(ROOT / name, copy)
    folder = copy / "common" / "commands" / "dlcount"
    folder.mkdir()
    (folder / "__init__.py").write_text(DECLARATION)
    (folder / "command.py").write_text(ANSWER)
    return copy


def run(words: Sequence[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=120, env=clean_environment(environment), cwd=folder
    )
    return done.stdout + done.stderr


def program() -> Path:
    return build(fixtures()["open_count"]) / fixtures()["open_count"].program


def in_gdb(script: Path, folder: Path, *commands: str) -> str:
    words = ["gdb", "-nx", "-batch", "-ex", f"source {script}", "-ex", "break main", "-ex", "run"]
    for command in commands:
        words += ["-ex", command]
    return run([*words, str(program())], folder)


def test_in_the_shell(checkout: Path, tmp_path: Path) -> None:
    shell = [sys.executable, str(checkout)]
    assert "dlcount" in run([*shell, "help"], tmp_path)
    assert "count them twice" in run([*shell, "help", "dlcount"], tmp_path)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            text = run([*shell, "--pid", str(process.pid), "dlcount"], tmp_path)
            twice = run([*shell, "--pid", str(process.pid), "dlcount", "--twice", "--json"], tmp_path)
        finally:
            process.kill()
    count = re.fullmatch(r"counted (\d+)\n", text)
    assert count is not None, text
    assert json.loads(twice) == {"count": 2 * int(count[1])}


def test_in_gdb(checkout: Path, tmp_path: Path) -> None:
    script = checkout / "gdb_ext" / "dlwhy_gdb.py"
    output = in_gdb(script, tmp_path, "help dlcount", "dlcount", "complete dlco", "interpreter-exec mi -dlcount")
    assert "Count the loaded libraries." in output
    assert len(re.findall(r"^counted [4-9]$", output, re.MULTILINE)) == 1, output
    assert "\ndlcount\n" in output
    assert re.search(r'\^done,count="[4-9]"', output), output


@pytest.mark.parametrize("version", [lldbs.OLD, lldbs.NEW])
def test_in_lldb(checkout: Path, tmp_path: Path, version: str) -> None:
    found = lldbs.get(version)
    words = [*found.command, "--no-lldbinit", "--batch"]
    commands = [f"command script import {checkout / 'lldb_ext' / 'dlwhy_lldb.py'}", f"target create {program()}"]
    commands += ["breakpoint set --name main", "process launch", "help dlcount", "dlcount", "process kill"]
    for command in commands:
        words += ["-o", command]
    output = run(words, tmp_path, **{**found.environment, "HOME": str(tmp_path)})
    assert "Count the loaded libraries." in output
    assert len(re.findall(r"^counted [4-9]$", output, re.MULTILINE)) == 1, output


LOADED = "python import sys; print('loaded', *sorted(n for n in sys.modules if n.startswith('dlwhy.common.')))"


def test_a_host_loads_what_it_is_asked(tmp_path: Path) -> None:
    output = in_gdb(SCRIPT, tmp_path, LOADED, "dlstate", LOADED)
    listed, answered = (set(line.split()[1:]) for line in output.splitlines() if line.startswith("loaded "))
    assert "dlwhy.common.linux.state.examine" not in listed, "commands are listed without their analysis"
    assert "dlwhy.common.commands.dlstate.command" in answered
    assert not [name for name in answered if name.startswith("dlwhy.common.windows")]
    others = [name for name in answered if re.fullmatch(r"dlwhy\.common\.commands\.dl\w+\.\w+", name)]
    assert {name.split(".")[3] for name in others} == {"dlstate"}
