"""Is the DLL named that used to be at an address, and what still points there?"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common import cli
from dlwhy.common.commands.dllgone.document import dll_gone_document
from dlwhy.common.render.json_parts import dump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.gone import find_gone
from dlwhy.common.windows.model import CrashWord, GoneDlls
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import WIN10, WIN11, WINE, Form, Process, Raised, Unloaded
from dlwhy.tests.synth.windows import form_id, process, real_dumps, story, write


def ask(
    folder: Path, made: Process, address: Optional[int] = None, unloaded: Optional[tuple[Unloaded, ...]] = None
) -> GoneDlls:
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


# -- the exception ------------------------------------------------------------------------------------------------

GONE = 0x5000_0000 + 0x10000 * 19


def fault(made: Process, address: int, *parameters: int, **registers: int) -> Raised:
    """Raise an access violation at an address; the thread itself has run on into ntdll since."""
    ntdll = made.loader.known["ntdll.dll"]
    made.registers.update(ip=ntdll.base + 0x10, sp=made.stack_base - 0x1800)
    registers = {"ip": address, "sp": made.stack_base - 0x800, **registers}
    return Raised(address, registers, parameters=parameters)


def ask_about(folder: Path, made: Process, raised: Raised, *words: str) -> tuple[GoneDlls, str, int]:
    """Ask about a dump that was written for an exception; return the answer, its text and the exit status."""
    path = write(folder, made.dump(raised=raised))
    address = int(words[0], 0) if words else None
    answer = find_gone(MinidumpTarget(str(path)), address)
    VALIDATOR.validate(json.loads(dump(dll_gone_document("dllgone", answer))))
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        status = cli.main(["--dump", str(path), "dllgone", *words])
    return answer, " ".join(written.getvalue().split()), status


@pytest.mark.parametrize("wide", [True, False], ids=form_id)
def test_a_crash_in_an_unloaded_dll_names_it(tmp_path: Path, wide: bool) -> None:
    made = process(WIN10, wide)
    raised = fault(made, GONE + 0x42, 8, GONE + 0x42, a=GONE + 0x50)
    program = made.loader.loaded[0]
    made.memory.number(made.stack_base - 0x800, 8 if wide else 4, program.base + 0x1234)
    answer, text, status = ask_about(tmp_path, made, raised)
    assert status == 0
    assert answer.crash is not None
    assert answer.crash.words == (CrashWord("instruction", GONE + 0x42, None, "old19.dll", 0x42, True),)
    assert answer.crash.access == "execute"
    assert answer.crash.caller is not None
    assert (answer.crash.caller.module, answer.crash.caller.offset) == ("prog.exe", 0x1234)
    assert text.startswith(
        "Exception 0xc0000005 (access violation) in thread 1 (TID 0x5bc): raised at 0x50130042, old19.dll+0x42, "
        "which is unloaded; called from prog.exe+0x1234."
    )
    (pointers,) = (gone.pointers for gone in answer.unloaded if gone.pointers)
    names = ("rip", "rax") if wide else ("eip", "eax")
    assert {(each.register, each.in_exception, each.value) for each in pointers} == {
        (names[0], True, GONE + 0x42),
        (names[1], True, GONE + 0x50),
    }


def test_a_crash_of_a_thread_that_is_not_listed(tmp_path: Path) -> None:
    made = process()
    answer, text, _ = ask_about(tmp_path, made, fault(made, GONE + 1)._replace(tid=0x999))
    assert answer.crash is not None
    assert (answer.crash.thread.tid, answer.crash.caller) == (0x999, None)
    assert "in a thread that is not listed (TID 0x999): raised at 0x50130001, old19.dll+0x1" in text


def test_a_crash_nowhere_without_any_record(tmp_path: Path) -> None:
    made = process()
    made.memory.forget(made.peb, 0x400)
    made.memory.number(made.stack_base - 0x7F8, 8, made.loader.loaded[5].base + 0x20)
    answer, text, status = ask_about(tmp_path, made, fault(made, 0x1234_5678, 8, 0x1234_5678))
    assert (status, answer.records) == (4, ())
    assert "raised at 0x12345678, in no loaded module, and of unloaded ones there is no record" in text
    assert "called from libA.dll+0x20." in text
    assert "This dump has no record of unloaded DLLs." in text
    assert "No unloaded DLL is on record" not in text
    _, text, status = ask_about(tmp_path, made, fault(made, 0x1234_5678), "0x12345678")
    assert status == 4
    assert text.startswith("0x12345678 lies in no loaded DLL, and there is no record of unloaded ones. Exception")


@pytest.mark.parametrize("sources", ["ring", "stream"])
def test_none_on_record_is_said_only_with_a_record(tmp_path: Path, sources: str) -> None:
    loader = story()
    loader.ring = [] if sources == "ring" else None
    path = write(tmp_path, Process(loader).dump(unloaded=None if sources == "ring" else ()))
    answer = find_gone(MinidumpTarget(str(path)), None)
    assert answer.records == (("loader",) if sources == "ring" else ("module-list",))
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        cli.main(["--dump", str(path), "dllgone"])
    assert written.getvalue().startswith("No unloaded DLL is on record.")


@pytest.mark.parametrize("wide", [True, False], ids=form_id)
def test_an_access_to_data_of_an_unloaded_dll(tmp_path: Path, wide: bool) -> None:
    made = process(WIN10, wide)
    program = made.loader.loaded[0]
    raised = fault(made, program.base + 0x1100, 0, GONE + 0x600)
    for words in ((), (f"{program.base + 0x1100:#x}",)):
        answer, text, status = ask_about(tmp_path, made, raised, *words)
        assert status == 0
        assert answer.crash is not None
        assert answer.crash.words[1] == CrashWord("data", GONE + 0x600, None, "old19.dll", 0x600, True)
        assert "the read was of 0x50130600, old19.dll+0x600, which is unloaded." in text
    other, text, _ = ask_about(tmp_path, made, raised, f"{program.base + 0x1200:#x}")
    assert other.crash is None
    assert "Exception" not in text


@pytest.mark.parametrize("wide", [True, False], ids=form_id)
def test_an_object_whose_functions_were_in_an_unloaded_dll(tmp_path: Path, wide: bool) -> None:
    made = process(WIN10, wide)
    program = made.loader.loaded[0]
    there = made.stack_base - 0x400
    made.memory.number(there, 8 if wide else 4, GONE + 0x700)
    raised = fault(made, program.base + 0x1100, 0, 0x10, c=there)
    answer, text, _ = ask_about(tmp_path, made, raised, f"{program.base + 0x1100:#x}")
    register = "rcx" if wide else "ecx"
    assert answer.crash is not None
    assert answer.crash.words[-1] == CrashWord("object", GONE + 0x700, register, "old19.dll", 0x700, True)
    assert f"the object at {register} begins with 0x50130700, old19.dll+0x700, which is unloaded." in text


def test_an_exception_that_has_nothing_to_do_with_it(tmp_path: Path) -> None:
    made = process()
    raised = fault(made, made.loader.loaded[0].base + 0x1100)._replace(code=0x80000003)
    answer, text, status = ask_about(tmp_path, made, raised)
    assert status == 0
    assert answer.crash is not None
    assert answer.crash.caller is None
    assert "Exception" not in text


# -- stacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [True, False], ids=form_id)
def test_the_list_of_threads_has_the_stacks_where_the_teb_is_missing(tmp_path: Path, wide: bool) -> None:
    made = process(WIN10, wide)
    made.memory.number(made.stack_base - 0x800, 8 if wide else 4, GONE + 4)
    expected = [each.pointers for each in ask(tmp_path, made).unloaded]
    peb, unloaded = made.peb, (Unloaded("old19.dll", GONE),)
    made.memory.forget(made.teb, 0x4000)
    made.memory.forget(peb, 0x400)
    answer = ask(tmp_path, made, unloaded=unloaded)
    assert answer.unloaded[0].pointers == expected[-1] != ()
    assert "stacks" not in [problem.where for problem in answer.problems]


def test_a_stack_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    made = process()
    path = write(tmp_path, made.dump())
    assert find_gone(MinidumpTarget(str(path)), None).problems == ()
    made.memory.number(made.teb + 8, 8, made.stack_base + 0x10000)
    (problem,) = ask(tmp_path, made).problems
    assert problem.where == "stacks"
    assert "of 1 of 1 thread cannot be read completely" in problem.message


def test_real_dump_whose_loader_is_not_there() -> None:
    for path in real_dumps("tiny-exe-fastfail.dmp"):
        answer = find_gone(MinidumpTarget(str(path)), None)
        assert (answer.records, bool(answer.problems)) == (("module-list",), True) or answer.records == ()
        assert answer.crash is not None
        assert answer.crash.code == 0xC0000409
