"""Is a library told whose destructors close others, by whatever way, from one whose destructors do not?"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

import dlwhy
import pytest
from dlwhy.common.linux.plan_model import Closer, ClosingWay, Plan
from dlwhy.common.linux.state import closers
from dlwhy.tests.support.children import running, tell
from dlwhy.tests.synth.process import compile_file

WRAP = """
#include <dlfcn.h>
void *wrap_open(const char *path) { return dlopen(path, RTLD_NOW); }
static int inner(void *handle) { return dlclose(handle); }
int wrap_close(void *handle) { return handle ? inner(handle) : -1; }
int wrap_count(void *handle) { return handle != 0; }
int (*wrap_table[])(void *) = {wrap_count, wrap_close};
struct ops { const char *name; int (*close)(void *); };
static const struct ops own = {"own", wrap_close};
static const struct ops *volatile current = &own;
const struct ops *wrap_ops(void) { return &own; }
int wrap_do(void *handle) { return current->close(handle); }
"""
MIDDLE = "int wrap_close(void *); int middle_close(void *h) { return wrap_close(h) + 1; }"
HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int host_close(void *handle) { return dlclose(handle); }
int main(int count, char **names)
{
    char byte;
    (void)count;
    void *plugin = dlopen(names[1], RTLD_LAZY);
    if (!plugin)
        return puts(dlerror()), 2;
    puts("ready");
    fflush(stdout);
    if (read(0, &byte, 1) != 1)
        return 3;
    dlclose(plugin);
    puts(dlopen(names[2], RTLD_NOLOAD | RTLD_LAZY) ? "stays" : "gone");
    fflush(stdout);
    _exit(0);
}
"""
OPENS = """
void *wrap_open(const char *); static void *handle;
__attribute__((constructor)) static void open_it(void) { handle = wrap_open(OTHER); }
"""


class Case(NamedTuple):
    """How a plugin closes what its constructor has opened, if it does, and what the plan says of it."""

    source: str
    way: Optional[ClosingWay]
    through: Optional[str] = None
    closes: bool = True
    flags: tuple[str, ...] = ()
    language: str = "c"


