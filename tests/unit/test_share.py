"""Is what dllshare says of each file of a machine full of traps true, on every Windows whose layout is known?"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import NamedTuple, Optional

import dlwhy
import pytest
from dlwhy.common import cli
from dlwhy.common.commands.dllshare.document import share_document
from dlwhy.common.errors import IncompleteSearchError, LayoutError, NotFoundError
from dlwhy.common.model import Field, Layout, Module
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.common.windows.model import Allowed, MappedFile, Share
from dlwhy.common.windows.share import share_all, share_file
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.synth.ntdump import Machine
from dlwhy.tests.synth.ntlayout import Windows, never_shipped, windows
from dlwhy.tests.synth.ntmachines import PYTHON35, TRUTH, Truth, build

X64 = (
    "6.1.7601.17514",
    "6.1.7601.24540",
    "6.3.9600.19913",
    "10.0.10240.16384",
    "10.0.14393.4770",
    "10.0.17763.379",
    "10.0.18362.30",
    "10.0.19041.3570",
    "10.0.20348.288",
    "10.0.22000.318",
    "10.0.22621.382",
    "10.0.22631.2428",
)
X86 = ("5.1.2600.5512", "6.1.7601.17514", "10.0.19041.928")


class Case(NamedTuple):
    """A machine: layout, form of its dump, page tables."""

    version: str
    arch: str = "x86_64"
    form: str = "complete"
    pae: bool = True

    def layout(self) -> Windows:
        return windows(self.version, self.arch)


FORMS = {"x86_64": ("complete", "bitmap", "kernel", "ranges"), "i386": ("complete", "kernel", "bitmap")}
CASES = [
    *(Case(version, form=FORMS["x86_64"][number % 4]) for number, version in enumerate(X64)),
    *(Case(version, "i386", FORMS["i386"][number % 3]) for number, version in enumerate(X86)),
    Case("5.1.2600.5512", "i386", "complete", pae=False),
    Case("6.1.7601.17514", "i386", "kernel", pae=False),
]


def no_number(text: str) -> int:
    raise NotFoundError(f"'{text}' is no number")


@pytest.fixture(scope="session", params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="session")
def machine_dump(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("machine") / "MEMORY.DMP"
    return build(case.layout(), pae=case.pae).save(path, case.form)


class WithPdb(KernelDump):
    """A dump whose kernel's PDB is at hand: a layout stands for it."""

    def __init__(self, path: str, layout: Windows) -> None:
        super().__init__(path)
        self._layout = layout

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        struct = self._layout.structs.get(type_name)
        if struct is None:
            return None
        fields = {name: Field(*numbers) for name, numbers in struct["fields"].items()}
        return Layout(type_name, struct["size"], fields)


def only(share: Share) -> MappedFile:
    (file,) = share.files
    return file


def check(share: Share, name: str, other_truth: Optional[Truth] = None) -> None:
    """Compare an answer with the truth."""
    truth = other_truth or TRUTH[name]
    file = only(share)
    assert (file.base_name, share.problems) == (name, ())
    assert tuple((m.pid, "image" if m.image else "data") for m in file.mappings) == tuple(
        sorted(truth.mapped, key=lambda mapped: mapped[1] == "data")
    )
    assert tuple(opener.pid for opener in file.openers) == truth.openers
    said = {operation.name: operation.allowed.value for operation in file.operations}
    assert said == {
        "rename": truth.rename,
        "delete": truth.delete,
        "posix-delete": truth.delete,
        "overwrite": truth.overwrite,
        "truncate": truth.truncate,
    }
    assert file.file is not None
    assert file.file.open == truth.enforced
    for operation in file.operations:
        assert (operation.status is not None) == (operation.allowed is Allowed.NO)
        assert operation.reason


@pytest.mark.parametrize("name", TRUTH)
def test_the_truth(machine_dump: Path, case: Case, name: str) -> None:
    share = share_file(KernelDump(str(machine_dump)), name, no_number)
    if name == "locale.nls" and case.version.startswith("5."):
        # XP does not count writable references, so a data section can be writable.
        check(share, name, TRUTH[name]._replace(overwrite="depends"))
    else:
        check(share, name)


def test_the_fast_reference_is_masked(machine_dump: Path, case: Case) -> None:
    for name, truth in TRUTH.items():
        share = share_file(KernelDump(str(machine_dump)), name, no_number)
        expected = None if case.version.startswith("5.") else truth.fast_ref
        file = only(share).file
        assert file is not None
        assert file.fast_ref == expected


