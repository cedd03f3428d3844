"""Is what is left of the static TLS block just what a dlopen can get?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dlwhy
import pytest
from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.linux.model import State, StaticTls
from dlwhy.common.render.text import render
from dlwhy.tests.support.children import running, tell
from dlwhy.tests.synth.process import compile_file

PLUGIN = """
static __thread __attribute__((tls_model("initial-exec"))) char big[SIZE];
int touch(void) { return ++big[0]; }
"""
HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
static void *handles[256];
int main(void)
{
    char line[4096];
    int number;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "close %d", &number) == 1)
            puts(dlclose(handles[number]) ? dlerror() : "closed");
        else if (sscanf(line, "open %d", &number) == 1) {
            handles[number] = dlopen(strchr(line + 5, ' ') + 1, RTLD_NOW);
            puts(handles[number] ? "opened" : dlerror());
        }
        fflush(stdout);
    }
    return 0;
}
"""
#: The default of glibc.rtld.optional_static_tls, and of what comes with it, rounded up to the block's alignment.
LEAST, MOST = 512, 4096


class Opener:
    """A process that opens and closes what it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, command: str) -> str:
        return tell(self._process, f"{command}\n")

    def state(self) -> State:
        with dlwhy.open(self._process.pid) as examined:
            return examined.state()

    def left(self) -> StaticTls:
        found = self.state().static_tls
        assert found is not None
        assert found.free + found.lost + sum(size for _, size in found.held) == found.size
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("static_tls")
    compile_file(made, "host", HOST, language="c")
    for name, size in (("liba.so", 200), ("libb.so", 96), ("libc1.so", 40)):
        plugin(made, name, size)
    return made


def plugin(folder: Path, name: str, size: int) -> Path:
    return compile_file(folder, name, PLUGIN, f"-DSIZE={size}", language="c")


@contextmanager
def opener(folder: Path, **variables: str) -> Iterator[Opener]:
    with running([folder / "host"], variables) as process:
        yield Opener(process)


def test_what_is_free_can_be_had_and_not_a_byte_more(folder: Path) -> None:
    with opener(folder) as process:
        assert process.tell(f"open 0 {folder}/liba.so") == "opened"
        left = process.left()
        assert LEAST < left.free < left.size < MOST
        assert dict(left.held) == {"liba.so": 200}
        too_large = plugin(folder, "libtoolarge.so", left.free + 1)
        assert "cannot allocate memory in static TLS block" in process.tell(f"open 1 {too_large}")
        assert process.left() == left
        just = plugin(folder, "libjust.so", left.free)
        assert process.tell(f"open 1 {just}") == "opened"
        assert process.left().free == 0
        words = " ".join(render(state_view(process.state(), verbose=False)).split())
        assert f"0 of {left.size} bytes are free: {left.free} in libjust.so and 200 in liba.so" in words
        assert "GLIBC_TUNABLES=glibc.rtld.optional_static_tls=BYTES" in words


def test_what_is_not_at_the_end_is_lost_when_its_library_is_unloaded(folder: Path) -> None:
    with opener(folder) as process:
        fresh = process.left()
        assert (fresh.held, fresh.lost, fresh.free) == ((), 0, fresh.size)
        for number, name in enumerate(("liba.so", "libb.so", "libc1.so")):
            assert process.tell(f"open {number} {folder}/{name}") == "opened"
        assert dict(process.left().held) == {"liba.so": 200, "libb.so": 96, "libc1.so": 40}
        padding = process.left().lost
        assert process.tell("close 0") == "closed"
        middle = process.left()
        assert (dict(middle.held), middle.lost) == ({"libb.so": 96, "libc1.so": 40}, padding + 200)
        # The last piece comes back, those in front of it do not, though nobody has them.
        assert process.tell("close 2") == "closed"
        assert process.tell("close 1") == "closed"
        ending = process.left()
        assert (ending.held, ending.lost >= 200) == ((), True)


def test_what_an_unlisted_library_has_is_not_told_as_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opener(folder) as process:
        assert process.tell(f"open 0 {folder}/liba.so") == "opened"
        monkeypatch.setattr("dlwhy.common.linux.loader.maps.MAX_LIBRARIES", 3)
        assert process.state().static_tls is None


def test_the_tunable_that_is_named_makes_it_larger(folder: Path) -> None:
    with opener(folder) as process:
        usual = process.left().size
    with opener(folder, GLIBC_TUNABLES="glibc.rtld.optional_static_tls=4096") as process:
        assert process.left().size == usual + 4096 - 512
