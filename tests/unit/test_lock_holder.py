"""Is a thread that holds the loader's lock only then said to be inside dlopen or dlclose when it is?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.linux.loader.maps import LoadLock
from dlwhy.common.linux.state.examine import explain
from dlwhy.tests.support.children import running
from dlwhy.tests.support.live_glibc import MAIN, Script
from dlwhy.tests.synth.glibc import CODE, FRAMES, FUNCTION_SIZE, RTLD_GLOBAL_RO, Library
from dlwhy.tests.synth.glibc_layouts import V240_LIVE, process_of
from dlwhy.tests.synth.process import compile_file, dump

PLUGIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void stay(const char *where)
{
    const char *wanted = getenv("STAY");
    if (wanted && !strcmp(wanted, where)) {
        write(1, "ready\\n", 6);
        for (;;) pause();
    }
}
__attribute__((constructor)) static void begin(void) { stay("constructor"); }
__attribute__((destructor)) static void end(void) { stay("destructor"); }
static int one(void) { return 1; }
static int (*choose(void))(void) { stay("resolver"); return one; }
int chosen(void) __attribute__((ifunc("choose")));
"""
HOST = """
#include <dlfcn.h>
int main(void)
{
    void *plugin = dlopen(PLUGIN_PATH, RTLD_LAZY);
    int (*chosen)(void) = plugin ? (int (*)(void))dlsym(plugin, "chosen") : 0;
    int result = chosen ? chosen() : 2;
    dlclose(plugin);
    return result;
}
"""
INSIDE = "is inside dlopen or dlclose: the state is in motion"
OUTSIDE = "holds the loader's lock, but is inside neither dlopen nor dlclose"


@pytest.fixture(scope="module", params=["-O2", "-O0"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program with a plugin in whose functions it stays."""
    folder = tmp_path_factory.mktemp("holder")
    # Lazily bound, the resolver is not run by dlopen.
    plugin = compile_file(folder, "libplugin.so", PLUGIN, request.param, "-Wl,-z,lazy", language="c")
    return compile_file(folder, "host", HOST, request.param, f'-DPLUGIN_PATH="{plugin}"', language="c")


@contextmanager
def staying(program: Path, where: str) -> Iterator[int]:
    with running([program], {"STAY": where}) as process:
        yield process.pid


def actions(problems: tuple[dlwhy.Problem, ...]) -> list[str]:
    return [problem.message.partition(" ")[2].partition(" ")[2] for problem in problems if problem.where == "loader"]


@pytest.mark.parametrize(("where", "action"), [("constructor", INSIDE), ("destructor", INSIDE), ("resolver", OUTSIDE)])
def test_where_the_holder_of_the_lock_is(program: Path, where: str, action: str) -> None:
    with staying(program, where) as pid, dlwhy.open(pid) as process:
        (seen,) = actions(process.state().problems)
        (planned,) = actions(process.plan("libplugin.so").problems)
    assert seen == planned
    # Without the registers that calls preserve, frames with a frame pointer cannot be followed.
    assert seen.startswith(action) or (
        action is OUTSIDE and seen.startswith("holds the loader's lock: it can be inside")
    )


@pytest.mark.parametrize(("where", "action"), [("constructor", INSIDE), ("destructor", INSIDE), ("resolver", OUTSIDE)])
def test_where_it_is_in_a_core(program: Path, where: str, action: str, tmp_path: Path) -> None:
    core = dump(program, tmp_path / "core", environment={"STAY": where})
    with dlwhy.open(core) as process:
        (seen,) = actions(process.state().problems)
    assert seen.startswith(action)
    core.unlink()


def test_a_holder_without_registers_can_be_inside() -> None:
    process = process_of([Library("liba.so", opencount=1)], layout=V240_LIVE)
    process.lock = (4711, 1)
    (problem,) = explain(process.target()).problems
    assert problem.message.startswith("thread 4711 holds the loader's lock: it can be inside dlopen or dlclose")


@pytest.mark.parametrize("damage", ["", "call frame information is unread", "a function has none"])
def test_a_holder_can_be_inside_where_the_functions_are_not_known(damage: str) -> None:
    made = Script()
    made.process.lock = (MAIN, 1)
    made.refresh()
    rtld = made.process.base(made.library("ld.so"))
    if damage == "call frame information is unread":
        made.target.forget(rtld + FRAMES, 0x10)
    elif damage:
        function = rtld + CODE + FUNCTION_SIZE * len(made.library("ld.so").functions)
        made.target.overwrite(
            rtld + RTLD_GLOBAL_RO + (V240_LIVE.open_close or (0, 0))[0], function.to_bytes(8, "little")
        )
    (action,) = actions(explain(made.target).problems)
    assert action.startswith("holds the loader's lock: it can be inside dlopen or dlclose")


def test_a_lock_that_cannot_be_read_is_not_free() -> None:
    assert not LoadLock(None, is_known=False).is_held
    process = process_of([Library("liba.so", opencount=1)], layout=V240_LIVE)
    target = process.target()
    lock = process.base(process.library("ld.so")) + 0x2000 + (V240_LIVE.load_lock or 0)
    target.forget(lock, 4)
    (problem,) = explain(target).problems
    assert problem == dlwhy.Problem("loader", "its lock cannot be read: a thread can be inside dlopen or dlclose")
