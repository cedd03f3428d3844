"""How has the file of a library changed that does not look unchanged?

A file that is replaced by rename lives on in the processes that have mapped it.  One that is written in place changes
under them: pages that a process has not written to itself show what was written, or are gone.  One that is emptied
first, as cp does, takes the process's own pages along: what was relocated is not any more.  So only what the loader has
noted or relocated can show that a file was written; a file's times alone change also without that.  Only for processes
of this machine the kernel shows which file is mapped.

Sources: proc_pid_maps(5), proc_pid_map_files(5), statx(2).
"""

from __future__ import annotations

import os
import struct
import sys
from enum import Enum
from typing import BinaryIO, NamedTuple, Optional

from ...errors import DlwhyError
from ...files import open_regular, read_at
from ..dumps.elfcore import build_id_in_first_page
from ..dumps.mappings import Mapping, mappings_of, open_mapped
from ..dumps.procfs import open_file_of
from ..elf.files import read_elf_file
from ..elf.image import DT_DEBUG, DT_STRTAB, MAX_DYNAMIC_ENTRIES, PT_DYNAMIC, read_dynamic
from ..loader.maps import LinkMap
from ..loader.roots import LT_LOADED
from .files import TICK_SECONDS
from .process import GlibcProcess

#: Names that lead to a file by a descriptor of whoever asks.
_OF_DESCRIPTORS = ("/proc/", "/dev/fd/")
_MEMFD = "/memfd:"
#: Where the loader leaves dynamic sections as they are: DL_RO_DYN_SECTION of glibc's dl-machine.h.
_READ_ONLY_DYNAMIC = "riscv64"
_PF_W = 2
_AT_EMPTY_PATH, _STATX_BTIME = 0x1000, 0x800
_MASK, _BIRTH = slice(0, 4), slice(80, 88)  # of struct statx


class FileState(Enum):
    """How a file has changed; a file that was replaced by one of the same build-id counts as unchanged."""

    DELETED = "deleted"
    RENAMED = "renamed"
    REPLACED = "replaced"
    TRUNCATED = "truncated"
    WRITTEN = "written"
    MAYBE_WRITTEN = "maybe_written"


class _Name(NamedTuple):
    """What the name by which a library was loaded leads to; nothing, if that is known."""

    stream: Optional[BinaryIO]
    is_gone: bool


