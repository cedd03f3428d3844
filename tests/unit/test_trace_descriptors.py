"""Are the files told that a library has left open when it went, with the calls that opened them?

The process of these tests has itself for its descriptors: they are opened and closed for real.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dlwhy.common.errors import UnsupportedError
from dlwhy.common.linux.trace.descriptors import read_descriptors
from dlwhy.tests.support.live_glibc import NOWHERE, Script
from dlwhy.tests.support.told import told
from dlwhy.tests.synth.glibc import Library

CODE = {"code": 0x18}


class Files:
    """Files that are open, and are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers: dict[str, int] = {}

    def open(self, name: str) -> str:
        """Open a file; gives its path."""
        path = self.folder / name
        path.write_text("")
        self.numbers[name] = os.open(path, os.O_RDONLY)
        return str(path)

    def close(self, name: str) -> None:
        """Close it."""
        os.close(self.numbers.pop(name))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path)
    yield made
    for name in list(made.numbers):
        made.close(name)


def script(*libraries: str) -> Script:
    """Return a process whose descriptors are watched: those of this one."""
    made = Script(
        Library("liba.so", needs=["libb.so"], functions=CODE), Library("libb.so", functions=CODE), Library("libx.so")
    )
    made.target.kind, made.target.pid = "live", os.getpid()
    made.begin(*libraries, fds=True)
    return made


def test_what_a_library_opened_and_left_open_is_told_when_it_has_gone(files: Files) -> None:
    made = script()
    handle = made.main.dlopen("libx.so")
    path = files.open("left")
    files.open("closed")
    made.report()  # reads what libx.so has loaded
    files.close("closed")
    made.main.dlclose(handle)
    (leak,) = made.report().descriptor_leaks
    assert told([leak]) == [f"in 2: leak libx.so: {path}"]
    assert leak.descriptor == files.numbers["left"]
    assert leak.header.number > 2
    assert told(made.events)[-1] == f"in 2: leak libx.so: {path}"


def test_what_was_open_before_the_library_came_is_not_its(files: Files) -> None:
    files.open("before")
    made = script()
    files.open("between")
    made.main.dlclose(made.main.dlopen("libx.so"))
    assert made.report().descriptor_leaks == ()


def test_what_was_loaded_together_is_one(files: Files) -> None:
    made = script()
    handle = made.main.dlopen("liba.so")
    path = files.open("left")
    made.main.dlclose(handle)
    assert told(made.report().descriptor_leaks) == [f"in 2: leak liba.so: {path}"]


def test_a_library_that_was_there_before_the_trace(files: Files) -> None:
    made = Script(Library("libx.so"))
    handle = made.main.dlopen("libx.so")
    made.target.kind, made.target.pid = "live", os.getpid()
    made.begin(fds=True)
    path = files.open("left")
    made.main.dlclose(handle)
    assert told(made.report().descriptor_leaks) == [f"in 1: leak libx.so: {path}"]


def test_the_same_file_is_told_once_and_again_after_it_was_closed(files: Files) -> None:
    made = script()
    handle = made.main.dlopen("libx.so")
    path = files.open("left")
    made.main.dlclose(handle)
    made.main.dlclose(made.main.dlopen("libx.so"))
    assert len(made.report().descriptor_leaks) == 1
    files.close("left")
    made.main.dlclose(made.main.dlopen("libx.so"))
    handle = made.main.dlopen("libx.so")
    files.open("left")
    made.main.dlclose(handle)
    assert [leak.descriptor_target for leak in made.report().descriptor_leaks] == [path, path]


def test_who_opened_it_is_told_of_the_libraries_that_were_asked_for(files: Files) -> None:
    made = script("lib[ab].so")
    handle = made.main.dlopen("liba.so")
    path = files.open("left")
    files.open("second")
    with made.main.within(("libb.so", "code")):
        made.main.call_libc("open", made.target.string(path.encode()))
        made.main.call_libc("socket")
    made.main.call_libc("open", made.target.string(path.encode()))
    made.main.dlclose(handle)
    first, second = made.report().descriptor_leaks
    assert told([first]) == [f"in 2: leak liba.so: {path} by libb.so:code"]
    # Nothing is known of the second one's name: any call of the library may have been it.
    assert [site.function for site in second.opened_at or ()] == ["code"]


def test_a_call_of_a_library_that_came_a_moment_ago(files: Files) -> None:
    made = script("libb.so")
    path = files.open("left")

    def construct(_: object) -> None:
        with made.main.within(("libb.so", "code")):
            made.main.call_libc("open", made.target.string(path.encode()))

    made.constructors["libb.so"] = construct
    made.main.dlopen("liba.so")
    made.report()
    assert made.target.handlers
    assert told(made.events) == ["open liba.so: loaded + liba.so libb.so"]


def test_a_path_that_cannot_be_read_and_none_at_all(files: Files) -> None:
    made = script("liba.so")
    handle = made.main.dlopen("liba.so")
    files.open("left")
    with made.main.within(("liba.so", "code")):
        made.main.call_libc("open", 0)
        made.main.call_libc("open", 0x1000)
    made.main.dlclose(handle)
    (leak,) = made.report().descriptor_leaks
    assert [site.library for site in leak.opened_at or ()] == ["liba.so"]
    assert made.report().problems == ()


def test_memory_that_cannot_be_read_is_a_problem() -> None:
    made = script("liba.so")
    made.target.forget(made.process.base(made.library("ld.so")), 0x5000)
    with made.main.within(NOWHERE):
        made.main.call_libc("open", 0)
    made.target.heal()
    assert [problem.where for problem in made.report().problems] == ["open in thread 4711"]


@pytest.mark.parametrize(("kind", "pid"), [("remote", 4711), ("live", None)])
def test_a_process_elsewhere_has_descriptors_that_cannot_be_read(kind: str, pid: int) -> None:
    made = Script()
    made.target.kind, made.target.pid = kind, pid
    with pytest.raises(UnsupportedError, match="only in a process on this machine"):
        made.begin(fds=True)


def test_a_process_that_is_gone_has_none() -> None:
    assert read_descriptors(2**30) == {}
    assert read_descriptors(os.getpid())