def test_a_name_that_is_paged_out(machine_dump: Path) -> None:
    share = share_all(KernelDump(str(machine_dump)))
    names = [file.base_name for file in share.files]
    assert sorted(names) == sorted(["", *(n for n, t in TRUTH.items() if ("image" in dict(t.mapped).values()))])
    (nameless,) = (file for file in share.files if file.file_name is None)
    assert nameless.file_name_address
    assert nameless.mappings[0].base == 0x14000000
    assert [problem.message for problem in share.problems] == ["those of 1 listed file cannot be read"]
    assert cli.main(["--dump", str(machine_dump), "dllshare", "--all"]) == 4


def test_an_address_of_the_current_process(machine_dump: Path) -> None:
    share = share_file(KernelDump(str(machine_dump)), "0x66fb1234", lambda text: int(text, 0))
    assert only(share).file_name == PYTHON35


def test_an_address_of_another_process(machine_dump: Path) -> None:
    share = share_file(KernelDump(str(machine_dump)), "0x12000123", lambda text: int(text, 0), 2408)
    assert only(share).base_name == "opened.dll"
    with pytest.raises(NotFoundError, match="no process maps"):
        share_file(KernelDump(str(machine_dump)), "0x12000123", lambda text: int(text, 0), 2296)


def test_the_process_that_was_named_comes_first(machine_dump: Path) -> None:
    share = share_file(KernelDump(str(machine_dump)), "python35.dll", no_number, 3120)
    assert [mapping.pid for mapping in only(share).mappings] == [3120, 2296, 2408]


def test_all_of_one_process(machine_dump: Path) -> None:
    share = share_all(KernelDump(str(machine_dump)), 3120)
    # Its data mapping of python35.dll is none of an image.
    assert [file.base_name for file in share.files] == ["ntdll.dll"]


@pytest.mark.parametrize(
    "text",
    [
        "python35.dll",
        "PYTHON35.DLL",
        "python35",
        "Python35\\python35.dll",
        "C:\\Program Files\\Python35\\python35.dll",
        "Program Files/Python35/python35.dll",
        "python3?.dll",
        PYTHON35,
    ],
)
def test_ways_to_name_a_file(tmp_path: Path, text: str) -> None:
    path = build(windows("10.0.19041.3570")).save(tmp_path / "m.dmp")
    assert only(share_file(KernelDump(str(path)), text, no_number)).file_name == PYTHON35


# -- layouts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def unknown_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(never_shipped()).save(tmp_path_factory.mktemp("unknown") / "MEMORY.DMP")


@pytest.mark.parametrize("name", TRUTH)
def test_a_windows_that_never_was_by_its_pdb(unknown_dump: Path, name: str) -> None:
    share = share_file(WithPdb(str(unknown_dump), never_shipped()), name, no_number)
    check(share, name)
    assert share.loader.layout is not None
    assert (share.loader.layout.kind.value, share.loader.layout.detail) == ("debug-info", f"PDB {'D1' * 16}1")


def test_a_windows_that_never_was_without_its_pdb_is_refused(unknown_dump: Path) -> None:
    with pytest.raises(
        LayoutError, match=r"no layout is known for this Windows kernel \(build 19999, PDB D1D1.*WinDbg"
    ):
        share_file(KernelDump(str(unknown_dump)), "python35.dll", no_number)


def test_the_pdb_comes_before_the_tables(tmp_path: Path) -> None:
    layout = windows("10.0.17763.379")
    path = build(layout).save(tmp_path / "m.dmp")
    by_pdb = share_file(WithPdb(str(path), layout), "python35.dll", no_number)
    by_table = share_file(KernelDump(str(path)), "python35.dll", no_number)
    assert [s.loader.layout and s.loader.layout.kind.value for s in (by_pdb, by_table)] == ["debug-info", "table"]
    documents = [share_document("dllshare", share) for share in (by_pdb, by_table)]
    assert documents[0]["files"] == documents[1]["files"]


def test_a_pdb_of_another_build_does_not_fit_and_the_table_takes_over(tmp_path: Path) -> None:
    path = build(windows("10.0.17763.379")).save(tmp_path / "m.dmp")
    share = share_file(WithPdb(str(path), windows("10.0.19041.3570")), "python35.dll", no_number)
    check(share, "python35.dll")
    assert share.loader.layout is not None
    assert share.loader.layout.detail == "Windows 10.0.17763.379, by the GUID of its PDB"


