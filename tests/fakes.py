"""What does a target look like whose memory the test itself decides?

`FakeTarget` has segments of bytes, `CoreTarget` those of a real core file. Both count what is read from them, take
damage (`overwrite`, `forget`), and need no debugger.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Optional

from dlwhy.common.errors import FaultError
from dlwhy.common.files import open_first
from dlwhy.common.host import Screen
from dlwhy.common.linux.dumps.elfcore import ElfCore
from dlwhy.common.model import Layout, Module, Platform, Problem, Thread
from dlwhy.common.target import Capability, LiveTarget

X86_64 = Platform("x86_64", 8, "little")
I386 = Platform("i386", 4, "little")
S390X = Platform("s390x", 8, "big")

AT_PHDR = 3
NT_PRSTATUS = 1
NT_AUXV = 6
PT_NOTE = 4
# struct elf_prstatus and user_regs_struct of x86-64 (asm/user_64.h): where pr_pid and fs_base are.
PRSTATUS_PID = 32
PRSTATUS_FS_BASE = 112 + 21 * 8


class DamagedMemory:
    """Memory in which bytes are overwritten or become unreadable; counts the reads that it answers."""

    def __init__(self) -> None:
        self.reads = 0
        self.bytes_read = 0
        self.log: list[tuple[int, int]] = []
        self._overwritten: dict[int, bytes] = {}
        self._forgotten: list[tuple[int, int]] = []

    def original(self, address: int, size: int) -> bytes:
        """Give bytes as they were before any damage."""
        raise NotImplementedError

    def overwrite(self, address: int, data: bytes) -> None:
        """Put other bytes at an address, or make new memory there."""
        self._overwritten[address] = data

    def forget(self, start: int, size: int) -> None:
        """Make a range unreadable."""
        self._forgotten.append((start, start + size))

    def heal(self) -> None:
        """Undo all damage and start counting anew."""
        self._overwritten.clear()
        self._forgotten.clear()
        self.log.clear()
        self.reads = self.bytes_read = 0

    def problems(self) -> Sequence[Problem]:
        return ()

    def read(self, address: int, size: int) -> bytes:
        """Read bytes, damaged as they are."""
        self.reads += 1
        self.bytes_read += size
        self.log.append((address, size))
        end = address + size
        if any(start < end and address < stop for start, stop in self._forgotten):
            raise FaultError(address, size, "made unreadable by the test")
        for place, new in self._overwritten.items():
            if place <= address and end <= place + len(new):
                return new[address - place : end - place]
        data = self.original(address, size)
        for place, new in self._overwritten.items():
            first, last = max(place, address), min(place + len(new), end)
            if first < last:
                data = data[: first - address] + new[first - place : last - place] + data[last - address :]
        return data


class FakeTarget(DamagedMemory):
    """A target made of segments: bytes by address."""

    def __init__(
        self,
        segments: Mapping[int, bytes],
        platform: Platform = X86_64,
        *,
        auxv: Optional[Mapping[int, int]] = None,
        modules: Sequence[Module] = (),
        threads: Mapping[int, int] = {},
        capabilities: Capability = Capability.NONE,
        files: Optional[Mapping[str, Path]] = None,
        layouts: Optional[Mapping[str, Layout]] = None,
    ) -> None:
        """Take segments; ``threads`` are thread pointers by LWP, ``files`` what open_image finds by path."""
        super().__init__()
        self.replace(segments)
        self.platform = platform
        self.capabilities = capabilities
        self.kind = "core"
        self.pid: Optional[int] = 4711
        self.description = "memory of a test"
        self._auxv = dict(auxv or {})
        self._modules = tuple(modules)
        self._threads = dict(threads)
        self._files = dict(files or {})
        self._layouts = dict(layouts or {})

    def replace(self, segments: Mapping[int, bytes]) -> None:
        """Have other memory from now on; damage stays."""
        self._segments = sorted(segments.items())
        self._starts = [start for start, _ in self._segments]

    def original(self, address: int, size: int) -> bytes:
        """Give bytes of the segments; a range may span several that touch."""
        parts = []
        end = address + size
        while address < end:
            index = bisect_right(self._starts, address) - 1
            if index < 0:
                raise FaultError(address, end - address, "no segment")
            start, data = self._segments[index]
            piece = data[address - start : end - start]
            if not piece:
                raise FaultError(address, end - address, "no segment")
            parts.append(piece)
            address += len(piece)
        return b"".join(parts)

    def auxv(self) -> Mapping[int, int]:
        """Give the auxiliary vector."""
        return self._auxv

    def modules(self) -> Sequence[Module]:
        """List the modules."""
        return self._modules

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Find a layout among those given."""
        return self._layouts.get(type_name)

    def threads(self) -> Sequence[Thread]:
        """List the threads."""
        return [Thread(number, lwp) for number, lwp in enumerate(self._threads, 1)]

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Give the thread pointer."""
        pointer = self._threads.get(thread.lwp)
        return {} if pointer is None else {"thread_pointer": pointer}

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a file among those given."""
        path = self._files.get(module.path)
        return None if path is None else open_first([str(path)])


