"""What is in the memory of a process under musl?  ``struct dso`` is typed in from ldso/dynlink.c of musl 1.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from dlwhy.tests.fakes import X86_64, FakeTarget
from dlwhy.tests.synth.glibc import DT_DEBUG, DYNAMIC, IMAGE_SIZE, R_DEBUG, Library, Process
from dlwhy.tests.synth.glibc_layouts import V239

RTLD = "ld-musl-x86_64.so.1"
DSO_SIZE = 232
AT_BASE, AT_EXECFN, AT_SYSINFO_EHDR = 7, 31, 33


class MuslProcess(Process):
    """A process of a program, musl, and libraries; those of type 2 were brought by dlopen."""

    def __init__(self, libraries: Sequence[Library], *, vdso: Optional[str] = None) -> None:
        """Describe a process; ``vdso`` is the name of the library that the kernel has put there."""
        start = [Library("main", type=0, needs=[RTLD]), Library(RTLD, type=1)]
        every = [*start, *libraries]
        super().__init__(
            X86_64, V239, every, rtld_global_size=0, version=(1, 2), exports_descriptors=False, mangles=False
        )
        self.vdso = vdso

    def dso(self, index: int) -> bytes:
        """Write a struct dso."""
        library, out = self.libraries[index], self.out
        base, address = self.base(library), self.maps[library.key]
        data = bytearray(DSO_SIZE)
        maps = [self.maps[each.key] for each in self.libraries]
        path = b"" if library.name == self.vdso else f"/lib/{library.name}".encode()
        name = address + 0x800
        words = {
            0: (base, name if path else 0, base + DYNAMIC, [*maps, 0][index + 1], [0, *maps][index], base + 0x40),
            56: (56,),
            136: (base, IMAGE_SIZE),
        }
        for place, values in words.items():
            content = out.words(values)
            data[place : place + len(content)] = content
        data[48:52] = out.number(len(self.headers(library)), 4)
        for place, flag in ((168, True), (169, library.init_called), (170, index < 2), (173, library.type == 2)):
            data[place] = flag
        return (bytes(data).ljust(0x800, b"\0") + path).ljust(0x1000, b"\0")

    def segments(self) -> dict[int, bytes]:
        """Write everything: bytes by address."""
        rtld, main = self.library(RTLD), self.libraries[0]
        rtld.symbols = {"_dl_debug_addr": (0x2000, 8), "__dls3": (0x2100, 0x20)}
        rtld.data = {R_DEBUG: self.out.words((1, self.maps[main.key], 0, 0, self.base(rtld)))}
        main.dynamic = [(DT_DEBUG, self.base(rtld) + R_DEBUG)]
        main.constants = f"/lib/{RTLD}\0".encode()
        found = {self.maps[each.key]: self.dso(index) for index, each in enumerate(self.libraries)}
        return {**found, **{self.base(each): self.image(each) for each in self.libraries}}

    def target(self, layouts: object = None) -> FakeTarget:
        """Return the process as a target."""
        main, rtld = self.libraries[0], self.library(RTLD)
        auxv = {3: self.base(main) + 0x40, 4: 56, 5: len(self.headers(main)), AT_BASE: self.base(rtld)}
        auxv[AT_EXECFN] = self.maps[main.key] + 0x800
        if self.vdso is not None:
            auxv[AT_SYSINFO_EHDR] = self.base(self.library(self.vdso))
        return FakeTarget(self.segments(), self.platform, auxv=auxv)
