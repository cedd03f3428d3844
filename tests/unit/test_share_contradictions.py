"""Is a file's verdict uncertain where the kernel's structures contradict one another, and are both named?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dlwhy.common.errors import NotFoundError
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.model import Share
from dlwhy.common.windows.share import share_file
from dlwhy.tests.synth.ntdump import File, FileObject, Machine, Process, Section
from dlwhy.tests.synth.ntlayout import windows

WIN7, WIN10, XP = ("6.1.7601.17514", "x86_64"), ("10.0.19041.3570", "x86_64"), ("5.1.2600.5512", "i386")


def no_number(text: str) -> int:
    raise NotFoundError(text)


class Case:
    """A machine with a file that one process maps as an image and has open, and another file."""

    def __init__(self, version: str, arch: str) -> None:
        self.machine = Machine(windows(version, arch))
        self.process: Process = self.machine.process(100, "first.exe")
        self.machine.current = self.process
        self.file: File = self.machine.file("\\Temp\\known.dll")
        self.opened: FileObject = self.file.open("R--", "r-d", closed=False)
        self.section: Section = self.file.image(self.opened)
        self.vad = self.process.map(self.section, 0x10000000, 0x10004000)
        self.process.open(self.opened)
        self.other = self.machine.file("\\Temp\\other.dll")
        self.other_section = self.other.image(self.other.open())
        self.process.map(self.other_section, 0x20000000, 0x20004000)
        self.process.private(0x30000000, 0x30010000)
        self.process.private(0x40000000, 0x40010000)
        self.machine.finish()

    def flags(self, structure: str) -> int:
        """Give where the flags of the VAD, or of its section, are."""
        if structure == "_MMSECTION_FLAGS":
            return self.section.control_area + self.machine.field("_CONTROL_AREA", "u.Flags")[0]
        core = self.machine.field("_MMVAD", "Core")[0] if self.machine.has("_MMVAD", "Core") else 0
        return self.vad + core + self.machine.field("_MMVAD_SHORT", "u.VadFlags")[0]

    def ask(self, folder: Path, name: str = "known.dll") -> Share:
        return share_file(KernelDump(str(self.machine.save(folder / "MEMORY.DMP"))), name, no_number)


def allowed(share: Share) -> dict[str, str]:
    (file,) = share.files
    return {operation.name: operation.allowed.value for operation in file.operations}


def told(share: Share) -> str:
    return "\n".join(f"{problem.where}: {problem.message}" for problem in share.problems)


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_nothing_contradicts_what_is_sound(tmp_path: Path, version: str, arch: str) -> None:
    share = Case(version, arch).ask(tmp_path)
    assert share.problems == ()
    assert (allowed(share)["rename"], allowed(share)["delete"]) == ("yes", "no")


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
@pytest.mark.parametrize("member", ["DeletePending", "ReadAccess", "SharedDelete"])
def test_what_is_neither_0_nor_1(tmp_path: Path, version: str, arch: str, member: str) -> None:
    case = Case(version, arch)
    case.machine.put(case.opened.address, "_FILE_OBJECT", member, 0x20)
    share = case.ask(tmp_path)
    at = case.opened.address + case.machine.field("_FILE_OBJECT", member)[0]
    assert told(share) == f"known.dll: {member} at {at:#x} is 0x20, which is neither 0 nor 1"
    (file,) = share.files
    assert (allowed(share)["rename"], file.operations[0].reason.rpartition("; ")[2]) == (
        "probably",
        "what is known of it is contradicted",
    )


def put_views(case: Case) -> None:
    case.machine.put(case.section.control_area, "_CONTROL_AREA", "NumberOfMappedViews", 0)


def put_data(case: Case) -> None:
    case.machine.put(case.flags("_MMSECTION_FLAGS"), "_MMSECTION_FLAGS", "Image", 0)


def put_no_view(case: Case) -> None:
    member = "VadType" if case.machine.has("_MMVAD_FLAGS", "VadType") else "ImageMap"
    case.machine.put(case.flags("_MMVAD_FLAGS"), "_MMVAD_FLAGS", member, 3 if member == "VadType" else 0)
    case.machine.put(case.flags("_MMVAD_FLAGS"), "_MMVAD_FLAGS", "PrivateMemory", 1)


def put_other_section(case: Case) -> None:
    case.machine.put(
        case.file.pointers, "_SECTION_OBJECT_POINTERS", "ImageSectionObject", case.other_section.control_area
    )


def put_no_cleanup(case: Case) -> None:
    case.machine.put(case.opened.address - case.machine.body, "_OBJECT_HEADER", "HandleCount", 0)


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (put_views, "NumberOfMappedViews of the section {area:#x} is 0, but 1 view of it found"),
        (put_data, "maps an image, but by u.Flags of the section {area:#x} that is data"),
        (put_no_view, "maps nothing, but it names the section {area:#x}"),
        (
            put_other_section,
            "ImageSectionObject at {pointers:#x} is {other:#x}, but {area:#x} is a section of the file",
        ),
        (put_other_section, "SectionObjectPointer of its file object"),
        (put_no_cleanup, "HandleCount of the file object {file:#x} is 0, but 1 handle of it found"),
    ],
)
def test_counts_kinds_and_pointers(
    tmp_path: Path, version: str, arch: str, damage: Callable[[Case], None], text: str
) -> None:
    case = Case(version, arch)
    damage(case)
    share = case.ask(tmp_path)
    assert share.files
    assert text.format(
        area=case.section.control_area,
        other=case.other_section.control_area,
        pointers=case.file.pointers,
        file=case.opened.address,
    ) in told(share)
    # What forbids more is taken.
    (file,) = share.files
    assert [(mapping.pid, mapping.image) for mapping in file.mappings][:1] == [(100, True)]
    assert (allowed(share)["overwrite"], allowed(share)["delete"]) == ("no", "no")
    assert allowed(share)["rename"] == "probably"


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_a_section_that_lost_its_file(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    case.machine.put(case.section.control_area, "_CONTROL_AREA", "FilePointer", 0)
    assert "FilePointer is 0x0, but by u.Flags it is a section of a file" in told(case.ask(tmp_path))


@pytest.mark.parametrize(("version", "arch"), [WIN7, WIN10])
def test_a_subsection_that_leads_to_itself(tmp_path: Path, version: str, arch: str) -> None:
    """It is its own segment, which leads back."""
    case = Case(version, arch)
    case.machine.put(case.section.subsection, "_SUBSECTION", "ControlArea", case.section.subsection)
    assert "_SEGMENT.ControlArea does not lead back" in told(case.ask(tmp_path, "other.dll"))


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_an_image_that_is_of_no_file(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    case.machine.put(case.section.control_area, "_CONTROL_AREA", "FilePointer", 0)
    for flag in ("Image", "File"):
        case.machine.put(case.flags("_MMSECTION_FLAGS"), "_MMSECTION_FLAGS", flag, 0)
    assert "no file object at 0x0" in told(case.ask(tmp_path, "other.dll"))


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_a_view_that_lost_its_section(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    member = "ControlArea" if case.machine.has("_MMVAD", "ControlArea") else "Subsection"
    case.machine.put(case.vad, "_MMVAD", member, 0)
    assert "maps a section by its VadFlags, but has none" in told(case.ask(tmp_path, "other.dll"))


@pytest.mark.parametrize(("version", "arch"), [WIN7, WIN10])
def test_a_view_that_names_another_section(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    case.machine.put(case.vad, "_MMVAD", "Subsection", case.other_section.subsection)
    text = told(case.ask(tmp_path))
    assert f"known.dll: the section {case.section.control_area:#x} lists the VAD at" in text
    assert "which names another one" in text


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
@pytest.mark.parametrize("member", ["Type", "Size"])
def test_a_handle_of_what_is_no_file_object_any_more(tmp_path: Path, version: str, arch: str, member: str) -> None:
    case = Case(version, arch)
    reader = case.other.open("R--", "r--")
    case.machine.put(reader.address, "_FILE_OBJECT", member, 0x77)
    made = Case.__new__(Case)
    made.machine, made.process, made.file = case.machine, case.process, case.other
    table = case.machine.get(case.process.eprocess, "_EPROCESS", "ObjectTable")
    code = case.machine.get(table, "_HANDLE_TABLE", "TableCode")
    case.machine._write_handle(code + 2 * case.machine.size("_HANDLE_TABLE_ENTRY"), reader.address, 0x120089)
    if case.machine.has("_HANDLE_TABLE", "HandleCount"):
        case.machine.put(table, "_HANDLE_TABLE", "HandleCount", 2)
    share = case.ask(tmp_path, "other.dll")
    assert f"other.dll: the handle 0x8 of first.exe (100) is of {reader.address:#x}, which has its section" in told(
        share
    )
    assert allowed(share)["rename"] == "probably"
    # Other files are not touched.
    assert allowed(case.ask(tmp_path)) == {**allowed(share), "rename": "yes"}


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_a_handle_of_no_object_can_be_of_any_file(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    case.machine.put(case.opened.address - case.machine.body, "_OBJECT_HEADER", "PointerCount", 0)
    case.machine.put(case.opened.address, "_FILE_OBJECT", "Type", 0x77)
    case.machine.put(case.opened.address, "_FILE_OBJECT", "SectionObjectPointer", 0)
    share = case.ask(tmp_path, "other.dll")
    assert "first.exe (100): the objects of 1 of its handles cannot be read" in told(share)
    assert allowed(share)["rename"] == "probably"


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7])
def test_a_handle_table_that_lost_a_handle(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    table = case.machine.get(case.process.eprocess, "_EPROCESS", "ObjectTable")
    case.machine.put(table, "_HANDLE_TABLE", "HandleCount", 2)
    assert "is 2, but 1 were found in it" in told(case.ask(tmp_path))


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_a_file_that_is_open_by_no_handle(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    case.machine.put(case.other_section.file.address if case.other_section.file else 0, "_FILE_OBJECT", "Flags", 0)
    text = told(case.ask(tmp_path, "other.dll"))
    assert "other.dll: by Flags of the file object" in text
    assert "a handle of it is open, but no handle table has one" in text


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_the_file_system_s_own_of_a_file(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    case.machine.put(case.opened.address, "_FILE_OBJECT", "FsContext", case.other.context)
    one, other = case.file.pointers, case.other.pointers
    for name in ("known.dll", "other.dll"):
        text = told(case.ask(tmp_path, name))
        assert f"FsContext of the file objects {case.opened.address:#x} and" in text
        assert f"is {case.other.context:#x}, but SectionObjectPointer {one:#x} and {other:#x}" in text


@pytest.mark.parametrize(
    ("version", "arch", "text"),
    [(*WIN7, "has 4 entries by its own count, but"), (*WIN10, "are not balanced as it says: some can be missing")],
)
@pytest.mark.parametrize(("node", "is_left"), [(1, True), (2, False)])
def test_a_tree_that_lost_a_branch(
    tmp_path: Path, version: str, arch: str, text: str, node: int, is_left: bool
) -> None:
    case = Case(version, arch)
    machine, at = case.machine, sorted(case.process.vads)[node].address
    if machine.has("_MMVAD_SHORT", "VadNode"):
        at += machine.field("_MMVAD_SHORT", "VadNode")[0] + (0 if is_left else machine.pointer_size)
    else:
        at += machine.field("_MMVAD_SHORT", "LeftChild" if is_left else "RightChild")[0]
    machine.put_pointer(at, 0)
    assert text in told(case.ask(tmp_path, "other.dll"))


@pytest.mark.parametrize(("version", "arch"), [XP, WIN7, WIN10])
def test_a_branch_that_belongs_elsewhere(tmp_path: Path, version: str, arch: str) -> None:
    case = Case(version, arch)
    nodes = sorted(case.process.vads)
    root, leaf = nodes[2].address, nodes[0].address
    if case.machine.has("_MMVAD_SHORT", "VadNode"):
        at = case.machine.field("_MMVAD_SHORT", "VadNode")[0] + 2 * case.machine.pointer_size
    else:
        name = "u1.Parent" if case.machine.has("_MMVAD_SHORT", "u1.Parent") else "Parent"
        at = case.machine.field("_MMVAD_SHORT", name)[0]
    case.machine.put_pointer(leaf + at, root)
    text = told(case.ask(tmp_path))
    assert f"the VAD at {leaf:#x} is below {nodes[1].address:#x}, but by its own link below {root:#x}" in text
