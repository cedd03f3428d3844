"""How has a library's file changed since the library was loaded?

A file that is replaced by rename lives on in the processes that have mapped it.  One that is written in place changes
under them: pages that a process has not written to itself show what was written, or are gone.  Only for processes of
this machine the kernel shows which file is mapped.

Sources: proc_pid_maps(5), proc_pid_map_files(5), proc_pid_stat(5), statx(2).
"""

from __future__ import annotations

import os
import sys
import time
from enum import Enum
from functools import cached_property
from typing import BinaryIO, NamedTuple, Optional

from ...files import read_at
from ..dumps.elfcore import build_id_in_first_page
from ..dumps.mappings import Mapping, mappings_of, open_mapped
from ..dumps.procfs import open_file_of
from ..loader.maps import LinkMap
from ..loader.roots import LT_LOADED
from .process import GlibcProcess

#: The kernel notes the time of a write to the tick of its clock.
_TICK_SECONDS = 0.05
_START_TIME = 19  # field 22 of /proc/PID/stat, counted from behind the name
_AT_EMPTY_PATH, _STATX_BTIME = 0x1000, 0x800
_MASK, _BIRTH = slice(0, 4), slice(80, 88)  # of struct statx


class FileState(Enum):
    """How a file has changed; a file that was replaced by one of the same build-id counts as unchanged."""

    DELETED = "deleted"
    REPLACED = "replaced"
    TRUNCATED = "truncated"
    WRITTEN = "written"


class _Times(NamedTuple):
    """When a file was created (None: unknown) and written last, in seconds since 1970."""

    created: Optional[float]
    written: float


class LoadedFiles:
    """The files of a process's libraries, as they are now."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process
        self._target = process.memory.target
        self._mappings = mappings_of(self._target)

    def state_word(self, link_map: LinkMap) -> Optional[str]:
        """Return How a library's file has changed, as `state` does, by its word."""
        state = self.state(link_map)
        return None if state is None else state.value

    def state(self, link_map: LinkMap) -> Optional[FileState]:
        """Return How a library's file has changed: None for nothing, or if that is not known.

        What makes the library itself doubtful is also noted as its trouble.
        """
        mapping = self._mappings.at(link_map.l_map_start) if self._mappings is not None else None
        if mapping is None or not mapping.is_of_file or link_map.is_proxy:
            return None
        if mapping.is_deleted:
            return self._find_successor(link_map, mapping)
        stream = self._open_mapped(mapping) or self._open(mapping)
        if stream is None:
            return None
        with stream:
            missing = self._find_missing(link_map, mapping, stream)
            if missing:
                message = f"the file was truncated while it was loaded: {missing} bytes that are mapped are gone"
                self._process.note_trouble(link_map, f"{message}; replace files by rename")
                return FileState.TRUNCATED
            return self._find_write(link_map, stream)

    def _open_mapped(self, mapping: Mapping) -> Optional[BinaryIO]:
        return open_mapped(self._target.pid, mapping) if self._target.pid is not None else None

    def _open(self, mapping: Mapping) -> Optional[BinaryIO]:
        return open_file_of(self._target.pid, mapping.file) if self._target.pid is not None else None

    def _find_successor(self, link_map: LinkMap, mapping: Mapping) -> Optional[FileState]:
        """Compare a file that has no name any more with the one that has its name now."""
        stream = self._open(mapping)
        if stream is None:
            return FileState.DELETED
        with stream:
            build_id = build_id_in_first_page(read_at(stream, 0, 4096))
        is_same = build_id is not None and build_id == self._process.build_id(link_map)
        return None if is_same else FileState.REPLACED

    def _find_missing(self, link_map: LinkMap, mapping: Mapping, stream: BinaryIO) -> int:
        """Return how many bytes are mapped beyond the end of the file, in whole pages."""
        assert self._mappings is not None
        found = self._mappings.within(link_map.l_map_start, link_map.l_map_end)
        # What a linker has left between segments is mapped without permissions, and can be beyond the end.
        shown = [each for each in found if each.path == mapping.path and each.permissions[:3] != "---"]
        last = max((each.offset + each.end - each.start for each in shown), default=0)
        size = os.fstat(stream.fileno()).st_size
        page = os.sysconf("SC_PAGE_SIZE")
        return max(0, last - -(-size // page) * page)

    def _find_write(self, link_map: LinkMap, stream: BinaryIO) -> Optional[FileState]:
        """Find out if a file was written since it was mapped, which was not before the process was started.

        When a library was opened is not recorded; a file that was created since the start was mapped later than that.
        """
        times = _times_of(stream)
        started = self._started
        if started is None or times.written <= started + _TICK_SECONDS:
            return None
        is_startup = link_map.l_type != LT_LOADED
        if not is_startup and (times.created is None or times.created > started):
            return None
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(times.written))
        since = "since it was loaded" if is_startup else "since the process was started"
        unless = "" if is_startup else " unless it was opened after that,"
        message = f"the file was written in place {since}, at {when}:{unless} what runs is not what was loaded"
        if not self._process.has_trouble(link_map):  # its headers show that it was written
            self._process.note_trouble(link_map, f"{message}; replace files by rename")
        return FileState.WRITTEN

    @cached_property
    def _started(self) -> Optional[float]:
        """Return when the process was started, in seconds since 1970; None if that cannot be read."""
        try:
            with open(f"/proc/{self._target.pid}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
            ticks = int(fields[_START_TIME])
        except (OSError, IndexError, ValueError):
            return None
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age


def _times_of(stream: BinaryIO) -> _Times:
    status = os.fstat(stream.fileno())
    return _Times(_created(stream.fileno()), status.st_mtime)


def _created(descriptor: int) -> Optional[float]:
    """Return when a file was created; None if the file system or the C library does not say."""
    import ctypes  # few files were written since the process was started

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "statx"):
        return None
    result = ctypes.create_string_buffer(256)  # struct statx
    if libc.statx(descriptor, b"", _AT_EMPTY_PATH, _STATX_BTIME, result) != 0:
        return None
    if not int.from_bytes(result.raw[_MASK], sys.byteorder) & _STATX_BTIME:
        return None
    return float(int.from_bytes(result.raw[_BIRTH], sys.byteorder, signed=True))
