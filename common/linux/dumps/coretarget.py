"""What does an ELF core provide as a target, without a debugger?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Optional

from ...errors import UnsupportedError
from ...files import open_first
from ...model import Layout, Module, Problem, Thread
from ...target import THREAD_POINTER, Capability
from ..auxv import AT_PHDR
from ..elf.machine import PROGRAM_COUNTER, is_x32, platform_of
from .elfcore import NT_ARM_TLS, NT_PRPSINFO, NT_PRSTATUS, ElfCore

# The thread pointer's offset in struct elf_prstatus: pr_reg begins at 112, then fs_base, r13, tp, or the access
# registers 0 and 1 (arch/*/include/asm/elf.h and user_regs_struct of each).
_THREAD_POINTER_OFFSETS = {"x86_64": 112 + 21 * 8, "ppc64le": 112 + 13 * 8, "riscv64": 112 + 4 * 8, "s390x": 112 + 144}

# pr_pid of struct elf_prpsinfo, which is behind a user and a group id of 16 bits each on these, else of 32.
_PROCESS_ID_OFFSETS = {"i386": 12, "arm": 12}

# The same for the program counter, and the registers that calls preserve.  32-bit processes have pr_reg at 72.
_REGISTER_OFFSETS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        name: 112 + 8 * index
        for name, index in (
            ("r15", 0),
            ("r14", 1),
            ("r13", 2),
            ("r12", 3),
            ("rbp", 4),
            ("rbx", 5),
            (PROGRAM_COUNTER, 16),
            ("rsp", 19),
        )
    },
    "i386": {
        name: 72 + 4 * index
        for index, name in ((0, "ebx"), (3, "esi"), (4, "edi"), (5, "ebp"), (12, PROGRAM_COUNTER), (15, "esp"))
    },
    "aarch64": {
        **{f"x{number}": 112 + 8 * number for number in range(19, 31)},
        "sp": 112 + 8 * 31,
        PROGRAM_COUNTER: 112 + 8 * 32,
    },
    "arm": {"sp": 72 + 4 * 13, PROGRAM_COUNTER: 72 + 4 * 15},
    "ppc64le": {"sp": 112 + 8 * 1, PROGRAM_COUNTER: 112 + 8 * 32},
    "riscv64": {"sp": 112 + 8 * 2, PROGRAM_COUNTER: 112},
    "s390x": {"sp": 112 + 16 + 8 * 15, PROGRAM_COUNTER: 112 + 8},
    "loongarch64": {"sp": 112 + 8 * 3, PROGRAM_COUNTER: 112 + 8 * 33},
}


class CoreTarget:
    """A core file, read without a debugger."""

    kind = "core"
    capabilities = Capability.NONE

    def __init__(self, path: str, sysroot: str = "", content: Optional[BinaryIO] = None, executable: str = "") -> None:
        """Open a core.

        :param sysroot: the folder below which the files that the core maps are looked for.
        :param content: the core's bytes if the file at ``path`` is compressed.
        :param executable: the path of the core's program here.
        :raises DumpFormatError: if the file is not an ELF core.
        :raises UnsupportedError: if its architecture is not supported, or it needs a file that is missing.
        """
        self._sysroot = sysroot.rstrip("/")
        self._executable = os.path.abspath(executable) if executable else ""
        self._core = ElfCore(path, self.open_image, content)
        platform = platform_of(self._core.ident)
        if platform is None:
            kind = "x32, an architecture" if is_x32(self._core.ident) else "an architecture"
            raise UnsupportedError(f"{path} is a core of {kind} that is not supported")
        self.platform = platform
        self._thread_pointers = dict(self._parse_threads())
        self._statuses = {self._core.lwp_of(note): note.data for note in self._core.notes if note.type == NT_PRSTATUS}
        if not self._core.files:
            from .unlisted import map_unlisted_files

            map_unlisted_files(self, self._core, self._executable)

    def close(self) -> None:
        """Close the files."""
        self._core.close()

    @property
    def pid(self) -> Optional[int]:
        """Return the process id: that of the first thread, which in a kernel's core has crashed, if it is not noted."""
        offset = _PROCESS_ID_OFFSETS.get(self.platform.arch, 24)
        notes = (note for note in self._core.notes if note.type == NT_PRPSINFO)
        found = next((self._integer(note.data, offset, 4) for note in notes), None)
        return found or next(iter(self._thread_pointers), None)

    @property
    def description(self) -> str:
        """Describe the core."""
        return f"core file {self._core.path}"

    def problems(self) -> Sequence[Problem]:
        """Return the core's problems: truncation, and files that were taken on trust."""
        return self._core.problems()

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Add problems to the core."""
        self._core.add_problems(problems)

    def read(self, address: int, size: int) -> bytes:
        """Read memory."""
        return self._core.read(address, size)

    def auxv(self) -> Mapping[int, int]:
        """Return the auxiliary vector."""
        return self._core.auxv

    def modules(self) -> Sequence[Module]:
        """Return the main program if the core names its file."""
        mapped = self._core.file_at(self._core.auxv.get(AT_PHDR, 0))
        return (Module(mapped.path, mapped.start),) if mapped else ()

    def find_layout(self, type_name: str, module: Module) -> Optional[Layout]:
        """Return None: there is no debugger."""
        return None

    def threads(self) -> Sequence[Thread]:
        """List the threads in the core's order."""
        return [Thread(number, lwp) for number, lwp in enumerate(self._thread_pointers, 1)]

    def registers(self, thread: Thread, names: Sequence[str] = (THREAD_POINTER,)) -> Mapping[str, int]:
        """Return what the core has of these registers."""
        pointer = self._thread_pointers.get(thread.lwp)
        found = {} if pointer is None else {THREAD_POINTER: pointer}
        offsets = _REGISTER_OFFSETS.get(self.platform.arch, {})
        data = self._statuses.get(thread.lwp, b"")
        for name in names:
            value = self._integer(data, offsets[name], self.platform.pointer_size) if name in offsets else None
            if value is not None:
                found[name] = value
        return found

    def open_image(self, module: Module) -> Optional[BinaryIO]:
        """Open a module's file: below the sysroot, if there is one."""
        path = self._core.path_of(module)
        if self._executable and path in [program.path for program in self.modules()]:
            return open_first([self._executable]) or open_first([path], self._sysroot or "/")
        return open_first([path], self._sysroot or "/")

    def _parse_threads(self) -> Iterator[tuple[int, Optional[int]]]:
        """Yield each thread's kernel id and thread pointer, from its NT_PRSTATUS and the notes that follow."""
        lwp, pointer = None, None
        for note in self._core.notes:
            if note.type == NT_PRSTATUS:
                if lwp is not None:
                    yield lwp, pointer
                lwp = self._core.lwp_of(note)
                offset = _THREAD_POINTER_OFFSETS.get(self.platform.arch)
                pointer = None if offset is None else self._integer(note.data, offset, 8)
            elif note.type == NT_ARM_TLS and self.platform.arch in ("aarch64", "arm"):
                pointer = self._integer(note.data, 0, self.platform.pointer_size)
        if lwp is not None:
            yield lwp, pointer

    def _integer(self, data: bytes, offset: int, size: int) -> Optional[int]:
        raw = data[offset : offset + size]
        return int.from_bytes(raw, "little" if self._core.prefix == "<" else "big") if len(raw) == size else None
