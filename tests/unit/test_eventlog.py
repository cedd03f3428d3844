"""Is the log of a trace written to what never makes the debugger wait?"""

from __future__ import annotations

import errno
import os
import pty
import socket
from pathlib import Path

import pytest
from dlwhy.common.charset import decode
from dlwhy.common.commands.eventlog import EventLog
from dlwhy.common.errors import UsageError


def test_a_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    log = EventLog(str(path))
    log.write("first\n")
    assert path.read_text() == "first\n", "a line is there at once"
    log.close()
    log.write("late\n")
    assert (log.failure, log.is_open, path.read_text()) == (None, False, "first\n")


def test_any_bytes_name_a_file(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/l\xc3\xb6g\xff"
    EventLog(decode(path)).write("line\n")
    assert Path(os.fsdecode(path)).read_text() == "line\n"


@pytest.mark.parametrize("is_read", [False, True])
def test_a_fifo_is_refused(tmp_path: Path, is_read: bool) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if is_read else None
    link = tmp_path / "link"
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(UsageError, match="is no regular file, and can make who writes wait: name a file"):
            EventLog(str(name))
    if reader is not None:
        os.close(reader)


def test_terminals_and_sockets_are_refused(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in (os.ttyname(theirs), str(tmp_path / "socket")):
            with pytest.raises(UsageError, match="is no regular file"):
                EventLog(name)
    os.close(ours)
    os.close(theirs)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for name, number in ((tmp_path, errno.EISDIR), (tmp_path / "none" / "log", errno.ENOENT)):
        with pytest.raises(UsageError, match=f"{name} cannot be written: {os.strerror(number)}"):
            EventLog(str(name))
    with pytest.raises(UsageError, match="cannot be written"):
        EventLog("a\0b")


def test_devices_that_never_block() -> None:
    EventLog("/dev/null").write("line\n")
    log = EventLog("/dev/full")
    log.write("line\n")
    assert log.failure == "/dev/full cannot be written: No space left on device; the log ends there"
