"""Is no verdict changed silently by one member of one entry or node of a DLL that is nonsense, and no other DLL's?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import DllState
from dlwhy.common.windows.state import explain_dlls
from dlwhy.tests.synth.minidump import EXE, KERNEL32, NARROW, NTDLL, STATIC_IMPORT, WIDE, XP, Form, Process
from dlwhy.tests.synth.mutants import Mutant, Tally, Verdicts, compare, values
from dlwhy.tests.synth.windows import FORMS, form_id, story

#: In a run of all tests every so many mutants are asked about.
STRIDE = 61
#: No verdict rests on these.
IDLE = frozenset({"EntryPoint", "ParentDllBase", "ReferenceCount", "TlsIndex"})
#: What the story's program imports, with what that imports; before Windows 8 all is pinned.
STATIC = frozenset({EXE, NTDLL, KERNEL32, "static.dll", "ucrt.dll"})

#: Where members are, and their sizes.
Members = Mapping[str, tuple[int, int]]


def entry_members(form: Form, wide: bool) -> Members:
    """Give the members of an entry."""
    at, word = (WIDE, 8) if wide else (NARROW, 4)
    members = {
        f"{name}.{end}": (place + shift, word)
        for name, place in zip(("load", "memory", "initialization"), at.links)
        for end, shift in (("Flink", 0), ("Blink", word))
    }
    for name, place in (("FullDllName", at.full_name), ("BaseDllName", at.base_name)):
        members[f"{name}.Length"] = (place, 2)
        members[f"{name}.MaximumLength"] = (place + 2, 2)
        members[f"{name}.Buffer"] = (place + word, word)
    members.update(
        {
            "DllBase": (at.dll_base, word),
            "EntryPoint": (at.entry_point, word),
            "SizeOfImage": (at.size, 4),
            "Flags": (at.flags, 4),
            "LoadCount": (at.load_count, 2),
            "TlsIndex": (at.load_count + 2, 2),
            "TimeDateStamp": (at.timestamp, 4),
        }
    )
    if form is not XP:
        members["DdagNode"] = (at.ddag, word)
    if form.graph:
        members.update(
            {
                "NodeModuleLink.Flink": (at.module_link, word),
                "NodeModuleLink.Blink": (at.module_link + word, word),
                "ParentDllBase": (at.parent_base, word),
                "LoadReason": (at.load_reason, 4),
                "ReferenceCount": (at.reference_count, 4),
            }
        )
    return members


def node_members(form: Form, wide: bool) -> Members:
    """Give the members of a node."""
    at, word = (WIDE, 8) if wide else (NARROW, 4)
    members = {
        "Modules.Flink": (0, word),
        "Modules.Blink": (word, word),
        "node's LoadCount": (at.node_count, 4),
        "Dependencies": (at.node_dependencies, word),
        "IncomingDependencies": (at.node_incoming, word),
        "State": (at.node_state, 4),
    }
    return members if form.graph else {}


def verdicts(state: DllState) -> Verdicts:
    """Give the verdict on each DLL."""
    return {dll.ldr_entry: (dll.held, tuple(hold.kind.value for hold in dll.holds)) for dll in state.dlls}


def mutants(made: Process) -> Iterator[Mutant]:
    """Yield all mutants of all entries and nodes."""
    form, wide = made.loader.form, made.loader.wide
    first, last = made.loader.loaded[0], made.loader.loaded[-1]
    for module in made.loader.loaded:
        others = (module.entry, module.base, first.entry, last.entry, first.node, last.node, last.base)
        for start, members in ((module.entry, entry_members(form, wide)), (module.node, node_members(form, wide))):
            for member, (offset, size) in members.items():
                piece, place = made.memory.find(start + offset, size)
                own = int.from_bytes(piece[place : place + size], "little")
                for value in values(own, 8 * size, others):
                    yield Mutant(module.entry, member, start + offset, value, value.to_bytes(size, "little"))


def is_sound(form: Form, name: str, mutant: Mutant) -> bool:
    """Tell whether another process has this very state: other loads, a pin, or a DLL of the loader's as an import."""
    if form.graph and not form.wine:
        if mutant.member == "Flags":
            return name in (NTDLL, KERNEL32) and bool(mutant.value & STATIC_IMPORT)
        return mutant.member == "node's LoadCount" and 0 < mutant.value <= 1 << 20
    # An import of the program that another DLL has loaded before has an ordinary count under Wine.
    pinned = (EXE, NTDLL, KERNEL32) if form.wine else STATIC
    return mutant.member == "LoadCount" and mutant.value > 0 and name not in pinned


def judge(folder: Path, made: Process, chosen: Sequence[Mutant]) -> None:
    """Ask about mutants, one after another."""
    path = folder / "x.dmp"
    whole = made.dump()
    path.write_bytes(whole)
    sound = explain_dlls(MinidumpTarget(str(path)))
    cycles = {module.entry: [each.entry for each in module.merged] for module in made.loader.loaded}
    before = verdicts(sound)
    tally = Tally(before, IDLE)
    names = {module.entry: module.name for module in made.loader.loaded}
    for mutant in chosen:
        piece, place = made.memory.find(mutant.address, len(mutant.content))
        start = whole.index(bytes(piece)) + place
        path.write_bytes(whole[:start] + mutant.content + whole[start + len(mutant.content) :])
        state = explain_dlls(MinidumpTarget(str(path)))
        outcome = compare(mutant.owner, before, verdicts(state), sound.problems, state.problems)
        owner = names[mutant.owner]
        found = is_sound(made.loader.form, owner, mutant)
        # The DLLs of a cycle have one node.
        tally.add(mutant, owner, outcome, is_sound=found, kin=cycles[mutant.owner])
    tally.check()


def process(form: Form, wide: bool) -> Process:
    """Lay out the story's process, in which nobody owns the loader lock."""
    loader = story(form, wide)
    loader.lock_owner = 0
    return Process(loader)


@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_a_sample_of_mutants(tmp_path: Path, form: Form, wide: bool) -> None:
    made = process(form, wide)
    judge(tmp_path, made, list(mutants(made))[::STRIDE])


@pytest.mark.matrix
@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_all_mutants(tmp_path: Path, form: Form, wide: bool) -> None:
    made = process(form, wide)
    judge(tmp_path, made, list(mutants(made)))


@pytest.mark.matrix
@pytest.mark.parametrize(("form", "wide"), FORMS, ids=form_id)
def test_all_counts_without_the_loader_lock(tmp_path: Path, form: Form, wide: bool) -> None:
    """A dump without ntdll's data does not tell whether a FreeLibrary is at work."""
    made = Process(story(form, wide))
    judge(tmp_path, made, [each for each in mutants(made) if each.member in ("LoadCount", "node's LoadCount", "Flags")])
