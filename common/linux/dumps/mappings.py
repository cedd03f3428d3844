"""What does the kernel say is mapped in a process of this machine?

Source: proc_pid_maps(5).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, Optional

from ...charset import decode
from ...target import Target

#: More than vm.max_map_count allows, unless it was raised.
_MAX_BYTES = 64 << 20
_DELETED = " (deleted)"


class Mapping(NamedTuple):
    """A mapping ``[start, end)``; ``path`` names its file, or what it is for, such as ``[heap]``; empty for neither.

    ``offset`` is that of its start in the file, in bytes.
    """

    start: int
    end: int
    permissions: str
    offset: int
    path: str

    @property
    def is_of_file(self) -> bool:
        """Return True if it shows a file."""
        return self.path.startswith("/")

    @property
    def is_deleted(self) -> bool:
        """Return True if the kernel says that the file has no name any more."""
        return self.is_of_file and self.path.endswith(_DELETED)

    @property
    def file(self) -> str:
        """Return the path of the file, also of one that has no name any more."""
        return self.path[: -len(_DELETED)] if self.is_deleted else self.path


class Mappings:
    """The mappings of a process."""

    def __init__(self, found: Sequence[Mapping]) -> None:
        self._found = sorted(found, key=attrgetter("start"))
        self._starts = [each.start for each in self._found]

    def at(self, address: int) -> Optional[Mapping]:
        """Find the mapping that contains an address."""
        index = bisect_right(self._starts, address) - 1
        return self._found[index] if index >= 0 and address < self._found[index].end else None

    def within(self, start: int, end: int) -> Sequence[Mapping]:
        """Return the mappings that begin in ``[start, end)``."""
        return self._found[bisect_right(self._starts, start - 1) : bisect_right(self._starts, end - 1)]


def read_mappings(target: Target) -> Optional[Mappings]:
    """Read the mappings of a process of this machine; None for other targets, or if they cannot be read."""
    if target.kind != "live" or target.pid is None:
        return None
    try:
        with open(f"/proc/{target.pid}/maps", "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError:
        return None
    # A list that is cut off would make what is behind look like not mapped.
    return None if len(data) > _MAX_BYTES else Mappings([_parse(line) for line in data.splitlines() if line])


def _parse(line: bytes) -> Mapping:
    r"""Decode a line: ``START-END PERMISSIONS OFFSET DEVICE INODE    PATH``; a newline in the path is ``\012``."""
    parts = line.split(None, 5)
    start, _, end = parts[0].partition(b"-")
    path = decode(parts[5].replace(b"\\012", b"\n")) if len(parts) > 5 else ""
    return Mapping(int(start, 16), int(end, 16), decode(parts[1]), int(parts[2], 16), path)
