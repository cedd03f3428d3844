"""How is a named file opened without risk?

Opening a FIFO can block forever, opening a device can start a watchdog, reading /proc/kmsg consumes messages.  So a
file is first opened with O_PATH, which touches nothing, and examined; then the same file is opened for reading.  FUSE
and network file systems can still block.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable
from typing import BinaryIO, Optional

MAX_LINKS = 40  # MAXSYMLINKS of include/linux/namei.h

# f_type of the file systems whose files are interfaces of the kernel (linux/magic.h): proc, sysfs, debugfs, tracefs,
# securityfs, configfs, cgroup, cgroup2, resctrl, bpf, pstore, efivarfs, selinuxfs, smackfs, apparmor's, binfmt_misc,
# devpts, mqueue, fusectl, nsfs, anonymous inodes, rpc_pipefs, nfsd, xenfs, openpromfs, usbfs, binder.
_OF_THE_KERNEL = frozenset(
    {
        *(0x9FA0, 0x62656572, 0x64626720, 0x74726163, 0x73636673, 0x62656570, 0x27E0EB, 0x63677270, 0x7655821),
        *(0xCAFE4A11, 0x6165676C, 0xDE5E81E4, 0xF97CFF8C, 0x43415D53, 0x5A3C69F0, 0x42494E4D, 0x1CD1, 0x19800202),
        *(0x65735543, 0x6E736673, 0x09041934, 0x67596969, 0x6E667364, 0xABBA1974, 0x9FA1, 0x9FA2, 0x6C6F6F70),
    }
)


def open_first(paths: Iterable[str], root: Optional[str] = None) -> Optional[BinaryIO]:
    """Open the first of several files that can be opened, as `open_regular` does; None if none can."""
    for path in paths:
        try:
            return open_regular(path, root)
        except OSError:
            continue
    return None


def open_regular(path: str, root: Optional[str] = None) -> BinaryIO:
    """Open a regular file for reading, without waiting for anything.

    Without ``root`` the user has named it.  With ``root`` the target has: the path begins with a slash, which stands
    for that folder, and neither ".." nor a symbolic link leads out of it.

    :raises OSError: if it cannot be opened, is not a regular file, or is an interface of the kernel.
    """
    if root is not None and not path.startswith("/") and sys.platform != "win32":
        raise FileNotFoundError(errno.ENOENT, "its name is relative to a folder that is not known", path)
    try:
        return os.fdopen(_open(path, root), "rb")
    except ValueError as error:  # a zero byte, or a character that stands for no byte
        raise OSError(errno.EINVAL, str(error), path) from error


if sys.platform == "linux":
    _PLACE = os.O_PATH | os.O_CLOEXEC
    _READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    _PROC_DESCRIPTORS = "/proc/self/fd"

    def _open(path: str, root: Optional[str]) -> int:
        name = path.encode("utf-8", "surrogateescape")
        if root is not None and root != "/":
            return _open_below(root.encode("utf-8", "surrogateescape"), name)
        place = os.open(name, _PLACE)
        try:
            return _open_place(place, name)
        finally:
            os.close(place)

    def _open_below(root: bytes, path: bytes) -> int:
        """Open a file below a folder, following each part of its path by hand: to the kernel "/" is another folder."""
        places = [os.open(root, _PLACE | os.O_DIRECTORY)]
        pending = path.split(b"/")[::-1]
        links = 0
        try:
            while pending:
                name = pending.pop()
                if name == b"..":
                    _close_beyond(places, max(1, len(places) - 1))
                if name in (b"", b".", b".."):
                    continue
                places.append(os.open(name, _PLACE | os.O_NOFOLLOW, dir_fd=places[-1]))
                mode = os.fstat(places[-1]).st_mode
                if stat.S_ISLNK(mode):
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    target = os.readlink(b"", dir_fd=places[-1])
                    _close_beyond(places, 1 if target.startswith(b"/") else len(places) - 1)
                    pending += target.split(b"/")[::-1]
                elif not stat.S_ISDIR(mode) and not any(pending):
                    return _open_place(places[-1], name, places[-2])
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        finally:
            _close_beyond(places, 0)

    def _close_beyond(places: list[int], count: int) -> None:
        while len(places) > count:
            os.close(places.pop())

    def _open_place(place: int, name: bytes, folder: Optional[int] = None) -> int:
        """Open the file of an O_PATH descriptor for reading; by its name in a folder if /proc is not there."""
        status = os.fstat(place)
        _require_regular(status)
        # A file that takes up blocks is in storage; else the file system's kind decides, for which ctypes is imported.
        if not status.st_blocks and _is_of_the_kernel(place):
            raise OSError(errno.EINVAL, "it is a file of the kernel's, not of a disk")
        try:
            return os.open(f"{_PROC_DESCRIPTORS}/{place}", _READ)
        except FileNotFoundError:
            descriptor = os.open(name, _READ | (0 if folder is None else os.O_NOFOLLOW), dir_fd=folder)
        if not os.path.samestat(os.fstat(descriptor), status):
            os.close(descriptor)
            raise OSError(errno.ESTALE, "another file has taken its place")
        return descriptor

    def _is_of_the_kernel(place: int) -> bool:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        status = ctypes.create_string_buffer(512)  # struct statfs: 120 bytes, begins with f_type
        if libc.fstatfs(place, status) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        width = 4 if os.uname().machine.startswith("s390") else ctypes.sizeof(ctypes.c_long)
        kind = int.from_bytes(status.raw[:width], sys.byteorder)
        return kind & 0xFFFFFFFF in _OF_THE_KERNEL

else:

    def _open(path: str, root: Optional[str]) -> int:
        name = path if root is None else _find_below(root, path)
        flags = ("O_BINARY", "O_NOINHERIT", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC")
        descriptor = os.open(name, sum(getattr(os, flag, 0) for flag in flags))
        try:
            _require_regular(os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _find_below(root: str, path: str) -> str:
        """Find a file below a folder; one on a drive below "/".

        :raises OSError: if it is elsewhere, or on another machine.
        """
        if root == "/" and path[1:3] in (":\\", ":/"):
            return path
        base = os.path.realpath(root)
        found = os.path.realpath(os.path.join(base, path.replace("\\", "/").lstrip("/")))
        if ":" in path or os.path.commonpath((base, found)) != base:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


if sys.platform == "win32":

    def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes of a file, starting at an offset."""
        stream.seek(offset)
        return stream.read(size)

else:

    def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes of a file, starting at an offset."""
        return os.pread(stream.fileno(), size, offset)
