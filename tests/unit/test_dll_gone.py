"""Is the DLL named that used to be at an address, and what still points there?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.commands.dllgone.document import dll_gone_document
from dlwhy.common.render.json_parts import dump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.gone import find_gone
from dlwhy.common.windows.model import GoneDlls
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import WIN10, WIN11, WINE, Form, Process, Unloaded
from dlwhy.tests.synth.windows import form_id, process, real_dumps, story, write


def ask(folder: Path, made: Process, address: Optional[int] = None, unloaded: tuple[Unloaded, ...] = ()) -> GoneDlls:
    answer = find_gone(MinidumpTarget(str(write(folder, made.dump(unloaded=unloaded)))), address)
    VALIDATOR.validate(json.loads(dump(dll_gone_document("dllgone", answer))))
    return answer


@pytest.mark.parametrize("form", [WIN10, WIN11, WINE], ids=form_id)
@pytest.mark.parametrize("wide", [True, False], ids=form_id)
def test_the_loaders_own_ring_is_read(tmp_path: Path, form: Form, wide: bool) -> None:
    answer = ask(tmp_path, process(form, wide))
    assert answer.problems == ()
    assert [gone.image.name for gone in answer.unloaded] == [f"old{number}.dll" for number in range(4, 20)]
    assert [gone.image.sequence for gone in answer.unloaded] == list(range(4, 20))
    assert answer.overwritten_events == 4
    assert {gone.sources for gone in answer.unloaded} == {("loader",)}


def test_a_ring_that_was_never_used(tmp_path: Path) -> None:
    loader = story()
    loader.ring = []
    assert ask(tmp_path, Process(loader)).unloaded == ()


def test_both_rings_of_a_process_of_32_bit_code(tmp_path: Path) -> None:
    answer = ask(tmp_path, Process(story(WIN10, True), story(WIN10, False)))
    assert len(answer.unloaded) == 16, "both loaders unloaded the same modules here"


def test_the_stream_and_the_ring_tell_of_the_same_module_once(tmp_path: Path) -> None:
    same = Unloaded("old19.dll", 0x5000_0000 + 0x10000 * 19)
    other = Unloaded("only.dll", 0x6100_0000)
    answer = ask(tmp_path, process(), unloaded=(other, same))
    assert (answer.unloaded[0].image.name, answer.unloaded[0].sources) == ("only.dll", ("module-list",))
    assert [gone.sources for gone in answer.unloaded if gone.image.name == "old19.dll"] == [("loader", "module-list")]


def test_an_address_is_named_with_its_offset(tmp_path: Path) -> None:
    answer = ask(tmp_path, process(), 0x5000_0000 + 0x10000 * 19 + 0x123)
    assert [(gone.image.name, gone.offset, gone.confidence) for gone in answer.unloaded] == [
        ("old19.dll", 0x123, "certain")
    ]
    assert ask(tmp_path, process(), 0x1).unloaded == ()


def test_a_range_that_was_used_twice_is_ambiguous(tmp_path: Path) -> None:
    loader = story()
    loader.ring = [Unloaded("one.dll", 0x5000_0000), Unloaded("two.dll", 0x5000_2000)]
    answer = ask(tmp_path, Process(loader), 0x5000_3000)
    assert [(gone.image.name, gone.confidence) for gone in answer.unloaded] == [
        ("one.dll", "candidate"),
        ("two.dll", "candidate"),
    ]


def test_a_range_that_is_in_use_again_is_told(tmp_path: Path) -> None:
    loader = story()
    lib = loader.known["liba.dll"]
    loader.ring = [Unloaded("before.dll", lib.base)]
    answer = ask(tmp_path, Process(loader), lib.base + 8)
    assert answer.loaded_at_address == "libA.dll"
    assert [gone.confidence for gone in answer.unloaded] == ["likely"]
    assert all(not gone.pointers for gone in ask(tmp_path, Process(loader)).unloaded)


def test_who_still_points_there(tmp_path: Path) -> None:
    made = process()
    made.registers["ip"] = 0x5000_0000 + 0x10000 * 19 + 0x42
    place = made.stack_base - 0x800
    made.memory.number(place, 8, 0x5000_0000 + 0x10000 * 18 + 4)
    made.memory.number(made.stack_base - 0x1800, 8, 0x5000_0000 + 0x10000 * 17)  # below rsp
    found = {gone.image.name: gone.pointers for gone in ask(tmp_path, made).unloaded if gone.pointers}
    assert set(found) == {"old19.dll", "old18.dll"}
    assert [(p.register, p.value) for p in found["old19.dll"]] == [("rip", 0x5000_0000 + 0x10000 * 19 + 0x42)]
    assert [(p.address, p.thread.tid) for p in found["old18.dll"]] == [(place, 0x5BC)]


@pytest.mark.parametrize("damage", [None, "segment", "stack pointer"])
def test_who_still_points_there_in_32_bit_code(tmp_path: Path, damage: Optional[str]) -> None:
    made = Process(story(WIN10, True), story(WIN10, False))
    gone = 0x5000_0000 + 0x10000 * 19
    stack, context, teb32 = 0x00B0_0000, 0x00B8_0000, 0x00A0_2000
    made.memory.add(stack - 0x1000, 0x1000)
    made.memory.add(context, 0x1000)
    made.memory.number(teb32 + 4, 4, stack)
    made.memory.number(teb32 + 8, 4, stack - 0x1000)
    made.memory.number(made.teb + 0x1480 + 8, 8, context)
    # WOW64_CONTEXT at 4: Eax, Eip, SegCs, Esp.
    made.memory.number(context + 4 + 0xB0, 4, gone + 1)
    made.memory.number(context + 4 + 0xB8, 4, gone + 2)
    made.memory.number(context + 4 + 0xBC, 4, 0x33 if damage == "segment" else 0x23)
    made.memory.number(context + 4 + 0xC4, 4, 0x1000 if damage == "stack pointer" else stack - 0x100)
    made.memory.number(stack - 0xFC, 4, gone + 3)
    made.memory.number(stack - 0x104, 4, gone + 4)  # below esp
    (pointers,) = (each.pointers for each in ask(tmp_path, made).unloaded if each.pointers)
    found = [(each.register, each.address, each.value - gone) for each in pointers]
    on_stack = [(None, stack - 0xFC, 3)]
    if damage is not None:
        assert found == [(None, stack - 0x104, 4), *on_stack]
    else:
        assert found == [("eax", None, 1), ("eip", None, 2), *on_stack]


def test_many_unloaded_modules(tmp_path: Path) -> None:
    many = tuple(Unloaded(f"u{number}.dll", 0x6200_0000 + 0x10000 * number) for number in range(3000))
    answer = ask(tmp_path, process(), unloaded=many)
    assert len(answer.unloaded) == 3016


def test_code_of_an_unknown_form_is_not_guessed_at(tmp_path: Path) -> None:
    made = process()
    ntdll = made.loader.known["ntdll.dll"]
    made.memory.write(ntdll.base + 0x1000, b"\x90" * 0x100)
    answer = ask(tmp_path, made)
    assert any("not of a known form" in problem.message for problem in answer.problems)
    assert answer.overwritten_events is None


def test_sizes_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for value in (0, 1, 0xFFFFFFFF):
        made = process()
        ntdll = made.loader.known["ntdll.dll"]
        made.memory.number(ntdll.base + ntdll.size - 0x100, 4, value)
        assert any("make no sense" in problem.message for problem in ask(tmp_path, made).problems)


def test_real_dump_with_an_unloaded_module() -> None:
    for path in real_dumps("tiny-exe-with-cet-xsave.dmp"):
        answer = find_gone(MinidumpTarget(str(path)), None)
        assert [(gone.image.name.lower(), gone.sources) for gone in answer.unloaded] == [
            ("shcore.dll", ("module-list",))
        ]
        base = answer.unloaded[0].image.base
        named = find_gone(MinidumpTarget(str(path)), base + 0x10)
        assert [(gone.offset, gone.confidence) for gone in named.unloaded] == [(0x10, "certain")]
