"""Do our commands behave in the debugger as its users expect: aliases, help, links, errors, long answers?"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from dlwhy.tests.lab.asking import ROOT, SCRIPT, ask_pykd, document, type_at_prompt
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.synth.minidump import WIN10, Loader, Module
from dlwhy.tests.synth.minidump import Process as MadeProcess
from dlwhy.tests.synth.windows import process, write

COMMANDS = ("dllgone", "dllplan", "dllshare", "dllstate")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("windbg"), process().dump())


def test_each_command_has_an_alias(lab: Lab, dump: Path) -> None:
    again = f'!py -g "{SCRIPT}" --install'
    aliases, _, more = type_at_prompt(lab, ("-z", windows_path(dump)), ["al", again, "al"])
    assert aliases == more
    found = dict(re.findall(r"^ !(\w+) +(!py .*\S) *$", aliases, re.MULTILINE))
    assert found == {name: f'!py -g "{SCRIPT}" {name}' for name in found}
    assert sorted(found)[: len(COMMANDS)] == sorted(COMMANDS)


def test_a_checkout_in_a_folder_with_blanks(lab: Lab, dump: Path, tmp_path: Path) -> None:
    copy = tmp_path / "two words" / "dlwhy"
    ignored = shutil.ignore_patterns(".git", "tests", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    script = windows_path(copy / "windbg_ext" / "dlwhy_windbg.py")
    typed = [f".load {lab.bootstrapper}", f'!py -g "{script}" --install', '!dllstate "libA.dll"', "!dllstate libA"]
    *_, quoted, plain = lab.run_prompt(("-z", windows_path(dump)), typed)
    assert quoted.splitlines()[-1:] == plain.splitlines()[-1:]
    assert "libA.dll stays loaded" in quoted


@pytest.mark.parametrize("word", ["-?", "/?", "--help"])
def test_help(lab: Lab, dump: Path, word: str) -> None:
    (text,) = type_at_prompt(lab, ("-z", windows_path(dump)), [f"!dllstate {word}"])
    assert text.startswith("Explain why a DLL of Windows is still loaded.\nUsage: dllstate ")


def test_errors_are_one_line(lab: Lab, dump: Path) -> None:
    typed = ["!dllstate nosuch.dll", "!dllstate --nosuch", "!dllplan", "!dllstate poi(0)"]
    for text in type_at_prompt(lab, ("-z", windows_path(dump)), typed):
        last = text.splitlines()[-1]
        assert re.match(r"dll\w+: [a-z]", last), text
        assert "Traceback" not in text


def test_expressions_of_the_debugger(lab: Lab, dump: Path) -> None:
    by_name, by_address, by_expression = type_at_prompt(
        lab, ("-z", windows_path(dump)), [f"!dllstate {word}" for word in ("libA", "libA+10", "@@c++(1) + libA")]
    )
    # The engine's warnings about symbols come before the first one.
    assert by_name.endswith(by_address)
    assert by_address == by_expression
    assert by_address.startswith("libA.dll stays loaded")


def test_names_are_links_where_dml_is_shown(lab: Lab, dump: Path) -> None:
    (text,) = type_at_prompt(lab, ("-d", "-z", windows_path(dump)), ["!dllstate"])
    assert '<link cmd="!dllstate libA.dll">libA.dll</link>' in text
    (marked,) = type_at_prompt(lab, ("-d", "-z", windows_path(dump)), ["!dllstate --json"])
    assert "<link" not in marked


def test_the_markup_leaves_the_text_as_it_is(lab: Lab, dump: Path) -> None:
    # An entity that the engine does not know would end the line.
    typed = ["!dllstate", "!dllstate libA -v", "!dllplan libA", "!dllgone", "!dllstate -?"]
    shown = type_at_prompt(lab, ("-z", windows_path(dump)), typed)
    for command, text in zip(typed, shown):
        words = ["--help" if word == "-?" else word for word in command[1:].split()]
        assert text.endswith(ask_pykd(lab, dump, words).output), command


def test_an_answer_longer_than_the_engine_prints_at_once(lab: Lab, tmp_path: Path) -> None:
    names = [f"{'long' * 20}{number}.dll" for number in range(60)]
    loader = Loader(WIN10)
    loader.define(*(Module(name) for name in names), Module("all.dll", names))
    loader.start(Module("program.exe"))
    loader.load("all.dll")
    dump = write(tmp_path, MadeProcess(loader).dump())
    (text,) = type_at_prompt(lab, ("-z", windows_path(dump)), ["!dllstate --json"])
    assert len(text) > 50_000
    (library,) = (each for each in document(text)["libraries"] if each["name"] == "all.dll")
    assert sorted(library["imports"]) == sorted(names)


def test_nothing_to_examine(lab: Lab) -> None:
    found = lab.run_python(SCRIPT, "dllstate")
    assert (found.output, found.status) == ("", 2)
    assert found.errors.startswith("dllstate: nothing to examine: give -z DUMP or -p PID")
    found = lab.run_python(SCRIPT, "-z", "Z:\\nosuch.dmp", "dllstate")
    assert (found.output, found.status) == ("", 3)
    assert "the engine cannot open Z:\\nosuch.dmp" in found.errors
    assert "Traceback" not in found.errors


def test_without_a_command_the_commands_are_listed(lab: Lab, dump: Path) -> None:
    (text,) = type_at_prompt(lab, ("-z", windows_path(dump)), [f'!py -g "{SCRIPT}"'])
    assert text.startswith("usage: dlwhy_windbg.py")
    assert all(name in text for name in COMMANDS)
