"""Has a library's file changed since the library was loaded?

Most have not, and that is seen at once: the name by which a library was loaded leads to the file that is mapped, which
nobody has changed since the process was started.  All others `changed_files` looks at.  Only for processes of this
machine the kernel shows which file is mapped.

Source: proc_pid_maps(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Optional

from ..loader.maps import LinkMap
from .process import GlibcProcess

if TYPE_CHECKING:
    from .changed_files import ChangedFiles, FileState

#: More than vm.max_map_count allows, unless it was raised.
_MAX_BYTES = 64 << 20
#: At most this many libraries that are not where a mapping begins are searched for.
_MAX_MISSED = 16
#: The kernel notes the time of a write to the tick of its clock.
TICK_SECONDS = 0.05
#: How the kernel writes an address in a list of mappings.
_ADDRESS = b"%08x"
_DELETED = b" (deleted)"


class LoadedFiles:
    """The files of a process's libraries, as they are now."""

    def __init__(self, process: GlibcProcess) -> None:
        self._process = process
        target = process.memory.target
        self._pid = target.pid if target.kind == "live" else None

    def state_word(self, link_map: LinkMap) -> Optional[str]:
        """Return how a library's file has changed, as `state` does, by its word."""
        state = self.state(link_map)
        return None if state is None else state.value

    def state(self, link_map: LinkMap) -> Optional[FileState]:
        """Return how a library's file has changed: None for nothing, or if that is not known.

        What makes the library itself doubtful is also noted as its trouble.
        """
        if self._pid is None or link_map.is_proxy or self._is_unchanged(link_map):
            return None
        return self._changed.state(link_map)

    @cached_property
    def _changed(self) -> ChangedFiles:
        from .changed_files import ChangedFiles  # few files are

        return ChangedFiles(self._process, self._started)

    def _is_unchanged(self, link_map: LinkMap) -> bool:
        """Return True if a library's name leads to the file that is mapped, which is as old as the process.

        The time of the last change of the inode cannot be set: a write, another length, a rename and another owner
        change it.  A relative name is followed in another folder here than there.
        """
        line = self._mapped.get(_ADDRESS % link_map.l_map_start)
        if line is None or self._started is None:
            return False
        _, _, _, device, inode, *paths = line.split(None, 5)
        path = paths[0] if paths else b""
        if path[:1] != b"/":
            return True  # no file is mapped, but the vDSO, or memory without a name
        name = link_map.name or self._process.path(link_map) or ""
        if name[:1] != "/":
            return False
        try:
            status = os.stat(name)
            if path != name.encode("utf-8", "surrogateescape"):
                place = b"%02x:%02x" % (os.major(status.st_dev), os.minor(status.st_dev))
                if path.endswith(_DELETED) or device != place or int(inode) != status.st_ino:
                    return False
        except (OSError, ValueError):  # no such file, or a name that no file can have
            return False
        return max(status.st_mtime, status.st_ctime) <= self._started + TICK_SECONDS

    @cached_property
    def _started(self) -> Optional[float]:
        from ..dumps.procfs import started_at

        return None if self._pid is None else started_at(self._pid)

    @cached_property
    def _mapped(self) -> Mapping[bytes, bytes]:
        """Return the lines of /proc/PID/maps that begin where libraries do; empty if paths lead elsewhere there."""
        folder = f"/proc/{self._pid}"
        try:
            mounts = [os.stat(f"{each}/ns/mnt") for each in (folder, "/proc/self")]
            if not os.path.samestat(*mounts) or os.readlink(f"{folder}/root") != "/":
                return {}
            with open(f"{folder}/maps", "rb") as stream:
                data = b"\n" + stream.read(_MAX_BYTES)
        except OSError:
            return {}  # are looked at closely
        lines: dict[bytes, bytes] = {}
        place = missed = 0
        for start in sorted(m.l_map_start for m in self._process.graph.by_address.values()):
            address = _ADDRESS % start
            found = data.find(b"\n%s-" % address, place)
            if found >= 0:  # the kernel sorts them, too
                place = data.find(b"\n", found + 1)
                lines[address] = data[found + 1 : place]
            else:
                missed += 1
                if missed > _MAX_MISSED:
                    break  # each costs a search of the whole list
        return lines
