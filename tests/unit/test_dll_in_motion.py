"""Is it said truly of a process that is exiting, loading or unloading, in the form of Windows and of Wine?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.commands.dllstate.text import dll_state_view
from dlwhy.common.model import Outcome
from dlwhy.common.render.text import render
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import Dll, DllHoldKind, DllState
from dlwhy.common.windows.plan import plan_free
from dlwhy.common.windows.state import explain_chosen_dlls, explain_dlls
from dlwhy.tests.synth.minidump import WIN7, WIN10, WINE, Form, Process
from dlwhy.tests.synth.windows import form_id, process, story, write

KINDS = DllHoldKind
WINE_DONT_RESOLVE, IN_PROGRESS, ATTACHED = 0x40000000, 0x1000, 0x80000


def explain(folder: Path, made: Process) -> DllState:
    return explain_dlls(MinidumpTarget(str(write(folder, made.dump()))))


def find(state: DllState, name: str) -> Dll:
    return next(dll for dll in state.dlls if dll.name == name)


def kinds(dll: Dll) -> list[DllHoldKind]:
    return [hold.kind for hold in dll.holds]


def locked(form: Form, owner: int) -> Process:
    """Give the loader lock an owner, and none in 0."""
    loader = story(form)
    loader.lock_owner = owner
    return Process(loader)


def put_flags(made: Process, name: str, flags: int) -> None:
    made.memory.number(made.loader.known[name].entry + 0x68, 4, flags)


def asked(folder: Path, made: Process, name: str) -> str:
    """Return what dllstate writes about a DLL."""
    target = MinidumpTarget(str(write(folder, made.dump())))
    return " ".join(render(dll_state_view(explain_chosen_dlls(target, name, int), False)).split())


def test_an_exit_under_wine_shows_in_flags_and_the_lock(tmp_path: Path) -> None:
    """Wine's ntdll sets no ShutdownInProgress, and lowers no count."""
    made = locked(WINE, 0x5BC)
    put_flags(made, "libc.dll", 4)
    state = explain(tmp_path, made)
    assert (state.process_exiting, state.lock_owner) == (True, 0x5BC)
    text = asked(tmp_path, made, "libC.dll")
    assert "The process is exiting: FreeLibrary does nothing any more." in text
    assert "It goes once" not in text
    found = plan_free(MinidumpTarget(str(write(tmp_path, made.dump()))), "libA.dll", int, None).plans[0]
    assert (found.refusal, found.unloads) == ("process-exiting", ())


@pytest.mark.parametrize("flags", [4 | IN_PROGRESS, 4 | WINE_DONT_RESOLVE, 4 | ATTACHED])
def test_no_exit_under_wine_while_all_are_attached(tmp_path: Path, flags: int) -> None:
    made = locked(WINE, 0x5BC)
    put_flags(made, "libc.dll", flags)
    assert explain(tmp_path, made).process_exiting is False


@pytest.mark.parametrize(("owner", "exiting"), [(0, False), (None, None)])
def test_no_exit_under_wine_without_the_lock(tmp_path: Path, owner: Optional[int], exiting: Optional[bool]) -> None:
    made = process(WINE) if owner is None else locked(WINE, owner)
    put_flags(made, "libc.dll", 4)
    assert explain(tmp_path, made).process_exiting is exiting


def test_a_load_that_has_not_returned_under_wine(tmp_path: Path) -> None:
    made = locked(WINE, 0x5BC)
    put_flags(made, "liba.dll", 4 | IN_PROGRESS)
    state = explain(tmp_path, made)
    dll = find(state, "libA.dll")
    assert (kinds(dll), dll.held, dll.loadlibrary_count) == ([KINDS.LOADING], True, None)
    assert any(p.where == "libA.dll" and "thread 0x5bc owns the loader lock" in p.message for p in state.problems)
    text = asked(tmp_path, made, "libA.dll")
    assert "No FreeLibrary takes it before that LoadLibrary has returned. Thread 0x5bc owns the loader lock" in text
    assert "not freed" not in text


