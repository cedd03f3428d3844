"""Is it seen which threads are in code that a close unmaps, without a debugger as well as with one?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.linux.loader.frames import ends_with_call
from dlwhy.common.linux.plan_model import Plan
from dlwhy.tests.fakes import I386, S390X, X86_64
from dlwhy.tests.support.children import running
from dlwhy.tests.synth.process import compile_file, dump

PLUGIN = """
#include <alloca.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
volatile int turns;
void inside(void (*unused)(int)) { (void)unused; for (;;) pause(); }
void beside(void (*host)(int)) { char *room = alloca(turns + 100); memset(room, turns, 100); host(room[3]); turns++; }
void signalled(void (*unused)(int)) { (void)unused; raise(SIGUSR1); turns++; }
void spinning(void (*unused)(int)) { (void)unused; for (;;) turns++; }
void left(void (*host)(int)) { host(1); }
"""
HOST = """
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static volatile int arrived;
static void *plugin;
static void wait_here(int more) { arrived++; for (;;) pause(); (void)more; }
static void pass(int more) { (void)more; }
static void on_signal(int number) { wait_here(number); }
static void *work(void *name)
{
    void (*call)(void (*)(int)) = (void (*)(void (*)(int)))dlsym(plugin, name);
    pthread_setname_np(pthread_self(), name);
    if (name == (void *)0)
        return 0;
    call(((char *)name)[0] == 'l' ? pass : wait_here);
    wait_here(0);
    return 0;
}
int main(int count, char **names)
{
    signal(SIGUSR1, on_signal);
    plugin = dlopen(PLUGIN_PATH, RTLD_NOW);
    for (int i = 1; i < count; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, work, names[i]);
    }
    usleep(100000);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
"""
WAITING = ("inside", "beside", "signalled", "left")


@pytest.fixture(scope="module", params=["-O2", "-O0"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program with a plugin, where its threads are as their names say; without and with frame pointers."""
    folder = tmp_path_factory.mktemp("frames")
    plugin = compile_file(folder, "libplugin.so", PLUGIN, request.param, language="c")
    return compile_file(folder, "host", HOST, request.param, "-D_GNU_SOURCE", f'-DPLUGIN_PATH="{plugin}"', language="c")


@pytest.fixture
def pid(program: Path) -> Iterator[int]:
    """Run the program with all threads."""
    with running([program, *WAITING, "spinning"]) as process:
        yield process.pid


def inside(plan: Plan) -> Mapping[str, bool]:
    """Return which threads are inside, by name, and whether that is certain."""
    assert {each.library for each in plan.threads_inside} <= {"libplugin.so"}
    return {each.thread.name or "": each.certain for each in plan.threads_inside}


def test_a_running_process_is_not_stopped_to_see_where_its_threads_are(pid: int) -> None:
    with dlwhy.open(pid) as process:
        (plan,) = process.plan("libplugin.so").plans
        (ranked,) = [p for p in process.plan().plans if p.library.name == "libplugin.so"]
    found = inside(plan)
    assert {"inside", "beside", "signalled"} <= set(found) <= {"inside", "beside", "signalled", "left"}
    assert not found.get("left", False)
    # Where a thread is that a processor executes just now, only a debugger can see.
    assert plan.threads_unknown == 1
    assert inside(ranked) == found
    status = Path(f"/proc/{pid}/status").read_text()
    assert "TracerPid:\t0\n" in status


def test_a_core_says_the_same_with_frames(program: Path, tmp_path: Path) -> None:
    core = dump(program, tmp_path / "core", [*WAITING, "spinning"])
    with dlwhy.open(core) as process:
        (plan,) = process.plan("libplugin.so").plans
        (other,) = process.plan("host").plans
    certain = [each.thread.tid for each in plan.threads_inside if each.certain]
    # Frames above a signal's are found as words.
    assert len(certain) == 3
    assert 4 <= len(plan.threads_inside) <= 5
    assert plan.threads_unknown == 0
    assert other.threads_inside == ()
    core.unlink()


def test_threads_that_come_and_go_are_no_error(pid: int) -> None:
    with dlwhy.open(pid) as process:
        started = time.monotonic()
        for _ in range(5):
            process.plan("libplugin.so")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("code", "is_call"),
    [
        ("909090e810000000", True),
        ("909090909090ffd0", True),
        ("9090909041ff5424", False),
        ("90909041ff542408", True),
        ("9090ff1510200000", True),
        ("90ff942400010000", True),
        ("90909090ff5008eb", False),
        ("9090909090ff5008", True),
        ("9090909090ff1424", True),
        ("90ff142500010000", True),
        ("9090909090909090", False),
        ("909090909090ffe0", False),
    ],
)
def test_what_follows_a_call(code: str, is_call: bool) -> None:
    assert ends_with_call(X86_64, bytes.fromhex(code)) is is_call
    assert ends_with_call(I386, bytes.fromhex(code)) is is_call


def test_calls_of_other_architectures() -> None:
    aarch64 = X86_64._replace(arch="aarch64")
    calls = {0x94000010: True, 0x97FFFFF0: True, 0xD63F0200: True, 0x14000010: False, 0xD61F0200: False}
    for word, is_call in calls.items():
        assert ends_with_call(aarch64, bytes(4) + word.to_bytes(4, "little")) is is_call
    assert ends_with_call(S390X, bytes(8))
