"""Is a file on disk the one that a core's process had mapped, if the core has no build-id of it?

The loader keeps a library's dynamic section in writable memory, which a core has.  A file fits if that section is its
own, allowing for l_addr, and if its segments lie where the core says that the file was mapped.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Optional

from ...files import read_at
from ..elf.files import ElfFile, read_elf_file
from ..elf.image import DT_DEBUG, MAX_DYNAMIC_ENTRIES, PT_DYNAMIC, PT_LOAD
from ..elf.machine import platform_of
from .elfcore import CoreFileMapping, ElfCore

DT_LOPROC = 0x70000000
DT_HIPROC = 0x7FFFFFFF


def fits(core: ElfCore, stream: BinaryIO, first: CoreFileMapping) -> Optional[bool]:
    """Return True if an ELF file can be the one that was mapped from ``first`` on, which shows its beginning.

    It is None if the core lacks what would show that.
    """
    file = read_elf_file(stream)
    if file is None or file.platform != platform_of(core.ident):
        return False
    size = os.fstat(stream.fileno()).st_size
    loads = [header for header in file.headers if header.type == PT_LOAD and header.filesz]
    if not loads or any(header.offset + header.filesz > size for header in loads):
        return False
    bias = first.start - min(header.vaddr - header.offset for header in loads)
    for header in loads:
        address = bias + header.vaddr & file.platform.address_mask
        mapped = core.file_at(address)
        if mapped is None or mapped.path != first.path or mapped.offset + address - mapped.start != header.offset:
            return False
    return has_same_dynamic_section(core, stream, file, bias)


def has_same_dynamic_section(core: ElfCore, stream: BinaryIO, file: ElfFile, bias: int) -> Optional[bool]:
    """Return True if the loader's copy of the dynamic section is the file's; None if the core lacks that copy.

    The copy has moved addresses, and a DT_DEBUG of its own.
    """
    header = next((h for h in file.headers if h.type == PT_DYNAMIC), None)
    word, mask = file.platform.pointer_size, file.platform.address_mask
    if header is None or not 0 < header.filesz <= MAX_DYNAMIC_ENTRIES * 2 * word:
        return False
    loaded = core.recorded_exactly(header.vaddr + bias & mask, header.filesz)
    if loaded is None:
        return None
    form = struct.Struct(core.prefix + ("QQ" if word == 8 else "II"))
    size = header.filesz - header.filesz % form.size
    written = read_at(stream, header.offset, size)
    for (tag, value), (loaded_tag, loaded_value) in zip(form.iter_unpack(written), form.iter_unpack(loaded[:size])):
        if tag != loaded_tag:
            return False
        if tag == 0:
            return True
        # The loader may change values of processor-specific tags: ppc64's ld.so moves its DT_PPC64_GLINK twice.
        is_free = tag == DT_DEBUG or DT_LOPROC <= tag <= DT_HIPROC
        if not is_free and loaded_value not in (value, value + bias & mask):
            return False
    return False
