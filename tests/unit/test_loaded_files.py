"""Is it said how a library's file has changed since the library was loaded?"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import dlwhy
import pytest
from dlwhy.common.commands.dlstate.text import state_view
from dlwhy.common.linux.dumps.elfcore import build_id_in_first_page
from dlwhy.common.linux.dumps.mappings import open_module, read_mappings
from dlwhy.common.linux.state import files
from dlwhy.common.model import Module
from dlwhy.common.render.text import render
from dlwhy.tests.hosts.gdbrun import clean_environment
from dlwhy.tests.synth.process import compile_file

HOST = """
#include <dlfcn.h>
#include <stdio.h>
int main(void)
{
    puts("started");
    fflush(stdout);
    getchar();
    dlopen(PLUGIN_PATH, RTLD_NOW);
    puts("opened");
    fflush(stdout);
    getchar();
    return 0;
}
"""
SOURCES = {
    "plugin": "int answer(void) { return 1; }",
    "other constant": "int answer(void) { return 7; }",
    "other name": "int answer_under_another_name(void) { return 1; }",
    "other code": "int more[100] = {1}; int answer(void) { return 2; } int next(void) { return answer() + more[3]; }",
}


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the builds of a plugin."""
    folder = tmp_path_factory.mktemp("builds")
    options = ("-shared", "-fPIC", "-Wl,--build-id", "-Wl,-soname,plugin.so")
    return {
        name: compile_file(folder, name.replace(" ", "-") + ".so", source, *options, language="c")
        for name, source in SOURCES.items()
    }


