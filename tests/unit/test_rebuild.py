"""Does a library go once it is built or opened as the answer says, and not before?  Carried out with real programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from dlwhy.common.linux.model import HoldKind
from dlwhy.common.linux.rebuild_model import Fix, FixKind, Hiding, ObstacleKind, Rebuild
from dlwhy.tests.support.plugins import (
    RTLD_GLOBAL,
    RTLD_LAZY,
    RTLD_NODELETE,
    RTLD_NOW,
    Host,
    build_host,
    build_plugin,
    hosting,
)

OWN = """
#ifndef ATTRIBUTE
#define ATTRIBUTE
#endif
template <class T> struct ATTRIBUTE Registry { static T instance; };
template <class T> T Registry<T>::instance;
struct Other { int value; int next(); };
__attribute__((noinline)) int Other::next() { return ++value; }
Other other;
extern "C" __attribute__((visibility("default"))) void use() { Registry<int>::instance += other.next(); }
"""
STD = """
#include <memory>
extern "C" __attribute__((visibility("default"))) void use() { std::make_shared<int>(3); }
"""
STD_BOUND = """
#include <memory>
#include <string>
extern "C" __attribute__((visibility("default"))) void use() {
    std::string text("abc");
    std::make_shared<std::string>(text + "def");
}
"""
VISIBLE = '-DATTRIBUTE=__attribute__((visibility("default")))'
HIDDEN = "-fvisibility=hidden"
NO_UNIQUE = "-fno-gnu-unique"
SCRIPT = "-Wl,--version-script=only-use.map"
NODELETE = "-Wl,-z,nodelete"
CYCLE = (f"open ./libplug.so {RTLD_NOW}", "call ./libplug.so use", "close ./libplug.so")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the program and a version script that exports only the function use."""
    build_host(tmp_path)
    (tmp_path / "only-use.map").write_text("{ global: use; local: *; };\n", encoding="ascii")
    return tmp_path


def rebuild_of(host: Host, name: str = "libplug.so") -> Rebuild:
    """Give what would let a library go."""
    library = host.verdict(name)
    assert library.held is True
    assert library.rebuild is not None
    return library.rebuild


def only_fix(rebuild: Rebuild) -> Fix:
    """Give the one thing that is to be done."""
    assert rebuild.obstacle is None
    (fix,) = rebuild.fixes
    return fix


#: For each way the flags that carry it out.
WAYS: Mapping[Hiding, str] = {
    Hiding.VERSION_SCRIPT: SCRIPT,
    Hiding.NO_GNU_UNIQUE: NO_UNIQUE,
    Hiding.VISIBILITY: HIDDEN,
    Hiding.ATTRIBUTE: "-DATTRIBUTE=",
}


@pytest.mark.parametrize(
    ("source", "flags", "ways", "not_enough"),
    [
        pytest.param(OWN, [], {Hiding.VERSION_SCRIPT, Hiding.NO_GNU_UNIQUE, Hiding.VISIBILITY}, [], id="own"),
        pytest.param(
            OWN,
            [HIDDEN, VISIBLE],
            {Hiding.VERSION_SCRIPT, Hiding.NO_GNU_UNIQUE, Hiding.ATTRIBUTE},
            [],
            id="own-by-attribute",
        ),
        pytest.param(STD, [], {Hiding.VERSION_SCRIPT, Hiding.NO_GNU_UNIQUE}, [HIDDEN], id="std"),
        pytest.param(STD_BOUND, ["-O0"], {Hiding.VERSION_SCRIPT}, [HIDDEN, NO_UNIQUE], id="std-and-bound"),
    ],
)
def test_symbols_are_hidden(
    folder: Path, source: str, flags: Sequence[str], ways: set[Hiding], not_enough: Sequence[str]
) -> None:
    build_plugin(folder, "libplug.so", source, *flags)
    with hosting(folder, *CYCLE) as host:
        fix = only_fix(rebuild_of(host))
        assert (fix.kind, fix.library, set(fix.ways)) == (FixKind.HIDE_SYMBOLS, "libplug.so", ways)
        assert fix.std is (source is not OWN)
        assert bool(fix.bound_by) is (source is STD_BOUND)
    for flag in [*not_enough, *(WAYS[way] for way in sorted(ways, key=lambda way: way.value))]:
        build_plugin(folder, "libplug.so", source, *flags, flag)
        with hosting(folder, *CYCLE) as host:
            assert host.is_loaded("libplug.so") is (flag in not_enough), flag


