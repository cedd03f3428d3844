"""Is it found whose the loads of a DLL are, and is what gives them back told instead of a FreeLibrary that crashes?"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.commands.dllplan.document import dll_plan_document
from dlwhy.common.commands.dllplan.text import dll_plan_view
from dlwhy.common.commands.dllstate.document import dll_state_document
from dlwhy.common.commands.dllstate.text import dll_state_view
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import render
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import DllState, HolderKind, LoadHolder
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.state import explain_chosen_dlls, explain_dlls
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import EXE, KERNEL32, WIN10, WINE, Form, Loader, Module, Process
from dlwhy.tests.synth.ntprocess import PID, machine
from dlwhy.tests.synth.windows import form_id, write

HEAP = 0x5_0000_0000
#: Where `write_image` puts the directories of a 64-bit image, and where a delay-load directory has room.
DIRECTORIES, DELAY = 0x98 + 112, 0x3000
SERVER = {"DllGetClassObject": b"\xc3", "DllCanUnloadNow": b"\xc3"}
BOTH = pytest.mark.parametrize("form", [WIN10, WINE], ids=form_id)


def loaded(form: Form = WIN10, loads: int = 1, plug: Optional[Module] = None, *others: Module) -> Process:
    """Load plug.dll, and others once each."""
    loader = Loader(form)
    loader.define(plug or Module("plug.dll"), *others)
    loader.start(Module(EXE, [KERNEL32]))
    loader.load((plug or Module("plug.dll")).name, loads)
    for each in others:
        loader.load(each.name)
    made = Process(loader)
    made.memory.add(HEAP, 0x8000)
    return made


def ask(folder: Path, content: bytes, name: str = "plug.dll") -> tuple[DllState, str]:
    state = explain_chosen_dlls(MinidumpTarget(str(write(folder, content))), name, int)
    VALIDATOR.validate(json.loads(dump(dll_state_document("dllstate", state))))
    return state, " ".join(render(dll_state_view(state, False)).split())


def holders(state: DllState) -> list[LoadHolder]:
    (dll,) = state.dlls
    return [each for hold in dll.holds for each in hold.holders or ()]


def put_delay_load(made: Process, name: str, handle: int, unload: int = 0, attributes: int = 1) -> None:
    """Have a module delay-load plug.dll."""
    base = made.loader.known[name].base
    made.memory.write(base + DIRECTORIES + 8 * 13, struct.pack("<II", DELAY, 0x40))
    descriptor = struct.pack("<8I", attributes, DELAY + 0x60, DELAY + 0x80, 0x3100, 0x3200, 0, unload, 0)
    made.memory.write(base + DELAY, descriptor + b"\0" * 0x40 + b"plug.dll\0".ljust(0x20, b"\0"))
    made.memory.number(base + DELAY + 0x80, 8, handle)


@BOTH
def test_a_thread_that_began_in_the_dll(tmp_path: Path, form: Form) -> None:
    made = loaded(form, 1, Module("plug.dll", [KERNEL32], functions=["FreeLibraryAndExitThread"]))
    start = made.loader.known["plug.dll"].base + 0x1100
    made.add_thread(0xD4)
    state, text = ask(tmp_path, made.dump(starts={0x5BC: 0x1234, 0xD4: start}))
    (holder,) = holders(state)
    assert (holder.kind, holder.thread and holder.thread.tid) == (HolderKind.THREAD, 0xD4)
    assert (holder.address, holder.frees_itself) == (start, True)
    assert f"load of thread 2 (TID 0xd4), which began in plug.dll at {start:#x}" in text
    assert "End thread 2 (TID 0xd4) first: it began in plug.dll, and frees it by FreeLibraryAndExitThread" in text
    assert "once more" not in text


def test_a_thread_that_cannot_free_the_dll_leaves_the_load_to_another(tmp_path: Path) -> None:
    made = loaded()
    start = made.loader.known["plug.dll"].base + 0x1100
    state, text = ask(tmp_path, made.dump(starts={0x5BC: start}))
    assert [each.frees_itself for each in holders(state)] == [False]
    assert (
        "End thread 1 (TID 0x5bc) first: it began in plug.dll; a FreeLibrary before that crashes the process." in text
    )
    assert "It goes once FreeLibrary has been called on it once more by whoever loaded it." in text


@BOTH
def test_a_com_server(tmp_path: Path, form: Form) -> None:
    made = loaded(form, 1, Module("plug.dll", exports=dict(SERVER)))
    base = made.loader.known["plug.dll"].base
    # Exports are written in the order of their names.
    words = struct.pack("<3Q", base, base + 0x1040, base + 0x1000)
    # On a stack they are what a call has left; and no word begins there.
    made.memory.write(made.stack_base - 0x400, words)
    made.memory.write(HEAP + 0x104, words)
    assert holders(ask(tmp_path, made.dump())[0]) == []
    made.memory.write(HEAP + 0x4FF8, words)
    state, text = ask(tmp_path, made.dump())
    assert holders(state) == [LoadHolder(HolderKind.COM, HEAP + 0x4FF8, frees_itself=True)]
    assert "CoFreeUnusedLibraries frees it once its DllCanUnloadNow returns S_OK" in text
    assert "It goes once" not in text


@pytest.mark.parametrize("com", [None, "combase.dll", "ole32.dll"])
def test_a_com_server_in_a_dump_without_all_memory(tmp_path: Path, com: Optional[str]) -> None:
    """Without a DLL of COM's the answer is whole."""
    made = loaded(WIN10, 1, Module("plug.dll", exports=dict(SERVER)), *([Module(com)] if com else []))
    told = ["whether COM has loaded it is not known: not all memory is in the target, or could be searched"]
    state, _ = ask(tmp_path, made.dump(full=False))
    assert holders(state) == []
    assert [problem.message for problem in state.problems] == (told if com else [])
    kernel = KernelDump(str(machine(made).save(tmp_path / "MEMORY.DMP")))
    state = explain_chosen_dlls(kernel, "plug.dll", int, PID)
    assert [problem.message for problem in state.problems] == (told if com else [])


