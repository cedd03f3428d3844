"""Which memory does a process of this machine have?  As VirtualQueryEx lists it: pykd 0.3.4 can die of its own list."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Optional

_PROCESS_QUERY_INFORMATION = 0x400
_MEM_COMMIT = 0x1000
#: PAGE_READWRITE, PAGE_WRITECOPY, and both with execution; PAGE_GUARD is an alarm, not memory.
_WRITABLE, _GUARD = 0x4 | 0x8 | 0x40 | 0x80, 0x100
#: More regions than a process has are not listed.
MAX_REGIONS = 1 << 18


class _Region(ctypes.Structure):
    """MEMORY_BASIC_INFORMATION of 64-bit code."""

    _fields_ = (
        ("BaseAddress", ctypes.c_uint64),
        ("AllocationBase", ctypes.c_uint64),
        ("AllocationProtect", ctypes.c_uint32),
        ("PartitionId", ctypes.c_uint32),
        ("RegionSize", ctypes.c_uint64),
        ("State", ctypes.c_uint32),
        ("Protect", ctypes.c_uint32),
        ("Type", ctypes.c_uint32),
    )


def list_writable(pid: Optional[int]) -> Optional[list[tuple[int, int]]]:
    """List the ranges of a process's writable memory, None if the system does not let this program ask."""
    if pid is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 -- only Windows has it
    kernel.OpenProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.OpenProcess(_PROCESS_QUERY_INFORMATION, False, pid))
    if not process:
        return None
    try:
        return [
            (region.BaseAddress, region.BaseAddress + region.RegionSize)
            for region in _regions(kernel, process)
            if region.State == _MEM_COMMIT and region.Protect & _WRITABLE and not region.Protect & _GUARD
        ]
    finally:
        kernel.CloseHandle(process)


def _regions(kernel: ctypes.CDLL, process: ctypes.c_void_p) -> Iterator[_Region]:
    place = 0
    for _ in range(MAX_REGIONS):
        region = _Region()
        size = ctypes.sizeof(region)
        if not kernel.VirtualQueryEx(process, ctypes.c_void_p(place), ctypes.byref(region), ctypes.c_size_t(size)):
            return
        yield region
        place = region.BaseAddress + region.RegionSize
