"""Is every host left alone by a target that names something else than a file as one of its libraries?

What it names is not read: a FIFO keeps its content, /proc/kmsg the kernel's messages, /proc/self/mem is no traceback.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dlwhy.tests.hosts.comparing import compare
from dlwhy.tests.hosts.debuggers import GDB, HOSTS, SHELL, Hosts, Subject
from dlwhy.tests.hosts.scenario import Json
from dlwhy.tests.support.children import running
from dlwhy.tests.synth.process import compile_file

SECONDS = 60.0
NT_FILE = b"CORE\0\0\0\0"  # the owner of the notes, the first of which is at hand

LIBRARY = """
extern int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);
extern char __dso_handle[] __attribute__((visibility("hidden")));
static void local(void *p) { (void)p; }
void exported(void *p) { (void)p; }
void owe(void) {
    __cxa_thread_atexit_impl(local, 0, __dso_handle);
    __cxa_thread_atexit_impl(exported, 0, __dso_handle);
}
"""

# Goes to a folder, opens a library by the name that is given, owes it destructors and closes it; renames it in its
# link_map, where a name for that is given.
PROGRAM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <unistd.h>
int main(int count, char **words) {
    if (chdir(words[1])) return 1;
    void *handle = dlopen(words[2], RTLD_NOW);
    if (!handle) { puts(dlerror()); return 1; }
    ((void (*)(void))dlsym(handle, "owe"))();
    if (count > 3) ((struct link_map *)handle)->l_name = words[3];
    dlclose(handle);
    printf("ready\\n");
    fflush(stdout);
    pause();
    return 0;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    compile_file(made, "libowed.so", LIBRARY, "-Wl,-Bsymbolic", language="c")
    compile_file(made, "program", PROGRAM, language="c")
    return made


@contextmanager
def ready(folder: Path, *words: str) -> Iterator[int]:
    """Run the program until it is ready."""
    with running([folder / "program", *words]) as process:
        yield process.pid


def destructors(answer: Json) -> list[str | None]:
    (library,) = answer["libraries"]
    (hold,) = [hold for hold in library["holds"] if hold["kind"] == "tls-destructors"]
    return [each["function"]["name"] for each in hold["destructors"]]


def ask(hosts: Hosts, subject: Subject, library: str, asked: tuple[str, ...] = HOSTS) -> dict[str, list[str | None]]:
    """Ask hosts for the names of the destructors; their answers must be alike."""
    replies = {}
    for host in asked:
        began = time.monotonic()
        (replies[host],) = hosts.ask(host, subject, (f"dlstate {library} --json",))
        assert time.monotonic() - began < SECONDS, host
        assert "Traceback" not in replies[host].output
    assert compare(replies, str(subject), thread_names=False) == []
    return {host: destructors(reply.document) for host, reply in replies.items()}


@pytest.mark.parametrize("named", ["fifo", "/proc/kmsg", "/proc/self/mem", "/dev/tty", "/dev/watchdog", "/"])
def test_what_a_process_names_is_not_read(hosts: Hosts, folder: Path, tmp_path: Path, named: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keeper = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    os.write(keeper, b"\x7fELF" * 1000)
    name = str(fifo) if named == "fifo" else named
    core = tmp_path / "gdb.core"
    # Debuggers open what link_maps name themselves: LLDB waits for each of these, gdb for a FIFO, and in /proc/kmsg for
    # the kernel's next message.
    waits = named in ("fifo", "/proc/kmsg")
    asked = (SHELL,) if waits else (SHELL, GDB)
    try:
        with ready(folder, str(folder), "./libowed.so", name) as pid:
            library = os.path.basename(name) or "/"
            for host, names in ask(hosts, Subject(pid=pid), library, asked).items():
                # By /proc/PID/map_files, which not everyone may read, the file is the one that is mapped.
                assert names in (["exported", "local"], ["exported", None]), host
            if waits:
                return
            hosts.ask(GDB, Subject(pid=pid), (), core)
            for host in asked:  # gdb 16 knows from the core which file it was, and opens that
                (names,) = ask(hosts, Subject(core=core), library, (host,)).values()
                assert names in (["exported", None], *([["exported", "local"]] if host == GDB else [])), host
    finally:
        assert os.read(keeper, 8000) == b"\x7fELF" * 1000
        os.close(keeper)
        core.unlink(missing_ok=True)


@pytest.mark.parametrize("named", ["/proc/self/mem", "/proc/kmsg", "/proc/self/fd/0", "/dev/zero", "/"])
def test_what_a_core_says_that_it_maps_is_not_read(hosts: Hosts, folder: Path, tmp_path: Path, named: str) -> None:
    """NT_FILE names what can be read instead of pages that are not in the core."""
    core = tmp_path / "gdb.core"
    library = str(folder / "libowed.so")
    with ready(folder, str(folder), library) as pid:
        hosts.ask(GDB, Subject(pid=pid), (), core)
    content = core.read_bytes()
    start = content.index(NT_FILE)
    notes = content[start : start + (1 << 16)]
    assert library.encode() in notes
    changed = notes.replace(library.encode(), named.rjust(len(library), "/").encode())
    core.write_bytes(content.replace(notes, changed))
    # gdb opens these files itself, and waits in /proc/kmsg for the kernel's next message.
    asked = (SHELL,) if named == "/proc/kmsg" else (SHELL, GDB)
    for host, names in ask(hosts, Subject(core=core), "libowed.so", asked).items():
        assert len(names) == 2, host


def test_a_relative_name_is_that_of_the_process(
    hosts: Hosts, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the debugger's folder there is a library of that name too, but no such one in memory."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.copy(folder / "libowed.so", theirs / "libhere.so")
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "libhere.so")
    core = theirs / "gdb.core"  # LLDB looks beside it
    with ready(folder, str(theirs), "./libhere.so") as pid:
        for host, names in ask(hosts, Subject(pid=pid), "libhere.so").items():
            assert names == ["exported", "local"], host
        hosts.ask(GDB, Subject(pid=pid), (), core)
    for host, names in ask(hosts, Subject(core=core), "libhere.so").items():
        assert names == ["exported", "local"], host