def test_a_build_number_that_lies_is_refused(tmp_path: Path) -> None:
    real = windows("10.0.19041.3570")
    path = build(real._replace(build=7601, guid="AB" * 16)).save(tmp_path / "m.dmp")
    with pytest.raises(LayoutError, match=r"no layout fits this Windows kernel.*first process is not System"):
        share_all(KernelDump(str(path)))


@pytest.mark.parametrize("build_number", [19042, 19045, 18363])
def test_builds_that_share_a_kernel(tmp_path: Path, build_number: int) -> None:
    version = "10.0.18362.30" if build_number < 19000 else "10.0.19041.3570"
    layout = windows(version)._replace(build=build_number, guid="AB" * 16)
    path = build(layout).save(tmp_path / "m.dmp")
    check(share_file(KernelDump(str(path)), "python35.dll", no_number), "python35.dll")


def test_debugger_data_that_is_encoded(tmp_path: Path) -> None:
    machine = build(windows("10.0.19041.3570"))
    machine.encoded = True
    path = machine.save(tmp_path / "m.dmp")
    check(share_file(KernelDump(str(path)), "python35.dll", no_number), "python35.dll")
    with pytest.raises(NotFoundError, match="no process is current: name one by -p PID"):
        share_file(KernelDump(str(path)), "0x66fb1234", lambda text: int(text, 0))


# -- what users see -------------------------------------------------------------------------------------------


