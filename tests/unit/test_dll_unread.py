"""Is a DLL that could not be looked for never said to be absent?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dlwhy.common import cli
from dlwhy.common.commands.dllplan.document import dll_plan_document
from dlwhy.common.commands.dllstate.document import dll_state_document
from dlwhy.common.errors import IncompleteSearchError, NotFoundError
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.state import explain_chosen_dlls, explain_dlls
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import WIDE, WIN7, WIN10, Form, Module, Process
from dlwhy.tests.synth.ntprocess import PID, machine
from dlwhy.tests.synth.windows import process, story, write


def no_number(text: str) -> int:
    raise NotFoundError(f"'{text}' is no number")


def cut_lists(made: Process) -> None:
    """Lead the lists nowhere after the first entry, from both ends."""
    first, *_, last = made.loader.loaded
    for link in WIDE.links[:2]:
        made.memory.number(first.entry + link, 8, 0x1234_5678)
        made.memory.number(last.entry + link + 8, 8, 0x1234_5678)


def forget_names(made: Process) -> None:
    """Leave out the names of one entry."""
    entry = made.loader.known["libb.dll"].entry
    for name in (WIDE.full_name, WIDE.base_name):
        made.memory.number(entry + name + 8, 8, 0x1234_5678)


def forget_loader(made: Process) -> None:
    """Leave out what the loader knows."""
    made.memory.forget(made.peb, 0x400)


def ask(path: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(["--dump", str(path), *words])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("command", ["dllstate", "dllplan"])
@pytest.mark.parametrize(
    ("damage", "modules", "told"),
    [
        (cut_lists, True, "the loader's lists: they are not complete"),
        (cut_lists, False, "the loader's lists: they are not complete"),
        (forget_names, False, "DLLs: the names of 1 cannot be read"),
        (forget_loader, False, "DLLs: neither the loader's lists nor the list of modules can be read completely"),
    ],
)
def test_what_is_in_no_list_that_could_be_read_is_not_absent(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Process], None],
    modules: bool,
    told: str,
    command: str,
) -> None:
    made = process()
    damage(made)
    path = write(tmp_path, made.dump(modules=modules))
    status, out, err = ask(path, command, "nosuch.dll", capsys=capsys)
    assert (status, out) == (4, "")
    assert "no DLL that is known matches 'nosuch.dll', but not all are known" in err
    assert told in err
    with pytest.raises(IncompleteSearchError):
        plan_free(MinidumpTarget(str(path)), "nosuch.dll", no_number)
    with pytest.raises(IncompleteSearchError):
        explain_chosen_dlls(MinidumpTarget(str(path)), "nosuch.dll", no_number)


@pytest.mark.parametrize("command", ["dllstate", "dllplan"])
@pytest.mark.parametrize("loader", [True, False])
def test_what_is_in_no_complete_list_is_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, loader: bool
) -> None:
    made = process()
    if not loader:
        forget_loader(made)
    status, _, err = ask(write(tmp_path, made.dump(modules=not loader)), command, "nosuch.dll", capsys=capsys)
    assert status == 2
    assert "no loaded DLL matches 'nosuch.dll'" in err


def relations(target: MinidumpTarget) -> dict[str, tuple[Any, ...]]:
    """Return what JSON says of the imports, importers and import cycle of each DLL."""
    document = json.loads(json.dumps(dll_state_document("dllstate", explain_dlls(target))))
    VALIDATOR.validate(document)
    return {each["name"]: (each["imports"], each["importers"], each["import_cycle"]) for each in document["libraries"]}


def test_imports_that_cannot_be_read_are_null_and_not_none(tmp_path: Path) -> None:
    made = process()
    made.memory.forget(made.loader.known["libb.dll"].node, 0x50)
    found = relations(MinidumpTarget(str(write(tmp_path, made.dump()))))
    assert found["libB.dll"] == (None, None, None)
    assert found["libC.dll"][0] == []
    assert found["libC.dll"][2] == []


def test_importers_are_unknown_as_long_as_an_import_table_is_unread(tmp_path: Path) -> None:
    made = process(WIN7)
    made.memory.forget(made.loader.known["liba.dll"].base, 0x3000)
    found = relations(MinidumpTarget(str(write(tmp_path, made.dump()))))
    assert found["libA.dll"] == (None, None, None)
    assert found["libC.dll"][0] == [], "its own table says so"


def test_of_what_only_the_module_list_has_no_import_is_known(tmp_path: Path) -> None:
    made = process()
    forget_loader(made)
    found = relations(MinidumpTarget(str(write(tmp_path, made.dump(modules=True)))))
    assert set(found.values()) == {(None, None, None)}


def test_a_base_and_a_size_that_cannot_be_read_are_null(tmp_path: Path) -> None:
    made = process()
    at = made.loader.known["libb.dll"].entry
    for offset in (WIDE.dll_base, WIDE.size):
        made.memory.forget(at + offset, 4)
    state = explain_dlls(MinidumpTarget(str(write(tmp_path, made.dump()))))
    document = dll_state_document("dllstate", state)
    assert (None, None) in [(each["base"], each["range"]) for each in document["libraries"]]


@pytest.mark.parametrize("form", [WIN7, WIN10])
def test_whatever_cannot_be_read_answers_keep_the_contract(tmp_path: Path, form: Form) -> None:
    """Leave out two members of an entry, one pair after the other: no stand-in, and nothing that the schema forbids."""
    members = [WIDE.dll_base, WIDE.size, WIDE.full_name + 8, WIDE.base_name + 8, 0x68]
    for one in members:
        for other in members:
            made = process(form)
            entry = made.loader.known["libb.dll"].entry
            for offset in (one, other):
                made.memory.forget(entry + offset, 8)
            target = MinidumpTarget(str(write(tmp_path, made.dump())))
            state = dll_state_document("dllstate", explain_dlls(target))
            plan = dll_plan_document("dllplan", plan_free(target, "libA.dll", no_number, None))
            for document in (state, plan):
                written = json.dumps(document)
                VALIDATOR.validate(json.loads(written))
                assert '"0x0"' not in written
                assert '""' not in written


def test_a_name_that_cannot_be_read_is_that_of_the_module_list(tmp_path: Path) -> None:
    made = process()
    forget_names(made)
    target = MinidumpTarget(str(write(tmp_path, made.dump())))
    (found,) = explain_chosen_dlls(target, "libB.dll", no_number).dlls
    assert (found.ldr_entry, found.held) == (made.loader.known["libb.dll"].entry, True)
    assert any("libB.dll" in (dll.imports or ()) for dll in explain_dlls(target).dlls)


def test_a_module_list_that_is_cut_off(tmp_path: Path) -> None:
    made = process()
    forget_loader(made)
    content = bytearray(made.dump())
    (at,) = (32 + 12 * index for index in range(16) if content[32 + 12 * index : 36 + 12 * index] == b"\4\0\0\0")
    content[at + 4 : at + 8] = (4 + 108 * 3).to_bytes(4, "little")
    with pytest.raises(IncompleteSearchError, match="nor the list of modules can be read completely"):
        explain_chosen_dlls(MinidumpTarget(str(write(tmp_path, bytes(content)))), "libC.dll", no_number)


def test_a_32_bit_loader_that_cannot_be_read(tmp_path: Path) -> None:
    made = Process(story(WIN10, True), story(WIN10, False))
    made.memory.forget(made.heads[1][0], 0x30)
    with pytest.raises(IncompleteSearchError, match="the 32-bit loader: its lists are not in the dump"):
        explain_chosen_dlls(MinidumpTarget(str(write(tmp_path, made.dump(modules=False)))), "nosuch.dll", no_number)


def test_a_list_of_processes_that_is_cut_off(tmp_path: Path) -> None:
    built = machine(process())
    built.finish()
    first = built.processes[1]
    links = first.eprocess + built.field("_EPROCESS", "ActiveProcessLinks")[0]
    built.put_pointer(links, 0xFFFF000000000000)
    target = KernelDump(str(built.save(tmp_path / "MEMORY.DMP")))
    assert explain_dlls(target, PID).dlls
    with pytest.raises(IncompleteSearchError, match="no process has the id 99, but not all processes are known"):
        explain_dlls(target, 99)


def test_a_32_bit_loader_whose_tebs_are_missing(tmp_path: Path) -> None:
    loader = story()
    loader.define(Module("wow64.dll"))
    loader.load("wow64.dll")
    made = Process(loader)
    state = explain_dlls(MinidumpTarget(str(write(tmp_path, made.dump()))))
    assert [problem.message for problem in state.problems if problem.where == "the 32-bit loader"] == [
        "wow64.dll is loaded, but no TEB of 32-bit code is in memory: its DLLs are not known"
    ]
    narrow = Process(loader, story(WIN10, False))
    problems = explain_dlls(MinidumpTarget(str(write(tmp_path, narrow.dump())))).problems
    assert not any(problem.where == "the 32-bit loader" for problem in problems)


def test_a_name_of_an_imported_function_that_cannot_be_read(tmp_path: Path) -> None:
    made = process()
    base = made.loader.known["liba.dll"].base
    piece, at = made.memory.find(base, 0x4000)
    name = base + bytes(piece[at : at + 0x4000]).index(b"FreeLibrary\0")
    path = write(tmp_path, made.dump())
    plan = plan_free(MinidumpTarget(str(path)), "libA", no_number, None).plans[0]
    assert "libA.dll" in plan.may_unload_more
    made.memory.forget(name, 0x10)
    plans = plan_free(MinidumpTarget(str(write(tmp_path, made.dump()))), "libA", no_number, None)
    assert "libA.dll" in [problem.where for problem in plans.problems]
