"""What does a minidump of a process of Linux hold?

Breakpad and Crashpad write them: a list of the modules, stacks, and seldom any memory of the dynamic loader; LLDB can
write one with all memory.  Sources: Breakpad's src/google_breakpad/common/minidump_format.h and
src/client/linux/minidump_writer, LLDB's ObjectFile/Minidump.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Optional

from ...errors import UnsupportedError
from ...files import open_first
from ...minidumps import MAX_MODULES, MODULE_LIST, MODULE_SIZE, MinidumpFile, SystemInfo
from ...model import Module, Platform, Thread
from ..auxv import parse_auxv

_LINUX_AUXV, _LINUX_DSO_DEBUG = 0x47670008, 0x4767000A
_MAX_AUXV = 1 << 14

#: PROCESSOR_ARCHITECTURE_*, and Breakpad's own numbers from 0x8000 on.
_ARCHITECTURES = {
    0: Platform("i386", 4, "little"),
    5: Platform("arm", 4, "little"),
    9: Platform("x86_64", 8, "little"),
    12: Platform("aarch64", 8, "little"),
    0x8003: Platform("aarch64", 8, "little"),
    0x8006: Platform("riscv64", 8, "little"),
}

#: CodeView records: Breakpad's "BpEL" is followed by the build-id.
_BUILD_ID_SIGNATURE = b"LEpB"
_MAX_BUILD_ID = 64

#: MDRawDebug: version, where the link maps are and how many, r_brk, r_ldbase, address of the dynamic section; then
#: MDRawLinkMap: l_addr, where the name is, l_ld.  Both are packed to 4 bytes.
_DEBUG = {4: "<IIIIII", 8: "<IIIQQQ"}
_LINK_MAP = {4: "<III", 8: "<QIQ"}


class ListedModule(NamedTuple):
    """An entry of the module list; ``path`` is the file's, ``build_id`` is None if the dump does not have it."""

    path: str
    base: int
    size: int
    build_id: Optional[str]


class ListedMap(NamedTuple):
    """A link map of the DSO debug stream, without the address of the link map itself."""

    name: str
    l_addr: int
    l_ld: int


class LinuxMinidump(MinidumpFile):
    """A minidump of a process of Linux, read without a debugger."""

    def __init__(self, path: str, content: Optional[BinaryIO] = None) -> None:
        """Open a minidump.

        :param content: the bytes of the dump if the file at ``path`` is compressed.
        :raises DumpFormatError: if it is not a minidump.
        :raises UnsupportedError: if its processor is not supported.
        """
        self.platform = _ARCHITECTURES[9]
        self._listed: Optional[Sequence[ListedModule]] = None
        super().__init__(path, content)

    def _identify(self, info: SystemInfo) -> None:
        if info.processor not in _ARCHITECTURES:
            raise UnsupportedError(f"{self.path} is of processor {info.processor:#x}, which is not supported")
        self.platform = _ARCHITECTURES[info.processor]

    def auxv(self) -> Mapping[int, int]:
        """Return the auxiliary vector; empty if the dump does not have it."""
        offset, size = self._streams.get(_LINUX_AUXV, (0, 0))
        return parse_auxv(self._file.read(offset, min(size, _MAX_AUXV)), self.platform.pointer_size, "little")

    def listed_modules(self) -> Sequence[ListedModule]:
        """List the modules of the ModuleList stream, which begins with the program."""
        if self._listed is None:
            self._listed = tuple(self._read_modules())
        return self._listed

    def _read_modules(self) -> Iterator[ListedModule]:
        for raw in self._entries(MODULE_LIST, "module list", MODULE_SIZE, MAX_MODULES):
            base, size, _, _, name = struct.unpack_from("<QIIII", raw)
            length, where = struct.unpack_from("<II", raw, 76)
            yield ListedModule(self._string(name), base, size, self._build_id(where, length))

    def _build_id(self, where: int, length: int) -> Optional[str]:
        record = self._file.peek(where, min(length, 4 + _MAX_BUILD_ID))
        return record[4:].hex() if record[:4] == _BUILD_ID_SIGNATURE and len(record) > 4 else None

    def listed_maps(self) -> Optional[Sequence[ListedMap]]:
        """List the link maps of the DSO debug stream, None without one."""
        offset, size = self._streams.get(_LINUX_DSO_DEBUG, (0, 0))
        form = struct.Struct(_DEBUG[self.platform.pointer_size])
        head = self._file.read(offset, form.size) if size >= form.size else b""
        if len(head) < form.size:
            return None
        _, where, count, *_ = form.unpack(head)
        of_map = struct.Struct(_LINK_MAP[self.platform.pointer_size])
        room = max(0, self._file.size - where)
        found = []
        for raw in self._pieces("link maps", where, room, count, of_map.size, MAX_MODULES):
            l_addr, name, l_ld = of_map.unpack(raw)
            found.append(ListedMap(self._string(name), l_addr, l_ld))
        return found

    def modules(self) -> Sequence[Module]:
        """List the modules."""
        return [Module(module.path, module.base, module.build_id) for module in self.listed_modules()]

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Return an empty mapping: a CONTEXT has no thread pointer."""
        return {}

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file."""
        return open_first([module.path], "/")


if TYPE_CHECKING:
    from ...target import Target

    _conforms: type[Target] = LinuxMinidump