def shell(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(words)
    out, err = capsys.readouterr()
    return status, out, err


def test_json(machine_dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["python35.dll"], ["*"], ["--all"]):
        status, out, err = shell(capsys, "--dump", str(machine_dump), "dllshare", *words, "--json")
        # The name of a file is paged out.
        assert (status, err) == (0 if words == ["python35.dll"] else 4, "")
        VALIDATOR.validate(json.loads(out))


TRANSCRIPT = """\
\\Program Files\\Python35\\python35.dll
  process     python.exe (0n2296)   base 66fb0000-67392fff   VAD VVVVVVVVVVVVVVVV  Mapped Exe EXECUTE_WRITECOPY  commit 0n151
  control area AAAAAAAA`AAAAAAAA   2 mapped views, 1 user reference   image section
  file object FFFFFFFF`FFFFFFFF (fast ref 3 masked)   access R--   sharing rwd: r-d   handle closed: sharing no longer enforced
  rename      yes
  delete      no   STATUS_CANNOT_DELETE 0xC0000121 → ERROR_ACCESS_DENIED (5): the image is mapped; POSIX delete fails alike
  overwrite   no   STATUS_SHARING_VIOLATION 0xC0000043 → ERROR_SHARING_VIOLATION (32)
  also mapped by  pythonw.exe (0n2408), backup.exe (0n3120, as data)
To replace it now: rename it on the same volume, put the new file in place, delete the old one at
the next boot (MoveFileEx … MOVEFILE_DELAY_UNTIL_REBOOT).
"""  # noqa: E501


def test_the_transcript(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build(windows("6.1.7601.17514")).save(tmp_path / "MEMORY.DMP")
    status, out, err = shell(capsys, "--dump", str(path), "dllshare", "python35.dll")
    file = only(share_file(KernelDump(str(path)), "python35.dll", no_number))
    assert file.file is not None
    expected = TRANSCRIPT.replace("V" * 16, f"{file.mappings[0].vad:x}")
    for letter, address in (("A", file.sections[0].control_area), ("F", file.file.address)):
        expected = expected.replace(f"{letter * 8}`{letter * 8}", f"{address >> 32:08x}`{address & 0xFFFFFFFF:08x}")
    assert (status, out, err) == (0, expected, "")


def test_strict(machine_dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell(capsys, "--strict", "--dump", str(machine_dump), "dllshare", "python35.dll")[0] == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["dllshare"], 2, "name one file, or give --all"),
        (["dllshare", "--all", "x"], 2, "name one file, or give --all"),
        (
            ["dllshare", "pyton35.dll"],
            4,
            "no file that 'pyton35.dll' fits was found, but not everything could be looked at; "
            "near: opened.dll, pending.dll, python35.dll; names: those of 1 mapped or open file cannot",
        ),
        (["dllshare", "-p", "77", "python35.dll"], 2, "there is no process 77"),
        (["dllshare", "-p", "x", "python35.dll"], 2, "-p (--process) takes a process id, not 'x'"),
        (["dlstate"], 3, "is of Windows, whose commands begin with dll"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    path = build(windows("10.0.22621.382")).save(tmp_path / "MEMORY.DMP", "kernel")
    got, out, err = shell(capsys, "--dump", str(path), *words)
    assert (got, out) == (status, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_process_is_no_machine(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = shell(capsys, "--pid", str(os.getpid()), "dllshare", "x")
    assert (status, "give a kernel or complete memory dump, or ask" in err) == (3, True)


# -- who maps it, where the lists are damaged -----------------------------------------------------------------


@pytest.mark.parametrize("version", ["6.1.7601.17514", "10.0.17763.379"])
def test_a_process_in_no_list_is_found_by_the_ring_of_views(tmp_path: Path, version: str) -> None:
    machine = Machine(windows(version))
    file = machine.file("\\a\\b.dll")
    image = file.image(file.open())
    machine.process(100, "seen.exe").map(image, 0x10000000, 0x10004000)
    machine.process(200, "hidden.exe", hidden=True).map(image, 0x20000000, 0x20004000)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "b.dll", no_number)
    assert [mapping.process_name for mapping in only(share).mappings] == ["seen.exe", "hidden.exe"]
    assert [problem.where for problem in share.problems] == ["hidden.exe (200)"]
    assert "not in the list of processes" in share.problems[0].message


def test_a_broken_list_of_processes_is_read_from_both_ends(tmp_path: Path) -> None:
    machine = build(windows("10.0.17763.379"))
    machine.finish()
    python = machine.processes[2]
    machine.put_pointer(python.eprocess + machine.field("_EPROCESS", "ActiveProcessLinks")[0], 0xFFFF000000000000)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "python35.dll", no_number)
    assert [mapping.pid for mapping in only(share).mappings] == [2296, 2408, 3120]
    assert [problem.where for problem in share.problems] == ["PsActiveProcessHead"]
    # A process can be missing, and with it a handle.
    rename = only(share).operations[0]
    assert (rename.allowed, "another opener can object" in rename.reason) == (Allowed.PROBABLY, True)


def test_a_process_that_does_not_point_back(tmp_path: Path) -> None:
    machine = build(windows("10.0.17763.379"))
    machine.finish()
    links = machine.processes[2].eprocess + machine.field("_EPROCESS", "ActiveProcessLinks")[0]
    machine.put_pointer(links + machine.pointer_size, machine.symbol("PsActiveProcessHead"))
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "python35.dll", no_number)
    assert [mapping.pid for mapping in only(share).mappings] == [2296, 2408, 3120]
    assert [f"{links:#x} does not point back" in problem.message for problem in share.problems] == [True]


@pytest.mark.parametrize("version", ["6.1.7601.17514", "10.0.17763.379"])
def test_a_list_of_views_that_is_cut_off(tmp_path: Path, version: str) -> None:
    machine = Machine(windows(version))
    file = machine.file("\\a\\b.dll")
    image = file.image(file.open())
    first = machine.process(100, "seen.exe").map(image, 0x10000000, 0x10004000)
    machine.process(200, "hidden.exe", hidden=True).map(image, 0x20000000, 0x20004000)
    machine.finish()
    links = machine.field("_MMVAD", "ViewLinks")[0]
    machine.put_pointer(first + links, 0xFFFF000000000000)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "b.dll", no_number)
    assert [mapping.process_name for mapping in only(share).mappings] == ["seen.exe"]
    (problem,) = share.problems
    assert problem.where.startswith("section ")
    assert problem.message.startswith("its list of views cannot be read at 0xffff000000000000 after 1 view")


def test_a_list_of_modules_that_is_cut_off(tmp_path: Path) -> None:
    machine = build(windows("10.0.17763.379"))
    machine.finish()
    machine.put_pointer(machine.symbol("KiNtEntry"), 0xFFFF000000000000)
    dump = KernelDump(str(machine.save(tmp_path / "m.dmp")))
    # The kernel is the first one, and no other is looked at.
    check(share_file(dump, "python35.dll", no_number), "python35.dll")
    assert [module.base for module in dump.modules()] == [machine.base]
    assert [problem.where for problem in dump.problems()] == ["PsLoadedModuleList"]


def test_a_page_of_handles_that_comes_twice(tmp_path: Path) -> None:
    machine = build(windows("10.0.17763.379"))
    machine.finish()
    table = machine.get(machine.processes[1].eprocess, "_EPROCESS", "ObjectTable")
    page = machine.get(table, "_HANDLE_TABLE", "TableCode") & ~3
    above = machine.page()
    machine.write(above, struct.pack("<2Q", page, page))
    machine.put(table, "_HANDLE_TABLE", "TableCode", above | 1)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "python35.dll", no_number)
    assert [f"leads to the page at {page:#x} more than once" in problem.message for problem in share.problems] == [True]
    assert not share.handles_complete


