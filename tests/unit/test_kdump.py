"""Are dumps of Windows machines opened as what they are, and is what is none, or damaged, refused in words?"""

from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from dlwhy.common.errors import DlwhyError, DumpFormatError, FaultError, UnsupportedError
from dlwhy.common.open import open_dump
from dlwhy.common.target import Capability
from dlwhy.common.windows.dumps.kdump import KernelDump
from dlwhy.tests.synth.ntdump import PAGE, Machine
from dlwhy.tests.synth.ntlayout import windows

X64 = "10.0.19041.3570"
FORMS = [("x86_64", form) for form in ("complete", "kernel", "bitmap", "ranges")]
FORMS += [("i386", form) for form in ("complete", "kernel", "bitmap")]


def machine_of(arch: str) -> Machine:
    return Machine(windows(X64 if arch == "x86_64" else "6.1.7601.17514", arch))


@pytest.mark.parametrize(("arch", "form"), FORMS)
def test_every_page_and_no_other(tmp_path: Path, arch: str, form: str) -> None:
    machine = machine_of(arch)
    dump = KernelDump(str(machine.save(tmp_path / "m.dmp", form)))
    assert dump.problems() == []
    for frame in range(max(machine.pages) + 30):
        if frame in machine.pages:
            assert dump.read_physical(frame * PAGE, PAGE) == bytes(machine.pages[frame])
        else:
            with pytest.raises(FaultError, match="not in the dump"):
                dump.read_physical(frame * PAGE, 1)


@pytest.mark.parametrize(("arch", "form"), FORMS)
def test_what_the_header_tells(tmp_path: Path, arch: str, form: str) -> None:
    machine = machine_of(arch)
    user = machine.process(8, "user.exe")
    machine.current = user
    dump = KernelDump(str(machine.save(tmp_path / "m.dmp", form)))
    assert (dump.platform.arch, dump.platform.os, dump.kind) == (arch, "windows", "dump")
    assert Capability.KERNEL in dump.capabilities
    assert dump.build_number == machine.layout.build
    assert dump.current_process == user.eprocess
    assert dump.kernel.base == machine.base
    assert dump.kernel.build_id == f"{machine.layout.guid}{machine.layout.age:X}"
    assert dump.kernel.path == "\\SystemRoot\\system32\\ntoskrnl.exe"
    assert [module.base for module in dump.modules()] == [machine.base]
    assert dump.find_symbol("PsActiveProcessHead") == machine.symbol("PsActiveProcessHead")
    assert dump.find_symbol("NoSuchThing") is None
    assert str(tmp_path) in dump.description


def test_a_process_has_its_own_memory(tmp_path: Path) -> None:
    machine = machine_of("x86_64")
    one, two = machine.process(8, "one.exe"), machine.process(12, "two.exe")
    one.write_user(0x10000FFC, b"of number one")
    two.write_user(0x10000FFC, b"of number two")
    dump = KernelDump(str(machine.save(tmp_path / "m.dmp")))
    for process, expected in ((one, b"of number one"), (two, b"of number two")):
        space = dump.address_space(process.eprocess, process.root)
        assert space.read(0x10000FFC, 13) == expected
        assert space.read(machine.base, 2) == b"MZ"
    with pytest.raises(FaultError):
        dump.read(0x10000FFC, 13)


def test_a_compressed_dump(tmp_path: Path) -> None:
    path = machine_of("x86_64").save(tmp_path / "m.dmp")
    with gzip.open(tmp_path / "m.dmp.gz", "wb", 1) as stream:
        stream.write(path.read_bytes())
    dump = open_dump(str(tmp_path / "m.dmp.gz"))
    assert isinstance(dump, KernelDump)
    assert dump.read(dump.kernel.base, 2) == b"MZ"


def test_a_dump_that_is_cut_off_says_so(tmp_path: Path) -> None:
    machine = machine_of("x86_64")
    path = machine.save(tmp_path / "m.dmp")
    content = path.read_bytes()
    path.write_bytes(content[: -3 * PAGE + 5])
    dump = KernelDump(str(path))
    (problem,) = dump.problems()
    assert problem.message.startswith("the file is cut off: 3 of its pages are missing")
    with pytest.raises(FaultError, match="cut off"):
        dump.read_physical(max(machine.pages) * PAGE, 8)


def replaced(offset: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + new + data[offset + len(new) :]


@pytest.mark.parametrize(
    ("form", "damage", "message"),
    [
        ("complete", lambda data: b"", "no Windows dump"),
        ("complete", lambda data: b"PAGE", "no Windows dump"),
        ("complete", lambda data: b"\x7fELF" + data, "begins with neither PAGEDU64 nor PAGEDUMP"),
        ("complete", lambda data: data[:0x1800], "cut off: 8192 bytes are wanted"),
        ("complete", lambda data: b"MDMP" + data[4:], "dump of one process.*MEMORY.DMP"),
        ("complete", lambda data: b"USERDU64" + data[8:], "dump of one process"),
        ("complete", replaced(0x30, struct.pack("<I", 0xAA64)), "machine type 0xaa64: only x64 and x86"),
        ("complete", replaced(0xF98, struct.pack("<I", 4)), r"small \(triage\) dump, which has no VADs: set the"),
        ("complete", replaced(0xF98, struct.pack("<I", 77)), "unknown type 77"),
        ("complete", replaced(0x88, struct.pack("<I", 0xFFFFFFFF)), "lists 4294967295 runs"),
        ("complete", replaced(0x88, b"PAGE"), "runs of memory"),
        ("complete", replaced(0xA0, struct.pack("<Q", 1 << 60)), "cannot be"),
        ("bitmap", replaced(0x2000, b"XXXX"), "no bitmap of pages"),
        ("bitmap", replaced(0x2020, struct.pack("<Q", 1 << 63)), "cut off: no page of memory is there"),
        ("bitmap", replaced(0x2030, struct.pack("<Q", 1 << 50)), "a bitmap of .* cannot be"),
        ("bitmap", lambda data: data[:0x2030], "cut off"),
        ("kernel", replaced(0x2010, struct.pack("<I", 0xFFFFFFFF)), "a bitmap of .* cannot be"),
        ("ranges", replaced(0x2004, b"XXXX"), "no ranges of pages"),
        ("ranges", replaced(0x2018, struct.pack("<Q", 1 << 50)), "cannot be"),
    ],
)
def test_what_is_no_dump_or_damaged_is_refused(
    tmp_path: Path, form: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = machine_of("x86_64").save(tmp_path / "m.dmp", form)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises((DumpFormatError, UnsupportedError), match=message) as failure:
        KernelDump(str(path))
    assert "\n" not in str(failure.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for opener in (KernelDump, open_dump):
        with pytest.raises(DumpFormatError, match="No such file"):
            opener(str(tmp_path / "none"))


def test_a_dump_whose_page_tables_are_missing(tmp_path: Path) -> None:
    path = machine_of("x86_64").save(tmp_path / "m.dmp")
    path.write_bytes(replaced(0x10, struct.pack("<Q", 0xFFFFF000))(path.read_bytes()))
    with pytest.raises(DlwhyError, match="the kernel's image cannot be found"):
        _ = KernelDump(str(path)).kernel


def test_the_dump_is_closed(tmp_path: Path) -> None:
    dump = KernelDump(str(machine_of("x86_64").save(tmp_path / "m.dmp")))
    dump.close()
    with pytest.raises(ValueError, match="closed"):
        dump.read_physical(0x101000, 8)
    shutil.rmtree(tmp_path)