@BOTH
@pytest.mark.parametrize("unload", [0, 0x3300])
def test_a_delay_load(tmp_path: Path, form: Form, unload: int) -> None:
    made = loaded(form, 2, None, Module("user.dll"))
    plug, user = (made.loader.known[name].base for name in ("plug.dll", "user.dll"))
    put_delay_load(made, "user.dll", plug, unload)
    state, text = ask(tmp_path, made.dump())
    slot = user + DELAY + 0x80
    assert holders(state) == [LoadHolder(HolderKind.DELAY_LOAD, slot, library="user.dll", frees_itself=bool(unload))]
    assert 'user.dll has delay-loaded it: __FUnloadDelayLoadedDLL2("plug.dll") in user.dll frees it' in text
    assert ("once user.dll is linked with /DELAY:UNLOAD" in text) == (not unload)
    assert "It goes once FreeLibrary has been called on it once more by whoever loaded it." in text


@pytest.mark.parametrize(("handle", "attributes"), [(0, 1), (0x7FF8_0000_0001, 1), (-1, 0)])
def test_delay_loads_that_hold_nothing(tmp_path: Path, handle: int, attributes: int) -> None:
    """Not called yet, another DLL's, and one of an old compiler, whose members are addresses."""
    made = loaded(WIN10, 1, None, Module("user.dll"))
    handle = made.loader.known["plug.dll"].base if handle < 0 else handle
    put_delay_load(made, "user.dll", handle, attributes=attributes)
    assert holders(ask(tmp_path, made.dump())[0]) == []


def test_a_delay_load_by_ntdll_is_an_edge_and_no_load(tmp_path: Path) -> None:
    made = loaded(WIN10, 1, None, Module("user.dll", ["plug.dll"]))
    put_delay_load(made, "user.dll", made.loader.known["plug.dll"].base)
    assert holders(ask(tmp_path, made.dump())[0]) == []


