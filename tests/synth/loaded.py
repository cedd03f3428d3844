"""How does a real shared object lie in memory? By its program headers, at a bias, and not relocated."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from dlwhy.common.linux.elf.image import ElfImage
from dlwhy.common.memory import Memory
from dlwhy.common.model import Platform
from dlwhy.tests.fakes import X86_64, FakeTarget
from elftools.elf.elffile import ELFFile

BIAS = 0x7F12_3400_0000
PAGE = 4096


@cache
def system_library(name: str) -> Path:
    """Find the file that gcc links for a library's name."""
    run = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(run.stdout.strip())
    if not path.is_absolute():
        raise FileNotFoundError(f"{name} is needed: python3 install.py test installs it")
    return path.resolve()


def lay_out(path: Path, bias: int = BIAS, platform: Platform = X86_64) -> FakeTarget:
    """Load a file's segments; pages are filled up from the file, as mmap does."""
    data = path.read_bytes()
    segments: dict[int, bytes] = {}
    with path.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments("PT_LOAD"):
            skip = segment["p_vaddr"] % PAGE
            start = segment["p_vaddr"] - skip
            offset = segment["p_offset"] - skip
            content = data[offset : segment["p_offset"] + segment["p_filesz"]]
            end = segment["p_vaddr"] + segment["p_memsz"]
            size = -(-end // PAGE) * PAGE - start
            segments[bias + start] = content.ljust(size, b"\0")[:size]
    return FakeTarget(segments, platform, files={str(path): path})


def image_of(path: Path, bias: int = BIAS) -> ElfImage:
    """Load a file and read its image."""
    return ElfImage.at(Memory(lay_out(path, bias)), bias)
