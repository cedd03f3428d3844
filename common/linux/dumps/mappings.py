"""What does the kernel say is mapped in a process of this machine?

Source: proc_pid_maps(5).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import BinaryIO, NamedTuple, Optional

from ...charset import decode
from ...files import open_first, read_at
from ...model import Module
from ...target import Target
from .procfs import open_file_of

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


def mappings_of(target: Target) -> Optional[Mappings]:
    """Read the mappings of a process of this machine; None for other targets, or if they cannot be read."""
    return None if target.kind != "live" or target.pid is None else read_mappings(target.pid)


def read_mappings(pid: int) -> Optional[Mappings]:
    """Read the mappings of a process; None if they cannot be read."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError:
        return None
    # A list that is cut off would make what is behind look like not mapped.
    return None if len(data) > _MAX_BYTES else Mappings([_parse(line) for line in data.split(b"\n") if line])


def _parse(line: bytes) -> Mapping:
    r"""Decode a line: ``START-END PERMISSIONS OFFSET DEVICE INODE    PATH``; a newline in the path is ``\012``."""
    parts = line.split(None, 5)
    start, _, end = parts[0].partition(b"-")
    path = decode(parts[5].replace(b"\\012", b"\n")) if len(parts) > 5 else ""
    return Mapping(int(start, 16), int(end, 16), decode(parts[1]), int(parts[2], 16), path)


def open_mapped(pid: int, mapping: Mapping) -> Optional[BinaryIO]:
    """Open the very file that a mapping shows, also one without a name; None without the right to.

    Only who has CAP_CHECKPOINT_RESTORE, as root has it, may.
    """
    if not mapping.is_of_file:
        return None
    return open_first([f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"])


def open_module(pid: int, module: Module) -> Optional[BinaryIO]:
    """Open the file of a module of a process, by its name or, if another one has that now, as it is mapped."""
    stream = open_file_of(pid, module.path)
    if module.build_id is None or _is_build(stream, module.build_id):
        return stream
    mappings = read_mappings(pid)
    mapping = mappings.at(module.base) if mappings is not None else None
    mapped = open_mapped(pid, mapping) if mapping is not None else None
    if mapped is None:
        return stream
    if stream is not None:
        stream.close()
    return mapped


def _is_build(stream: Optional[BinaryIO], build_id: str) -> bool:
    from .elfcore import build_id_in_first_page  # asked of few

    return stream is not None and build_id_in_first_page(read_at(stream, 0, 4096)) == build_id
