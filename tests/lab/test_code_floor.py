"""Does our code run where it must, in the CPython 3.9 that WinDbg's extension pykd needs, and on Windows?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dlwhy.tests.lab.windows import Lab, windows_path
from dlwhy.tests.synth import rich

ROOT = Path(__file__).resolve().parents[2]

# Unit tests that run programs of Linux, or are about what only Linux has: files, or what their ids begin with.
LINUX_ONLY = {
    "compiles ELF libraries or programs": (
        "tests/unit/test_elf_bindings.py",
        "tests/unit/test_elf_files.py::test_local_and_exported_functions",
        "tests/unit/test_elf_files.py::test_a_name_of_any_bytes_stays_as_it_is",
        "tests/unit/test_elf_files.py::test_another_build_is_not_believed",
        "tests/unit/test_elf_files.py::test_a_stripped_or_missing_file",
        "tests/unit/test_elf_files.py::test_damaged_section_headers",
        "tests/unit/test_elf_files.py::test_what_is_no_file",
        "tests/unit/test_elf_files.py::test_without_build_id_no_file_is_believed",
        "tests/unit/test_elf_files.py::test_a_huge_symbol_table",
        "tests/unit/test_elf_image.py::test_absurd_hash_tables",
        "tests/unit/test_elf_image.py::test_every_symbol_is_found",
        "tests/unit/test_elf_image.py::test_load_range",
        "tests/unit/test_elf_image.py::test_names_and_notes",
        "tests/unit/test_elf_image.py::test_relocated_entries_are_addresses",
        "tests/unit/test_elf_image.py::test_symbol_count_and_relocations",
        "tests/unit/test_elf_image.py::test_through_the_program_headers",
        "tests/unit/test_elf_image.py::test_which_symbol_covers_an_address",
        "tests/unit/test_elf_unwind.py",
        "tests/unit/test_closers.py",
        "tests/unit/test_frames.py",
        "tests/unit/test_static_tls.py",
        "tests/unit/test_lost_threads.py",
        "tests/unit/test_loaded_files.py",
        "tests/unit/test_lock_holder.py",
        "tests/unit/test_layout_generate.py::test_dwarf_agrees_with_the_compiled_program",
        "tests/unit/test_rendezvous.py",
        "tests/unit/test_reads.py",
        "tests/unit/test_rebuild.py",
        "tests/unit/test_tls_variables.py",
    ),
    "measures the memory of a child by /proc": ("tests/unit/test_totals.py",),
    "asks other readers, which are not there for CPython 3.9": ("tests/unit/test_kernel_witnesses.py",),
    "runs a program of Linux: bash, dpkg-deb, coredumpctl, a compressor": (
        "tests/unit/test_cli.py::test_reader_that_goes_away",
        "tests/unit/test_layout_generate.py::test_file_that_is_no_package",
        "tests/unit/test_kdump.py::test_a_compressed_dump",
        "tests/unit/test_minidump.py::test_a_compressed_dump",
        "tests/unit/test_opener.py::test_a_few_bytes_are_no_kib",
        "tests/unit/test_opener.py::test_a_packed_dump_as_a_core_says_how_it_is_opened",
        "tests/unit/test_opener.py::test_compressed_core",
        "tests/unit/test_opener.py::test_a_damaged_one_is_told_in_one_line_without_the_program",
        "tests/unit/test_opener.py::test_zeros_without_end_take_a_bounded_time",
        "tests/unit/test_opener.py::test_a_core_that_is_no_longer_one_says_what_the_decompressor_said",
        "tests/unit/test_opener.py::test_missing_decompressor_is_named",
        "tests/unit/test_opener.py::test_core_out_of_coredumpctl",
        "tests/unit/test_opener.py::test_what_is_no_core_is_not_decompressed",
        "tests/unit/test_opener.py::test_an_executable_is_not_decompressed_as_a_core",
        "tests/unit/test_opener.py::test_zeros_take_no_room",
        "tests/unit/test_opener.py::test_room_is_bounded",
        "tests/unit/test_opener.py::test_room_is_the_users_to_give",
        "tests/unit/test_opener.py::test_a_program_that_is_silent",
        "tests/unit/test_opener.py::test_a_program_that_talks",
        "tests/unit/test_opener.py::test_a_program_that_ends_late",
        "tests/unit/test_opener.py::test_a_program_s_memory_is_bounded",
        "tests/unit/test_opener.py::test_an_interrupt_ends_the_program",
        "tests/unit/test_opener.py::test_a_cut_off_core_of_the_kernels_is_used",
        "tests/unit/test_opener.py::test_what_follows_a_core_is_said",
        "tests/unit/test_opener.py::test_programs_of_the_current_folder_are_not_run",
        "tests/unit/test_opener.py::test_where_it_is_kept",
        "tests/unit/test_opener.py::test_no_room",
        "tests/unit/test_opener.py::test_a_pipe_is_not_waited_for",
    ),
    "links, signals, pseudo-terminals and full disks are those of Linux": (
        "tests/unit/test_eventlog.py",
        "tests/unit/test_shell_ends.py",
    ),
    "there is no fork, and so no helper process": (
        "tests/unit/test_helper.py",
        "tests/unit/test_elf_demangle.py::test_short_rust_names_may_not_become_long_ones",
    ),
    "there are no /proc, no named pipes, no paths of Linux": (
        "tests/unit/test_files.py",
        "tests/unit/test_procfs.py",
        "tests/unit/test_trace_descriptors.py",
        "tests/unit/test_share.py::test_a_process_is_no_machine",
        "tests/unit/test_dumps_elfcore.py::test_a_mapped_fifo_is_not_waited_for",
        "tests/unit/test_dumps_headerless.py",
        "tests/unit/test_dumps_elfcore.py::test_threads_of_a_real_core",
    ),
    "there is no libstdc++ to demangle names, which stay as they are": (
        "tests/unit/test_elf_demangle.py::test_libstdcxx_as_cxxfilt_does",
        "tests/unit/test_elf_demangle.py::test_known_names",
        "tests/unit/test_elf_demangle.py::test_short_names_may_not_become_long_ones",
        "tests/unit/test_elf_demangle.py::test_nested_pack_expansions",
        "tests/unit/test_commands.py::test_one_library",
        "tests/unit/test_hostile.py::test_the_undamaged_process_is_as_it_was_built",
    ),
}

KEEP_NOTHING = ("-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none")
SKIPPED = "needs Debian's libc6 and libc6-dbg"


# Longest of all, and what they damage is read by code that the others run too.
SLOW = "tests/unit/test_hostile.py"


def test_the_unit_tests_pass_on_windows_in_cpython_3_9(lab: Lab, tmp_path: Path) -> None:
    run_unit_tests(lab, tmp_path, "tests/unit", f"--ignore={SLOW}")


@pytest.mark.matrix
def test_the_slow_unit_tests_pass_there_too(lab: Lab, tmp_path: Path) -> None:
    run_unit_tests(lab, tmp_path, SLOW)


def run_unit_tests(lab: Lab, tmp_path: Path, *words: str) -> None:
    """Run unit tests under Windows, but for those that are left out, and see that all passed."""
    left_out = [f"--deselect={each}" for names in LINUX_ONLY.values() for each in names if "::" in each]
    left_out += [f"--ignore={each}" for names in LINUX_ONLY.values() for each in names if "::" not in each]
    found = lab.run_python(
        *("-m", "pytest", "-q", "--tb=short", "-rfEs", *KEEP_NOTHING, *left_out, *words),
        folder=ROOT,
        variables={"DLWHY_RICH_CORE": windows_path(rich.core(tmp_path)), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert found.status == 0, found.output[-20000:] + found.errors
    counts = re.search(r"^(\d+) passed,? .*in ", found.output, re.MULTILINE)
    assert counts is not None, found.output[-2000:]
    assert int(counts[1]) > 100
    reasons = set(re.findall(r"^SKIPPED .*?: (.*)", found.output, re.MULTILINE))
    assert reasons <= {SKIPPED}


def test_the_python_is_the_one_that_is_meant(lab: Lab) -> None:
    found = lab.run_python("-c", "import struct, sys; print(sys.platform, sys.version_info[:2], struct.calcsize('P'))")
    assert found.output == "win32 (3, 9) 8\n"


def test_every_test_that_is_left_out_exists() -> None:
    for name in (each for names in LINUX_ONLY.values() for each in names):
        file, _, function = name.partition("::")
        assert not function or f"def {function}" in (ROOT / file).read_text(encoding="utf-8"), name
        assert (ROOT / file).is_file(), name
