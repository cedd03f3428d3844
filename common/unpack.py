"""How is a core or dump decompressed, within limits of time, memory and disk space?

Two KiB can decompress to gigabytes.  So the first bytes are checked before the rest is read, zeros become holes in a
sparse file, and the space used is counted.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from subprocess import Popen
from typing import BinaryIO, NamedTuple, Optional, Union

from .counts import quantity
from .errors import DumpFormatError

#: The disk space that the content may take, in bytes, if the user does not set it.
MAX_SIZE = 4 << 30
#: The content's greatest length with holes, as a multiple of that: zstd writes 8 GiB of zeros in 5 s.
MAX_SPARSENESS = 2
#: The processor time, in seconds, in which a program decompresses up to 64 MiB; in proportion for larger files, and for
#: more disk space. gzip takes 40 s for 8 GiB of zeros.
MAX_SECONDS = 6
_USUAL_INPUT = 64 << 20

#: How long a program may write nothing, and how long it may take to end, in seconds.
SILENCE_SECONDS = 120
ENDING_SECONDS = 10

_CHUNK = 1 << 20
_BLOCK = 4096
_ZERO_CHUNK = bytes(_CHUNK)
_ZERO_BLOCK = bytes(_BLOCK)
_MAX_MEMORY = 1 << 30
_MAX_MESSAGES = 1 << 16
_MAX_LINE = 200
# Matches the beginning of ``/usr/bin/xz: (stdin): no end``, ``gzip: stdin: no end``, ``/*stdin*\ : no end``.
_SPEAKER = r"^(?:\S*(?:zstd|xz|bzip2|gzip|lz4)\S*: )?(?:\(?stdin\)?: |/\*stdin\*\\ *: )?"
_ALLOW_MORE = "allow more by --max-size SIZE, in Python by max_size"
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; in Python since 3.10


class Unpacked(NamedTuple):
    """Content in an unnamed file, its size, and the program's error message if it failed."""

    stream: BinaryIO
    size: int
    flaw: str


def find_program(name: str) -> Optional[str]:
    """Find a program in the folders of PATH, except those relative to the current folder."""
    suffix = ".exe" if sys.platform == "win32" else ""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, name + suffix)
        if os.path.isabs(folder) and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def unpack(
    command: Sequence[Union[str, bytes]],
    source: Optional[BinaryIO],
    name: str,
    check: Callable[[bytes], object],
    max_size: Optional[int] = None,
) -> Unpacked:
    """Run a program and store its output; with a ``source``, which it reads, it is not trusted.

    ``check`` is called with the first bytes, if any, and may raise; ``max_size`` is the disk space that the content may
    take, in bytes (None: 4 GiB).

    :raises DumpFormatError: if the content is too large, or the disk is full.
    """
    try:
        return _unpack(command, source, name, check, max_size)
    except OSError as error:
        message = f"it cannot be decompressed ({error.strerror or error}): name a folder with more room by TMPDIR"
        raise DumpFormatError(name, message) from error


def _unpack(
    command: Sequence[Union[str, bytes]],
    source: Optional[BinaryIO],
    name: str,
    check: Callable[[bytes], object],
    max_size: Optional[int],
) -> Unpacked:
    import subprocess
    import tempfile

    keeper = _SparseWriter(name, tempfile.TemporaryFile(prefix="dlwhy-core-", dir=_folder()), max_size)  # noqa: SIM115
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            list(command),
            bufsize=0,
            stdin=source or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            env=_environment(),
        )
        try:
            seconds = 0
            if source is not None:
                seconds = _allowed_seconds(os.fstat(source.fileno()).st_size, max_size)
                _limit(process.pid, seconds)
            keeper.keep(process, check)
            status = _end(process)
        except BaseException:
            keeper.close()
            process.kill()
            raise
        finally:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        flaw = _told(messages, is_filter=source is not None) or f"exit status {status}" if status else ""
        if seconds and status == -getattr(signal, "SIGXCPU", 0):
            flaw = f"it takes more than {quantity(seconds, 'second')} of processor time: {_ALLOW_MORE}"
    return Unpacked(keeper.stream, keeper.size, flaw)


