"""What is answered about a dump of Windows at the debugger's prompt, by pykd in a plain Python, and in our shell?"""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from dlwhy.tests.lab.windows import Lab, Outcome, windows_path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = windows_path(ROOT / "windbg_ext" / "dlwhy_windbg.py")

Json = dict[str, Any]


def type_at_prompt(
    lab: Lab,
    subject: Sequence[str],
    commands: Sequence[str],
    symbols: Optional[Path] = None,
    folder: Optional[Path] = None,
) -> list[str]:
    """Type commands at the prompt after our aliases have been defined; return what each printed."""
    prepared = [f".load {lab.bootstrapper}", f'!py -g "{SCRIPT}" --install']
    return lab.run_prompt(subject, [*prepared, *commands], symbols, folder)[len(prepared) :]


def ask_pykd(lab: Lab, dump: Path, words: Sequence[str], symbols: Optional[Path] = None) -> Outcome:
    """Ask by our script in a Python that opens the dump itself."""
    found = lab.run_python(SCRIPT, "-z", windows_path(dump), *words, symbols=symbols)
    assert 0 <= found.status <= 4, found
    assert bool(found.output) != bool(found.errors), found
    return found


def ask_shell(dump: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Ask in the shell of this system."""
    command = [sys.executable, str(ROOT), "--dump", str(dump), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def document(text: str, errors: str = "") -> Json:
    """Return the JSON document in an output; the engine's own warnings about symbols may stand before it."""
    start = text.find("{\n")
    assert start == 0 or text[start - 1 : start] == "\n", text + errors
    found = json.loads(text[start:])
    assert isinstance(found, dict)
    return found


def comparable(found: Json) -> Json:
    """Return a document without the two blocks in which hosts may differ."""
    loader = {key: value for key, value in found["loader"].items() if key != "layout"}
    return {**found, "target": None, "loader": loader}


def ask_all(
    lab: Lab, dump: Path, questions: Sequence[Sequence[str]], symbols: Optional[Path] = None
) -> dict[str, list[Json]]:
    """Ask the same at every place; return the documents by place, in the order of the questions."""
    shell = [ask_shell(dump, [*words, "--json"]) for words in questions]
    pykd = [ask_pykd(lab, dump, [*words, "--json"], symbols) for words in questions]
    typed = [f"!{' '.join(words)} --json" for words in questions]
    return {
        "shell": [document(each.stdout, each.stderr) for each in shell],
        "pykd": [document(each.output, each.errors) for each in pykd],
        "prompt": [document(text) for text in type_at_prompt(lab, ("-z", windows_path(dump)), typed, symbols)],
    }


def assert_equal(answers: dict[str, list[Json]]) -> None:
    """Assert that every place gave the same documents."""
    expected, *others = ([lines(each) for each in found] for found in answers.values())
    first, *places = answers
    for place, found in zip(places, others):
        for one, other in zip(expected, found):
            assert one == other, "\n".join(list(difflib.unified_diff(one, other, first, place, lineterm=""))[:60])


def lines(found: Json) -> list[str]:
    """Return the lines of what is to be the same everywhere."""
    return json.dumps(comparable(found), indent=1).splitlines()