def test_two_reasons_that_never_end_need_two_fixes(folder: Path) -> None:
    build_plugin(folder, "libplug.so", OWN, NODELETE)
    with hosting(folder, *CYCLE) as host:
        found = rebuild_of(host)
        assert found.obstacle is None
        assert [fix.kind for fix in found.fixes] == [FixKind.HIDE_SYMBOLS, FixKind.LINK_WITHOUT_NODELETE]
    for flags, stays in ([NODELETE, NO_UNIQUE], True), ([], True), ([NO_UNIQUE], False):
        build_plugin(folder, "libplug.so", OWN, *flags)
        with hosting(folder, *CYCLE) as host:
            assert host.is_loaded("libplug.so") is stays, flags


#: The library that is opened first has it, too, and never goes: what it needs of it is its own as well.
PINNED = "int common() { return 1; }\nextern int (*volatile use_it)();\nint (*volatile use_it)() = common;\n"


def test_a_symbol_that_its_holder_has_itself_is_hidden(folder: Path) -> None:
    """The plugin is searched before the library that it needs, which stays for good and has the same function."""
    source = '__attribute__((weak)) int common() { return 2; }\nextern "C" void use() { common(); }\n'
    build_plugin(folder, "libpinned.so", PINNED, NODELETE)
    build_plugin(folder, "libplug.so", source, "-lpinned")
    with hosting(folder, *CYCLE) as host:
        fix = only_fix(rebuild_of(host))
        assert (fix.kind, fix.library, fix.symbols) == (FixKind.HIDE_SYMBOLS, "libplug.so", ("common()",))
        assert (fix.bound_by, fix.std) == (("libpinned.so",), False)
    for flag in (WAYS[way] for way in fix.ways):
        attribute = '__attribute__((visibility("default")))'
        build_plugin(folder, "libplug.so", source.replace('"C"', f'"C" {attribute}'), "-lpinned", flag)
        with hosting(folder, *CYCLE) as host:
            assert not host.is_loaded("libplug.so"), flag


def test_a_symbol_that_its_holder_cannot_do_without_is_not_hidden(folder: Path) -> None:
    """What stays for good needs the library's function, so it is what must be built otherwise."""
    build_plugin(folder, "libplug.so", 'extern "C" void use() {}\n')
    source = 'extern "C" { void use(); void call_it() { use(); } }\n'
    flags = ("-Wl,-z,lazy", "-Wl,--unresolved-symbols=ignore-all")
    lines = [
        f"open ./libplug.so {RTLD_NOW | RTLD_GLOBAL}",
        f"open ./libpinned.so {RTLD_LAZY}",
        "call ./libpinned.so call_it",
        "close ./libpinned.so",
        "close ./libplug.so",
    ]
    build_plugin(folder, "libpinned.so", source, NODELETE, *flags)
    with hosting(folder, *lines) as host:
        assert only_fix(rebuild_of(host)) == Fix(FixKind.LINK_WITHOUT_NODELETE, "libpinned.so")
    build_plugin(folder, "libpinned.so", source, *flags)
    with hosting(folder, *lines) as host:
        assert not host.is_loaded("libplug.so")


def test_a_library_that_would_be_bound_to_it_is_found(folder: Path) -> None:
    """As long as it is NODELETE, nothing records that what stays for good is bound to its function."""
    weak = "__attribute__((weak)) int common() { return 2; }\n"
    build_plugin(folder, "libpinned.so", weak + PINNED.replace("int common() { return 1; }\n", ""), NODELETE)
    lines = [
        f"open ./libplug.so {RTLD_NOW | RTLD_GLOBAL}",
        f"open ./libpinned.so {RTLD_NOW}",
        "close ./libpinned.so",
        "close ./libplug.so",
    ]
    build_plugin(folder, "libplug.so", weak + OWN)
    with hosting(folder, *lines) as host:
        assert [hold.kind for hold in host.verdict("libplug.so").holds] == [HoldKind.NODELETE]
        fix = only_fix(rebuild_of(host))
        assert (fix.bound_by, fix.some_unique) == (("libpinned.so",), True)
        assert set(fix.ways) == {Hiding.VERSION_SCRIPT, Hiding.VISIBILITY}
    for flag in NO_UNIQUE, SCRIPT, HIDDEN:
        build_plugin(folder, "libplug.so", weak + OWN, flag)
        with hosting(folder, *lines) as host:
            assert host.is_loaded("libplug.so") is (flag == NO_UNIQUE), flag


def test_what_dlsym_found_in_the_global_scope_is_not_put_there(folder: Path) -> None:
    source = "#define _GNU_SOURCE\n#include <dlfcn.h>\nvoid *volatile found;\n"
    source += 'void look(void) { found = dlsym(RTLD_DEFAULT, "use"); }\n'
    build_plugin(folder, "libpinned.so", source, "-xc", NODELETE)
    build_plugin(folder, "libplug.so", "void use(void) {}\n", "-xc")
    for mode in RTLD_NOW | RTLD_GLOBAL, RTLD_NOW:
        lines = [f"open ./libplug.so {mode}", f"open ./libpinned.so {RTLD_NOW}", "call ./libpinned.so look"]
        with hosting(folder, *lines, "close ./libplug.so") as host:
            assert host.is_loaded("libplug.so") is bool(mode & RTLD_GLOBAL)
            if mode & RTLD_GLOBAL:
                expected = Fix(FixKind.OPEN_LOCALLY, "libplug.so", bound_by=("libpinned.so",))
                assert only_fix(rebuild_of(host)) == expected