class _SparseWriter:
    """Writes a program's output to a file, zeros as holes."""

    def __init__(self, name: str, stream: BinaryIO, max_size: Optional[int]) -> None:
        self.stream = stream
        self.size = 0
        self._name = name
        self._allocated = 0
        self._max_size = MAX_SIZE if max_size is None else max_size

    def keep(self, process: Popen[bytes], check: Callable[[bytes], object]) -> None:
        """Write a program's output into the file, once its beginning has been checked.

        :raises DumpFormatError: if it is too large, or the program is silent for too long.
        :raises OSError: if the disk is full.
        """
        assert process.stdout is not None
        _widen(process.stdout.fileno())
        buffer = bytearray(_CHUNK)
        with open(process.stdout.fileno(), "rb", buffering=0, closefd=False) as source, memoryview(buffer) as view:
            filled = self._fill(source, view)
            if filled:
                check(bytes(view[: min(filled, 64)]))
            while filled:
                for start, end in _runs(buffer, filled):
                    self._write(view[start:end], self.size + start)
                self.size += filled
                self._check(self.size, self._max_size * MAX_SPARSENESS, "is, holes included,")
                filled = self._fill(source, view)
        self.stream.truncate(self.size)

    def close(self) -> None:
        """Close the file; flushing it may fail for lack of space."""
        try:
            self.stream.close()
        except OSError:
            return

    def _fill(self, source: FileIO, view: memoryview) -> int:
        """Fill a buffer as far as the program writes.

        :raises DumpFormatError: if it is silent for too long.
        """
        filled = 0
        while filled < len(view):
            if not _is_ready(source.fileno()):
                raise DumpFormatError(self._name, f"what decompresses it wrote nothing for {SILENCE_SECONDS} seconds")
            count = source.readinto(view[filled:])
            if not count:
                break
            filled += count
        return filled

    def _write(self, data: memoryview, offset: int) -> None:
        self._allocated += len(data)
        self._check(self._allocated, self._max_size, "takes up")
        self.stream.seek(offset)
        self.stream.write(data)

    def _check(self, size: int, limit: int, what: str) -> None:
        if size > limit:
            message = f"decompressed it {what} more than {_in_words(limit)}: {_ALLOW_MORE}"
            raise DumpFormatError(self._name, message)


def _in_words(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size >> 10} KiB" if size >= 1 << 10 else quantity(size, "byte")


def _runs(buffer: bytearray, filled: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of blocks that are not all zeros."""
    if filled == _CHUNK and buffer.startswith(_ZERO_CHUNK):
        return
    begin = -1
    for at in range(0, filled, _BLOCK):
        if not buffer.startswith(_ZERO_BLOCK, at, filled):
            begin = at if begin < 0 else begin
        elif begin >= 0:
            yield begin, at
            begin = -1
    if begin >= 0:
        yield begin, filled


def _folder() -> Optional[str]:
    """Return the folder for large files: the user's choice, else not /tmp, which can be in memory."""
    is_told = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return None if is_told or not os.access("/var/tmp", os.W_OK | os.X_OK) else "/var/tmp"


def _environment() -> Mapping[str, str]:
    # Since 5.6 xz takes memory for each processor.
    return {**os.environ, "XZ_OPT": f"{os.environ.get('XZ_OPT', '')} -T1"}


def _allowed_seconds(size: int, max_size: Optional[int]) -> int:
    """Return the processor time, in seconds, that a program may take for a file of this size and this disk space."""
    parts = max(1.0, size / _USUAL_INPUT) * max(1.0, (max_size or 0) / MAX_SIZE)
    return math.ceil(MAX_SECONDS * parts)


def _limit(pid: int, seconds: int) -> None:
    """Limit a program's memory, its time, and the size of its error messages."""
    if sys.platform == "linux":
        import resource

        try:
            resource.prlimit(pid, resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (_MAX_MESSAGES, _MAX_MESSAGES))
            resource.prlimit(pid, resource.RLIMIT_CPU, (seconds, seconds + 1))
        except (OSError, ValueError):
            return  # the program has ended, or its limits are lower


def _widen(pipe: int) -> None:
    """Enlarge a pipe's buffer, so that the writer blocks less often."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, _CHUNK)
        except OSError:
            return  # the user's limit for pipes is reached


def _is_ready(descriptor: int) -> bool:
    """Wait until a program writes or ends; return False if it does neither for too long."""
    import select

    if not hasattr(select, "poll"):
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(SILENCE_SECONDS * 1000))


def _end(process: Popen[bytes]) -> int:
    """Wait for a program that has written everything, and return its exit status."""
    import subprocess

    try:
        return process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _told(messages: BinaryIO, is_filter: bool) -> str:
    """Return a program's error message: its last line, or for decompressors its first.

    bzip2 continues with general advice; the names of the program and of its standard input are omitted.
    """
    import re

    messages.seek(0)
    text = messages.read(_MAX_MESSAGES).decode(errors="replace").strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    told = re.sub(_SPEAKER, "", lines[0]).rstrip(";.") if is_filter else lines[-1]
    return told[:_MAX_LINE]
