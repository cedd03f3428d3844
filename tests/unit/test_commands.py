"""Is a command line understood, or refused with a UsageError that leaves the debugger running?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dlwhy.common.cli import main
from dlwhy.common.commands.parser import HELP_WIDTH, HelpRequested
from dlwhy.common.commands.registry import commands_of, find_command, names
from dlwhy.common.commands.run import run
from dlwhy.common.errors import NotFoundError, UsageError
from dlwhy.tests.fakes import CoreTarget, FakeHost, snapshot

COMMANDS = commands_of()
DLSTATE = COMMANDS["dlstate"]


@pytest.fixture(scope="module")
def target(rich_core: Path) -> CoreTarget:
    return snapshot(rich_core)


# -- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = COMMANDS[name].help()
    lines = text.splitlines()
    assert lines[0] == f"{COMMANDS[name].summary[0].upper()}{COMMANDS[name].summary[1:]}."
    assert lines[1].startswith(f"Usage: {name} ")
    assert all(len(line) <= HELP_WIDTH + 3 for line in lines), [line for line in lines if len(line) > HELP_WIDTH]
    assert all(flag in text for flag in ("--verbose", "--json", "--color"))
    assert str(COMMANDS[name].arguments[0].options["metavar"]) in text
    assert not text.endswith("\n")
    for columns in ("20", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        assert COMMANDS[name].help() == text, "the terminal makes no difference"


@pytest.mark.parametrize(
    "words",
    [
        ["--nosuch"],
        ["--color"],
        ["--color=pink"],
        ["--json=yes"],
        ["-x"],
        ["libB.so", "-q"],
        ["--col=always=never"],
        ["-vx"],
    ],
)
def test_wrong_words(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        DLSTATE.parse(words)
    assert "dlstate" in caught.value.usage
    assert "\n" not in str(caught.value)
    assert "help dlstate" in str(caught.value)


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["--version"], ["-1", "-2"], ["--"], ["@file"], ["%n"], ["\0"]])
def test_no_words_end_the_debugger(words: list[str]) -> None:
    try:
        DLSTATE.parse(words)
    except (UsageError, HelpRequested):
        return
    except SystemExit:  # pragma: no cover - that is the failure
        pytest.fail("argparse has ended the process")


def test_what_words_mean() -> None:
    parse = DLSTATE.parse
    plain = parse([])
    assert (plain.library, plain.verbose, plain.json, plain.color) == ([], False, False, "auto")
    full = parse(["-v", "lib B.so", "--json", "--color=never"])
    assert (full.library, full.verbose, full.json, full.color) == (["lib B.so"], True, True, "never")
    assert parse(["--", "-odd-name.so"]).library == ["-odd-name.so"]
    assert parse(["&handle", "+", "8"]).library == ["&handle", "+", "8"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_declaration_names_a_function(name: str) -> None:
    command = COMMANDS[name]
    assert command.name == name
    assert command.os == ("windows" if name.startswith("dll") else "linux")
    assert callable(command.function())
    for example in command.examples:
        words = example.words.split()
        assert words[0] == name
        command.parse(words[1:])


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["libB.so", "-h"], ["--json", "--help"]])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_other_word(name: str, words: list[str], target: CoreTarget) -> None:
    """``dltrace --help`` lacks the argument that dltrace requires."""
    host = FakeHost(target, {})
    assert run(host, COMMANDS[name], [word for word in words if word.startswith("-")]) is None
    assert host.written == COMMANDS[name].help() + "\n"


def test_names() -> None:
    assert names() == tuple(sorted(COMMANDS))
    assert find_command("nosuch") is None
    assert find_command("registry") is None
    assert set(commands_of("linux")) | set(commands_of("windows")) == set(COMMANDS)


# -- runs -----------------------------------------------------------------------------------------------------


def written(target: CoreTarget, *words: str, colour: bool = False) -> str:
    host = FakeHost(target, {"$pc": 0x10}, colour=colour)
    run(host, DLSTATE, words)
    return host.written


def test_one_library(target: CoreTarget) -> None:
    text = written(target, "libowed.so")
    assert text.startswith("libowed.so stays loaded: 3 pending TLS destructors.\n")
    assert text.count("Cache::~Cache() in libowed.so") == 3
    assert "offset" not in text
    assert "offset" in written(target, "libowed.so", "-v")


def test_an_expression_of_several_words(target: CoreTarget) -> None:
    document = json.loads(written(target, "libleft.so", "--json"))
    base = int(document["libraries"][0]["base"], 16)
    host = FakeHost(target, {"some expression + 16": base + 16})
    run(host, DLSTATE, ["some", "expression", "+", "16"])
    assert host.written.startswith("libleft.so can go")


def test_json(target: CoreTarget) -> None:
    document = json.loads(written(target, "--json", colour=True))
    assert document["schema"] == "dlwhy/1"
    assert document["command"] == "dlstate"
    assert len(document["libraries"]) > 50
    assert document["libraries"][0]["build_id"]


@pytest.mark.parametrize(
    ("words", "screen", "expected"),
    [
        ([], False, False),
        ([], True, True),
        (["--color=never"], True, False),
        (["--color=always"], False, True),
        (["--color", "auto"], True, True),
    ],
)
def test_colour(target: CoreTarget, words: list[str], screen: bool, expected: bool) -> None:
    text = written(target, "libowed.so", *words, colour=screen)
    assert ("\x1b[" in text) is expected
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == written(target, "libowed.so", "--color=never")


def test_no_such_library(target: CoreTarget) -> None:
    with pytest.raises(NotFoundError, match=r"libowned\.so.*near: .*libowed\.so"):
        written(target, "libowned.so")


def test_wrong_words_ask_nothing_of_the_target() -> None:
    class NoHost(FakeHost):
        def target(self) -> CoreTarget:
            raise AssertionError("the target was asked for")

    host = NoHost.__new__(NoHost)
    with pytest.raises(UsageError):
        run(host, DLSTATE, ["--nosuch"])


# -- what a target names must not reach the terminal as it is -----------------------------------------------------


@pytest.fixture(scope="module")
def evil_core(rich_core: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rename a library in a core so that its name is an escape code."""
    data = rich_core.read_bytes()
    assert b"/libleft.so\0" in data
    path = tmp_path_factory.mktemp("evil") / "core"
    path.write_bytes(data.replace(b"/libleft.so\0", b"/li\x1b[31m.so\0"))
    return path


@pytest.mark.parametrize("words", [[], ["-v"], ["li*"], ["li*m.so"], ["li31m.so"], ["nosuch"], ["--json"]])
def test_names_of_escape_codes(evil_core: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    main(["--core", str(evil_core), "dlstate", "--color=never", *words])
    out, err = capsys.readouterr()
    assert "31m" in out + err or words == ["nosuch"]
    assert "\x1b" not in out
    assert "\x1b" not in err, "an error message shows near names"