def test_threads_of_its_own_are_a_reason_to_stay(folder: Path) -> None:
    """Of a running process the kernel says where a thread waits: here for pause(2), called by the library itself."""
    source = 'static void *run(void *unused) { for (;;) asm volatile("syscall" : : "a"(34) : "rcx", "r11"); }\n'
    source += "void use(void) { pthread_t each; pthread_create(&each, 0, run, 0); usleep(100000); }\n"
    source = f"#include <pthread.h>\n#include <unistd.h>\n{source}"
    build_plugin(folder, "libplug.so", source, "-xc", NODELETE)
    with hosting(folder, *CYCLE) as host:
        obstacle = rebuild_of(host).obstacle
        assert obstacle is not None
        assert tuple(obstacle) == (ObstacleKind.THREADS, "libplug.so")


def test_what_dlopen_was_told_is_left_out(folder: Path) -> None:
    build_plugin(folder, "libplug.so", 'extern "C" void use() {}\n')
    opening, *rest = CYCLE
    with hosting(folder, opening.replace(str(RTLD_NOW), str(RTLD_NOW | RTLD_NODELETE)), *rest) as host:
        assert only_fix(rebuild_of(host)) == Fix(FixKind.OPEN_WITHOUT_NODELETE, "libplug.so")
    with hosting(folder, *CYCLE) as host:
        assert not host.is_loaded("libplug.so")


def test_what_the_program_is_bound_to_is_opened_locally(folder: Path) -> None:
    starting = "void hook(void);\nvoid start(void) { hook(); }\n"
    build_plugin(folder, "libstart.so", starting, "-xc", "-Wl,-z,lazy", "-Wl,--unresolved-symbols=ignore-all")
    build_host(folder, "-DCALLS_START", "-L.", "-Wl,-rpath,$ORIGIN", "-lstart", "-Wl,--allow-shlib-undefined")
    build_plugin(folder, "libplug.so", 'extern "C" void hook() {}\n')
    with hosting(folder, f"open ./libplug.so {RTLD_NOW | RTLD_GLOBAL}", "start -", "close ./libplug.so") as host:
        fix = only_fix(rebuild_of(host))
        assert fix == Fix(FixKind.OPEN_LOCALLY, "libplug.so", symbols=("hook",), bound_by=("libstart.so",))
    with hosting(folder, f"open ./libplug.so {RTLD_NOW}", "call ./libplug.so hook", "close ./libplug.so") as host:
        assert not host.is_loaded("libplug.so")


GO_NOTE = (
    'asm(".section .note.go.buildid,\\"a\\",@note\\n.long 4, 4, 4\\n.asciz \\"Go\\\\0\\"\\n.long 7\\n.previous");\n'
)


@pytest.mark.parametrize(
    ("name", "source", "kind"),
    [
        ("libplug.so", GO_NOTE, ObstacleKind.GO_RUNTIME),
        ("libcrypto.so.99", "", ObstacleKind.ON_PURPOSE),
    ],
)
def test_what_should_not_be_unloaded_is_named(folder: Path, name: str, source: str, kind: ObstacleKind) -> None:
    build_plugin(folder, name, f"{source}void use(void) {{}}\n", "-xc", NODELETE)
    with hosting(folder, f"open ./{name} {RTLD_NOW}", f"close ./{name}") as host:
        found = rebuild_of(host, name)
        assert (found.fixes, found.obstacle and tuple(found.obstacle)) == ((), (kind, name))


def test_a_library_of_the_system_is_not_to_be_built_otherwise(folder: Path) -> None:
    build_plugin(folder, "libplug.so", STD)
    with hosting(folder, *CYCLE) as host:
        for name in ("libstdc++.so.6", "libgcc_s.so.1"):
            obstacle = rebuild_of(host, name).obstacle
            assert obstacle is not None
            assert tuple(obstacle) == (ObstacleKind.SYSTEM, "libstdc++.so.6")


def test_what_nothing_keeps_for_good_needs_no_other_build(folder: Path) -> None:
    build_plugin(folder, "libplug.so", "void use(void) {}\n", "-xc")
    with hosting(folder, f"open ./libplug.so {RTLD_NOW}") as host:
        assert host.verdict("libplug.so").rebuild is None
        assert host.verdict("libc.so.6").rebuild is None
