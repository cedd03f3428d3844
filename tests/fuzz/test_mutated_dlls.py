"""Is no verdict changed silently by one member of one entry or node of a DLL that is nonsense, and no other DLL's?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import DllState
from dlwhy.common.windows.state import explain_dlls
from dlwhy.tests.synth.minidump import KERNEL32, NTDLL, WIDE, Process
from dlwhy.tests.synth.mutants import Mutant, Verdicts, compare, values
from dlwhy.tests.synth.windows import process

#: In a run of all tests every so many mutants are asked about.
STRIDE = 61

#: Members of an entry and of a node: offset and size.
ENTRY = {
    **{
        f"{name}.{end}": (place + shift, 8)
        for name, place in zip(("load", "memory", "initialization"), WIDE.links)
        for end, shift in (("Flink", 0), ("Blink", 8))
    },
    "DllBase": (WIDE.dll_base, 8),
    "EntryPoint": (WIDE.entry_point, 8),
    "Flags": (WIDE.flags, 4),
    "ObsoleteLoadCount": (WIDE.load_count, 2),
    "DdagNode": (WIDE.ddag, 8),
    "NodeModuleLink.Flink": (WIDE.module_link, 8),
    "NodeModuleLink.Blink": (WIDE.module_link + 8, 8),
    "ParentDllBase": (WIDE.parent_base, 8),
    "LoadReason": (WIDE.load_reason, 4),
    "ReferenceCount": (WIDE.reference_count, 4),
}
NODE = {
    "Modules.Flink": (0, 8),
    "Modules.Blink": (8, 8),
    "LoadCount": (WIDE.node_count, 4),
    "Dependencies": (WIDE.node_dependencies, 8),
    "IncomingDependencies": (WIDE.node_incoming, 8),
    "State": (WIDE.node_state, 4),
}
#: No verdict rests on these.
IDLE = frozenset({"EntryPoint", "ParentDllBase", "ReferenceCount"})


def verdicts(state: DllState) -> Verdicts:
    """Give the verdict on each DLL."""
    return {dll.ldr_entry: (dll.held, tuple(hold.kind.value for hold in dll.holds)) for dll in state.dlls}


def mutants(made: Process) -> Iterator[Mutant]:
    """Yield all mutants of all entries and nodes."""
    first, last = made.loader.loaded[0], made.loader.loaded[-1]
    for module in made.loader.loaded:
        others = (module.entry, module.base, first.entry, last.entry, first.node, last.node, last.base)
        for start, members in ((module.entry, ENTRY), (module.node, NODE)):
            for member, (offset, size) in members.items():
                piece, place = made.memory.find(start + offset, size)
                own = int.from_bytes(piece[place : place + size], "little")
                for value in values(own, 8 * size, others):
                    yield Mutant(module.entry, member, start + offset, value, value.to_bytes(size, "little"))


def is_sound(name: str, mutant: Mutant) -> bool:
    """Tell whether another process has this very state: other loads, or one of the loader's own DLLs as an import."""
    if mutant.member == "Flags":
        return name in (NTDLL, KERNEL32)
    return mutant.member == "LoadCount" and 0 < mutant.value <= 1 << 20


def judge(folder: Path, made: Process, chosen: Sequence[Mutant]) -> None:
    """Ask about mutants, one after another."""
    path = folder / "x.dmp"
    whole = made.dump()
    path.write_bytes(whole)
    sound = explain_dlls(MinidumpTarget(str(path)))
    cycles = {module.entry: [each.entry for each in module.merged] for module in made.loader.loaded}
    before, silent, idle, lost = verdicts(sound), [], [], 0
    names = {module.entry: module.name for module in made.loader.loaded}
    for mutant in chosen:
        piece, place = made.memory.find(mutant.address, len(mutant.content))
        start = whole.index(bytes(piece)) + place
        path.write_bytes(whole[:start] + mutant.content + whole[start + len(mutant.content) :])
        state = explain_dlls(MinidumpTarget(str(path)))
        outcome = compare(mutant.owner, before, verdicts(state), sound.problems, state.problems)
        # The DLLs of a cycle have one node.
        lost += len([each for each in outcome.others if each not in cycles[mutant.owner]])
        name = f"{names[mutant.owner]} {mutant.member}={mutant.value:#x}"
        if outcome.is_silent and not is_sound(names[mutant.owner], mutant):
            silent.append(name)
        if mutant.member in IDLE and not outcome.is_nothing:
            idle.append(name)
    print(f"\n{len(chosen)} mutants, {100 * lost / len(chosen) / (len(before) - 1):.2f} % of the others' verdicts lost")
    assert silent == []
    assert idle == []
    assert lost <= len(chosen) * (len(before) - 1) / 100


def test_a_sample_of_mutants(tmp_path: Path) -> None:
    made = process()
    judge(tmp_path, made, list(mutants(made))[::STRIDE])


@pytest.mark.matrix
@pytest.mark.parametrize("part", range(4))
def test_all_mutants(tmp_path: Path, part: int) -> None:
    made = process()
    judge(tmp_path, made, list(mutants(made))[part::4])
