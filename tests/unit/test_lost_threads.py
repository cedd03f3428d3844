"""Is a TLS destructor of a thread that does not exist told from one that will run, and one of the main thread's?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import dlwhy
import pytest
from dlwhy.common.commands.dlplan.document import plan_document
from dlwhy.common.commands.dlplan.text import plan_view
from dlwhy.common.commands.dlstate.document import state_document
from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.linux.model import HoldKind
from dlwhy.common.linux.plan_model import Plans
from dlwhy.common.render.text import render
from dlwhy.tests.hosts.gdbrun import clean_environment
from dlwhy.tests.support.children import tell
from dlwhy.tests.synth.process import compile_file

OWED = 'struct D { int v; ~D() { v = 0; } }; thread_local D d; extern "C" void owe() { d.v++; }\n'
USER = 'extern "C" void owe(); extern "C" void use() { owe(); }\n'
HOST = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *plugin;
static const char *how;
static volatile int up;
static void tell(void)
{
    char byte;
    printf("ready %d\n", getpid());
    fflush(stdout);
    if (read(0, &byte, 1) != 1)
        _exit(4);
    dlclose(plugin);
    void *again = dlopen(PLUGIN, RTLD_NOLOAD | RTLD_LAZY);
    if (again)
        dlclose(again), dlclose(dlopen(OTHER, RTLD_NOW));
    puts(dlopen(PLUGIN, RTLD_NOLOAD | RTLD_LAZY) ? "stays" : "gone");
    fflush(stdout);
    _exit(0);
}
static void owe(void) { ((void (*)(void))dlsym(plugin, SYMBOL))(); }
static void *work(void *unused)
{
    (void)unused;
    owe();
    up++;
    if (!strcmp(how, "killed"))
        syscall(SYS_exit, 0);
    for (;;)
        pause();
}
static void *brief(void *unused) { (void)unused; owe(); return 0; }
static void *forker(void *unused)
{
    (void)unused;
    if (!fork())
        tell();
    for (;;)
        pause();
}
static void *forking_debtor(void *unused) { owe(); return forker(unused); }
int main(int count, char **names)
{
    pthread_t thread;
    (void)count;
    how = names[1];
    plugin = dlopen(PLUGIN, RTLD_NOW);
    if (!strncmp(how, "main", 4))
        owe();
    if (!strcmp(how, "main"))
        tell();
    if (!strcmp(how, "main, forked by a debtor")) {
        pthread_create(&thread, 0, forking_debtor, 0);
        for (;;)
            pause();
    }
    pthread_create(&thread, 0, strcmp(how, "exited") ? work : brief, 0);
    if (!strcmp(how, "exited"))
        pthread_join(thread, 0);
    else
        while (!up)
            usleep(1000);
    if (!strcmp(how, "killed"))
        usleep(50000);
    if (strcmp(how, "forked") && strcmp(how, "exited") && strcmp(how, "forker"))
        tell();
    if (!strcmp(how, "forker"))
        pthread_create(&thread, 0, forker, 0);
    else if (!fork())
        tell();
    for (;;)
        pause();
}
"""


class Programs(NamedTuple):
    """A program whose plugin is owed a destructor, and one whose plugin needs the library that is."""

    direct: Path
    needing: Path


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    folder = tmp_path_factory.mktemp("lost")
    owed = compile_file(folder, "libowed.so", OWED)
    user = compile_file(folder, "libuser.so", USER, "-lowed")
    other = compile_file(folder, "libother.so", "int other;", language="c")

    def host(name: str, plugin: Path, symbol: str) -> Path:
        macros = (f'-DPLUGIN="{plugin}"', f'-DOTHER="{other}"', f'-DSYMBOL="{symbol}"', "-D_GNU_SOURCE")
        return compile_file(folder, name, HOST, *macros, language="c")

    return Programs(host("direct", owed, "owe"), host("needing", user, "use"))


