"""Is no verdict changed silently by one member of one VAD, section, file object or handle that is nonsense?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from dlwhy.common.errors import NotFoundError
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.model import MappedFile, Share
from dlwhy.common.windows.share import share_file
from dlwhy.tests.synth.mutants import values
from dlwhy.tests.synth.ntdump import PAGE, Machine
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntmachines import build

#: In a run of all tests every so many mutants are asked about.
STRIDE = 149

MACHINES = [
    ("5.1.2600.5512", "i386"),
    ("6.1.7601.17514", "i386"),
    ("6.1.7601.17514", "x86_64"),
    ("6.3.9600.19913", "x86_64"),
    ("10.0.19041.928", "i386"),
    ("10.0.19041.3570", "x86_64"),
    ("10.0.22631.2428", "x86_64"),
]

#: The members that are read, as far as a version has them; behind a colon, of the flags within.
MEMBERS: Mapping[str, Sequence[str]] = {
    "_MMVAD_SHORT": (
        *("VadNode.Left", "VadNode.Right", "VadNode.ParentValue"),
        *("LeftChild", "RightChild", "u1.Parent", "Parent"),
        *("StartingVpn", "EndingVpn", "StartingVpnHigh", "EndingVpnHigh"),
        *("u.VadFlags:VadType", "u.VadFlags:ImageMap", "u.VadFlags:Protection", "u.VadFlags:PrivateMemory"),
    ),
    "_MMVAD": ("Subsection", "ControlArea", "ViewLinks.Flink", "ViewLinks.Blink", "VadsProcess"),
    "_SUBSECTION": ("ControlArea",),
    "_SEGMENT": ("ControlArea",),
    "_CONTROL_AREA": (
        *("Segment", "FilePointer", "u.Flags:Image", "u.Flags:File"),
        *("NumberOfSectionReferences", "NumberOfMappedViews", "NumberOfUserReferences"),
        *("u2.e2.WritableUserReferences", "ListHead.Flink", "ListHead.Blink", "ViewList.Flink", "ViewList.Blink"),
    ),
    "_FILE_OBJECT": (
        *("Type", "Size", "DeviceObject", "FsContext", "SectionObjectPointer", "DeletePending", "Flags"),
        *("ReadAccess", "WriteAccess", "DeleteAccess", "SharedRead", "SharedWrite", "SharedDelete"),
        *("FileName.Length", "FileName.MaximumLength", "FileName.Buffer"),
    ),
    "_SECTION_OBJECT_POINTERS": ("DataSectionObject", "ImageSectionObject"),
    "_HANDLE_TABLE_ENTRY": ("ObjectPointerBits", "Object", "GrantedAccessBits", "GrantedAccess"),
}
FLAGS = {"u.VadFlags": "_MMVAD_FLAGS", "u.Flags": "_MMSECTION_FLAGS"}
#: Where members of nested structures are, in words, and their sizes; of no number a word.
NESTED = {"Left": (0, 0), "Right": (1, 0), "ParentValue": (2, 0), "Flink": (0, 0), "Blink": (1, 0)}
NAMES = {"Length": (0, 2), "MaximumLength": (2, 2)}
#: No verdict rests on these.
IDLE = frozenset({"Protection", "DeviceObject", "GrantedAccess", "GrantedAccessBits"})
BOOLEANS = frozenset({"DeletePending", "ReadAccess", "WriteAccess", "DeleteAccess", "SharedWrite", "SharedDelete"})


class Place(NamedTuple):
    """Where a member is in its structure: offset and size, and which bits."""

    offset: int
    size: int
    shift: int
    bits: int


class Mutant(NamedTuple):
    """A member of a structure at an address; the value it gets, in place of its own, and the bytes with it."""

    structure: str
    start: int
    member: str
    address: int
    own: int
    value: int
    content: bytes


#: For each file what can be done, which processes map it, and which have it open.
Verdict = tuple[tuple[str, ...], frozenset[tuple[int, bool]], frozenset[int]]


def no_number(text: str) -> int:
    raise NotFoundError(text)


def find_place(machine: Machine, structure: str, member: str) -> Optional[Place]:
    """Find a member, None if this version lacks it."""
    word = machine.pointer_size
    outer, _, bit = member.partition(":")
    if bit:
        if not machine.has(FLAGS[outer], bit):
            return None
        offset, size, shift, count = machine.field(FLAGS[outer], bit)
        return Place(machine.field(structure, outer)[0] + offset, size, shift, count)
    if machine.has(structure, member):
        offset, size, *bits = machine.field(structure, member)
        return Place(offset, size, *(bits or (0, 8 * size)))
    outer, _, inner = member.rpartition(".")
    if not outer or not machine.has(structure, outer):
        return None
    offset = machine.field(structure, outer)[0]
    if inner in NAMES:
        return Place(offset + NAMES[inner][0], 2, 0, 16)
    return Place(offset + word * NESTED.get(inner, (1, 0))[0], word, 0, 8 * word)


class Judge:
    """A machine's dump, of which one member after the other is changed."""

    def __init__(self, folder: Path, version: str, arch: str) -> None:
        self.machine = build(windows(version, arch))
        self.path = self.machine.save(folder / "MEMORY.DMP")
        self.whole = self.path.read_bytes()
        self._frames = {frame: number for number, frame in enumerate(sorted(self.machine.pages))}
        self._head = len(self.whole) - PAGE * len(self._frames)
        self.sound = self._ask()
        self.before = {_addresses(file): _verdict(file) for file in self.sound.files if _addresses(file)}
        self.names = {_addresses(file): file.base_name for file in self.sound.files}

    def _ask(self) -> Share:
        target = KernelDump(str(self.path))
        try:
            return share_file(target, "*", no_number)
        finally:
            target.close()

    def _structures(self) -> Iterator[tuple[str, int]]:
        """Yield what the machine has of each file, and of the other handles one."""
        machine = self.machine
        core = machine.field("_MMVAD", "Core")[0] if machine.has("_MMVAD", "Core") else 0
        others = 0
        for structure, address in machine.written:
            if structure == "_MMVAD":
                yield "_MMVAD_SHORT", address + core
            if structure == "_HANDLE_TABLE_ENTRY":
                others += machine.targets[address] not in self._file_objects
                if machine.targets[address] not in self._file_objects and others > 1:
                    continue
            if structure in MEMBERS:
                yield structure, address

    @property
    def _file_objects(self) -> frozenset[int]:
        return frozenset(address for name, address in self.machine.written if name == "_FILE_OBJECT")

    def mutants(self) -> Iterator[Mutant]:
        """Yield all mutants of all structures."""
        machine = self.machine
        structures = list(self._structures())
        for structure, start in structures:
            alike = [address for name, address in structures if name == structure]
            others = (alike[0], alike[-1], start, machine.nowhere)
            for member in MEMBERS[structure]:
                place = find_place(machine, structure, member)
                if place is None:
                    continue
                address = start + place.offset
                raw = int.from_bytes(machine.read(address, place.size), "little")
                mask = (1 << place.bits) - 1
                own = raw >> place.shift & mask
                for value in values(own, place.bits, others):
                    content = raw & ~(mask << place.shift) | value << place.shift
                    name = member.rpartition(":")[2]
                    yield Mutant(structure, start, name, address, own, value, content.to_bytes(place.size, "little"))

    def ask(self, mutant: Mutant) -> Share:
        """Ask about a mutant."""
        physical = self.machine.translate(self.machine.kernel_root, mutant.address)
        assert physical is not None
        at = self._head + self._frames[physical // PAGE] * PAGE + mutant.address % PAGE
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(mutant.content)
        try:
            return self._ask()
        finally:
            with self.path.open("r+b") as file:
                file.seek(at)
                file.write(self.whole[at : at + len(mutant.content)])


def _addresses(file: MappedFile) -> frozenset[int]:
    """Give the addresses of a file's sections and file objects, by which it is known again."""
    objects = [*([file.file] if file.file else []), *(opener.file for opener in file.openers)]
    return frozenset([*(each.control_area for each in file.sections), *(each.address for each in objects)])


def _verdict(file: MappedFile) -> Verdict:
    return (
        tuple(operation.allowed.value for operation in file.operations),
        frozenset((mapping.pid, mapping.image) for mapping in file.mappings),
        frozenset(opener.pid for opener in file.openers),
    )


def find_changed(judge: Judge, share: Share, *, is_handle: bool) -> list[frozenset[int]]:
    """List the files of which something else is said.

    A handle that leads nowhere can be of any file: for all of them "yes" becomes "probably", as it must.
    """
    after: dict[int, list[Verdict]] = {}
    for file in share.files:
        for address in _addresses(file):
            after.setdefault(address, []).append(_verdict(file))

    def is_same(old: Verdict, new: Verdict) -> bool:
        weakened = tuple("probably" if each == "yes" else each for each in old[0])
        return new == old or (is_handle and new == (weakened, *old[1:]))

    return [
        addresses
        for addresses, old in judge.before.items()
        if not any(is_same(old, new) for address in addresses for new in after.get(address, ()))
    ]


def is_sound(judge: Judge, mutant: Mutant) -> bool:
    """Tell whether another machine has this very state."""
    machine = judge.machine
    if mutant.member in BOOLEANS:
        return mutant.value <= 1
    if mutant.member == "u2.e2.WritableUserReferences":
        return mutant.value <= machine.get(mutant.start, "_CONTROL_AREA", "NumberOfUserReferences")
    if mutant.member == "ObjectPointerBits":
        return mutant.value == 0  # a free entry
    # Nothing tells how many VADs a process of XP has, and its trees need not be balanced.
    is_xp = not machine.has("_MMVAD", "Subsection")
    return is_xp and mutant.member in ("LeftChild", "RightChild") and mutant.value == 0


def run(judge: Judge, chosen: Sequence[Mutant]) -> None:
    """Ask about mutants, one after another."""
    silent, idle, lost = [], [], 0
    for mutant in chosen:
        share = judge.ask(mutant)
        changed = find_changed(judge, share, is_handle=mutant.structure == "_HANDLE_TABLE_ENTRY")
        told = not set(share.problems) <= set(judge.sound.problems)
        owners = [addresses for addresses in changed if mutant.start in addresses]
        # Of the rest of a file's structures any of the changed files can be the owner.
        lost += max(0, len(changed) - (len(owners) or 1))
        where = f"{mutant.structure} {mutant.start:#x} {mutant.member}={mutant.value:#x}"
        if changed and not told and not is_sound(judge, mutant):
            silent.append(f"{where}: {', '.join(judge.names[each] for each in changed)}")
        if mutant.member in IDLE and (changed or told):
            idle.append(where)
    others = len(judge.before) - 1
    print(f"\n{len(chosen)} mutants, {100 * lost / len(chosen) / others:.2f} % of the others' verdicts lost")
    assert silent == []
    assert idle == []
    assert lost <= len(chosen) * others / 100


@pytest.mark.parametrize(("version", "arch"), MACHINES)
def test_a_sample_of_mutants(tmp_path: Path, version: str, arch: str) -> None:
    judge = Judge(tmp_path, version, arch)
    run(judge, list(judge.mutants())[::STRIDE])


@pytest.mark.matrix
@pytest.mark.parametrize(("version", "arch"), MACHINES)
def test_all_mutants(tmp_path: Path, version: str, arch: str) -> None:
    judge = Judge(tmp_path, version, arch)
    run(judge, list(judge.mutants()))
