"""How are a trace's events logged, so that they outlive the trace?"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Optional, TextIO, Union

from ..charset import file_name
from ..errors import UsageError


class EventLog:
    """A log file with one line per event; without a path nothing is written."""

    def __init__(self, path: Optional[str]) -> None:
        """Create the file, or empty it.

        :raises UsageError: if it cannot be written, or writing to it could block the debugger.
        """
        self._file: Optional[TextIO] = None
        self._path = path or ""
        self.failure: Optional[str] = None
        if path:
            try:
                # Lines are written at once: if the debugger dies, the last ones must not be lost.
                self._file = open(_open_file(path), "w", encoding="utf-8", buffering=1)  # noqa: SIM115
            except (OSError, ValueError) as error:
                raise UsageError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error

    @property
    def is_open(self) -> bool:
        """Return True if lines are written to a file."""
        return self._file is not None

    def write(self, text: str) -> None:
        """Write a line with its end; if that fails, as on a full disk, the log ends, and `failure` says why."""
        if self._file is not None:
            try:
                self._file.write(text)
            except OSError as error:
                self._end(error)

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._end(None)

    def _end(self, error: Optional[OSError]) -> None:
        file, self._file = self._file, None
        assert file is not None
        try:
            file.close()
        except OSError as late:
            error = error or late
        if error is not None:
            self.failure = f"{self._path} cannot be written: {error.strerror}; the log ends there"


if sys.platform == "win32":

    def _open_file(path: str) -> Union[str, int]:
        """Return what `open` takes."""
        return os.path.expanduser(path)

else:
    #: /dev/null and /dev/full, which accept or refuse a write at once.
    _NEVER_BLOCK = (os.makedev(1, 3), os.makedev(1, 7))

    def _open_file(path: str) -> Union[str, int]:
        """Return what `open` takes.

        :raises UsageError: if it could block.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            descriptor = os.open(os.path.expanduser(file_name(path)), flags, 0o666)
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                os.truncate(descriptor, 0)
                return descriptor
            if stat.S_ISCHR(status.st_mode) and status.st_rdev in _NEVER_BLOCK:
                return descriptor
            os.close(descriptor)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        raise UsageError(
            f"{path} is no regular file, and can make who writes wait: name a file, and follow it by tail -f"
        )
