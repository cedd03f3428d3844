"""Is a debugger left alone by names that demanglers never return from, print, or make megabytes of?

The names are those of TLS destructors: the answer shows them, live and on a core, and in the midst of a trace.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dlwhy.tests.hosts.comparing import compare
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL, Hosts, Subject
from dlwhy.tests.hosts.scenario import Json
from dlwhy.tests.support.children import running
from dlwhy.tests.synth.names import doubling_cxx
from dlwhy.tests.synth.process import compile_file
from dlwhy.tests.trace.attached import document_in
from dlwhy.tests.trace.debugging import debug

SECONDS = 60.0

# __cxa_demangle of libstdc++ 12 never returns from the first; rust_demangler prints the second; the third stands for
# a megabyte; the last one is as good as any.
ENDLESS = "_ZcvDOsrdtDO"
PRINTED = "_RINvC11\x1b]0;PWNED\x07\n1bL_pE"
BENIGN = "_RINvC11AAAAAAAAAAA1bL_pE"  # of the same length
DOUBLING = doubling_cxx(16)  # gdb itself takes minutes for a few more
GOOD, READABLE = "_ZN5TallyD1Ev", "Tally::~Tally()"

LIBRARY = """
extern int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern char __dso_handle[] __attribute__((visibility("hidden")));
#define OWED(name, symbol) void name(void *) __asm__(symbol); void name(void *p) { (void)p; }
OWED(good, "GOOD") OWED(endless, "ENDLESS") OWED(printed, "BENIGN") OWED(doubling, "DOUBLING")
void owe(void) {
    void (*all[])(void *) = {good, endless, printed, doubling};
    for (int i = 0; i < 4; i++) __cxa_thread_atexit_impl(all[i], 0, __dso_handle);
}
"""

PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words) {
    for (int i = 0; i < atoi(words[2]); i++) {
        void *handle = dlopen(words[1], RTLD_NOW);
        void (*owe)(void) = (void (*)(void))dlsym(handle, "owe");
        if (i == 0) owe();
        dlclose(handle);
    }
    printf("ready\\n");
    fflush(stdout);
    if (count > 3) pause();
    return 0;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("names")
    source = LIBRARY
    for key, name in (("GOOD", GOOD), ("ENDLESS", ENDLESS), ("BENIGN", BENIGN), ("DOUBLING", DOUBLING)):
        source = source.replace(f'"{key}"', f'"{name}"')
    library = compile_file(made, "libevil.so", source, "-Wl,-Bsymbolic", language="c")
    data = library.read_bytes()
    assert BENIGN.encode() in data
    library.write_bytes(data.replace(BENIGN.encode(), PRINTED.encode()))
    compile_file(made, "program", PROGRAM, language="c")
    return made


@contextmanager
def ready(folder: Path) -> Iterator[int]:
    """Run the program until it is ready."""
    with running([folder / "program", folder / "libevil.so", "1", "wait"]) as process:
        yield process.pid


def check(answer: Json) -> None:
    (library,) = answer["libraries"]
    (hold,) = [hold for hold in library["holds"] if hold["kind"] == "tls-destructors"]
    names = [each["function"]["name"] for each in hold["destructors"]]
    assert sorted(names) == sorted([READABLE, ENDLESS, PRINTED, DOUBLING])
    assert [each["where"] for each in answer["problems"]] == ["names"]


def test_every_host_answers_in_time_and_alike(hosts: Hosts, folder: Path, tmp_path: Path) -> None:
    core = tmp_path / "gdb.core"
    found = []
    with ready(folder) as pid:
        for subject in (Subject(pid=pid), Subject(core=core)):
            if subject.core:
                hosts.ask(GDB, Subject(pid=pid), (), core)
            replies, texts = {}, {}
            for host in HOSTS:
                began = time.monotonic()
                replies[host], texts[host] = hosts.ask(
                    host, subject, ("dlstate libevil.so --json", "dlstate libevil.so")
                )
                assert time.monotonic() - began < SECONDS, host
                assert "\x1b" not in texts[host].output
                check(replies[host].document)
            found += compare(replies, str(subject), thread_names=subject.core is None)
            if subject.core is None:
                assert len({text.output.rstrip() for text in texts.values()}) == 1
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("host", [host for host in HOSTS if host != SHELL])
def test_a_trace_goes_on(host: str, folder: Path, tmp_path: Path) -> None:
    go = "continue" if host == GDB else "process continue"
    commands = ["dltrace start --tls --log $LOG", go, "dltrace report --json"]
    began = time.monotonic()
    result = debug(host, tmp_path, folder / "program", commands, f"{folder / 'libevil.so'} 40")
    assert time.monotonic() - began < 2 * SECONDS
    report = document_in(result.output)
    assert report["totals"]["closes"] == 40
    assert report["totals"]["closes_mispredicted"] == 0
    assert "ready" in result.output
    assert "\x1b]0;PWNED" not in result.output
    assert "names" in [each["where"] for each in report["problems"]]
    names = json.dumps(report["tls_registrations"])
    assert f'"{READABLE}"' in names
    assert f'"{ENDLESS}"' in names


def test_gdb_has_no_other_child_than_its_process(folder: Path, tmp_path: Path) -> None:
    """It waits for all its children, and would get to see one of ours."""
    ask = "python import os; print('children', open(f'/proc/self/task/{os.getpid()}/children').read().split())"
    pid = "python print('process', [str(gdb.selected_inferior().pid)])"
    commands = ["tbreak pause", "continue", "dlstate libevil.so", ask, pid, "dlstate libevil.so", "kill"]
    result = debug(GDB, tmp_path, folder / "program", commands, f"{folder / 'libevil.so'} 1 wait")
    assert result.output.count(f"{READABLE} in libevil.so") == 2
    lines = {line.split(" ")[0]: line.split(" ", 1)[1] for line in result.output.splitlines() if " [" in line}
    assert lines["children"] == lines["process"], json.dumps(lines)
