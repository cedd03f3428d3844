"""Is a name opened where it belongs, and nothing but a regular file in storage, whatever the name leads to?"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dlwhy.common import files
from dlwhy.common.files import open_first, open_regular
from dlwhy.common.linux.dumps.procfs import open_file_of

CLONE_NEWUSER = 0x10000000
SECONDS = 10.0


def content(path: str | Path, root: str | Path | None = None) -> bytes:
    with open_regular(str(path), None if root is None else str(root)) as stream:
        return stream.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root with a library in it, and what must not be had outside."""
    (tmp_path / "secret").write_bytes(b"outside")
    inside = tmp_path / "root"
    (inside / "usr/lib").mkdir(parents=True)
    (inside / "usr/lib/libA.so.1").write_bytes(b"library")
    (inside / "usr/lib/libA.so").symlink_to("libA.so.1")
    (inside / "lib").symlink_to("/usr/lib")
    (inside / "relative").symlink_to("usr/lib")
    return inside


@pytest.mark.parametrize(
    "path",
    [
        "/usr/lib/libA.so.1",
        "/usr/lib/libA.so",
        "/lib/libA.so",
        "//lib/./libA.so",
        "/relative/libA.so",
        "/../../usr/lib/libA.so",
        "/lib/../lib/libA.so",  # the parent of /usr/lib, in which there is a lib
        "/usr/lib/../../../../lib/libA.so",
    ],
)
def test_inside_the_root(root: Path, path: str) -> None:
    assert content(path, root) == b"library"
    assert content(path, f"{root}/") == b"library"


@pytest.mark.parametrize("target", ["../secret", "/../secret", "../../../../secret", "SECRET", "up/../secret"])
def test_nothing_leads_out_of_it(root: Path, target: str) -> None:
    secret = str(root.parent / "secret")
    (root / "up").symlink_to("..")
    (root / "out.so").symlink_to(target.replace("SECRET", secret))
    (root / "folder").symlink_to(str(root.parent))
    for path in ("/out.so", "/up/secret", "/../secret", "/folder/secret", secret, "/usr/lib/../../../secret"):
        assert open_first([path], str(root)) is None, path
    assert content(secret) == b"outside"


@pytest.mark.parametrize("path", ["usr/lib/libA.so", "./usr/lib/libA.so", "", "libA.so"])
def test_a_relative_name_of_a_target_is_not_taken_for_ours(
    root: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(root)
    for where in (str(root), "/"):
        with pytest.raises(FileNotFoundError):
            open_regular(path, where)


def test_a_relative_name_of_the_users_is_in_our_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert content("usr/lib/libA.so") == b"library"


def test_links_without_end_and_what_is_no_folder(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    (root / "ping").symlink_to("pong/x")
    (root / "pong").symlink_to("/ping/x")
    deep = "/x" * 1500
    for path in ("/loop", "/ping", "/usr/lib/libA.so/x", "/usr/lib", "/", "/missing", "/a\0b", "/\ud800", deep):
        assert open_first([path], str(root)) is None, path
        if path != "/loop":
            assert open_first([f"{root}{path}"]) is None, path


def test_no_descriptor_stays_open(root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for path in ("/lib/libA.so", "/missing", "/usr/lib", "/lib/libA.so/x", "/relative/../x"):
        stream = open_first([path], str(root))
        if stream is not None:
            stream.close()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("where", [None, "/", "ROOT"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder"])
def test_only_regular_files(root: Path, kind: str, where: str | None) -> None:
    path = root / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    name = "/thing" if where == "ROOT" else str(path)
    began = time.monotonic()
    with pytest.raises(OSError, match=r"not a regular file|Is a directory|No such file"):
        open_regular(name, str(root) if where == "ROOT" else where)
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("where", [None, "/"])
@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/mem", "/proc/self/maps", "/proc/kmsg"])
def test_nothing_of_the_kernels(path: str, where: str | None) -> None:
    with pytest.raises(OSError, match="kernel"):
        open_regular(path, where)


def test_what_the_kernel_links_to_is_a_file() -> None:
    assert content("/proc/self/exe")[:4] == b"\x7fELF"


def test_an_empty_file_in_storage_is_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert content(tmp_path / "empty") == b""


def test_a_pipe_of_the_shell_is_refused() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)


def test_odd_names(tmp_path: Path) -> None:
    for name in ("müller", "a b\n", os.fsdecode(b"\xff\xfe")):
        (tmp_path / name).write_bytes(b"content")
        assert content(tmp_path / name) == b"content"
        assert content(f"/{name}", tmp_path) == b"content"


@contextmanager
def swapping(path: Path, things: list[Path]) -> Iterator[None]:
    """Put one thing after the other in a place, all the while."""
    stop = threading.Event()

    def swap() -> None:
        link = path.with_name("next")
        while not stop.is_set():
            for thing in things:
                link.symlink_to(thing)
                link.rename(path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("without_proc", [False, True])
def test_what_is_swapped_in_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch, without_proc: bool) -> None:
    """Between check and open a FIFO, which would be waited for, or a file from elsewhere can take the place."""
    os.mkfifo(root / "fifo")
    (root / "good").write_bytes(b"good")
    if without_proc:
        monkeypatch.setattr(files, "_PROC_DESCRIPTORS", "/nonexistent")
    found = set()
    began = time.monotonic()
    with swapping(root / "place", [root / "fifo", root / "good", root.parent / "secret"]):
        for _ in range(1000):
            stream = open_first([str(root / "place")])
            if stream is not None:
                with stream:
                    found.add(stream.read())
    assert time.monotonic() - began < 6 * SECONDS
    assert found <= {b"good", b"outside"}


def test_without_proc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PROC_DESCRIPTORS", "/nonexistent")
    assert content("/lib/libA.so", root) == b"library"
    assert content(root / "usr/lib/libA.so") == b"library"


# -- files of a process ------------------------------------------------------------------------------------------------


@contextmanager
def waiting(folder: Path) -> Iterator[int]:
    """Let a process stand in a folder."""
    with subprocess.Popen(["sleep", "1000"], cwd=folder) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@contextmanager
def confined(root: Path, folder: str) -> Iterator[int]:
    """Let a process stand in a folder of a root of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() != 0:
                ctypes.CDLL(None).unshare(CLONE_NEWUSER)
            os.chroot(root)
            os.chdir(folder)
            os.write(writing, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        assert os.read(reading, 1) == b"x"
        yield pid
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def of_process(pid: int, path: str) -> bytes | None:
    stream = open_file_of(pid, path)
    if stream is None:
        return None
    with stream:
        return stream.read()


def test_relative_names_are_in_the_process_s_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    (root.parent / "libA.so").write_bytes(b"ours")
    with waiting(root / "usr/lib") as pid:
        assert of_process(pid, "./libA.so") == b"library"
        assert of_process(pid, "../lib/libA.so") == b"library"
        assert of_process(pid, str(root.parent / "secret")) == b"outside"
        assert of_process(pid, "missing.so") is None
    assert of_process(pid, "./libA.so") is None


def test_a_process_with_a_root_of_its_own(root: Path) -> None:
    (root / "out.so").symlink_to(str(root.parent / "secret"))
    with confined(root, "/usr/lib") as pid:
        assert of_process(pid, "/lib/libA.so") == b"library"
        assert of_process(pid, "./libA.so") == b"library"
        assert of_process(pid, "../../../../lib/libA.so") == b"library"
        assert of_process(pid, "/out.so") is None
        assert of_process(pid, str(root.parent / "secret")) is None
        assert of_process(pid, str(root / "usr/lib/libA.so")) is None
