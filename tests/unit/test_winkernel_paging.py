"""Are page tables walked as the processor does, and entries that it refuses as Windows does?"""

from __future__ import annotations

from typing import Optional

import pytest
from dlwhy.common.errors import FaultError
from dlwhy.common.windows.kernel.paging import Pager, PagingMode
from dlwhy.tests.synth.ntdump import PAGE, Machine
from dlwhy.tests.synth.ntlayout import windows

MACHINES = {
    PagingMode.X64: ("10.0.19041.3570", "x86_64", True),
    PagingMode.PAE: ("6.1.7601.17514", "i386", True),
    PagingMode.X86: ("5.1.2600.5512", "i386", False),
}
KERNEL = {PagingMode.X64: 0xFFFFFA8000000000, PagingMode.PAE: 0x85000000, PagingMode.X86: 0x85000000}


class Memory:
    """A machine's physical memory."""

    def __init__(self, mode: PagingMode) -> None:
        version, arch, pae = MACHINES[mode]
        self.mode = mode
        self.machine = Machine(windows(version, arch), pae=pae)

    def read(self, address: int, size: int) -> bytes:
        page = self.machine.pages.get(address // PAGE)
        if page is None or address % PAGE + size > PAGE:
            raise FaultError(address, size)
        return bytes(page[address % PAGE : address % PAGE + size])

    def pager(self, root: Optional[int] = None) -> Pager:
        limit = max(self.machine.pages) + 1
        return Pager(self.mode, root or self.machine.kernel_root, self.read, limit)

    def put(self, address: int, entry: int) -> Pager:
        """Set the last-level entry for an address."""
        self.machine.set_entry(self.machine.kernel_root, address, entry)
        return self.pager()


@pytest.fixture(params=list(PagingMode), ids=lambda mode: mode.value)
def memory(request: pytest.FixtureRequest) -> Memory:
    return Memory(request.param)


def test_small_pages(memory: Memory) -> None:
    address = memory.machine.pool(100, b"Test")
    memory.machine.write(address, b"resident")
    assert memory.pager().read(address, 8) == b"resident"
    assert memory.pager().translate(address) == (memory.machine.translate(memory.machine.kernel_root, address) or 0) | (
        address % PAGE
    )


def test_a_read_across_pages(memory: Memory) -> None:
    first, second = memory.machine.page(), memory.machine.page()
    assert second == first + PAGE
    memory.machine.write(first + PAGE - 3, b"across")
    assert memory.pager().read(first + PAGE - 3, 6) == b"across"


def test_a_root_with_flags_and_pcid(memory: Memory) -> None:
    flags = 0x7FF if memory.mode is PagingMode.X64 else 0x1F
    address = memory.machine.pool(16, b"Test")
    assert memory.pager(memory.machine.kernel_root | flags).translate(address) is not None


def test_what_is_not_mapped(memory: Memory) -> None:
    with pytest.raises(FaultError, match="not in memory"):
        memory.pager().read(KERNEL[memory.mode] + 0x3000000, 8)


def test_addresses_that_cannot_be(memory: Memory) -> None:
    addresses = (0x0000900000000000, 0xFFFF000000000000) if memory.mode is PagingMode.X64 else (1 << 32, 1 << 40)
    for address in addresses:
        assert memory.pager().translate(address) is None


def test_large_pages(memory: Memory) -> None:
    small = 10 if memory.mode is PagingMode.X86 else 9
    address = KERNEL[memory.mode] + (0x10 << (12 + small))
    memory.machine.map_large(memory.machine.kernel_root, address, 0x400)
    memory.machine.pages[0x403] = bytearray(b"in a large page".ljust(PAGE, b"\0"))
    assert memory.pager().read(address + 3 * PAGE, 15) == b"in a large page"


def test_a_page_of_one_gibibyte() -> None:
    memory = Memory(PagingMode.X64)
    machine = memory.machine
    table = machine.read_table(machine.kernel_root, 0xFFFFFA8000000000)
    machine.set_word(table + 8 * 5, 0x40000000 | 0x83)
    machine.pages[0x40007] = bytearray(b"gibibyte".ljust(PAGE, b"\0"))
    assert memory.pager().read(0xFFFFFA8000000000 + (5 << 30) + 7 * PAGE, 8) == b"gibibyte"


def test_four_mebibytes_above_four_gibibytes() -> None:
    memory = Memory(PagingMode.X86)
    machine = memory.machine
    address = 0x90000000
    machine.set_word(machine.kernel_root + 4 * (address >> 22), 0x00C00000 | 3 << 13 | 0x83)
    machine.pages[(0x300000000 + 0x00C00000) // PAGE + 1] = bytearray(b"PSE-36".ljust(PAGE, b"\0"))
    assert memory.pager().read(address + PAGE, 6) == b"PSE-36"


def test_a_page_in_transition(memory: Memory) -> None:
    address = memory.machine.page()
    memory.machine.write(address, b"standby")
    frame = memory.machine.translate(memory.machine.kernel_root, address) or 0
    assert memory.put(address, frame | 0x880).read(address, 7) == b"standby"


def test_a_page_in_transition_under_the_mask_against_l1tf() -> None:
    memory = Memory(PagingMode.X64)
    address = memory.machine.page()
    memory.machine.write(address, b"masked")
    frame = memory.machine.translate(memory.machine.kernel_root, address) or 0
    assert memory.put(address, frame | 1 << 45 | 0x880).read(address, 6) == b"masked"


@pytest.mark.parametrize("mode", [PagingMode.X64, PagingMode.PAE])
@pytest.mark.parametrize("flags", [0x121, 0x880])
def test_a_prototype(mode: PagingMode, flags: int) -> None:
    memory = Memory(mode)
    machine = memory.machine
    address, prototype = machine.page(), machine.pool(8, b"MmSt")
    machine.write(address, b"shared")
    frame = machine.translate(machine.kernel_root, address) or 0
    machine.write(prototype, (frame | flags).to_bytes(8, "little"))
    entry = (prototype << 16 if mode is PagingMode.X64 else prototype << 32) & (1 << 64) - 1 | 0x400
    assert memory.put(address, entry).read(address, 6) == b"shared"


@pytest.mark.parametrize("mode", [PagingMode.X64, PagingMode.PAE])
def test_a_prototype_that_describes_itself(mode: PagingMode) -> None:
    memory = Memory(mode)
    address = memory.machine.page()
    entry = (address << 16 if mode is PagingMode.X64 else address << 32) & (1 << 64) - 1 | 0x400
    assert memory.put(address, entry).translate(address) is None


@pytest.mark.parametrize(
    "entry",
    [0x1234000000000080, 0xFFFFFFFF00000400, 0x0, 0xFFFFFA8012345678 << 16 & (1 << 64) - 1 | 0x400],
    ids=["page file", "ask the VAD", "nothing", "prototype paged out"],
)
def test_what_is_not_in_memory(entry: int) -> None:
    memory = Memory(PagingMode.X64)
    address = memory.machine.page()
    assert memory.put(address, entry).translate(address) is None