def test_delay_load_descriptors_that_are_not_in_memory(tmp_path: Path) -> None:
    made = loaded(WIN10, 1, None, Module("user.dll"))
    put_delay_load(made, "user.dll", made.loader.known["plug.dll"].base)
    made.memory.forget(made.loader.known["user.dll"].base + DELAY, 0x20)
    state, _ = ask(tmp_path, made.dump())
    assert holders(state) == []
    assert any("whether user.dll delay-loaded it is not known" in problem.message for problem in state.problems)


@pytest.mark.parametrize(
    ("name", "entry", "export", "runtime", "said"),
    [
        ("_queue.cp39-win_amd64.pyd", "PyInit__queue", "Py_IsInitialized", "python", "Python never frees one"),
        (
            "fast.node",
            "napi_register_module_v1",
            "napi_create_function",
            "node",
            "Node.js frees one when the environment",
        ),
        ("native.dll", "JNI_OnLoad", "JNI_CreateJavaVM", "jvm", "the JVM frees one when the class loader"),
        ("socket.dll", "luaopen_socket", "lua_newstate", "lua", "Lua frees one when its state is closed"),
        ("strscan.so", "Init_strscan", "ruby_init", "ruby", "Ruby never frees one"),
    ],
)
def test_an_extension_module(tmp_path: Path, name: str, entry: str, export: str, runtime: str, said: str) -> None:
    module = Module(name, exports={entry: b"\xc3"})
    made = loaded(WINE, 1, module, Module("host.dll", exports={export: b"\xc3"}))
    state, text = ask(tmp_path, made.dump(), name)
    expected = LoadHolder(HolderKind.INTERPRETER, module.base + 0x1000, library="host.dll", runtime=runtime)
    assert holders(state) == [expected]
    assert f"host.dll has loaded it as an extension module: {said}" in text
    # Without the interpreter it is but a name.
    alone = loaded(WINE, 1, Module(name, exports={entry: b"\xc3"}))
    assert holders(ask(tmp_path, alone.dump(), name)[0]) == []


def test_nobody_is_found_and_that_is_said(tmp_path: Path) -> None:
    state, text = ask(tmp_path, loaded(WIN10, 3).dump(starts={0x5BC: 0x1234}))
    assert holders(state) == []
    assert (
        "It goes once FreeLibrary has been called on it 3 times more by whoever loaded it. Who that is is not recorded "
        "(dlltrace tells it); freeing a load that is not yours crashes the process."
    ) in text


def test_holders_are_looked_for_where_one_dll_is_asked_about(tmp_path: Path) -> None:
    target = MinidumpTarget(str(write(tmp_path, loaded().dump())))
    (hold,) = next(dll for dll in explain_dlls(target).dlls if dll.name == "plug.dll").holds
    assert hold.holders is None


def test_a_plan_warns_of_the_free_that_crashes(tmp_path: Path) -> None:
    made = loaded(WIN10, 1, Module("plug.dll", [KERNEL32], functions=["FreeLibraryAndExitThread"]))
    start = made.loader.known["plug.dll"].base + 0x1100
    plans = plan_free(MinidumpTarget(str(write(tmp_path, made.dump(starts={0x5BC: start})))), "plug.dll", int)
    written = json.loads(dump(dll_plan_document("dllplan", plans)))
    VALIDATOR.validate(written)
    assert [each["kind"] for each in written["load_holders"]] == ["thread"]
    assert "End thread 1 (TID 0x5bc) first" in render(dll_plan_view(plans, False))


@pytest.mark.parametrize(("header", "size"), [(8, 64), (12, 32), (12, 1 << 20)])
def test_thread_information_that_makes_no_sense(tmp_path: Path, header: int, size: int) -> None:
    made = loaded()
    content = bytearray(made.dump(starts={0x5BC: made.loader.known["plug.dll"].base + 0x1100}))
    count, directory = struct.unpack_from("<II", content, 8)
    (place,) = (
        struct.unpack_from("<I", content, directory + 12 * number + 8)[0]
        for number in range(count)
        if struct.unpack_from("<I", content, directory + 12 * number)[0] == 17
    )
    struct.pack_into("<II", content, place, header, size)
    state, _ = ask(tmp_path, bytes(content))
    assert holders(state) == []
    assert any("thread information" in problem.where for problem in state.problems)