class CoreTarget(DamagedMemory):
    """A real x86-64 core file as a target, without a debugger."""

    platform = X86_64
    capabilities = Capability.NONE
    kind = "core"
    pid: Optional[int] = None

    def __init__(self, path: Path, *, with_files: bool = True) -> None:
        """Open a core; without files nothing but what the core recorded can be read."""
        super().__init__()
        self._with_files = with_files
        self.core = ElfCore(str(path), self.open_image)
        self.description = f"core file {path.name}"
        self._threads = dict(thread_pointers(path))

    def original(self, address: int, size: int) -> bytes:
        """Give bytes of the core."""
        return self.core.read(address, size)

    def auxv(self) -> Mapping[int, int]:
        """Give the auxiliary vector."""
        return self.core.auxv

    def modules(self) -> Sequence[Module]:
        """Give the main program: the file in which AT_PHDR points."""
        mapped = self.core.file_at(self.core.auxv.get(AT_PHDR, 0))
        if mapped is None:
            return ()
        return (Module(mapped.path, min(file.start for file in self.core.files if file.path == mapped.path)),)

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """There is no debug information."""
        return None

    def threads(self) -> Sequence[Thread]:
        """List the threads."""
        return [Thread(number, lwp) for number, lwp in enumerate(self._threads, 1)]

    def registers(self, thread: Thread, names: Sequence[str] = ()) -> Mapping[str, int]:
        """Give the thread pointer."""
        return {"thread_pointer": self._threads[thread.lwp]}

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file as it is named."""
        return open_first([module.path]) if self._with_files else None

    def close(self) -> None:
        """Close the files."""
        self.core.close()


def snapshot(core: Path) -> CoreTarget:
    """Give a core file as a target that can be damaged in memory only."""
    return CoreTarget(core)


def thread_pointers(core: Path) -> Iterator[tuple[int, int]]:
    """Read LWP and fs_base of every thread of an x86-64 core; a core that is cut off has fewer."""
    with core.open("rb") as file:
        header = file.read(64)
        if len(header) < 64:
            return
        offset, size, count = struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        table = file.read(size * count)
        for at in range(0, len(table) - size + 1, size):
            kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", table, at)
            if kind != PT_NOTE:
                continue
            file.seek(start)
            yield from _prstatus(file.read(length))


def _prstatus(notes: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        start = at + 12 + (name_size + 3 & ~3)
        if kind == NT_PRSTATUS and start + size <= len(notes):
            (lwp,) = struct.unpack_from("<i", notes, start + PRSTATUS_PID)
            (pointer,) = struct.unpack_from("<Q", notes, start + PRSTATUS_FS_BASE)
            yield lwp, pointer
        at = start + (size + 3 & ~3)


class FakeHost:
    """A host that keeps what is written, and evaluates expressions from a table."""

    name = "fake"

    def __init__(
        self, target: FakeTarget | CoreTarget, values: Optional[Mapping[str, int]] = None, *, colour: bool = False
    ) -> None:
        self._target = target
        self._values = dict(values or {})
        self._colour = colour
        self.kept: dict[str, object] = {}
        self.written = ""

    def live_target(self) -> LiveTarget:
        """Refuse: nothing runs here."""
        from dlwhy.common.errors import UnsupportedError

        raise UnsupportedError("a fake does not run")

    def target(self) -> FakeTarget | CoreTarget:
        """Give the target."""
        return self._target

    def evaluate(self, expression: str) -> int:
        """Look an expression up; a number stands for itself."""
        from dlwhy.common.errors import NotFoundError

        if expression in self._values:
            return self._values[expression]
        try:
            return int(expression, 0)
        except ValueError:
            raise NotFoundError(f"cannot evaluate '{expression}'") from None

    def write(self, text: str) -> None:
        """Keep text."""
        self.written += text

    def screen(self) -> Screen:
        """Tell how text can be shown."""
        return Screen(None, self._colour)


if TYPE_CHECKING:
    from dlwhy.common.host import Host
    from dlwhy.common.target import Target

    _fake: type[Target] = FakeTarget
    _core: type[Target] = CoreTarget
    _host: type[Host] = FakeHost
