"""Are glibc's rules those of its version, and is every layout from 2.17 to 2.43 found, without a glibc to run?"""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import pytest
from dlwhy.common.errors import LayoutError, NotFoundError
from dlwhy.common.linux.elf.demangle import demangle
from dlwhy.common.linux.loader.collector import CollectorRules, root_kinds
from dlwhy.common.linux.loader.find import find_loader_globals, is_libc
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.maps import LinkMap
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.linux.loader.roots import RootKind
from dlwhy.common.linux.model import HoldKind
from dlwhy.common.linux.model import Library as Verdict
from dlwhy.common.linux.state.examine import explain, explain_chosen
from dlwhy.common.linux.state.matching import select
from dlwhy.common.memory import Memory
from dlwhy.common.model import Field, Platform, SourceKind
from dlwhy.common.model import Layout as StructLayout
from dlwhy.common.structs import Structure
from dlwhy.tests.fakes import I386, S390X, X86_64, FakeTarget
from dlwhy.tests.synth.glibc import Layout, Library, Process
from dlwhy.tests.synth.glibc_layouts import (
    I386_227,
    S390X_241,
    V217,
    V218,
    V228,
    V231,
    V232,
    V233,
    V235,
    V235_TIP,
    V236,
    V236_TIP,
    V239,
    V242,
)

VERSIONS = [(2, minor) for minor in range(17, 44)]

# -- rules ----------------------------------------------------------------------------------------------------


def link_map(**members: Optional[int]) -> LinkMap:
    """Make a map with these members; None stands for a member that the version lacks."""
    defaults: dict[str, Optional[int]] = {
        "l_type": 2,
        "l_direct_opencount": 0,
        "l_nodelete_active": 0,
        "l_flags_1": 0,
        "l_tls_dtor_count": 0,
    }
    fields = Structure(StructLayout("link_map", 8, {"l_addr": Field(0, 8)}), "<")
    result = LinkMap(0x1000, bytes(8), fields)
    for name, value in {**defaults, **members}.items():
        setattr(result, name, value)
    return result


@pytest.mark.parametrize("version", VERSIONS)
def test_rules_of_every_version(version: tuple[int, int]) -> None:
    rules = CollectorRules.of(version)
    assert rules.tls_count_is_root is (version >= (2, 22))
    assert rules.destructors_are_mangled is (version >= (2, 23))


def test_an_unknown_version_has_the_newest_rules() -> None:
    assert CollectorRules.of(None) == CollectorRules.of((2, 43))


@pytest.mark.parametrize("version", VERSIONS)
def test_roots(version: tuple[int, int]) -> None:
    rules = CollectorRules.of(version)
    old = version < (2, 31)
    absent: dict[str, Optional[int]] = {"l_nodelete_active": None} if old else {}
    if version < (2, 18):
        absent["l_tls_dtor_count"] = None
    nodelete: dict[str, Optional[int]] = {**absent, "l_flags_1": 8} if old else {"l_nodelete_active": 1}
    assert root_kinds(link_map(**absent), rules) == ()
    assert root_kinds(link_map(**absent, l_type=0), rules) == (RootKind.EXECUTABLE,)
    assert root_kinds(link_map(**absent, l_type=1), rules) == (RootKind.LIBRARY,)
    assert root_kinds(link_map(**absent, l_direct_opencount=3), rules) == (RootKind.OPEN_COUNT,)
    assert root_kinds(link_map(**nodelete), rules) == (RootKind.NODELETE,)
    assert root_kinds(link_map(**{**nodelete, "l_direct_opencount": 1}), rules) == (
        RootKind.NODELETE,
        RootKind.OPEN_COUNT,
    )
    if version >= (2, 18):
        # 2.18 to 2.21 set the NODELETE flag for the time that destructors are pending.
        flag = {"l_flags_1": 8} if version < (2, 22) else {}
        assert root_kinds(link_map(**{**absent, **flag, "l_tls_dtor_count": 2}), rules) == (RootKind.TLS_DESTRUCTORS,)


