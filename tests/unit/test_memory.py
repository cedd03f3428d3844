"""Does Memory give exactly what is there, with few requests?"""

from __future__ import annotations

import pytest
from dlwhy.common.errors import CorruptError, FaultError, LimitError
from dlwhy.common.memory import ALLOWANCE, CHUNK_SIZE, MAX_CHUNKS, MAX_READ, PAGE_SIZE, STRING_LIMIT, Memory
from dlwhy.tests.fakes import I386, S390X, X86_64, FakeTarget
from hypothesis import given, settings
from hypothesis import strategies as st

BASE = 0x10_0000
PATTERN = bytes((7 * index + (index >> 8)) & 0xFF for index in range(4 * CHUNK_SIZE))


def test_many_reads_of_one_chunk_are_one_request() -> None:
    target = FakeTarget({BASE: PATTERN})
    memory = Memory(target)
    for offset in range(0, CHUNK_SIZE - 8, 8):
        assert memory.read(BASE + offset, 8) == PATTERN[offset : offset + 8]
    assert target.reads == 1


def test_a_bulk_read_asks_once_for_each_chunk() -> None:
    target = FakeTarget({BASE: PATTERN})
    memory = Memory(target)
    assert memory.read(BASE + 100, len(PATTERN) - 200) == PATTERN[100:-100]
    assert target.reads == 4
    memory.read(BASE + 200, len(PATTERN) - 400)
    assert target.reads == 4


def test_a_chunk_that_is_partly_there_costs_a_request_a_page() -> None:
    # The first chunk lacks its last page.
    target = FakeTarget({BASE: PATTERN[: CHUNK_SIZE - PAGE_SIZE]})
    memory = Memory(target)
    assert memory.read(BASE, 16) == PATTERN[:16]
    assert target.reads == 2  # the chunk in vain, the page
    for offset in range(0, PAGE_SIZE, 64):
        memory.read(BASE + offset, 64)
    assert target.reads == 2
    assert memory.read(BASE + PAGE_SIZE, 2 * PAGE_SIZE) == PATTERN[PAGE_SIZE : 3 * PAGE_SIZE]
    assert target.reads == 4
    for _ in range(10):
        assert memory.try_read(BASE + CHUNK_SIZE - 8, 8) is None
    # That a page is not there is remembered, but a part of it can be: each wish is tried.
    assert target.reads == 4 + 1 + 10


def test_part_of_a_page() -> None:
    target = FakeTarget({BASE + 0x100: PATTERN[:0x200]})
    memory = Memory(target)
    assert memory.read(BASE + 0x100, 0x200) == PATTERN[:0x200]
    with pytest.raises(FaultError):
        memory.read(BASE + 0x101, 0x200)
    with pytest.raises(FaultError):
        memory.read(BASE + 0xFF, 2)


@settings(max_examples=200, deadline=None)
@given(
    holes=st.lists(st.tuples(st.integers(0, len(PATTERN)), st.integers(1, 9000)), max_size=4),
    wishes=st.lists(st.tuples(st.integers(0, len(PATTERN)), st.integers(0, 40000)), min_size=1, max_size=6),
)
def test_reads_are_what_the_target_gives(holes: list[tuple[int, int]], wishes: list[tuple[int, int]]) -> None:
    segments, at = {}, 0
    for start, size in sorted(holes):
        if at < start:
            segments[BASE + at] = PATTERN[at:start]
        at = max(at, start + size)
    if at < len(PATTERN):
        segments[BASE + at] = PATTERN[at:]
    memory, plain = Memory(FakeTarget(segments)), FakeTarget(segments)
    for offset, size in wishes:
        try:
            expected = plain.read(BASE + offset, size)
        except FaultError:
            assert memory.try_read(BASE + offset, size) is None
        else:
            assert memory.read(BASE + offset, size) == expected


@pytest.mark.parametrize("platform", [X86_64, I386, S390X])
@pytest.mark.parametrize("address", [-8, -CHUNK_SIZE, 1 << 64, (1 << 64) - 4, (1 << 70) + 16])
def test_addresses_that_do_not_exist(platform: object, address: int) -> None:
    assert platform in (X86_64, I386, S390X)
    target = FakeTarget({0: PATTERN}, X86_64 if platform is X86_64 else I386 if platform is I386 else S390X)
    with pytest.raises(FaultError):
        Memory(target).read(address, 8)
    assert target.reads == 0


def test_the_last_bytes_of_32_bits() -> None:
    memory = Memory(FakeTarget({0x1_0000_0000 - CHUNK_SIZE: PATTERN[:CHUNK_SIZE]}, I386))
    assert memory.read(0xFFFF_FFFC, 4) == PATTERN[CHUNK_SIZE - 4 : CHUNK_SIZE]
    assert memory.try_read(0xFFFF_FFFC, 8) is None


