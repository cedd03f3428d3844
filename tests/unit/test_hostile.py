"""Does a process whose loader state is damaged get an error or a report, in bounded time, and never a wrong verdict?"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dlwhy.common.errors import DlwhyError, DumpFormatError
from dlwhy.common.linux.elf.image import MAX_NAME
from dlwhy.common.linux.model import HoldKind
from dlwhy.common.linux.plan import plan_all
from dlwhy.common.model import SourceKind
from dlwhy.tests.fakes import CoreTarget, snapshot
from dlwhy.tests.synth import rich
from dlwhy.tests.synth.damage import (
    NON_CANONICAL,
    PAGE,
    SCRATCH,
    WILD,
    Patient,
    contradictions,
    examine,
    make_build_unknown,
)
from dlwhy.tests.synth.elfcore import Segment, notes_first

# See tests/fuzz: DLWHY_FUZZ_EXAMPLES asks for a long run.
THOROUGH = "DLWHY_FUZZ_EXAMPLES" in os.environ

DT_STRTAB, DT_SYMTAB, DT_RELASZ, DT_STRSZ, DT_JMPREL, DT_RELA = 5, 6, 8, 10, 23, 7
DT_GNU_HASH = 0x6FFFFEF5

# In the middle, with a dependency, garbage, the last one of the namespace; the first are looked at most closely.
VICTIMS = ("libneeded.so", "libfill3.so", "libpinned.so", "libeager.so", "libowed.so", "libleft.so")


@pytest.fixture(scope="module")
def patient(rich_core: Path) -> Patient:
    return Patient(rich_core)


@pytest.fixture(autouse=True)
def _healed(patient: Patient) -> Iterator[None]:
    patient.target.heal()
    yield
    patient.target.heal()


def check(patient: Patient, *, noticed: bool = True) -> None:
    """Examine the damaged process; unless told otherwise something must be said about the damage."""
    answer = examine(patient)
    assert contradictions(patient.baseline, answer) == []
    assert not noticed or isinstance(answer, DlwhyError) or answer.problems, "the damage was not noticed"


def test_the_undamaged_process_is_as_it_was_built(patient: Patient) -> None:
    answer = examine(patient)
    assert answer == patient.baseline
    assert patient.baseline.problems == ()
    for name, kind in rich.EXPECTED.items():
        library = next(each for each in patient.baseline.libraries if each.name == name)
        assert library.held is (kind is not None), name
        assert [hold.kind.value for hold in library.holds[:1]] == ([kind] if kind else []), name
    destructors = patient.library("libowed.so").holds[0].destructors
    assert [each.function.name for each in destructors] == ["Cache::~Cache()"] * 3
    assert len({each.thread for each in destructors}) == 3
    namespaces = {library.namespace for library in patient.baseline.libraries}
    assert namespaces == {0, 1}


def test_the_order_of_threads_changes_nothing(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list(patient.target.threads())
    monkeypatch.setattr(patient.target, "threads", lambda: threads[::-1])
    assert examine(patient) == patient.baseline


# -- the list of libraries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize(
    "link",
    [
        lambda p, name: p.library(name).link_map,
        lambda p, name: p.start.maps[0].address,
        lambda p, name: p.library("libneeded.so").link_map,
        lambda p, name: next(each.link_map for each in p.baseline.libraries if each.name == "libspace.so"),
        lambda p, name: p.map(name).l_next + 8,
        lambda p, name: 0,
        lambda p, name: WILD,
        lambda p, name: NON_CANONICAL,
        lambda p, name: p.scratch(),
    ],
    ids=["self", "first", "earlier", "namespace", "askew", "null", "wild", "non-canonical", "zeros"],
)
def test_l_next(patient: Patient, name: str, link: Callable[[Patient, str], int]) -> None:
    patient.set(name, "l_next", link(patient, name))
    is_damage = patient.map(name).l_next != link(patient, name)
    check(patient, noticed=is_damage)  # the last one's is null anyway


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize("value", [0, WILD, NON_CANONICAL])
def test_l_prev(patient: Patient, name: str, value: int) -> None:
    patient.set(name, "l_prev", value)
    check(patient)


def test_a_list_of_forged_maps(patient: Patient) -> None:
    # Maps that lie 16 bytes apart, each naming the next and the one before: 2 MB of them.
    count = 1 << 17
    words = []
    for index in range(count):
        at = SCRATCH + 16 * index
        words += [at + 16 if index + 1 < count else 0, at - 16]
    base = patient.scratch(*words) - 24
    patient.set("libleft.so", "l_next", base)
    check(patient)


@pytest.mark.parametrize("name", VICTIMS)
def test_a_map_that_cannot_be_read(patient: Patient, name: str) -> None:
    patient.target.forget(patient.library(name).link_map, 8)
    check(patient)


@pytest.mark.parametrize("name", VICTIMS)
def test_the_page_of_a_map_cannot_be_read(patient: Patient, name: str) -> None:
    address = patient.library(name).link_map
    patient.target.forget(address - address % PAGE, PAGE)
    check(patient)


def test_a_map_that_ends_before_it_begins_has_no_size(patient: Patient) -> None:
    patient.set("libleft.so", "l_map_end", 1)
    assert all(plan.unload_bytes >= 0 for plan in plan_all(patient.target, None).plans)


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize("value", [WILD, NON_CANONICAL, 1])
def test_l_name(patient: Patient, name: str, value: int) -> None:
    patient.set(name, "l_name", value)
    check(patient)
    answer = examine(patient)
    assert not isinstance(answer, DlwhyError)
    assert any("cannot be asked for by its name" in problem.message for problem in answer.problems)


def test_a_name_without_end(patient: Patient) -> None:
    patient.set("libleft.so", "l_name", patient.scratch(*[0x6161616161616161] * 1024, size=8192))
    check(patient)


def test_a_name_of_escape_codes(patient: Patient) -> None:
    evil = b"/tmp/\x1b]0;owned\x07\x1b[2J\xff\xe2\x80\xae\n.so\0"
    patient.target.overwrite(SCRATCH, evil.ljust(PAGE, b"\0"))
    for name in VICTIMS:
        patient.set(name, "l_name", SCRATCH)
    check(patient, noticed=False)


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("l_type", 3),
        ("l_ns", 1),
        ("l_ns", 99),
        ("l_ns", NON_CANONICAL),
        ("l_real", WILD),
        ("l_real", 0),
        ("l_ld", WILD),
        ("l_map_start", 0),
        ("l_map_start", WILD),
        ("l_map_end", 0),
        ("l_map_end", NON_CANONICAL),
        ("l_direct_opencount", 0xDEADBEEF),
        ("l_nodelete_active", 0xCC),
        ("l_tls_dtor_count", WILD),
        ("l_tls_dtor_count", NON_CANONICAL),
        ("l_loader", WILD),
    ],
)
def test_an_absurd_member(patient: Patient, name: str, member: str, value: int) -> None:
    patient.set(name, member, value)
    answer = examine(patient)
    assert contradictions(patient.baseline, answer) == []


# -- what the libraries need ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda p, name: WILD,
        lambda p, name: NON_CANONICAL,
        lambda p, name: p.scratch(),
        lambda p, name: p.scratch(p.library(name).link_map, WILD, 0),
        lambda p, name: p.scratch(*[p.library(name).link_map] * 200_000),
        lambda p, name: p.map("libplain.so").l_initfini,
        lambda p, name: p.map(name).l_initfini + 8,
        lambda p, name: p.map(name).l_initfini + 1,
    ],
    ids=["wild", "non-canonical", "zeros", "no-map", "endless", "another's", "behind-itself", "askew"],
)
def test_l_initfini(patient: Patient, name: str, damage: Callable[[Patient, str], int]) -> None:
    patient.set(name, "l_initfini", damage(patient, name))
    check(patient)


@pytest.mark.parametrize("name", VICTIMS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda p, name: WILD,
        lambda p, name: NON_CANONICAL,
        lambda p, name: p.scratch(1, WILD),
        lambda p, name: p.scratch(0xFFFFFFFF, p.library(name).link_map),
        lambda p, name: p.scratch(99_999, p.library(name).link_map),
        lambda p, name: p.map("libplain.so").l_initfini,
    ],
    ids=["wild", "non-canonical", "no-map", "absurd", "too-many", "no-list"],
)
def test_l_reldeps(patient: Patient, name: str, damage: Callable[[Patient, str], int]) -> None:
    patient.set(name, "l_reldeps", damage(patient, name))
    check(patient)


# -- namespaces, locks, unique symbols ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 3, 16, 17, 1 << 32, NON_CANONICAL])
def test_dl_nns(patient: Patient, value: int) -> None:
    patient.set_global("_dl_nns", value)
    # Namespaces that were once there stay counted: more than are in use is nothing to complain of.
    check(patient, noticed=value not in (3, 16))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("value", [0, WILD, NON_CANONICAL])
def test_ns_loaded(patient: Patient, number: int, value: int) -> None:
    patient.set_namespace(number, "_ns_loaded", value)
    check(patient)


def test_two_namespaces_with_one_list(patient: Patient) -> None:
    patient.set_namespace(1, "_ns_loaded", patient.namespace(0, "_ns_loaded"))
    check(patient)


@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
def test_ns_nloaded(patient: Patient, value: int) -> None:
    patient.set_namespace(0, "_ns_nloaded", value)
    check(patient)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("_ns_unique_sym_table.entries", WILD),
        ("_ns_unique_sym_table.entries", NON_CANONICAL),
        ("_ns_unique_sym_table.size", NON_CANONICAL),
        ("_ns_unique_sym_table.size", 1 << 60),
        ("_ns_unique_sym_table.size", 1 << 20),
    ],
)
def test_unique_symbols(patient: Patient, member: str, value: int) -> None:
    patient.set_namespace(0, member, value)
    check(patient)


def test_unique_symbols_of_nobody(patient: Patient) -> None:
    patient.set_namespace(0, "_ns_unique_sym_table.entries", patient.scratch(*[1, WILD, WILD, WILD] * 31))
    check(patient, noticed=False)  # the symbols' names are lost, no verdict rests on them


def test_unique_names_that_cannot_be_read(patient: Patient) -> None:
    owner = patient.library("libunique.so").link_map
    patient.set_namespace(0, "_ns_unique_sym_table.entries", patient.scratch(*[1, WILD, WILD, owner] * 31))
    answer = examine(patient)
    assert not isinstance(answer, DlwhyError)
    hold = next(each for each in answer.libraries if each.name == "libunique.so").holds[0]
    assert (hold.origin, hold.symbols) == ("unique-symbol", ("(name not in memory)",))


@pytest.mark.parametrize(
    ("size", "expected"), [(10_000, "_ZN" + "x" * 9_997), (MAX_NAME, f"(a name of more than {MAX_NAME} bytes)")]
)
def test_long_unique_names(patient: Patient, size: int, expected: str) -> None:
    owner = patient.library("libunique.so").link_map
    name = (b"_ZN" + b"x" * (size - 3)).ljust(size + 8, b"\0")
    entries = [1, SCRATCH + 31 * 32, WILD, owner] * 31
    table = patient.scratch(*entries, *struct.unpack(f"<{len(name) // 8}Q", name))
    patient.set_namespace(0, "_ns_unique_sym_table.entries", table)
    answer = examine(patient)
    assert not isinstance(answer, DlwhyError)
    hold = next(each for each in answer.libraries if each.name == "libunique.so").holds[0]
    assert (hold.origin, hold.symbols) == ("unique-symbol", (expected,))


@pytest.mark.parametrize("owner", [1, 4711, -1, -0x80000000])
def test_a_held_lock(patient: Patient, owner: int) -> None:
    field = patient.layouts.require("rtld_global").fields["_dl_load_lock"]
    patient.target.overwrite(patient.private.rtld_global + field.offset, struct.pack("<IIi", 1, 1, owner))
    check(patient, noticed=owner > 0)


# -- the way to the list --------------------------------------------------------------------------------------


def test_r_debug_cannot_be_read(patient: Patient) -> None:
    patient.target.forget(patient.start.r_debug + 8, 8)
    check(patient)


@pytest.mark.parametrize("value", [WILD, NON_CANONICAL, 8])
def test_r_map(patient: Patient, value: int) -> None:
    patient.target.overwrite(patient.start.r_debug + 8, struct.pack("<Q", value))
    check(patient)


def test_the_program_headers_cannot_be_read(patient: Patient) -> None:
    patient.target.forget(patient.target.auxv()[3], 8)
    check(patient)


@pytest.mark.parametrize("name", ["ld-linux-x86-64.so.2", "libc.so.6", "main", "libeager.so", "libleft.so"])
@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, b"\0" * 64),
        (0, b"\x7fELF\1"),
        (0, b"\x7fELF\2\2"),
        (32, b"\xff" * 8),
        (32, b"\0" * 8),
        (54, b"\0\0"),
        (54, b"\xff\xff"),
        (56, b"\0\0"),
        (56, b"\xff\xff"),
        (56, b"\xe8\3"),
        (64, b"\xff" * 56),
        (64, b"\0" * 560),
        (64, b"\xff" * 560),
        (64, struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 1 << 63, 1 << 63, 0)),
        (64, struct.pack("<IIQQQQQQ", 2, 5, 0, WILD, 0, 1 << 63, 1 << 63, 0)),
        (64, struct.pack("<IIQQQQQQ", 4, 5, 0, 0, 0, 1 << 63, 1 << 16, 0)),
        (64, struct.pack("<IIQQQQQQ", 7, 5, 0, 0, 0, 1 << 63, 1 << 63, 0)),
    ],
)
def test_elf_header(patient: Patient, name: str, offset: int, data: bytes) -> None:
    patient.target.overwrite((patient.library(name).start or 0) + offset, data)
    answer = examine(patient)
    assert contradictions(patient.baseline, answer) == []


@pytest.mark.parametrize("name", ["ld-linux-x86-64.so.2", "libc.so.6", "main", "libeager.so", "libstdc++.so.6"])
@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (DT_STRTAB, WILD),
        (DT_STRTAB, 0),
        (DT_STRSZ, 0),
        (DT_STRSZ, NON_CANONICAL),
        (DT_SYMTAB, WILD),
        (DT_SYMTAB, NON_CANONICAL),
        (DT_GNU_HASH, WILD),
        (DT_GNU_HASH, NON_CANONICAL),
        (DT_RELA, WILD),
        (DT_RELASZ, NON_CANONICAL),
        (DT_RELASZ, 200 << 20),
    ],
)
def test_dynamic_section(patient: Patient, name: str, tag: int, value: int) -> None:
    patient.set_dynamic(name, tag, value)
    answer = examine(patient)
    assert contradictions(patient.baseline, answer) == []


@pytest.mark.parametrize("name", ["ld-linux-x86-64.so.2", "libc.so.6", "main", "libeager.so"])
@pytest.mark.parametrize("filling", [b"\xff", b"\x01", b"\0"])
def test_a_dynamic_section_of_one_byte(patient: Patient, name: str, filling: bytes) -> None:
    image = patient.image(name)
    header = next(each for each in image.headers if each.type == 2)
    patient.target.overwrite(image.address(header.vaddr), filling * 1024)
    answer = examine(patient)
    assert contradictions(patient.baseline, answer) == []


@pytest.mark.parametrize("name", ["ld-linux-x86-64.so.2", "libc.so.6"])
@pytest.mark.parametrize(
    "words",
    [
        (0, 1, 1, 6),
        (0xFFFFFFFF, 1, 1, 6),
        (1, 0, 0xFFFFFFFF, 6),
        (1, 0xFFFFFFFF, 1, 6),
        (1, 0, 0, 6, 1),  # one bucket, and chains that never end: zeros
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (4_000_000, 1, 1, 6),
    ],
)
def test_gnu_hash(patient: Patient, name: str, words: tuple[int, ...]) -> None:
    data = struct.pack(f"<{len(words)}I", *words)
    patient.target.overwrite(SCRATCH, data.ljust(4 << 20, b"\0"))
    patient.set_dynamic(name, DT_GNU_HASH, SCRATCH)
    address = patient.image(name).dynamic[DT_GNU_HASH]
    patient.target.overwrite(address, data)
    answer = examine(patient)
    assert contradictions(patient.baseline, answer) == []


# -- TLS destructors ------------------------------------------------------------------------------------------


def damage_destructors(patient: Patient, make: Callable[[int, int], None]) -> None:
    """Damage the list of every thread, and see that all is said that is still known."""
    lists = list(patient.destructor_nodes())
    assert len(lists) == 3
    for place, node in lists:
        make(place, node)
    check(patient)


def test_destructor_chain_to_itself(patient: Patient) -> None:
    damage_destructors(patient, lambda place, node: patient.target.overwrite(node + 24, struct.pack("<Q", node)))


@pytest.mark.parametrize("value", [WILD, NON_CANONICAL, 8, 12345])
def test_destructor_chain_to_nowhere(patient: Patient, value: int) -> None:
    damage_destructors(patient, lambda place, node: patient.target.overwrite(node + 24, struct.pack("<Q", value)))


@pytest.mark.parametrize("value", [0, WILD, NON_CANONICAL])
def test_destructor_list_is_elsewhere(patient: Patient, value: int) -> None:
    damage_destructors(patient, lambda place, node: patient.target.overwrite(place, struct.pack("<Q", value)))


def test_destructor_of_no_library(patient: Patient) -> None:
    damage_destructors(patient, lambda place, node: patient.target.overwrite(node + 16, struct.pack("<Q", WILD)))


def test_destructor_with_a_wild_function(patient: Patient) -> None:
    for _, node in patient.destructor_nodes():
        patient.target.overwrite(node, struct.pack("<Q", WILD))
    answer = examine(patient)
    assert not isinstance(answer, DlwhyError)
    assert contradictions(patient.baseline, answer) == []
    library = next(each for each in answer.libraries if each.name == "libowed.so")
    destructors = next(hold for hold in library.holds if hold.kind is HoldKind.TLS_DESTRUCTORS).destructors
    assert [(each.function.name, each.function.library) for each in destructors] == [(None, None)] * 3


def test_very_many_destructors_at_every_place(patient: Patient) -> None:
    # Every word of the block begins a long list, as no real thread's does.
    count = 20_000
    owner = patient.library("libowed.so").link_map
    words = []
    for index in range(count):
        words += [1, 2, owner, SCRATCH + 32 * (index + 1) if index + 1 < count else 0]
    patient.scratch(*words)
    for block in patient.libc_blocks():
        patient.target.overwrite(block.start, struct.pack("<Q", SCRATCH) * len(block))
    check(patient)


@pytest.mark.parametrize("value", [0, WILD, NON_CANONICAL])
def test_thread_pointers_are_wild(patient: Patient, monkeypatch: pytest.MonkeyPatch, value: int) -> None:
    monkeypatch.setattr(patient.target, "registers", lambda thread: {"thread_pointer": value})
    check(patient, noticed=False)  # glibc's own lists of threads do instead


def test_no_registers(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient.target, "registers", lambda thread: {})
    check(patient, noticed=False)  # glibc's own lists of threads may do instead


# -- memory that is not there ---------------------------------------------------------------------------------


def test_every_page_of_the_loader_in_turn(patient: Patient) -> None:
    """Without any one page that the undamaged process needed there is no wrong verdict."""
    examine(patient)
    pages = sorted({page for at, size in patient.target.log for page in range(at // PAGE, (at + size - 1) // PAGE + 1)})
    assert len(pages) > 100
    for page in pages[:: 1 if THOROUGH else 5]:
        patient.target.heal()
        patient.target.forget(page * PAGE, PAGE)
        answer = examine(patient)
        assert contradictions(patient.baseline, answer) == [], f"without page {page * PAGE:#x}"


@pytest.mark.parametrize("with_files", [True, False], ids=["files", "no-files"])
@pytest.mark.parametrize("heap_last", [False, True], ids=["kernel's-order", "heap-last"])
@pytest.mark.parametrize("known", [True, False], ids=["as-it-is", "unknown-build"])
def test_a_core_cut_off_at_every_hundredth(
    patient: Patient, rich_core: Path, tmp_path: Path, with_files: bool, heap_last: bool, known: bool
) -> None:
    heap = patient.library("libplain.so").link_map

    def order(segment: Segment) -> int:
        is_heap = segment.address <= heap < segment.address + len(segment.data)
        return 1 << 64 if is_heap and heap_last else segment.address

    copy = tmp_path / "core"
    whole = notes_first(rich_core.read_bytes(), order)
    copy.write_bytes(whole)
    if not known:
        make_build_unknown(copy)
    lengths = [len(whole) * hundredth // 100 for hundredth in range(101)]
    if heap_last:
        lengths += range(len(whole) - (160 << 10), len(whole), 2 << 10)
    answers = []
    for length in sorted(lengths, reverse=True):
        os.truncate(copy, length)
        try:
            target = CoreTarget(copy, with_files=with_files)
        except DumpFormatError:
            continue
        try:
            answers.append(examine(patient, target))
        finally:
            target.close()
        assert contradictions(patient.baseline, answers[-1]) == [], f"at {length} of {len(whole)} bytes"
    assert not isinstance(answers[0], DlwhyError)
    # That was the whole core; the version is among libc's constants, which that of gdb leaves to libc's file.
    assert [problem.where for problem in answers[0].problems] == ([] if known or with_files else ["glibc"])
    assert isinstance(answers[-1], DlwhyError)
    # The maps go one by one; a layout that was found by trying every known one is taken for whole lists only.
    layout = answers[0].loader.layout
    if heap_last and layout is not None and layout.kind is not SourceKind.INFERRED:
        shorter = [each for each in answers if not isinstance(each, DlwhyError) and each.problems]
        assert len({len(each.libraries) for each in shorter}) > 1


def test_a_core_of_gdb_cut_off_is_refused(rich_core: Path, tmp_path: Path) -> None:
    # gdb writes the notes last: without them nothing can be found.
    copy = tmp_path / "core"
    whole = rich_core.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DumpFormatError, match="cut off"):
        snapshot(copy)