def test_since_2_31_the_flag_of_the_file_alone_keeps_nothing() -> None:
    assert root_kinds(link_map(l_flags_1=8, l_nodelete_active=0), CollectorRules.of((2, 31))) == ()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/lib/x86_64-linux-gnu/libc.so.6", True),
        ("/lib/libc-2.17.so", True),
        ("/lib/libc.so.6.1", True),
        ("libc.so", False),
        ("/opt/libc-2.17.so.bak", False),
        ("/opt/libcrypt.so.6", False),
        ("", False),
    ],
)
def test_names_of_the_c_library(path: str, expected: bool) -> None:
    assert is_libc(path) is expected


# -- layouts --------------------------------------------------------------------------------------------------


# Platform, version, layout, size of the symbol _rtld_global, and the release as a report names it.
Case = tuple[Platform, tuple[int, int], Layout, int, str]
CASES: list[Case] = [
    (X86_64, (2, 17), V217, 3960, "glibc 2.17 (tag)"),
    (X86_64, (2, 18), V218, 3968, "glibc 2.18 (tag)"),
    (X86_64, (2, 20), V218, 3968, "glibc 2.20 (tag)"),
    (X86_64, (2, 21), V218, 3968, "glibc 2.21 (tag)"),
    (X86_64, (2, 22), V218, 3968, "glibc 2.22 (tag)"),
    (X86_64, (2, 23), V218, 3968, "glibc 2.23 (tag)"),
    (X86_64, (2, 24), V218, 3968, ""),
    (X86_64, (2, 27), V218, 3960, "glibc 2.27 (tag)"),
    (X86_64, (2, 28), V228, 3992, "glibc 2.28 (tag)"),
    (X86_64, (2, 30), V228, 3984, "glibc 2.30 (tag)"),
    (X86_64, (2, 31), V231, 3992, "glibc 2.31 (tag)"),
    (X86_64, (2, 32), V232, 4112, "glibc 2.32 (tag)"),
    (X86_64, (2, 33), V233, 4152, "glibc 2.33 (tag)"),
    (X86_64, (2, 34), V233, 4136, "glibc 2.34 (tag)"),
    (X86_64, (2, 35), V235, 4304, "glibc 2.35 (tag)"),
    (X86_64, (2, 35), V235_TIP, 4312, "glibc 2.35 (branch tip)"),
    (X86_64, (2, 36), V236, 4328, "glibc 2.36 (tag)"),
    (X86_64, (2, 36), V236_TIP, 4336, "glibc 2.36 (branch tip)"),
    (X86_64, (2, 38), V236, 4328, "glibc 2.38 (tag)"),
    (X86_64, (2, 38), V236_TIP, 4336, "glibc 2.38 (branch tip)"),
    (X86_64, (2, 39), V239, 4352, "glibc 2.39 (tag)"),
    (X86_64, (2, 41), V239, 2888, "glibc 2.41 (tag)"),
    (X86_64, (2, 42), V242, 2120, "glibc 2.42 (tag)"),
    (X86_64, (2, 43), V242, 2120, "glibc 2.43"),
    (I386, (2, 27), I386_227, 2072, ""),
    (S390X, (2, 41), S390X_241, 2888, ""),
]
IDS = [f"{case[0].arch}-{case[1][0]}.{case[1][1]}-{case[2].size}" for case in CASES]