class ChangedFiles:
    """The files of a process's libraries, compared with what is mapped."""

    def __init__(self, process: GlibcProcess, started: Optional[float]) -> None:
        """Create the comparison for a process.

        :param started: when the process was started, in seconds since 1970; None if that is not known.
        """
        self._process = process
        self._target = process.memory.target
        self._mappings = mappings_of(self._target)
        self._started = started

    def state(self, link_map: LinkMap) -> Optional[FileState]:
        """Return how a library's file has changed: None for nothing, or if that is not known.

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
            written = self._find_write(link_map, stream)
            if written is FileState.WRITTEN:
                return written
            return self._find_namesake(link_map, mapping, stream) or written

    def _open_mapped(self, mapping: Mapping) -> Optional[BinaryIO]:
        return open_mapped(self._target.pid, mapping) if self._target.pid is not None else None

    def _open(self, mapping: Mapping) -> Optional[BinaryIO]:
        return open_file_of(self._target.pid, mapping.file) if self._target.pid is not None else None

    def _find_successor(self, link_map: LinkMap, mapping: Mapping) -> Optional[FileState]:
        """Compare a file that has no name any more with the one that has its name now.

        One that was opened by a descriptor can have been without a name before; a memfd has none.
        """
        if mapping.file.startswith(_MEMFD) or link_map.name.startswith(_OF_DESCRIPTORS):
            return None
        stream = self._open_name(link_map, mapping).stream or self._open(mapping)
        if stream is None:
            return FileState.DELETED
        with stream:
            return None if self._is_same_build(link_map, stream) else FileState.REPLACED

    def _find_namesake(self, link_map: LinkMap, mapping: Mapping, mapped: BinaryIO) -> Optional[FileState]:
        """Find out if the name by which a library was loaded leads to another file now, or nowhere."""
        name = self._open_name(link_map, mapping)
        if name.stream is None:
            return FileState.RENAMED if name.is_gone else None
        with name.stream as stream:
            is_same = os.path.samestat(os.fstat(stream.fileno()), os.fstat(mapped.fileno()))
            return None if is_same or self._is_same_build(link_map, stream) else FileState.REPLACED

    def _open_name(self, link_map: LinkMap, mapping: Mapping) -> _Name:
        """Open the file that has a library's name now, unless the kernel shows the mapped one by that very name.

        A relative name is followed only if the mapped file is in the folder that it leads to: the process can have
        changed its current folder.
        """
        path = link_map.name
        if not path or path.startswith(_OF_DESCRIPTORS):
            return _Name(None, False)
        try:
            if not path.startswith("/"):
                path = os.path.normpath(os.path.join(os.readlink(f"/proc/{self._target.pid}/cwd"), path))
                if os.path.dirname(path) != os.path.dirname(mapping.file):
                    return _Name(None, False)
            if path == mapping.file:
                return _Name(None, False)
            return _Name(open_regular(path, f"/proc/{self._target.pid}/root"), False)
        except FileNotFoundError:
            return _Name(None, True)
        except OSError:
            return _Name(None, False)

    def _is_same_build(self, link_map: LinkMap, stream: BinaryIO) -> bool:
        build_id = build_id_in_first_page(read_at(stream, 0, 4096))
        return build_id is not None and build_id == self._process.build_id(link_map)

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
        The time of the last change of the inode cannot be set, but a rename or another owner sets it, too.
        """
        status, started = os.fstat(stream.fileno()), self._started
        if started is None or max(status.st_mtime, status.st_ctime) <= started + TICK_SECONDS:
            return None
        if self._is_contradicted(link_map, stream):
            return FileState.WRITTEN
        created = started if link_map.l_type != LT_LOADED else _created(stream.fileno())
        return None if created is None or created > started else FileState.MAYBE_WRITTEN

    def _is_contradicted(self, link_map: LinkMap, stream: BinaryIO) -> bool:
        """Return True if memory shows that a file was written; note that as the library's trouble."""
        self._process.image(link_map)  # compares its headers, and notes what differs
        if self._process.is_overwritten(link_map):
            return True
        message = self._contradiction(link_map, stream)
        if message:
            self._process.note_trouble(link_map, f"the file was overwritten while it was loaded: {message}")
        return bool(message)

    def _contradiction(self, link_map: LinkMap, stream: BinaryIO) -> str:
        """Return what the dynamic section in memory shows of a write; empty for nothing.

        The pages around it are the process's own, since they were relocated; if not, nothing differs.
        """
        file, memory = read_elf_file(stream), self._process.memory
        mask = memory.platform.address_mask
        header = next((each for each in file.headers if each.type == PT_DYNAMIC), None) if file else None
        another = "its dynamic section is not the one that the loader has read; replace files by rename"
        if header is None or link_map.l_addr + header.vaddr & mask != link_map.l_ld:
            return another
        try:
            loaded = read_dynamic(memory, link_map.l_ld)
        except DlwhyError:
            return ""  # shows no write: that the file may have been written stays said
        if header.flags & _PF_W and self._is_unrelocated(link_map, dict(loaded).get(DT_STRTAB)):
            return "what the loader and the program had written to its memory is lost; replace files by rename"
        form = struct.Struct(memory.struct_prefix + ("QQ" if memory.pointer_size == 8 else "II"))
        size = min(header.filesz, MAX_DYNAMIC_ENTRIES * form.size)
        data = read_at(stream, header.offset, size - size % form.size)
        entries = list(form.iter_unpack(data[: len(data) - len(data) % form.size]))
        is_same = len(entries) >= len(loaded) and all(
            tag == own_tag and (tag == DT_DEBUG or value in (own, own + link_map.l_addr & mask))
            for (tag, value), (own_tag, own) in zip(loaded, entries)
        )
        return "" if is_same else another

    def _is_unrelocated(self, link_map: LinkMap, pointer: Optional[int]) -> bool:
        """Return True if a pointer of a dynamic section is as it is in a file."""
        platform = self._process.memory.platform
        if pointer is None or platform.arch == _READ_ONLY_DYNAMIC:
            return False
        start, end = link_map.l_map_start, link_map.l_map_end
        return not start <= pointer < end and start <= pointer + link_map.l_addr & platform.address_mask < end


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
