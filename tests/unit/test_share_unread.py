"""Does dllshare never deny what it could not look at, and find what is open or loaded, but mapped by no process?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common import cli
from dlwhy.common.errors import IncompleteSearchError, NotFoundError
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.model import Share
from dlwhy.common.windows.share import share_all, share_file
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.minidump import WIN7, WIN10, Form
from dlwhy.tests.synth.ntdump import Machine
from dlwhy.tests.synth.ntdump import Process as MachineProcess
from dlwhy.tests.synth.ntlayout import windows
from dlwhy.tests.synth.ntprocess import PID, machine
from dlwhy.tests.synth.windows import form_id, process

VERSIONS = [
    ("6.1.7601.17514", "x86_64"),
    ("10.0.10240.16384", "x86_64"),
    ("10.0.19041.3570", "x86_64"),
    ("10.0.22631.2428", "x86_64"),
    ("5.1.2600.5512", "i386"),
    ("10.0.19041.928", "i386"),
]
OPERATIONS = ("rename", "delete", "posix-delete", "overwrite", "truncate")


def no_number(text: str) -> int:
    raise NotFoundError(f"'{text}' is no number")


def hexadecimal(text: str) -> int:
    return int(text, 16)


def dump_of(made: Machine, folder: Path) -> KernelDump:
    return KernelDump(str(made.save(folder / "MEMORY.DMP")))


def share(made: Machine, folder: Path, name: str, pid: Optional[int] = None) -> Share:
    """Ask of a file of a machine in every form."""
    found = share_file(dump_of(made, folder), name, no_number, pid)
    ask(folder, name)
    return found


def ask(folder: Path, *words: str) -> int:
    """Ask in the shell, as JSON and with every detail."""
    path = str(folder / "MEMORY.DMP")
    return max(cli.main(["--dump", path, "dllshare", *words, *form]) for form in (["-v"], ["--json"], []))


def allowed(found: Share) -> dict[str, str]:
    (file,) = found.files
    return {operation.name: operation.allowed.value for operation in file.operations}


def plain(version: str = "10.0.19041.3570", arch: str = "x86_64") -> tuple[Machine, MachineProcess, MachineProcess]:
    """Make a machine with two processes, one of which maps a file."""
    made = Machine(windows(version, arch))
    first, second = made.process(100, "first.exe"), made.process(200, "second.exe")
    made.current = first
    file = made.file("\\Temp\\known.dll")
    first.map(file.image(file.open()), 0x10000000, 0x10004000)
    return made, first, second


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
def test_what_is_not_there_is_said_to_be_absent(tmp_path: Path, version: str, arch: str) -> None:
    made, _, _ = plain(version, arch)
    with pytest.raises(NotFoundError, match=r"no process maps a file that .none.dll. fits, or has") as failure:
        share_file(dump_of(made, tmp_path), "none.dll", no_number)
    assert not isinstance(failure.value, IncompleteSearchError)


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
def test_vads_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, arch: str) -> None:
    made, _, second = plain(version, arch)
    file = made.file("\\Temp\\locked.pyd")
    second.map(file.image(file.open()), 0x11000000, 0x11004000)
    made.finish()
    second.lose_vads()
    dump = dump_of(made, tmp_path)
    for pid in (None, 200):
        with pytest.raises(IncompleteSearchError, match=r"locked.pyd.*not everything could be looked at.*second.exe"):
            share_file(dump, "locked.pyd", no_number, pid)
    with pytest.raises(IncompleteSearchError, match="which file is at 0x11000010 of process 200 cannot be read"):
        share_file(dump, "11000010", hexadecimal, 200)
    # The other process is known completely.
    for text in ("locked.pyd", "11000010"):
        with pytest.raises(NotFoundError) as failure:
            share_file(dump, text, no_number if text == "locked.pyd" else hexadecimal, 100)
        assert not isinstance(failure.value, IncompleteSearchError)
    assert ask(tmp_path, "locked.pyd") == 4
    output = capsys.readouterr()
    assert output.out == ""
    assert "no process maps" not in output.err
    assert [file.base_name for file in share(made, tmp_path, "known.dll").files] == ["known.dll"]


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
def test_a_handle_tells_of_a_file_of_a_process_whose_vads_cannot_be_read(
    tmp_path: Path, version: str, arch: str
) -> None:
    made, _, second = plain(version, arch)
    file = made.file("\\Temp\\locked.pyd")
    opened = file.open("R--", "r--", closed=False)
    second.map(file.image(opened), 0x11000000, 0x11004000)
    second.open(opened)
    made.finish()
    second.lose_vads()
    found = share(made, tmp_path, "locked.pyd")
    assert [opener.pid for opener in found.files[0].openers] == [200]
    assert allowed(found) == dict.fromkeys(OPERATIONS, "no")
    assert any("VAD" in problem.message for problem in found.problems)


@pytest.mark.parametrize(("form", "wide"), [(WIN7, True), (WIN10, True), (WIN10, False)], ids=form_id)
def test_the_loader_knows_the_name_of_a_file_whose_own_is_paged_out(tmp_path: Path, form: Form, wide: bool) -> None:
    story = process(form, wide)
    made = machine(story)
    owner = next(each for each in made.processes if each.pid == PID)
    base = story.loader.known["libb.dll"].base
    file = made.file("\\app\\libB.dll", where="pagefile")
    owner.map(file.image(file.open()), base, base + 0x4000)
    nameless = made.file("\\app\\other.dll", where="pagefile")
    owner.map(nameless.data(nameless.open()), 0x12000000, 0x12004000)
    found = share(made, tmp_path, "libb.dll")
    (only,) = found.files
    assert (only.file_name, only.file_name_source) == ("C:\\app\\libB.dll", "loader")
    assert only.file_name_address
    assert allowed(found)["delete"] == "no"
    listed = share_all(dump_of(made, tmp_path))
    assert [each.base_name for each in listed.files] == ["libB.dll"]
    with pytest.raises(IncompleteSearchError, match="names: those of 1 mapped or open file cannot be read"):
        share_file(dump_of(made, tmp_path), "other.dll", no_number)


def test_the_loader_knows_what_the_vads_do_not(tmp_path: Path) -> None:
    story = process()
    made = machine(story)
    owner = next(each for each in made.processes if each.pid == PID)
    made.finish()
    owner.lose_vads()
    base = story.loader.known["libb.dll"].base
    expected = rf"prog.exe \(4712\): its loader lists C:\\app\\libB.dll at {base:#x}: it maps the file"
    with pytest.raises(IncompleteSearchError, match=expected):
        share_file(dump_of(made, tmp_path), "libB.dll", no_number)
    with pytest.raises(IncompleteSearchError, match=rf"its loader lists C:\\app\\libB.dll at {base:#x}"):
        share_file(dump_of(made, tmp_path), f"{base + 8:x}", hexadecimal, PID)


def test_another_process_that_maps_it_is_known_by_its_loader(tmp_path: Path) -> None:
    made = machine(process())
    owner = next(each for each in made.processes if each.pid == PID)
    file = made.file("\\app\\libB.dll")
    made.process(300, "third.exe").map(file.image(file.open()), 0x13000000, 0x13004000)
    made.finish()
    owner.lose_vads()
    found = share(made, tmp_path, "libB.dll")
    assert [mapping.pid for mapping in found.files[0].mappings] == [300]
    messages = [problem.message for problem in found.problems if problem.where == "prog.exe (4712)"]
    assert any("its loader lists C:\\app\\libB.dll" in message for message in messages)


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
def test_another_open_of_the_file_knows_its_name(tmp_path: Path, version: str, arch: str) -> None:
    made, first, second = plain(version, arch)
    file = made.file("\\Temp\\paged.dll", where="pagefile")
    first.map(file.image(file.open()), 0x14000000, 0x14004000)
    second.open(file.open("R--", "rwd", closed=False, where="resident"))
    found = share(made, tmp_path, "paged.dll")
    assert [mapping.pid for mapping in found.files[0].mappings] == [100]
    assert found.files[0].file_name_source == "file-object"


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
def test_a_list_of_processes_that_is_cut_off(tmp_path: Path, version: str, arch: str) -> None:
    made, first, second = plain(version, arch)
    file = made.file("\\Temp\\locked.pyd")
    second.map(file.image(file.open()), 0x11000000, 0x11004000)
    made.finish()
    made.cut_processes(first)
    # What lies behind the cut, and is not reached from the other end.
    second_links = second.eprocess + made.field("_EPROCESS", "ActiveProcessLinks")[0]
    made.put_pointer(second_links + made.pointer_size, made.nowhere)
    made.put_pointer(made.symbol("PsActiveProcessHead") + made.pointer_size, made.nowhere)
    dump = dump_of(made, tmp_path)
    for pid in (None, 100):
        with pytest.raises(IncompleteSearchError, match="PsActiveProcessHead"):
            share_file(dump, "locked.pyd", no_number, pid)
    with pytest.raises(IncompleteSearchError, match="there is no process 200 among those that could be read"):
        share_file(dump, "locked.pyd", no_number, 200)
    assert ask(tmp_path, "locked.pyd") == 4


@pytest.mark.parametrize("part", ["file object", "control area"])
def test_a_view_whose_file_cannot_be_read(tmp_path: Path, part: str) -> None:
    made, first, _ = plain()
    file = made.file("\\Temp\\locked.pyd")
    section = file.image(file.open())
    vad = first.map(section, 0x11000000, 0x11004000)
    if part == "file object":
        made.put(section.control_area, "_CONTROL_AREA", "FilePointer", made.nowhere)
    else:
        made.put(vad, "_MMVAD", "Subsection", made.nowhere)
    dump = dump_of(made, tmp_path)
    with pytest.raises(IncompleteSearchError, match=r"first.exe \(100\): the files of 1 view cannot be read"):
        share_file(dump, "locked.pyd", no_number)
    with pytest.raises(IncompleteSearchError, match="which file is at"):
        share_file(dump, "11000010", hexadecimal)
    with pytest.raises(NotFoundError) as failure:
        share_file(dump, "locked.pyd", no_number, 200)
    assert not isinstance(failure.value, IncompleteSearchError)


@pytest.mark.parametrize("damage", ["table", "object", "name"])
def test_handles_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    made, _, second = plain()
    file = made.file("\\Temp\\locked.pyd", where="pagefile" if damage == "name" else "resident")
    second.open(file.open("R--", "r--", closed=False))
    if damage == "object":
        second.handles[-1] = (made.nowhere + made.body, 0x120089)
    made.finish()
    if damage == "table":
        table = made.get(second.eprocess, "_EPROCESS", "ObjectTable")
        made.put(table, "_HANDLE_TABLE", "TableCode", made.nowhere)
    with pytest.raises(
        IncompleteSearchError, match="names: those of 1 mapped or open file" if damage == "name" else "second.exe"
    ):
        share_file(dump_of(made, tmp_path), "locked.pyd", no_number)


# -- what no process maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
@pytest.mark.parametrize("sharing", ["rwd", "---"])
def test_a_file_that_is_open_but_mapped_by_nobody(tmp_path: Path, version: str, arch: str, sharing: str) -> None:
    made, _, second = plain(version, arch)
    second.open(made.file("\\Temp\\python36.dll").open("R--", sharing, closed=False))
    for name, pid in (("python36.dll", None), ("Temp\\python36.dll", 200), ("python3*.dll", None)):
        found = share(made, tmp_path, name, pid)
        (file,) = found.files
        assert (file.base_name, file.mappings, [opener.pid for opener in file.openers]) == ("python36.dll", (), [200])
        assert set(allowed(found).values()) <= ({"yes", "no"} if sharing == "rwd" else {"no"})
        assert allowed(found)["rename"] == ("yes" if sharing == "rwd" else "no")
    with pytest.raises(NotFoundError, match="no process maps"):
        share_file(dump_of(made, tmp_path), "python36.dll", no_number, 100)


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
@pytest.mark.parametrize("image", [True, False])
def test_a_section_without_a_view(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, arch: str, image: bool
) -> None:
    made, _, second = plain(version, arch)
    file = made.file("\\Temp\\held.dll")
    opened = file.open()
    section = file.image(opened, sections=1) if image else file.data(opened, sections=1)
    second.open_section(section)
    found = share(made, tmp_path, "held.dll")
    (only,) = found.files
    assert (only.mappings, [each.image for each in only.sections]) == ((), [image])
    assert [(opener.pid, opener.section) for opener in only.openers] == [(200, True)]
    assert (allowed(found)["delete"], allowed(found)["truncate"]) == ("no", "no")
    assert allowed(found)["rename"] == ("yes" if image else "probably")
    assert "second.exe (0n200, handle 4, of a section)" in capsys.readouterr().out
    # The sharing mode of its file object is not enforced: no handle of the file is open.
    assert only.file is not None
    assert not only.file.open


def test_a_section_that_cannot_be_read_is_not_none(tmp_path: Path) -> None:
    made, _, second = plain()
    file = made.file("\\Temp\\held.dll")
    opened = file.open("R--", "rwd", closed=False)
    second.open(opened)
    made.put(opened.pointers, "_SECTION_OBJECT_POINTERS", "ImageSectionObject", made.nowhere)
    found = share(made, tmp_path, "held.dll")
    assert set(allowed(found).values()) == {"probably"}
    assert any(problem.where == "section" for problem in found.problems)


@pytest.mark.parametrize(("version", "arch"), VERSIONS)
def test_images_of_the_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, arch: str) -> None:
    made, _, _ = plain(version, arch)
    file = made.file("\\Windows\\System32\\drivers\\foo.sys")
    section = file.image(file.open(), sections=1)
    made.put(section.control_area, "_CONTROL_AREA", "NumberOfMappedViews", 1)
    base = 0xFFFFF80155000000 if arch == "x86_64" else 0x8F000000
    made.driver("\\SystemRoot\\System32\\drivers\\foo.sys", base, 0x8000, section)
    made.driver("\\??\\C:\\odd\\boot.sys", base + 0x10000, 0x8000)
    for name in ("foo.sys", "FOO", "C:\\Windows\\System32\\drivers\\foo.sys", "drivers\\foo.sys"):
        found = share(made, tmp_path, name)
        (driver,) = found.files
        assert driver.file_name == "\\Windows\\System32\\drivers\\foo.sys"
        assert [(each.pid, each.base, each.end, each.vad) for each in driver.mappings] == [
            (4, base, base + 0x7FFF, None)
        ]
        assert (allowed(found)["rename"], allowed(found)["delete"]) == ("yes", "no")
    assert "System (0n4)" in capsys.readouterr().out
    for name in ("ntoskrnl.exe", "C:\\odd\\boot.sys"):
        found = share(made, tmp_path, name)
        (image,) = found.files
        assert (image.file_name_source, image.file, image.sections) == ("module-list", None, ())
        # Who loaded it before there was a kernel has left no section of it.
        assert set(allowed(found).values()) <= {"probably", "no"}
    address = share_file(dump_of(made, tmp_path), f"{base + 0x10:x}", hexadecimal)
    assert [each.base_name for each in address.files] == ["foo.sys"]
    assert "foo.sys" not in [each.base_name for each in share_all(dump_of(made, tmp_path)).files]
    with pytest.raises(NotFoundError, match="no process maps"):
        share_file(dump_of(made, tmp_path), "foo.sys", no_number, 100)
    assert share(made, tmp_path, "foo.sys", 4).files


@pytest.mark.parametrize("damage", ["list", "name"])
def test_a_list_of_the_kernels_images_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    made, _, _ = plain()
    entry = made.driver("\\SystemRoot\\x.sys", 0xFFFFF80155000000, 0x8000, where="pagefile")
    if damage == "list":
        made.finish()
        made.put_pointer(entry, made.nowhere)
    dump = dump_of(made, tmp_path)
    with pytest.raises(IncompleteSearchError, match="PsLoadedModuleList"):
        share_file(dump, "x.sys", no_number)
    with pytest.raises(NotFoundError) as failure:
        share_file(dump, "x.sys", no_number, 100)
    assert not isinstance(failure.value, IncompleteSearchError)


def test_the_json_of_what_has_no_file_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, _, _ = plain()
    made.save(tmp_path / "MEMORY.DMP")
    capsys.readouterr()
    assert cli.main(["--dump", str(tmp_path / "MEMORY.DMP"), "dllshare", "ntoskrnl.exe", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    VALIDATOR.validate(document)
    (file,) = document["files"]
    assert (file["file_object"], file["file_name_source"], file["mappings"][0]["vad"]) == (None, "module-list", None)