@pytest.mark.parametrize(("count", "said"), [(1, "1 page of its handle table"), (2, "2 pages of its handle table")])
def test_pages_of_handles_that_are_not_in_the_dump(tmp_path: Path, count: int, said: str) -> None:
    machine = build(windows("10.0.17763.379"))
    machine.finish()
    table = machine.get(machine.processes[1].eprocess, "_EPROCESS", "ObjectTable")
    above = machine.page()
    machine.write(above, struct.pack("<2Q", *[0xFFFFFA8077770000, 0xFFFFFA8077771000][:count], *[0] * (2 - count)))
    machine.put(table, "_HANDLE_TABLE", "TableCode", above | 1)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "python35.dll", no_number)
    assert [problem.message for problem in share.problems] == [f"{said} cannot be read"]


def test_a_vad_tree_in_a_circle(tmp_path: Path) -> None:
    machine = build(windows("10.0.17763.379"))
    machine.finish()
    vad = min(machine.processes[1].vads).address
    right = machine.field("_MMVAD_SHORT", "VadNode")[0] + machine.field("_RTL_BALANCED_NODE", "Right")[0]
    root = machine.get(machine.processes[1].eprocess, "_EPROCESS", "VadRoot")
    machine.put_pointer(vad + right, root)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "python35.dll", no_number)
    assert [mapping.pid for mapping in only(share).mappings] == [2296, 2408, 3120]
    assert ["runs in a circle" in problem.message for problem in share.problems] == [True]


def test_a_count_that_cannot_be(tmp_path: Path) -> None:
    machine = build(windows("6.1.7601.17514"))
    machine.finish()
    table = machine.get(machine.processes[1].eprocess, "_EPROCESS", "ObjectTable")
    machine.put(table, "_HANDLE_TABLE", "TableCode", machine.get(table, "_HANDLE_TABLE", "TableCode") | 3)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "python35.dll", no_number)
    assert (share.handles_complete, only(share).operations[0].allowed) == (False, Allowed.PROBABLY)
    assert ["unknown form" in problem.message for problem in share.problems] == [True]


def test_a_script(machine_dump: Path) -> None:
    with dlwhy.open(machine_dump) as machine:
        check(machine.shares("held.dll"), "held.dll")
        assert len(machine.shares().files) == 8
        assert [file.base_name for file in machine.shares(pid=3120).files] == ["ntdll.dll"]
        with pytest.raises(IncompleteSearchError, match="names: those of 1 mapped or open file cannot"):
            machine.shares("none.dll")


def test_a_header_that_nobody_filled_in(tmp_path: Path) -> None:
    path = build(windows("10.0.17763.379")).save(tmp_path / "m.dmp")
    content = path.read_bytes()
    path.write_bytes(content[:0x20] + b"PAGE" * 4 + content[0x30:])
    check(share_file(KernelDump(str(path)), "python35.dll", no_number), "python35.dll")


@pytest.mark.parametrize(
    ("struct", "member"),
    [
        ("_MMVAD_FLAGS", "VadType"),
        ("_MMVAD_FLAGS1", "CommitCharge"),
        ("_MMVAD_SHORT", "EndingVpn"),
        ("_MMVAD", "Subsection"),
        ("_CONTROL_AREA", "NumberOfMappedViews"),
        ("_FILE_OBJECT", "SharedDelete"),
        ("_HANDLE_TABLE", "TableCode"),
        ("_OBJECT_HEADER", "Body"),
        ("_EPROCESS", "VadRoot"),
        ("_EPROCESS", "ObjectTable"),
    ],
)
def test_a_pdb_that_lacks_a_member_is_an_error_in_words(tmp_path: Path, struct: str, member: str) -> None:
    path = build(never_shipped()).save(tmp_path / "m.dmp")
    lacking = never_shipped()
    del lacking.structs[struct]["fields"][member]
    with pytest.raises(LayoutError) as failure:
        share_file(WithPdb(str(path), lacking), "python35.dll", no_number)
    assert struct in str(failure.value)