@contextmanager
def ready(program: Path, how: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run a program until it, or its child, waits; yield the id of that."""
    with subprocess.Popen(
        [str(program), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment({})
    ) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:1] == ["ready"]
            yield int(words[1]), process
        finally:
            process.kill()


def close(process: subprocess.Popen[str]) -> str:
    """Let it close its plugin, and the collector run again; return what became of the plugin."""
    return tell(process, "x")


def advice(plans: Plans) -> str:
    return " ".join(render(plan_view(plans, verbose=False)).split())


@pytest.mark.parametrize("how", ["forked", "forker", "killed"])
def test_a_destructor_of_a_thread_that_does_not_exist_never_runs(programs: Programs, how: str) -> None:
    with ready(programs.direct, how) as (pid, process):
        with dlwhy.open(pid) as examined:
            state = examined.state("libowed.so")
            plans = examined.plan("libowed.so")
        assert close(process) == "stays"
    (library,) = state.libraries
    (hold,) = (hold for hold in library.holds if hold.kind is HoldKind.TLS_DESTRUCTORS)
    assert [(each.thread, each.function.name) for each in hold.destructors] == [(None, "D::~D()")]
    assert state.problems == ()
    document = state_document("dlstate", state)
    assert document["libraries"][0]["holds"][-1]["destructors"][0]["thread"] is None
    words = " ".join(render(state_view(state, verbose=False)).split())
    assert "Nothing unloads it in this process: a thread that does not exist here owes it a TLS destructor" in words
    assert plans.plans[0].remedy is not None
    assert plans.plans[0].remedy.blocker is not None
    assert "Nothing unloads it in this process: a thread that does not exist here" in advice(plans)


def test_what_it_needs_stays_with_it(programs: Programs) -> None:
    with ready(programs.needing, "forked") as (pid, process):
        with dlwhy.open(pid) as examined:
            state = examined.state("libuser.so")
            plans = examined.plan("libuser.so")
        assert close(process) == "gone"
        assert plans.plans[0].is_unloaded
    assert [hold.kind for hold in state.libraries[0].holds] == [HoldKind.OPEN_COUNT]
    (owed,) = (library for library in plans.plans[0].kept if library.name == "libowed.so")
    assert owed.holds[0].never_ends


def test_after_a_thread_has_exited_a_fork_changes_nothing(programs: Programs) -> None:
    with ready(programs.direct, "exited") as (pid, process):
        with dlwhy.open(pid) as examined:
            plans = examined.plan("libowed.so")
        assert plans.plans[0].is_unloaded
        assert close(process) == "gone"


def test_the_main_thread_runs_its_destructors_at_the_end_of_the_process(programs: Programs) -> None:
    with ready(programs.direct, "main") as (pid, process):
        with dlwhy.open(pid) as examined:
            state = examined.state("libowed.so")
            plans = examined.plan("libowed.so")
        assert close(process) == "stays"
    ending = "owes it a TLS destructor, and is the main thread, which runs it then."
    words = " ".join(render(state_view(state, verbose=False)).split())
    assert f"It goes at the end of the process: thread 1 {ending}" in words
    assert f"libowed.so goes at the end of the process: thread 1 (LWP {pid}) {ending}" in advice(plans)


def test_while_too_few_destructors_are_found_no_remedy_is_certain(programs: Programs) -> None:
    # The thread that forks owes one and is the child's main thread; the parent's, which also does, exists no more.
    with ready(programs.direct, "main, forked by a debtor") as (pid, process):
        with dlwhy.open(pid) as examined:
            state = examined.state("libowed.so")
            plans = examined.plan("libowed.so")
        assert close(process) == "stays"
    remedy = plans.plans[0].remedy
    assert remedy is not None
    assert remedy.is_possible is None
    document: Any = plan_document("dlplan", plans)
    assert document["remedy"]["possible"] is None
    words = " ".join(render(state_view(state, verbose=False)).split())
    doubt = (
        "If it does not exist, nothing unloads libowed.so in this process; otherwise {} goes at the end of the process"
    )
    assert "A thread that was not seen, or does not exist, owes it a TLS destructor. " + doubt.format("it") in words
    assert doubt.format("libowed.so") in advice(plans)


def test_another_thread_runs_them_when_it_exits(programs: Programs) -> None:
    with ready(programs.direct, "working") as (pid, _), dlwhy.open(pid) as examined:
        state = examined.state("libowed.so")
    words = " ".join(render(state_view(state, verbose=False)).split())
    assert "once dlclose has been called on it once more and thread 2 has exited." in words