def process(
    platform: Platform, version: tuple[int, int], layout: Layout, size: int, *, sysv_hash: bool = False
) -> Process:
    """Make a process with a library for each of the collector's reasons."""
    has_destructors = version >= (2, 18)
    flagged = has_destructors and version < (2, 22)
    libraries = [
        Library("main", type=0, needs=["libc.so.6"]),
        Library("libc.so.6", type=1, needs=["ld.so"], tls_size=0x90),
        Library("ld.so", type=1),
        Library("libopen.so", opencount=2, needs=["libdep.so", "libc.so.6"], bound_to=["libbound.so"]),
        Library("libdep.so"),
        Library("libbound.so"),
        Library("libpinned.so", nodelete=True, elf_nodelete=True),
        Library("libunique.so", nodelete=True),
        Library("libgarbage.so", needs=["libalso.so"], tls_size=0x20),
        Library("libalso.so"),
    ]
    if has_destructors:
        owed = Library("libowed.so", owed=2, needs=["libowedep.so"], symbols={"_ZN5TallyD1Ev": (0x1100, 0x20)})
        owed.extra_flags_1 = 8 if flagged else 0
        libraries += [owed, Library("libowedep.so")]
    return Process(
        platform,
        layout,
        libraries,
        rtld_global_size=size,
        version=version,
        exports_descriptors=version >= (2, 34),
        mangles=version >= (2, 23),
        unique=[("_ZN3RegIiE4instE", "libunique.so")],
        sysv_hash=sysv_hash,
    )


def brief(verdict: Verdict) -> tuple[Optional[bool], list[str], list[object]]:
    """Give held, the kinds of holds, and what is most telling of each."""
    telling: list[object] = []
    for hold in verdict.holds:
        if hold.kind is HoldKind.TLS_DESTRUCTORS:
            telling.append([(each.function.name, each.function.library) for each in hold.destructors])
        else:
            telling.append(hold.symbols or hold.chain or hold.total or hold.origin)
    return verdict.held, [hold.kind.value for hold in verdict.holds], telling


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_layout_and_verdicts(case: Case) -> None:
    platform, version, layout, size, release = case
    state = explain(process(platform, version, layout, size).target())
    assert state.problems == ()
    assert (state.loader.kind, state.loader.version) == ("glibc", "{}.{}".format(*version))
    assert state.loader.layout is not None
    assert release in state.loader.layout.detail
    if version >= (2, 34):
        assert state.loader.layout.kind is SourceKind.TABLE
    found = {verdict.name: brief(verdict) for verdict in state.libraries}
    expected: dict[str, tuple[Optional[bool], list[str], list[object]]] = {
        "libc.so.6": (True, ["startup"], ["needed"]),
        "ld.so": (True, ["startup"], ["rtld"]),
        "libopen.so": (True, ["open-count"], [2]),
        "libdep.so": (True, ["dependency"], [("libopen.so", "libdep.so")]),
        "libbound.so": (True, ["relocation"], [("libopen.so", "libbound.so")]),
        "libpinned.so": (True, ["nodelete"], ["elf-flag"]),
        "libunique.so": (True, ["nodelete"], [(demangle("_ZN3RegIiE4instE"),)]),
        "libgarbage.so": (False, [], []),
        "libalso.so": (False, [], []),
    }
    if version >= (2, 18):
        named = (demangle("_ZN5TallyD1Ev"), "libowed.so")
        owed = [named] * 2 if platform is not S390X or version < (2, 23) else found["libowed.so"][2][0]
        expected["libowed.so"] = (True, ["tls-destructors"], [owed])
        expected["libowedep.so"] = (True, ["dependency"], [("libowed.so", "libowedep.so")])
    program = found.pop(next(iter(found)))
    assert program[:2] == (True, ["main-program"])
    assert found == expected


@pytest.mark.parametrize("sysv_hash", [False, True], ids=["gnu-hash", "hash"])
def test_either_hash_table_does(sysv_hash: bool) -> None:
    state = explain(process(X86_64, (2, 17), V217, 3960, sysv_hash=sysv_hash).target())
    assert len(state.libraries) == 10


@pytest.mark.parametrize("case", [case for case in CASES if case[0] is X86_64], ids=IDS[:-2])
def test_a_backport_is_found_whatever_it_calls_itself(case: Case) -> None:
    """With the version and the sizes of another release, the layout is still the one that fits."""
    platform, version, layout, _, _ = case
    known = process(platform, version, layout, 3000 if layout is V242 else 5000)
    known.exports_descriptors = False
    state = explain(known.target())
    assert state.loader.layout is not None
    assert state.loader.layout.kind is SourceKind.INFERRED
    held = {verdict.name: verdict.held for verdict in state.libraries}
    assert held["libgarbage.so"] is False
    assert held["libbound.so"] is True