def test_a_load_that_has_not_linked_its_import_under_wine(tmp_path: Path) -> None:
    """Until the DLL that imports it is linked, nothing but the loader lock says that it is being loaded."""
    for owner, kind in ((0x5BC, KINDS.LOADING), (0, KINDS.LOAD_COUNT)):
        loader = story(WINE)
        loader.initialized.remove(loader.known["libc.dll"])
        loader.lock_owner = owner
        made = Process(loader)
        put_flags(made, "libc.dll", 4)
        assert kinds(find(explain(tmp_path, made), "libC.dll"))[0] is kind


def test_a_load_that_has_not_returned_on_windows(tmp_path: Path) -> None:
    loader = story(WIN10)
    loader.known["liba.dll"].state = 8
    text = asked(tmp_path, Process(loader), "libA.dll")
    assert text.startswith("libA.dll stays loaded: a LoadLibrary that has not returned is loading it.")
    assert "its State is Initializing: a LoadLibrary of it, or of what imports it, has not returned" in text
    assert "libC.dll stays loaded: loaded once" in asked(tmp_path, Process(loader), "libC.dll")


@pytest.mark.parametrize(
    ("state", "count", "said"),
    [
        (-4, 1, "is being unloaded: its DllMain refused DLL_PROCESS_ATTACH, so its LoadLibrary fails."),
        (-3, 1, "is being unloaded: an import of it was not found, so its LoadLibrary fails."),
        (-2, 0, "has been unloaded, and is still mapped (State Unloaded)."),
        (-1, 0, "is being unloaded: a FreeLibrary has brought its count to 0."),
    ],
)
def test_states_have_true_words(tmp_path: Path, state: int, count: int, said: str) -> None:
    loader = story(WIN10)
    loader.known["liba.dll"].state, loader.known["liba.dll"].count = state, count
    text = asked(tmp_path, Process(loader), "libA.dll")
    assert text.startswith(f"libA.dll {said}")
    assert "the loader is at work" not in text


@pytest.mark.parametrize(("state", "name"), [(-2, "Unloaded"), (-1, "Unloading")])
def test_a_state_that_the_counts_contradict(tmp_path: Path, state: int, name: str) -> None:
    loader = story(WIN10)
    loader.known["liba.dll"].state, loader.known["liba.dll"].count = state, 4
    text = " ".join(asked(tmp_path, Process(loader), "libA.dll").split())
    assert text.startswith("libA.dll: not known whether FreeLibrary unloads it: its load count is not known.")
    assert re.search(rf"that is {name}, and LoadCount is 0x4 and ObsoleteLoadCount \w+: an unload sets both to 0", text)


def test_a_count_of_nothing_without_an_unload_is_a_contradiction(tmp_path: Path) -> None:
    loader = story(WIN10)
    loader.known["liba.dll"].count = 0
    text = asked(tmp_path, Process(loader), "libA.dll")
    assert "not known whether FreeLibrary unloads it: its load count is 0, but its State is ReadyToRun" in text
    assert "not in memory" not in text


@pytest.mark.parametrize("form", [WIN10, WINE, WIN7], ids=form_id)
def test_a_dll_that_is_being_unloaded_is_not_over_freed(tmp_path: Path, form: Form) -> None:
    loader = story(form)
    loader.known["liba.dll"].state, loader.known["liba.dll"].count = -1, 0
    loader.lock_owner = 0x5BC
    made = Process(loader)
    if form is WIN7:
        for module in loader.loaded:
            made.memory.number(module.entry + 0x6C, 2, 0 if module.name == "libA.dll" else module.count)
    found = plan_free(MinidumpTarget(str(write(tmp_path, made.dump()))), "libA.dll", int, 1).plans[0]
    assert (found.outcome, found.refusal, found.excess_closes) == (Outcome.NO_EFFECT, "unloading", 0)
