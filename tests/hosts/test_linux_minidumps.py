"""What do real minidumps of Linux tell: Crashpad's of a crash, and LLDB's with all memory?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import dlwhy
import pytest
from dlwhy.tests.hosts import lldbs
from dlwhy.tests.hosts.gdbrun import clean_environment
from dlwhy.tests.hosts.glibcs import cached_tree
from dlwhy.tests.synth.process import compile_file

# Crashpad's handler traces its parent, which says where it has written down what the kernel told its signal handler.
PROGRAM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static const char *handler, *database;
static struct __attribute__((packed)) { uint64_t siginfo, context; int32_t thread; } told;
static void crashed(int number, siginfo_t *info, void *context) {
    char parent[64], folder[4096];
    int status = 1;
    told.siginfo = (uintptr_t)info;
    told.context = (uintptr_t)context;
    told.thread = syscall(SYS_gettid);
    snprintf(parent, sizeof parent, "--trace-parent-with-exception=%p", (void *)&told);
    snprintf(folder, sizeof folder, "--database=%s", database);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    pid_t child = fork();
    if (child == 0) {
        execl(handler, handler, folder, parent, (char *)0);
        _exit(127);
    }
    waitpid(child, &status, 0);
    _exit(status != 0);
}
int main(int count, char **words) {
    struct sigaction action = {.sa_sigaction = crashed, .sa_flags = SA_SIGINFO};
    if (!dlopen("libm.so.6", RTLD_NOW)) return 2;
    if (count < 3) { puts("opened"); return 0; }
    handler = words[1];
    database = words[2];
    sigaction(SIGSEGV, &action, 0);
    *(volatile int *)0 = 0;
    return 3;
}
"""
NAMES = {"program", "libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "linux-vdso.so.1"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minidumps")
    compile_file(folder, "program", PROGRAM, "-g", language="c")
    return folder / "program"


def test_a_crash_that_crashpad_caught(program: Path, tmp_path: Path) -> None:
    """Debian's chromium has the handler."""
    tree = cached_tree("chromium-common", lambda tree: lldbs.extract_packages(tree, "chromium-common"))
    (handler,) = tree.rglob("chrome_crashpad_handler")
    subprocess.run([str(program), str(handler), str(tmp_path)], check=True, capture_output=True)
    (path,) = tmp_path.rglob("*.dmp")
    with dlwhy.open(path) as dump:
        state = dump.state()
    assert {library.name for library in state.libraries} == NAMES
    assert all(library.held is None and library.build_id for library in state.libraries)
    assert any("no state of the dynamic loader" in problem.message for problem in state.problems)


def test_a_minidump_with_all_memory_is_as_good_as_a_core(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "full.dmp"
    lldb = lldbs.get(lldbs.NEW)
    words = ["--no-lldbinit", "--batch", "-o", f"target create {program}", "-o", "breakpoint set -n puts", "-o", "run"]
    words += ["-o", f"process save-core --plugin-name=minidump --style=full {path}"]
    environment = {**clean_environment(lldb.environment), "HOME": os.fspath(tmp_path)}
    subprocess.run([*lldb.command, *words], check=True, capture_output=True, timeout=120, env=environment)
    with dlwhy.open(path) as dump:
        state, plan = dump.state(), dump.plan("libm.so.6")
    assert {library.name for library in state.libraries} == NAMES
    assert all(library.held for library in state.libraries)
    (closed,) = plan.plans
    assert [library.name for library in closed.unloads] == ["libm.so.6"]