@pytest.mark.parametrize(
    "move",
    [
        {"opencount": 776},
        {"map_start": 936},
        {"relro": 1208},
        {"tls_modid": 1200, "tls_blocksize": 1192},
        {"phnum": 738},
        {"ns_stride": 168},
    ],
)
def test_an_unknown_layout_is_refused(move: dict[str, int]) -> None:
    layout = Layout(**{**V239._asdict(), **move, "size": 1300})
    with pytest.raises(LayoutError, match="no known layout") as caught:
        explain(process(X86_64, (2, 40), layout, 4352).target())
    assert len(caught.value.tried) > 5
    assert "libc6-dbg" in str(caught.value)


# -- one library's trouble ------------------------------------------------------------------------------------


def overwrite_headers(made: Process, *names: str) -> FakeTarget:
    """Give a process in which files were overwritten in place: their headers in memory are those of other builds."""
    target = made.target()
    for name in names:
        library = made.library(name)
        other = replace(library, name=library.name + "-of-the-next-build", soname="next.so", tls_size=0x30)
        made.bases[other.key] = made.base(library)
        image = made.image(other)
        target.overwrite(made.base(library), image[:0x1000])
    return target


@pytest.mark.parametrize("is_exact", [True, False], ids=["exact", "agreed"])
def test_a_library_that_was_overwritten_is_its_own_trouble(is_exact: bool) -> None:
    made = process(X86_64, (2, 40), V239, 4352)
    sound = explain(made.target())
    target = overwrite_headers(made, "libopen.so")
    if is_exact:
        target = with_debug_information(made, target)
    state = explain(target)
    assert [library.held for library in state.libraries] == [library.held for library in sound.libraries]
    assert [problem.where for problem in state.problems] == ["libopen.so"]
    message = state.problems[0].message
    assert message.startswith("the file was overwritten while it was loaded; replace files by rename")
    assert "l_tls_blocksize is 0x0, the program headers say 0x30" in message
    found = {library.name: library for library in state.libraries}
    assert (found["libopen.so"].soname, found["libopen.so"].build_id) == (None, None)
    assert found["libdep.so"].soname == "libdep.so"


def no_expression(text: str) -> int:
    """Refuse: these are names."""
    raise NotFoundError(f"cannot evaluate '{text}'")


def test_another_library_is_answered_without_it() -> None:
    target = overwrite_headers(process(X86_64, (2, 40), V239, 4352), "libopen.so")
    assert explain_chosen(target, lambda found: select(found, "libgarbage.so", no_expression)).problems == ()
    dependent = explain_chosen(target, lambda found: select(found, "libdep.so", no_expression))
    assert [problem.where for problem in dependent.problems] == ["libopen.so"]
    with pytest.raises(NotFoundError, match=r"libopen\.so: the file was overwritten"):
        explain_chosen(target, lambda found: select(found, "libelse.so", no_expression))


def test_most_libraries_overwritten_fit_no_layout_but_that_of_the_build() -> None:
    """Without the build's own layout nobody can tell the libraries' trouble from a wrong layout."""
    made = process(X86_64, (2, 40), V239, 4352)
    names = [library.name for library in made.libraries if library.type == 2]
    target = overwrite_headers(made, *names)
    with pytest.raises(LayoutError, match="no known layout"):
        explain(target)
    state = explain(with_debug_information(made, target))
    assert sorted(problem.where for problem in state.problems) == sorted(names)


def with_debug_information(made: Process, target: FakeTarget) -> FakeTarget:
    """Give the same memory with the structures of the loader's very build."""
    memory = Memory(made.target())
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    known = made.target(choose_layouts(memory, start, private).layouts.layouts)
    target._layouts = known._layouts
    return target
