"""How many requests does a debugger get for each library?"""

from __future__ import annotations

import shutil

import pytest
from dlwhy.common.linux.loader.collector import CollectorRules, mark
from dlwhy.common.linux.loader.find import find_loader_globals
from dlwhy.common.linux.loader.layout import choose_layouts
from dlwhy.common.linux.loader.maps import read_graph
from dlwhy.common.linux.loader.rendezvous import find_rendezvous
from dlwhy.common.linux.state.examine import explain
from dlwhy.common.memory import Memory
from dlwhy.tests.fakes import CoreTarget, snapshot
from dlwhy.tests.synth.damage import make_build_unknown
from dlwhy.tests.synth.process import compile_file, dump

LIBRARIES = 300

MAIN = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    char name[64];
    for (int i = 0; i < LIBRARIES; i++) {
        snprintf(name, sizeof name, "libtiny%d.so", i);
        if (!dlopen(name, RTLD_NOW)) { puts(dlerror()); return 3; }
    }
    puts("ready");
    fflush(stdout);
    getchar();
    return argc + !argv;
}
"""


@pytest.fixture(scope="module", params=["as-it-is", "unknown-build"])
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CoreTarget:
    """Give a process that has opened a copy of one library 300 times, by a glibc that the tables have or lack."""
    folder = tmp_path_factory.mktemp("many")
    tiny = compile_file(folder, "libtiny0.so", "int tiny;", language="c")
    for number in range(1, LIBRARIES):
        shutil.copy(tiny, folder / f"libtiny{number}.so")
    program = compile_file(folder, "main", MAIN, f"-DLIBRARIES={LIBRARIES}", language="c")
    core = dump(program, folder / "core")
    if request.param == "unknown-build":
        make_build_unknown(core)
    return snapshot(core)


def test_all_that_is_asked_of_300_libraries(many: CoreTarget) -> None:
    many.heal()
    state = explain(many)
    opened = [each for each in state.libraries if each.name.startswith("libtiny")]
    assert len(opened) == LIBRARIES
    assert {each.holds[0].total for each in opened} == {1}
    assert state.problems == ()
    assert all(each.soname == "libtiny0.so" for each in opened), "identities were read too"
    assert many.reads <= 1.5 * len(state.libraries)


def test_the_graph_and_its_marks(many: CoreTarget) -> None:
    memory = Memory(many)
    start = find_rendezvous(memory)
    private = find_loader_globals(memory, start)
    assert private is not None
    layouts = choose_layouts(memory, start, private).layouts
    many.heal()
    fresh = Memory(many)
    graph = read_graph(fresh, layouts, private.rtld_global)
    kept = mark(graph.namespaces[0], graph, CollectorRules.of(layouts.version))
    assert len(kept) == len(graph.by_address) >= LIBRARIES
    assert many.reads <= 0.25 * len(graph.by_address)


def test_in_brief_only_headers_are_looked_at(many: CoreTarget) -> None:
    many.heal()
    state = explain(many, brief=True)
    assert {each.soname for each in state.libraries if each.name.startswith("libtiny")} == {None}
    # One for each library: its headers are compared with what the loader has noted of them.
    assert many.reads <= 1.2 * len(state.libraries)


def test_nothing_is_read_twice(many: CoreTarget) -> None:
    many.heal()
    explain(many)
    assert len(set(many.log)) == len(many.log)
