"""Are the values of arguments understood, and does the shell's usual start import little?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.commands.arguments import number_or_all, process_id
from dlwhy.common.errors import UsageError

ROOT = Path(dlwhy.__file__).parent
#: Each takes 1 to 20 ms of the 30 of an answer, and is not needed for it.
HEAVY = {"dataclasses", "inspect", "pathlib", "shutil", "subprocess", "tempfile", "textwrap", "pygments", "elftools"}


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("12", 12), ("all", None)])
def test_a_number_or_all(text: str, number: int | None) -> None:
    assert number_or_all("--closes", text) == number


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1.5"])
def test_no_number(text: str) -> None:
    with pytest.raises(UsageError, match="--closes takes a number from 1 on, or 'all'"):
        number_or_all("--closes", text)


@pytest.mark.parametrize(("text", "number"), [(None, None), ("7", 7), ("0x10", 16), ("0n16", 16)])
def test_a_process_id(text: str | None, number: int | None) -> None:
    assert process_id(text) == number


def test_no_process_id() -> None:
    with pytest.raises(UsageError, match=r"-p \(--process\) takes a process id, not 'x'"):
        process_id("x")


def test_the_usual_answer_imports_little(rich_core: Path) -> None:
    command = [sys.executable, "-I", "-S", "-X", "importtime", str(ROOT / "__main__.py")]
    command += ["--core", str(rich_core), "dlstate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"XDG_DATA_HOME": "/nonexistent"})
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "dlwhy.common.linux.state.examine" in modules
    assert modules.isdisjoint(HEAVY), modules & HEAVY
    ours = {name for name in modules if name.startswith("dlwhy.common.")}
    assert not {name for name in ours if name.startswith("dlwhy.common.windows")}
    others = {name for name in ours if name.startswith("dlwhy.common.commands.dl")}
    assert others == {name for name in others if name.startswith("dlwhy.common.commands.dlstate")}
