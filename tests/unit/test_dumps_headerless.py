"""Is a core that lacks its libraries' headers read with the files on disk, and with no others?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.errors import DlwhyError, UnsupportedError
from dlwhy.common.linux.dumps.coretarget import CoreTarget
from dlwhy.tests.synth.elfcore import Encoder, Segment, read_core, write_core


@pytest.fixture(scope="module")
def headerless(rich_core: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("headerless") / "core"
    target = CoreTarget(str(rich_core))
    notes, segments = read_core(rich_core.read_bytes())
    path.write_bytes(write_core([omitted(target, segment) for segment in segments], notes))
    target.close()
    return path


def omitted(target: CoreTarget, segment: Segment) -> Segment:
    """Omit what a mapped file holds unchanged, as the kernel does without bits 2 and 4 of coredump_filter."""
    mapped = target._core.file_at(segment.address)
    if mapped is None or not os.path.exists(mapped.path):
        return segment
    with open(mapped.path, "rb") as stream:
        stream.seek(mapped.offset + segment.address - mapped.start)
        is_unchanged = stream.read(len(segment.data)).ljust(len(segment.data), b"\0") == segment.data
    return Segment(segment.address, b"", len(segment.data)) if is_unchanged else segment


def test_files_on_disk_stand_in_for_headers(rich_core: Path, headerless: Path) -> None:
    with dlwhy.open(rich_core) as whole, dlwhy.open(headerless) as lacking:
        expected, found = whole.state(), lacking.state()
    assert found.libraries == expected.libraries
    (trusted,) = set(found.problems) - set(expected.problems)
    assert trusted.where.startswith("ld-linux-x86-64.so.2, libc.so.6, libdep.so")
    assert "taken on trust" in trusted.message


def copy_of(core: Path, folder: Path) -> Path:
    """Copy the files that a core maps below a folder, which becomes its sysroot."""
    target = CoreTarget(str(core))
    for path in {mapped.path for mapped in target._core.files if mapped.path.startswith("/")}:
        if os.path.exists(path):
            (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path[1:])
    target.close()
    return folder


@pytest.mark.parametrize("change", ["absent", "other"])
def test_a_library_s_file_that_is_not_the_one(headerless: Path, tmp_path: Path, change: str) -> None:
    """Another build has its dynamic section elsewhere, or other values in it."""
    root = copy_of(headerless, tmp_path / "root")
    (file,) = root.rglob("libdep.so")
    if change == "absent":
        file.unlink()
    else:
        shutil.copy(next(root.rglob("libm.so.6")), file)
    with dlwhy.open(headerless, sysroot=str(root)) as lacking:
        problems = lacking.state().problems
    told = {problem.where: problem.message for problem in problems}["libdep.so"]
    assert told.startswith("it is not here" if change == "absent" else "it is another build here")


def test_a_program_that_is_not_here(headerless: Path, rich_core: Path, tmp_path: Path) -> None:
    root = copy_of(headerless, tmp_path / "root")
    (program,) = root.rglob("main")
    program.rename(tmp_path / "moved")
    with pytest.raises(
        UnsupportedError, match=r"lacks the program's headers, and \S+/main is not here: name the program"
    ):
        dlwhy.open(headerless, sysroot=str(root)).state()
    moved = str(tmp_path / "moved")
    with dlwhy.open(rich_core) as whole, dlwhy.open(headerless, sysroot=str(root), executable=moved) as named:
        assert named.state().libraries == whole.state().libraries


def test_a_dynamic_loader_that_is_not_here(headerless: Path, tmp_path: Path) -> None:
    root = copy_of(headerless, tmp_path / "root")
    for file in root.rglob("ld-linux*"):
        file.unlink()
    with pytest.raises(
        UnsupportedError, match=r"lacks the headers of the dynamic loader, and \S+ is not here: .*--sysroot"
    ):
        dlwhy.open(headerless, sysroot=str(root)).state()


def test_a_core_whose_dynamic_sections_are_lacking_too(rich_core: Path, tmp_path: Path) -> None:
    """Nothing shows then that a file is the one."""
    notes, segments = read_core(rich_core.read_bytes())
    path = tmp_path / "core"
    path.write_bytes(write_core([Segment(each.address, b"", len(each.data)) for each in segments], notes))
    with pytest.raises(UnsupportedError, match=r"nothing shows whether \S+main is"):
        dlwhy.open(path).state()


@pytest.mark.parametrize(
    ("name", "system"), [(b"NetBSD-CORE", "NetBSD"), (b"NetBSD-CORE@1", "NetBSD"), (b"FreeBSD", "FreeBSD")]
)
def test_a_core_of_another_system(tmp_path: Path, name: bytes, system: str) -> None:
    path = tmp_path / "core"
    path.write_bytes(write_core([Segment(0x1000, b"x" * 16)], Encoder().note(name, 1, bytes(160))))
    with pytest.raises(UnsupportedError, match=f"is a core of {system}: only those of Linux"):
        dlwhy.open(path)


def test_a_core_of_x32(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(write_core([Segment(0x1000, b"x" * 16)], encoder=Encoder(32)))
    with pytest.raises(UnsupportedError, match="is a core of x32, an architecture that is not supported"):
        dlwhy.open(path)


def test_what_is_cut_off_is_not_taken_from_the_file(headerless: Path, tmp_path: Path) -> None:
    """The program's dynamic section is as it was before the loader ran there, which then "has not run yet"."""
    data = headerless.read_bytes()
    path = tmp_path / "core"
    with dlwhy.open(headerless) as whole:
        assert whole.state().libraries
    said = []
    for length in range(len(data) * 9 // 10, len(data) // 20, -len(data) // 20):
        path.write_bytes(data[:length])
        try:
            with dlwhy.open(path) as cut:
                said += [str(problem) for problem in cut.state().problems]
        except DlwhyError as error:
            said.append(str(error))
    assert said
    assert not [each for each in said if "has not run" in each]