OPS = "struct ops { const char *name; int (*close)(void *); }; const struct ops *wrap_ops(void);"
DESTRUCTOR = "__attribute__((destructor)) static void close_it(void) "
CASES = {
    "by a wrapper": Case(
        f"int wrap_close(void *); {DESTRUCTOR} {{ wrap_close(handle); }}", ClosingWay.CALL, "wrap_close"
    ),
    "by a wrapper, bound at once": Case(
        f"int wrap_close(void *); {DESTRUCTOR} {{ wrap_close(handle); }}",
        ClosingWay.CALL,
        "wrap_close",
        flags=("-Wl,-z,now",),
    ),
    "by a wrapper, without a linkage table": Case(
        f"int wrap_close(void *); {DESTRUCTOR} {{ wrap_close(handle); }}",
        ClosingWay.CALL,
        "wrap_close",
        flags=("-fno-plt", "-O2", "-fcf-protection"),
    ),
    "without call frames": Case(
        f"int wrap_close(void *); {DESTRUCTOR} {{ wrap_close(handle); }}",
        ClosingWay.CALL,
        "wrap_close",
        flags=("-fno-asynchronous-unwind-tables",),
    ),
    "by a wrapper of a wrapper": Case(
        f"int middle_close(void *); {DESTRUCTOR} {{ middle_close(handle); }}", ClosingWay.CALL, "middle_close"
    ),
    "by the program": Case(
        f"int host_close(void *); {DESTRUCTOR} {{ host_close(handle); }}", ClosingWay.CALL, "host_close"
    ),
    "by functions of its own": Case(
        "int wrap_close(void *); static __attribute__((noinline)) void inner(void *h) { wrap_close(h); }"
        "void outer(void *h) { inner(h); }"
        f"{DESTRUCTOR} {{ outer(handle); }}",
        ClosingWay.CALL,
        "wrap_close",
    ),
    "by a pointer that is passed on": Case(
        "int wrap_close(void *); static __attribute__((noinline)) void each(int (*f)(void *), void *h) { f(h); }"
        f"{DESTRUCTOR} {{ each(wrap_close, handle); }}",
        ClosingWay.CALL,
        "wrap_close",
        flags=("-O0",),
    ),
    "by a static object": Case(
        'extern "C" void *wrap_open(const char *); extern "C" int wrap_close(void *);'
        "struct Owner { void *handle = wrap_open(OTHER); ~Owner() { wrap_close(handle); } }; Owner owner;",
        ClosingWay.CALL,
        "wrap_close",
        language="c++",
    ),
    "by atexit": Case(
        "#include <stdlib.h>\nint wrap_close(void *); static void close_it(void) { wrap_close(handle); }"
        "__attribute__((constructor)) static void registers(void) { atexit(close_it); }",
        ClosingWay.CALL,
        "wrap_close",
    ),
    "by a virtual destructor": Case(
        'extern "C" void *wrap_open(const char *); extern "C" int wrap_close(void *);'
        "struct Owner { void *handle = wrap_open(OTHER); virtual void close(); virtual ~Owner(); };"
        "void Owner::close() { wrap_close(handle); } Owner::~Owner() { close(); }"
        "struct Keeper { Owner *owner = new Owner; ~Keeper() { delete owner; } }; Keeper keeper;",
        ClosingWay.POINTER,
        "wrap_close",
        language="c++",
    ),
    "by a table of functions": Case(
        "int wrap_close(void *); int (*table[])(void *) = {0, wrap_close}; int chosen = 1;"
        f"{DESTRUCTOR} {{ table[chosen](handle); }}",
        ClosingWay.POINTER,
        "wrap_close",
        flags=("-O2",),
    ),
    "by another library's table": Case(
        f"extern int (*wrap_table[])(void *); volatile int chosen = 1;{DESTRUCTOR} {{ wrap_table[chosen](handle); }}",
        ClosingWay.POINTER,
        "wrap_close",
    ),
    "by another library's table, which it asks for": Case(
        f"{OPS} {DESTRUCTOR} {{ wrap_ops()->close(handle); }}", ClosingWay.POINTER, "wrap_close"
    ),
    "by another library's table, which it has asked for": Case(
        f"{OPS} const struct ops *ops; __attribute__((constructor)) static void ask(void) {{ ops = wrap_ops(); }}"
        f"{DESTRUCTOR} {{ ops->close(handle); }}",
        ClosingWay.POINTER,
        "wrap_close",
    ),
    "by a function that uses a table": Case(
        f"int wrap_do(void *); {DESTRUCTOR} {{ wrap_do(handle); }}", ClosingWay.POINTER, "wrap_close"
    ),
    "by a variable": Case(
        f"int wrap_close(void *); int (*variable)(void *) = wrap_close;{DESTRUCTOR} {{ variable(handle); }}",
        ClosingWay.POINTER,
        "wrap_close",
    ),
    "by dlsym": Case(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n"
        f'{DESTRUCTOR} {{ ((int (*)(void *))dlsym(RTLD_DEFAULT, "dlclose"))(handle); }}',
        ClosingWay.LOOKUP,
    ),
    "by itself": Case(f"int dlclose(void *); {DESTRUCTOR} {{ dlclose(handle); }}", ClosingWay.IMPORT),
    "only opens": Case("", None, closes=False),
    "only counts": Case(f"int wrap_count(void *); {DESTRUCTOR} {{ wrap_count(handle); }}", None, closes=False),
    "only counts, by a virtual destructor": Case(
        'extern "C" void *wrap_open(const char *); extern "C" int wrap_count(void *);'
        "struct Owner { void *handle = wrap_open(OTHER); virtual void close(); virtual ~Owner(); };"
        "void Owner::close() { wrap_count(handle); } Owner::~Owner() { close(); }"
        "struct Keeper { Owner *owner = new Owner; ~Keeper() { delete owner; } }; Keeper keeper;",
        None,
        closes=False,
        language="c++",
    ),
    "closes, but not at the end": Case(
        "int wrap_close(void *); void stop(void) { wrap_close(handle); handle = 0; }"
        "int wrap_count(void *); "
        f"{DESTRUCTOR} {{ wrap_count(handle); }}",
        None,
        closes=False,
    ),
    "looks something else up": Case(
        f'#include <dlfcn.h>\n{DESTRUCTOR} {{ dlsym(handle, "other"); }}', None, closes=False
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("closers")
    compile_file(made, "libother.so", "int other;", language="c")
    compile_file(made, "libwrap.so", WRAP, language="c")
    compile_file(made, "libmiddle.so", MIDDLE, "-lwrap", language="c")
    needs = ("-Wl,--no-as-needed", "-lwrap", "-lmiddle")
    compile_file(made, "host", HOST, "-rdynamic", *needs, language="c")
    # Here nothing that was loaded at start imports dlclose and can be called.
    compile_file(made, "bare", HOST, language="c")
    return made


def build(folder: Path, case: Case, *more: str) -> Path:
    opens = "" if case.language == "c++" else OPENS
    macro = f'-DOTHER="{folder}/libother.so"'
    # A #include within the case's text has to begin a line.
    return compile_file(
        folder, "libplugin.so", f"{opens}\n{case.source}", macro, *case.flags, *more, language=case.language
    )


@contextmanager
def planned(program: Path, plugin: Path) -> Iterator[tuple[Plan, subprocess.Popen[str]]]:
    with running([program, plugin, plugin.parent / "libother.so"]) as process:
        with dlwhy.open(process.pid) as examined:
            (plan,) = examined.plan("libplugin.so").plans
        yield plan, process


def close(process: subprocess.Popen[str]) -> str:
    """Let it close the plugin; return what became of the library that the plugin had opened."""
    return tell(process, "x")


@pytest.mark.parametrize("name", CASES)
def test_destructors_that_close_others_are_told(folder: Path, name: str) -> None:
    case = CASES[name]
    with planned(folder / "host", build(folder, case, "-lwrap", "-lmiddle")) as (plan, process):
        assert close(process) == ("gone" if case.closes else "stays")
    assert [library.name for library in plan.unloads] == ["libplugin.so"]
    expected = () if case.way is None else ("libplugin.so",)
    assert plan.may_unload_more == expected
    assert [(each.library, each.way) for each in plan.closers] == [(each, case.way) for each in expected]
    through = [each.through and each.through.name for each in plan.closers]
    assert through == [case.through for _ in expected]


@pytest.mark.parametrize("name", ["by a wrapper", "by a static object", "only counts"])
def test_also_if_only_what_is_unloaded_too_imports_it(folder: Path, name: str) -> None:
    case = CASES[name]
    with planned(folder / "bare", build(folder, case, "-lwrap", "-lmiddle")) as (plan, process):
        assert close(process) == ("gone" if case.closes else "stays")
    found = {each.library: each.way for each in plan.closers}
    # The wrapper itself imports dlclose; that its destructors do not call it is not looked at.
    assert found.pop("libwrap.so") is ClosingWay.IMPORT
    assert found == ({} if case.way is None else {"libplugin.so": case.way})


def test_what_is_too_much_to_follow_is_not_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closers, "ALLOWANCE", 1000)
    with planned(folder / "host", build(folder, CASES["by a wrapper"], "-lwrap")) as (plan, _):
        assert [(each.library, each.way) for each in plan.closers] == [("libplugin.so", ClosingWay.UNKNOWN)]


def test_without_another_library_that_imports_it_no_code_is_read(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "libother.so", tmp_path)
    plugin = compile_file(
        tmp_path, "libplugin.so", "#include <stdlib.h>\nvoid *held; " + DESTRUCTOR + "{ free(held); }"
    )
    with planned(folder / "bare", plugin) as (plan, _):
        assert plan.closers == ()
    assert Closer("a", ClosingWay.UNKNOWN).through is None
