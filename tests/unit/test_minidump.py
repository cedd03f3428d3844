"""Is a minidump read as it was written, and is a damaged one refused or reported?"""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.errors import DlwhyError, DumpFormatError, FaultError, UnsupportedError
from dlwhy.common.open import open_dump
from dlwhy.common.windows.dumps.minidump import MinidumpTarget
from dlwhy.common.windows.model import SystemVersion
from dlwhy.tests.synth.windows import process, write

ROOT = Path(dlwhy.__file__).parent


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_everything_that_was_written_is_read(tmp_path: Path, full: bool, wide: bool) -> None:
    made = process(wide=wide)
    made.add_thread(77, a=0x1234, b=0x5678)
    dump = MinidumpTarget(str(write(tmp_path, made.dump(full=full, pid=815))))
    assert dump.platform.pointer_size == (8 if wide else 4)
    assert dump.platform.os == "windows"
    assert dump.pid == 815
    assert dump.system == SystemVersion(10, 0, 19041)
    assert [image.base for image in dump.images()] == [module.base for module in made.loader.loaded]
    assert dump.images()[0].path == "C:\\app\\prog.exe"
    for address, piece in made.memory.pieces:
        assert dump.read(address, len(piece)) == piece
        assert dump.read(address + 5, 11) == piece[5:16]
    assert [thread.lwp for thread in dump.threads()] == [0x5BC, 77]
    registers = dump.registers(dump.threads()[1])
    assert registers["rax" if wide else "eax"] == 0x1234
    assert registers["rbx" if wide else "ebx"] == 0x5678
    assert registers["thread_pointer"] == made.teb
    assert dump.peb() == made.peb
    assert dump.problems() == []


def test_memory_that_is_not_there_faults(tmp_path: Path) -> None:
    made = process()
    start, piece = made.memory.pieces[0]
    dump = MinidumpTarget(str(write(tmp_path, made.dump())))
    for address, size in ((0, 1), (start - 1, 2), (start + len(piece) - 1, 2), ((1 << 64) - 4, 8)):
        with pytest.raises(FaultError):
            dump.read(address, size)


def test_ranges_that_touch_or_overlap_are_read_through(tmp_path: Path) -> None:
    made = process()
    made.memory.add(0x7000_0000, 0x1000)[:] = b"a" * 0x1000
    made.memory.add(0x7000_1000, 0x1000)[:] = b"b" * 0x1000
    made.memory.add(0x7000_0800, 0x800)[:] = b"a" * 0x800
    dump = MinidumpTarget(str(write(tmp_path, made.dump())))
    assert dump.read(0x7000_0FFE, 4) == b"aabb"


@pytest.mark.parametrize(("arch", "name"), [(5, "ARM"), (6, "Itanium"), (777, "processor 777")])
def test_another_processor_is_refused_by_name(tmp_path: Path, arch: int, name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"is of {name}: only x86, x64 and ARM64"):
        MinidumpTarget(str(write(tmp_path, process().dump(arch=arch))))


def test_a_64_bit_process_dumped_by_32_bit_code_is_known_by_its_teb(tmp_path: Path) -> None:
    dump = MinidumpTarget(str(write(tmp_path, process().dump(arch=0))))
    assert dump.platform.arch == "x86_64"


def test_what_is_no_dump_of_windows_is_refused(tmp_path: Path) -> None:
    for content, message in (
        (b"", "no dump of Windows"),
        (b"\x7fELF" + b"\0" * 60, "--core"),
        (b"USERDU64" + b"\0" * 60, "only WinDbg reads it"),
        (b"MDMP", "no minidump"),
        (b"MDMP" + b"\xff" * 60, "directory is cut off"),
        (struct.pack("<4sIIIIIQ", b"MDMP", 0, 0, 32, 0, 0, 0) + b"\0" * 12, "no SystemInfo stream"),
    ):
        with pytest.raises(DlwhyError, match=message):
            open_dump(str(write(tmp_path, content)))
    with pytest.raises(DumpFormatError, match="No such file"):
        open_dump(str(tmp_path / "absent.dmp"))


def test_a_compressed_dump(tmp_path: Path) -> None:
    made = process()
    path = tmp_path / "x.dmp.gz"
    path.write_bytes(gzip.compress(made.dump()))
    target = open_dump(str(path))
    assert isinstance(target, MinidumpTarget)
    assert target.peb() == made.peb


def test_shell_answers_every_cut_of_a_dump_without_a_traceback(tmp_path: Path) -> None:
    whole = process().dump(full=False)
    script = (
        "import sys; from dlwhy.common.cli import main\n"
        "for n in range(100):\n"
        "    for words in (['dllstate'], ['dllgone'], ['dllplan', 'libA.dll']):\n"
        "        print(n, words[0], main(['--dump', f'{sys.argv[1]}/{n}.dmp', *words]), file=sys.stderr)\n"
    )
    for percent in range(100):
        (tmp_path / f"{percent}.dmp").write_bytes(whole[: len(whole) * percent // 100])
    boot = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest\n"
    done = subprocess.run(
        [sys.executable, "-c", boot + script, str(tmp_path)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    statuses = [int(line.split()[2]) for line in done.stderr.splitlines() if line[:1].isdigit()]
    assert len(statuses) == 300
    assert set(statuses) <= {2, 3, 4}, "each cut is an error or has problems"
