"""Where do the events of a trace go, that they outlive it?"""

from __future__ import annotations

import os

from ..errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, TextIO


class EventLog:
    """A file with a line for each event; with no path nothing is written."""

    def __init__(self, path: Optional[str]) -> None:
        """Begin the file anew.

        :raises UsageError: if it cannot be written.
        """
        self._file: Optional[TextIO] = None
        self.failure: Optional[str] = None
        if path:
            path = os.path.expanduser(path)
            try:
                # Lines are written as they come: what ends the debugger must not take the last ones along.
                self._file = open(path, "w", encoding="utf-8", errors="surrogateescape", buffering=1)  # noqa: SIM115
            except OSError as error:
                raise UsageError(f"{path} cannot be written: {error.strerror}") from error

    @property
    def is_open(self) -> bool:
        """Tell whether what is written goes anywhere."""
        return self._file is not None

    def write(self, text: str) -> None:
        """Write a line with its end; where that fails, such as on a full disk, the log ends, and `failure` says why."""
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
            self.failure = f"{file.name} cannot be written: {error.strerror}; the log ends there"