def test_numbers_in_either_byte_order() -> None:
    data = bytes(range(1, 17))
    little, big, narrow = (Memory(FakeTarget({BASE: data}, platform)) for platform in (X86_64, S390X, I386))
    assert little.pointer(BASE) == 0x0807060504030201
    assert big.pointer(BASE) == 0x0102030405060708
    assert narrow.pointer(BASE) == 0x04030201
    assert little.unsigned(BASE + 1, 2) == 0x0302
    assert big.unsigned(BASE + 1, 2) == 0x0203
    assert big.words(BASE, 2) == (0x0102030405060708, 0x090A0B0C0D0E0F10)
    assert narrow.words(BASE, 4) == (0x04030201, 0x08070605, 0x0C0B0A09, 0x100F0E0D)


def test_strings() -> None:
    memory = Memory(FakeTarget({BASE: b"libA.so\0\xff\xc3\xa9\0" + b"x" * 20 + b"\0"}))
    assert memory.c_string(BASE) == "libA.so"
    assert memory.c_string(BASE + 4) == ".so"
    assert memory.c_string(BASE + 7) == ""
    assert memory.c_string(BASE + 8) == "\udcffé"
    assert memory.c_string(BASE + 8).encode("utf-8", "surrogateescape") == b"\xff\xc3\xa9"


def test_a_string_at_the_very_end_of_memory() -> None:
    for size in (3, 17, 255, 4096):
        memory = Memory(FakeTarget({BASE: b"y" * size + b"\0"}))
        assert memory.c_bytes(BASE, size + 10) == b"y" * size


def test_a_string_across_chunks() -> None:
    data = b"z" * 3000 + b"\0"
    start = BASE + CHUNK_SIZE - 1500
    memory = Memory(FakeTarget({BASE: bytes(CHUNK_SIZE - 1500) + data.ljust(CHUNK_SIZE, b"\0")}))
    assert memory.c_bytes(start) == data[:-1]


def test_a_string_without_end() -> None:
    target = FakeTarget({BASE: b"a" * (2 * CHUNK_SIZE)})
    with pytest.raises(CorruptError, match="without end"):
        Memory(target).c_string(BASE)
    assert target.bytes_read <= 2 * CHUNK_SIZE
    with pytest.raises(FaultError):
        Memory(FakeTarget({BASE: b"a" * 100})).c_string(BASE)
    assert len(Memory(FakeTarget({BASE: b"a" * (STRING_LIMIT - 1) + b"\0"})).c_string(BASE)) == STRING_LIMIT - 1


def test_one_command_reads_only_so_much() -> None:
    memory = Memory(FakeTarget({BASE: PATTERN}), 100_000)
    assert memory.problems() == ()
    read = sum(memory.try_read(BASE + offset, 8) is not None for offset in range(0, len(PATTERN), 8))
    assert 100 < read < len(PATTERN) // 8
    with pytest.raises(LimitError, match="as much as one may"):
        memory.read(BASE, 8)
    assert memory.try_words(BASE, 1) is None
    assert memory.try_unsigned(BASE, 4) is None
    (problem,) = memory.problems()
    assert BASE < int(problem.where, 16) < BASE + len(PATTERN)
    assert "is cut here" in problem.message


@pytest.mark.parametrize("size", [MAX_READ + 1, 1 << 60, -1])
def test_an_absurd_size_takes_nothing(size: int) -> None:
    memory = Memory(FakeTarget({BASE: PATTERN}), 100_000)
    for _ in range(100):
        with pytest.raises(FaultError):
            memory.read(BASE - 8, size)
    assert memory.read(BASE, 8) == PATTERN[:8]
    assert memory.problems() == ()


def test_strings_and_work_are_taken_from_the_same_total() -> None:
    memory = Memory(FakeTarget({BASE: (b"x" * 1000).ljust(CHUNK_SIZE, b"\0")}), 25_000)
    assert memory.spend(10_000, "edges")
    assert len(memory.c_string(BASE)) == 1000
    with pytest.raises(LimitError):
        memory.c_string(BASE)
    again = Memory(FakeTarget({BASE: PATTERN}), 10_000)
    assert not again.spend(10_001, "edges")
    assert again.try_read(BASE, 8) is None
    assert again.try_read_text(BASE, 8) is None
    assert [problem.where for problem in again.problems()] == ["edges"]


def test_of_a_target_read_again_the_first_memory_can_be_read_again_too() -> None:
    first = Memory(FakeTarget({BASE: PATTERN}))
    assert not first.spend(ALLOWANCE + 1, "edges")
    later = first.renewed().renewed()
    assert first.read(BASE, 8) == later.read(BASE, 8)


def test_not_all_that_was_read_is_kept() -> None:
    memory = Memory(FakeTarget({number * CHUNK_SIZE: PATTERN[:CHUNK_SIZE] for number in range(64)}))
    for number in range(MAX_CHUNKS + 64):
        memory.try_read(number * CHUNK_SIZE, 8)
    assert len(memory._chunks) < MAX_CHUNKS
    assert memory.read(0, 8) == PATTERN[:8]