class Running:
    """A program that opens a plugin when it is told to."""

    def __init__(
        self, folder: Path, builds: dict[str, Path], name: Optional[str] = None, descriptors: tuple[int, ...] = ()
    ) -> None:
        self.builds = builds
        self.plugin = folder / "plug.so"
        shutil.copy(builds["plugin"], self.plugin)
        host = compile_file(folder, "host", HOST, f'-DPLUGIN_PATH="{name or self.plugin}"', language="c")
        time.sleep(0.1)  # the kernel notes times to the tick of its clock
        self._process = subprocess.Popen(
            [str(host)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment({}),
            cwd=folder,
            pass_fds=descriptors,
        )
        self.pid = self._process.pid
        self._wait("started")

    def _wait(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n"

    def open_plugin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._wait("opened")
        time.sleep(0.1)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def running(tmp_path: Path, builds: dict[str, Path]) -> Iterator[Running]:
    program = Running(tmp_path, builds)
    try:
        yield program
    finally:
        program.end()


def remove(running: Running) -> None:
    running.plugin.unlink()


def rename_over(running: Running) -> None:
    shutil.copy(running.builds["other code"], running.plugin.with_name("next.so"))
    running.plugin.with_name("next.so").rename(running.plugin)


def install_again(running: Running) -> None:
    shutil.copy(running.builds["plugin"], running.plugin.with_name("next.so"))
    running.plugin.with_name("next.so").rename(running.plugin)


def overwrite(running: Running) -> None:
    shutil.copy(running.builds["other code"], running.plugin)


def overwrite_constant(running: Running) -> None:
    shutil.copy(running.builds["other constant"], running.plugin)


def truncate(running: Running) -> None:
    os.truncate(running.plugin, 0)


def shorten(running: Running) -> None:
    os.truncate(running.plugin, 0x2000)


def write_over(target: Path, build: Path) -> None:
    """Write a build over a file without emptying it before, which would take the process's own pages."""
    with target.open("r+b") as stream:
        stream.write(build.read_bytes())


def write_name(running: Running) -> None:
    write_over(running.plugin, running.builds["other name"])


def write_constant(running: Running) -> None:
    write_over(running.plugin, running.builds["other constant"])


def overwrite_with_the_same(running: Running) -> None:
    shutil.copy(running.builds["plugin"], running.plugin)


def overwrite_keeping_times(running: Running) -> None:
    kept = running.plugin.stat()
    overwrite_constant(running)
    os.utime(running.plugin, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def write_keeping_times(running: Running) -> None:
    kept = running.plugin.stat()
    write_constant(running)
    os.utime(running.plugin, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def touch(running: Running) -> None:
    running.plugin.touch()


def rename_away(running: Running) -> None:
    running.plugin.rename(running.plugin.with_name("old.so"))


def rename_away_and_copy(running: Running) -> None:
    rename_away(running)
    overwrite(running)


def rename_away_and_install_again(running: Running) -> None:
    rename_away(running)
    shutil.copy(running.builds["plugin"], running.plugin)


def remove_after_rename(running: Running) -> None:
    rename_away_and_copy(running)
    running.plugin.with_name("old.so").unlink()


def overwrite_after_rename(running: Running) -> None:
    rename_away(running)
    write_over(running.plugin.with_name("old.so"), running.builds["other name"])


def leave(running: Running) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "state", "problem", "words"),
    [
        (leave, None, "", ""),
        (install_again, None, "", ""),
        (remove, "deleted", "", "has been deleted since it was loaded"),
        (rename_over, "replaced", "", "has been replaced by another since it was loaded"),
        (overwrite, "written", "the file was overwritten while it was loaded", "overwritten"),
        (overwrite_constant, "written", "the file was overwritten while it was loaded", "is lost"),
        (overwrite_keeping_times, "written", "the file was overwritten while it was loaded", "is lost"),
        (overwrite_with_the_same, "written", "the file was overwritten while it was loaded", "is lost"),
        (write_name, "written", "the file was overwritten while it was loaded", "dynamic section"),
        (write_constant, "maybe_written", "", "may have been written in place since it was loaded"),
        (write_keeping_times, "maybe_written", "", "may have been written in place since it was loaded"),
        (touch, "maybe_written", "", "may have been written in place since it was loaded"),
        (rename_away, "renamed", "", "no longer has the name by which it was loaded"),
        (rename_away_and_copy, "replaced", "", "has been replaced by another since it was loaded"),
        (rename_away_and_install_again, "maybe_written", "", "may have been written"),
        (remove_after_rename, "replaced", "", "has been replaced by another since it was loaded"),
        (overwrite_after_rename, "written", "the file was overwritten while it was loaded", "dynamic section"),
        (truncate, "truncated", "the file was truncated while it was loaded", "truncated"),
        (shorten, "truncated", "the file was truncated while it was loaded", "truncated"),
    ],
)
def test_what_has_become_of_a_file(
    running: Running, change: Callable[[Running], None], state: Optional[str], problem: str, words: str
) -> None:
    running.open_plugin()
    change(running)
    with dlwhy.open(running.pid) as process:
        one, every, libc = process.state("plug.so"), process.state(), process.state("libc.so.6")
        plans = process.plan("plug.so")
    assert one.libraries[0].file_state == state
    assert {library.name: library.file_state for library in every.libraries if library.file_state} == (
        {"plug.so": state} if state else {}
    )
    for answer in (one, every, plans):
        messages = [each.message for each in answer.problems if each.where == "plug.so"]
        assert bool(messages) is bool(problem)
        assert all(
            any(text.startswith(problem) and "replace files by rename" in text for text in messages) for _ in messages
        )
    assert libc.problems == ()
    assert one.libraries[0].held is True
    for text in (render(state_view(one, verbose=False)), render(state_view(every, verbose=False))):
        assert words in " ".join(text.split())
    assert "imports dlclose" not in str(plans)


def test_a_relative_name_is_followed_in_the_folder_that_it_was_opened_in(
    tmp_path: Path, builds: dict[str, Path]
) -> None:
    program = Running(tmp_path, builds, name="./plug.so")
    try:
        program.open_plugin()
        with dlwhy.open(program.pid) as process:
            before = process.state("plug.so").libraries[0].file_state
        rename_away_and_copy(program)
        with dlwhy.open(program.pid) as process:
            after = process.state("plug.so").libraries[0].file_state
    finally:
        program.end()
    assert (before, after) == (None, "replaced")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this Python was built without memfd_create")
def test_a_file_that_never_had_a_name_is_not_called_deleted(tmp_path: Path, builds: dict[str, Path]) -> None:
    descriptor = os.memfd_create("plug in\nx", 0)
    os.write(descriptor, builds["plugin"].read_bytes())
    program = Running(tmp_path, builds, name=f"/proc/self/fd/{descriptor}", descriptors=(descriptor,))
    try:
        program.open_plugin()
        with dlwhy.open(program.pid) as process:
            state = process.state(f"/proc/self/fd/{descriptor}")
            states = {library.file_state for library in process.state().libraries}
    finally:
        program.end()
        os.close(descriptor)
    assert (states, state.libraries[0].file_state, state.problems) == ({None}, None, ())
    assert "deleted" not in render(state_view(state, verbose=True))


def test_a_file_that_was_built_and_opened_after_the_start_is_as_it_was(running: Running) -> None:
    running.plugin.unlink()
    overwrite(running)
    time.sleep(0.1)
    running.open_plugin()
    with dlwhy.open(running.pid) as process:
        state = process.state("plug.so")
    assert (state.libraries[0].file_state, state.problems) == (None, ())


def refuse(path: object) -> str:
    raise PermissionError(path)


@pytest.mark.parametrize("root", [lambda path: "/elsewhere", refuse], ids=["of its own", "not readable"])
@pytest.mark.parametrize(("change", "state"), [(leave, None), (rename_over, "replaced"), (touch, "maybe_written")])
def test_where_names_can_lead_elsewhere_each_file_is_looked_at_closely(
    running: Running,
    change: Callable[[Running], None],
    state: Optional[str],
    root: Callable[[object], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running.open_plugin()
    change(running)
    own = {**vars(os), "readlink": lambda path: root(path) if str(path).endswith("/root") else os.readlink(path)}
    monkeypatch.setattr(files, "os", SimpleNamespace(**own))
    with dlwhy.open(running.pid) as process:
        found = process.state()
    assert {library.name: library.file_state for library in found.libraries if library.file_state} == (
        {"plug.so": state} if state else {}
    )


@pytest.mark.parametrize("change", [remove, rename_over])
def test_the_mapped_file_is_opened_in_place_of_the_one_with_its_name(
    running: Running, change: Callable[[Running], None]
) -> None:
    running.open_plugin()
    with dlwhy.open(running.pid) as process:
        library = process.library("plug.so")
    change(running)
    assert library.base is not None
    mappings = read_mappings(running.pid)
    assert mappings is not None
    mapping = mappings.at(library.base)
    assert mapping is not None
    assert (mapping.is_deleted, mapping.file) == (True, str(running.plugin))
    stream = open_module(running.pid, Module(str(running.plugin), library.base, library.build_id))
    if os.geteuid():  # only root may open it
        assert (stream is None) is (change is remove)
    else:
        assert stream is not None
        assert build_id_in_first_page(stream.read(4096)) == library.build_id
    if stream is not None:
        stream.close()
