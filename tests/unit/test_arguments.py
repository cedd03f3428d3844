"""Are plain words read as argparse reads them, and does the shell's usual start import little?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import dlwhy
import hypothesis.strategies as st
import pytest
from dlwhy.common.cli import ARGUMENTS
from dlwhy.common.commands.arguments import Argument, argument, read_plain_words
from dlwhy.common.commands.registry import OUTPUT_ARGUMENTS, all_commands
from dlwhy.common.commands.usage import CommandParser, add_arguments
from dlwhy.common.errors import UsageError
from hypothesis import given

WORDS = [
    *("-v", "-h", "-x", "-vv", "-v=1", "--", "-", "-1", "--json", "--json=1", "--all", "--strict", "--strict=1"),
    *("--color", "--color=always", "--color=pink", "always", "--col", "--closes", "--closes=2", "--count", "--count=x"),
    *("--pid", "--pid=1", "--core", "--core=x", "--exe=", "--define", "--pair", "-q", "--quiet"),
    *("dlstate", "help", "libB.so", "&x", "", "a b", "-a b", "3", "0x1"),
]
SETS: dict[str, tuple[Argument, ...]] = {
    "shell": ARGUMENTS,
    **{name: (*command.arguments, *OUTPUT_ARGUMENTS) for name, command in all_commands().items()},
    "one word": (argument("--count", type=int, default=3), argument("file")),
    "two words": (argument("-q", "--quiet", action="store_true"), argument("file"), argument("other")),
    "no words": OUTPUT_ARGUMENTS,
    "what only argparse reads": (
        argument("--define", action="append"),
        argument("--pair", nargs=2),
        argument("--count", type=int),
        argument("file", nargs="?"),
    ),
}
ROOT = Path(dlwhy.__file__).parent
HEAVY = {"argparse", "collections", "contextlib", "dataclasses", "enum", "functools", "importlib.util", "json", "re"}
HEAVY |= {"inspect", "pathlib", "shutil", "subprocess", "tempfile", "textwrap", "typing"}
PLAIN = {
    "shell": [["--pid", "7", "dlstate", "--json", "-x"], ["--core=c", "--strict", "dlplan"], ["help", "dlstate"]],
    "dlstate": [[], ["-v"], ["libB.so", "--json"], ["--color", "never", "&x", "+", "8"]],
    "dlplan": [["libB.so", "--closes=all"], ["--all", "--closes", "2"]],
    "two words": [["-q", "a", "b"]],
}


def by_argparse(arguments: tuple[Argument, ...], words: list[str]) -> dict[str, Any] | None:
    """Read words by argparse; None where it refuses them."""
    parser = CommandParser(prog="test", add_help=False, allow_abbrev=False)
    add_arguments(parser, arguments)
    try:
        return vars(parser.parse_args(words))
    except UsageError:
        return None


@pytest.mark.parametrize("name", SETS)
@given(words=st.lists(st.sampled_from(WORDS), max_size=6))
def test_as_argparse_or_not_at_all(name: str, words: list[str]) -> None:
    found = read_plain_words(SETS[name], words)
    assert found is None or vars(found) == by_argparse(SETS[name], words)


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, every in PLAIN.items() for words in every])
def test_usual_words_need_no_argparse(name: str, words: list[str]) -> None:
    found = read_plain_words(SETS[name], words)
    assert found is not None
    assert vars(found) == by_argparse(SETS[name], words)


def test_the_usual_answer_imports_little(rich_core: Path) -> None:
    """Each of these takes 0.3 to 5 of the 20 ms; tabulate, which imports most of them, is not found here."""
    python = [sys.executable, "-I", "-S", "-X", "importtime"]
    command = [*python, str(ROOT / "__main__.py"), "--core", str(rich_core), "dlstate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"XDG_DATA_HOME": "/nonexistent"})
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "dlwhy.common.linux.state.examine" in modules
    assert modules.isdisjoint(HEAVY), sorted(modules & HEAVY)