def test_a_ring_that_serves_another_list_gives_no_view(tmp_path: Path) -> None:
    machine = Machine(windows("10.0.17763.379"))
    file = machine.file("\\a\\b.dll")
    image = file.image(file.open())
    machine.process(100, "seen.exe").map(image, 0x10000000, 0x10004000)
    # What looks like a view leads to the section of another file, or to no process.
    other = machine.file("\\a\\c.dll")
    stray = machine.process(200, "stray.exe", hidden=True)
    stray_vad = stray.map(other.image(other.open()), 0x20000000, 0x20004000)
    links = machine.field("_MMVAD", "ViewLinks")[0]
    ring = image.control_area + machine.field("_CONTROL_AREA", "ListHead")[0]
    machine.link_tail(ring, stray_vad + links)
    nobody = machine.pool(machine.size("_EPROCESS"), b"Proc")
    vad = machine.processes[1].map(image, 0x30000000, 0x30004000)
    machine.put(vad, "_MMVAD", "VadsProcess", nobody)
    machine.processes[1].vads.pop()
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "b.dll", no_number)
    assert [(mapping.process_name, mapping.base) for mapping in only(share).mappings] == [("seen.exe", 0x10000000)]
    assert share.problems == ()


# -- single facts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["6.3.9600.19913", "10.0.22631.2428"])
def test_a_range_that_ends_on_a_boundary_of_the_vpn_s_halves(tmp_path: Path, version: str) -> None:
    machine = Machine(windows(version))
    file = machine.file("\\a\\b.dll")
    image = file.image(file.open())
    machine.process(100, "one.exe").map(image, 0x0FFFFFFF0000, 0x100000000000)
    machine.process(200, "two.exe").map(image, 0x100000000000, 0x100000010000)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "b.dll", no_number)
    assert [(mapping.base, mapping.end) for mapping in only(share).mappings] == [
        (0x0FFFFFFF0000, 0x0FFFFFFFFFFF),
        (0x100000000000, 0x10000000FFFF),
    ]


def test_a_process_of_32_bit_code_on_x64(machine_dump: Path, case: Case) -> None:
    share = share_file(KernelDump(str(machine_dump)), "python35.dll", no_number)
    expected = {2408} if case.arch == "x86_64" else set()
    assert {mapping.pid for mapping in only(share).mappings if mapping.wow64} == expected


def test_a_handle_in_the_second_page_of_the_table(machine_dump: Path) -> None:
    (opener,) = only(share_file(KernelDump(str(machine_dump)), "opened.dll", no_number)).openers
    assert (opener.pid, opener.granted_access, opener.file.sharing) == (3120, 0x120089, "r--")
    assert opener.handle > 4 * 600


def test_an_exited_process_maps_nothing(machine_dump: Path) -> None:
    with pytest.raises(IncompleteSearchError, match=r"no file that 'left.dll' fits was found"):
        share_file(KernelDump(str(machine_dump)), "left.dll", no_number)


def test_the_same_name_on_two_volumes(tmp_path: Path) -> None:
    machine = Machine(windows("10.0.17763.379"))
    process = machine.process(100, "one.exe")
    for volume in (1, 2):
        file = machine.file("\\a\\b.dll")
        opened = file.open()
        machine.put(opened.address, "_FILE_OBJECT", "DeviceObject", 0xFFFFFA8000000000 + volume)
        process.map(file.image(opened), 0x10000000 * volume, 0x10000000 * volume + 0x4000)
    share = share_file(KernelDump(str(machine.save(tmp_path / "m.dmp"))), "b.dll", no_number)
    assert [(file.device_object or 0) & 0xFF for file in share.files] == [1, 2]


@pytest.mark.parametrize(("member", "value"), [("Size", 0x40), ("Type", 4)])
def test_what_is_only_half_like_a_file_object_is_none(tmp_path: Path, member: str, value: int) -> None:
    machine = Machine(windows("10.0.17763.379"))
    process = machine.process(100, "one.exe")
    for number, name in enumerate(("\\a\\b.dll", "\\a\\c.dll"), 1):
        opened = machine.file(name).open()
        file = machine.file(name)
        process.map(file.image(opened), 0x10000000 * number, 0x10000000 * number + 0x4000)
        if name.endswith("b.dll"):
            machine.put(opened.address, "_FILE_OBJECT", member, value)
    dump = KernelDump(str(machine.save(tmp_path / "m.dmp")))
    assert [file.base_name for file in share_all(dump).files] == ["c.dll"]
    with pytest.raises(IncompleteSearchError, match="the files of 1 view cannot be read"):
        share_file(dump, "b.dll", no_number)
