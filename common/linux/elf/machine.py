"""Which platform is an ELF file for?"""

from __future__ import annotations

from typing import Optional

from ...model import Platform

# e_machine: GNU name (gabi and the processor supplements).
_MACHINES = {
    3: "i386",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}

#: The program counter's name in gdb and LLDB, whatever the architecture.
PROGRAM_COUNTER = "pc"
_STACK_REGISTERS = {"x86_64": "rsp", "i386": "esp"}


def stack_register(platform: Platform) -> str:
    """Return the stack pointer's name in gdb and LLDB."""
    return _STACK_REGISTERS.get(platform.arch, "sp")


def is_x32(header: bytes) -> bool:
    """Return True if an ELF header is that of x32, which runs in 64-bit mode with pointers of 32 bits."""
    return header[4:5] == b"\1" and header[18:20] == b"\x3e\0"


def platform_of(header: bytes) -> Optional[Platform]:
    """Return the platform in the first 20 bytes of an ELF header, None if unknown or not supported."""
    if len(header) < 20 or header[:4] != b"\x7fELF" or header[4] not in (1, 2) or header[5] not in (1, 2):
        return None
    byteorder = "little" if header[5] == 1 else "big"
    name = _MACHINES.get(int.from_bytes(header[18:20], "little" if header[5] == 1 else "big"))
    if name is None or is_x32(header):
        return None
    if name == "ppc64" and byteorder == "little":
        name = "ppc64le"
    return Platform(name, 4 if header[4] == 1 else 8, byteorder)
