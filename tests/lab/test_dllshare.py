"""Does the real engine, with the kernel's PDB, say of a machine's mapped files what is true, as the shell does?"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from dlwhy.tests.lab.asking import (
    Json,
    ask_all,
    ask_pykd,
    ask_shell,
    assert_equal,
    comparable,
    document,
    type_at_prompt,
)
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.synth.ntimage import compile_kernel
from dlwhy.tests.synth.ntlayout import Windows, never_shipped, windows
from dlwhy.tests.synth.ntmachines import TRUTH, build

QUESTIONS = (["dllshare", "python35.dll"], ["dllshare", "--all"])
# Its name lies in a page in transition.  In PTEs that are not valid, Windows inverts a bit since 2018 (against L1TF),
# which the engine of the lab, of 2017, does not know.
FIRST_INVERTED_BUILD = 17134
IN_TRANSITION = ["dllshare", "locale.nls"]


class Case(NamedTuple):
    """A machine: layout, form of its dump, page tables.  The engine is of 2017 and knows no dump of ranges of pages."""

    version: str
    arch: str = "x86_64"
    form: str = "complete"
    pae: bool = True


CASES = (
    Case("6.1.7601.17514"),
    Case("6.3.9600.19913", form="kernel"),
    Case("10.0.10240.16384", form="bitmap"),
    Case("10.0.17763.379"),
    Case("10.0.19041.3570", form="bitmap"),
    Case("10.0.22631.2428"),
    Case("5.1.2600.5512", "i386", pae=False),
    Case("6.1.7601.17514", "i386", form="kernel"),
)
OTHERS = (
    *(Case(v) for v in ("6.1.7601.24540", "10.0.14393.4770", "10.0.18362.30", "10.0.20348.288", "10.0.22000.318")),
    Case("10.0.22621.382", form="kernel"),
    Case("10.0.19041.928", "i386"),
    Case("5.1.2600.5512", "i386"),
)


def write_machine(folder: Path, layout: Windows, form: str = "complete", pae: bool = True) -> Path:
    """Write the dump of a machine, and into the same folder its kernel with a PDB."""
    return build(layout, pae=pae, image=compile_kernel(layout, folder)).save(folder / "MEMORY.DMP", form)


@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.matrix) for case in OTHERS)],
    ids=lambda case: "-".join(map(str, case)),
)
def test_every_place_says_the_same(lab: Lab, tmp_path: Path, case: Case) -> None:
    dump = write_machine(tmp_path, windows(case.version, case.arch), case.form, case.pae)
    knows_transition = int(case.version.split(".")[2]) < FIRST_INVERTED_BUILD
    answers = ask_all(lab, dump, [*QUESTIONS, *([IN_TRANSITION] if knows_transition else [])], tmp_path)
    assert_equal(answers)
    sources = {place: found[0]["loader"]["layout"]["source"] for place, found in answers.items()}
    assert sources == {"shell": "table", "pykd": "debug-info", "prompt": "debug-info"}
    check(answers["prompt"][0], "python35.dll")


def check(found: Json, name: str) -> None:
    """Compare an answer with what was written into the dump."""
    truth = TRUTH[name]
    (file,) = (each for each in found["files"] if (each["file_name"] or "").endswith(f"\\{name}"))
    assert sorted((each["pid"], each["section_kind"]) for each in file["mappings"]) == sorted(truth.mapped)
    assert tuple(each["pid"] for each in file["openers"]) == truth.openers
    assert {each["name"]: each["allowed"] for each in file["operations"]} == {
        "rename": truth.rename,
        "delete": truth.delete,
        "posix-delete": truth.delete,
        "overwrite": truth.overwrite,
        "truncate": truth.truncate,
    }
    assert found["problems"] == []


def test_a_windows_that_never_was_is_read_by_its_pdb(lab: Lab, tmp_path: Path) -> None:
    dump = write_machine(tmp_path, never_shipped())
    names = [name for name in TRUTH if name not in IN_TRANSITION]
    typed = [f"!dllshare {name} --json" for name in names]
    for name, text in zip(names, type_at_prompt(lab, ("-z", windows_path(dump)), typed, tmp_path)):
        check(document(text), name)
    refused = ask_shell(dump, ["dllshare", "python35.dll"])
    assert refused.returncode == 3
    assert "no layout is known for this Windows kernel" in refused.stderr


@pytest.mark.parametrize("which", ["missing", "of another build"])
def test_without_the_right_pdb_the_tables_serve(lab: Lab, tmp_path: Path, which: str) -> None:
    layout = windows("10.0.19041.3570")
    dump = write_machine(tmp_path, layout)
    symbols = tmp_path / "symbols"
    symbols.mkdir()
    if which != "missing":
        compile_kernel(windows("6.1.7601.17514"), symbols)
    words = ["dllshare", "python35.dll", "--json"]
    found = document(ask_pykd(lab, dump, words, symbols).output)
    assert found["loader"]["layout"]["source"] == "table"
    assert comparable(found) == comparable(document(ask_shell(dump, words).stdout))


def test_the_users_process_stays_current(lab: Lab, tmp_path: Path) -> None:
    layout = windows("10.0.19041.3570")
    machine = build(layout, image=compile_kernel(layout, tmp_path))
    dump = machine.save(tmp_path / "MEMORY.DMP")
    (process,) = (each.eprocess for each in machine.processes if each.pid == 3120)
    typed = [f".process /p {process:x}", "!dllshare --all", "? @$proc", "!dllshare 1d50010 --json"]
    *_, current, answer = type_at_prompt(lab, ("-z", windows_path(dump)), typed, tmp_path)
    assert current.replace("`", "").strip().endswith(f"{process:x}")
    # An address in the process that the user has made current.
    check(document(answer), "python35.dll")


def test_a_dump_of_one_process_is_told_from_that_of_a_machine(lab: Lab, tmp_path: Path) -> None:
    from dlwhy.tests.synth.windows import process, write

    dump = write(tmp_path, process().dump())
    (text,) = type_at_prompt(lab, ("-z", windows_path(dump)), ["!dllshare ntdll.dll"])
    assert "dllshare: " in text
    assert "kernel" in text
    assert "Traceback" not in text
