"""Is a minidump of an ARM64 process read as one of x64, whose loader's structures it has?"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from dlwhy.common.commands.dllgone.document import dll_gone_document
from dlwhy.common.render.json_parts import dump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.gone import find_gone
from dlwhy.common.windows.model import Dll, GoneDlls, HolderKind
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.state import explain_chosen_dlls, explain_dlls
from dlwhy.tests.synth.minidump import WIN10, WIN11, Form, Process, Raised
from dlwhy.tests.synth.windows import form_id, story, write

GONE = 0x5013_0000  # old19.dll, the newest in the ring


def arm64(form: Form = WIN11) -> Process:
    loader = story(form)
    loader.arm64 = True
    return Process(loader)


def target(folder: Path, content: bytes) -> MinidumpTarget:
    return MinidumpTarget(str(write(folder, content)))


def verdicts(dlls: tuple[Dll, ...]) -> list[tuple[object, ...]]:
    return [(dll.name, dll.held, dll.load_count, [hold.kind for hold in dll.holds]) for dll in dlls]


@pytest.mark.parametrize("form", [WIN10, WIN11], ids=form_id)
def test_the_verdicts_are_those_of_x64(tmp_path: Path, form: Form) -> None:
    state = explain_dlls(target(tmp_path, arm64(form).dump()))
    assert (state.target.arch, state.problems) == ("aarch64", ())
    x64 = explain_dlls(target(tmp_path, Process(story(form)).dump()))
    assert verdicts(state.dlls) == verdicts(x64.dlls)
    plan = plan_free(target(tmp_path, arm64(form).dump()), "libA.dll", int, None).plans[0]
    assert [dll.name for dll in plan.unloads] == ["libA.dll", "libB.dll"]


def test_both_loaders_of_a_process_of_32_bit_code(tmp_path: Path) -> None:
    loader = story(WIN11)
    loader.arm64 = True
    state = explain_dlls(target(tmp_path, Process(loader, story(WIN11, False)).dump()))
    assert [rules.loader for rules in state.rules] == ["native", "wow64"]
    assert len(state.dlls) == 24


def gone(folder: Path, made: Process, raised: Raised) -> GoneDlls:
    found = find_gone(target(folder, made.dump(raised=raised)), None)
    assert dump(dll_gone_document("dllgone", found))
    return found


def test_the_registers_and_the_record_of_unloads(tmp_path: Path) -> None:
    made = arm64()
    made.registers.update(ip=GONE + 0x42, a=GONE + 0x10, b=0x5012_0004, lr=GONE + 0x44)
    made.memory.number(made.stack_base - 0x800, 8, GONE + 0x48)
    registers = target(tmp_path, made.dump())
    found = registers.registers(registers.threads()[0])
    assert (found["pc"], found["x0"], found["x1"], found["lr"]) == (GONE + 0x42, GONE + 0x10, 0x5012_0004, GONE + 0x44)
    assert found["sp"] == made.stack_base - 0x1000
    answer = find_gone(target(tmp_path, made.dump()), None)
    assert (len(answer.unloaded), answer.overwritten_events, answer.problems) == (16, 4, ())
    pointers = {each.image.name: each.pointers for each in answer.unloaded}
    assert {pointer.register for pointer in pointers["old19.dll"]} == {"pc", "x0", "lr", None}
    assert [pointer.register for pointer in pointers["old18.dll"]] == ["x1"]


@pytest.mark.parametrize("call", [0x94000010, 0xD63F0100, 0xD73F0909, 0xD63F0900 | 0x1F, 0xD503201F])
def test_a_crash_in_an_unloaded_dll_and_its_caller(tmp_path: Path, call: int) -> None:
    """BL, BLR, BLRAA, BLRAAZ; what follows a NOP is no caller."""
    made = arm64()
    base = made.loader.known["libc.dll"].base
    made.memory.write(base + 0x1100, struct.pack("<I", call))
    registers = {"ip": GONE + 0x42, "sp": made.stack_base - 0x1000, "lr": base + 0x1104}
    answer = gone(tmp_path, made, Raised(GONE + 0x42, registers, parameters=(8, GONE + 0x42)))
    assert answer.crash is not None
    assert [word.module for word in answer.crash.words] == ["old19.dll"]
    caller = answer.crash.caller
    if call == 0xD503201F:
        assert caller is None
    else:
        assert caller is not None
        assert (caller.return_address, caller.stack_address, caller.module) == (base + 0x1104, None, "libC.dll")


def test_a_caller_on_the_stack(tmp_path: Path) -> None:
    made = arm64()
    base = made.loader.known["libc.dll"].base
    made.memory.write(base + 0x1100, struct.pack("<I", 0xD63F0100))
    made.memory.number(made.stack_base - 0xFF8, 8, base + 0x1104)
    registers = {"ip": GONE + 0x42, "sp": made.stack_base - 0x1000, "lr": GONE + 0x50}
    answer = gone(tmp_path, made, Raised(GONE + 0x42, registers))
    assert answer.crash is not None
    assert answer.crash.caller is not None
    assert answer.crash.caller.stack_address == made.stack_base - 0xFF8


@pytest.mark.parametrize("damage", [0xD65F03C0, 0xF9000508, 0xB9000008, 0xF9000128, 0x14000001])
def test_code_of_another_form_is_not_followed(tmp_path: Path, damage: int) -> None:
    """A return too early, a store elsewhere, of 32 bits, or through an unknown register, and a jump."""
    made = arm64()
    base = made.loader.known["ntdll.dll"].base
    place = next(
        base + 0x1000 + offset
        for offset in range(0, 0x400, 4)
        if made.memory.find(base + 0x1000 + offset)[0][0x1000 + offset : 0x1004 + offset] == b"\x08\0\0\xf9"
    )
    made.memory.write(place, struct.pack("<I", damage))
    answer = find_gone(target(tmp_path, made.dump()), None)
    assert answer.unloaded == ()
    assert any("is not of a known form" in problem.message for problem in answer.problems)


def test_a_thread_that_holds_its_dll(tmp_path: Path) -> None:
    made = arm64()
    start = made.loader.known["liba.dll"].base + 0x1100
    state = explain_chosen_dlls(target(tmp_path, made.dump(starts={0x5BC: start})), "libA.dll", int)
    (holder,) = state.dlls[0].holds[0].holders or ()
    assert (holder.kind, holder.address) == (HolderKind.THREAD, start)


def test_a_context_that_is_truncated(tmp_path: Path) -> None:
    content = arm64().dump()
    shorter = content.replace(struct.pack("<I", 912), struct.pack("<I", 200))
    opened = target(tmp_path, shorter)
    assert set(opened.registers(opened.threads()[0])) == {"thread_pointer"}
