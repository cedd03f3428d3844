"""Is a list of the target followed to its end, and is it said how and where it was cut short?"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Optional

import pytest
from dlwhy.common.errors import CorruptError
from dlwhy.common.linux.layouts.resolve import LayoutSet
from dlwhy.common.linux.loader.maps import Graph
from dlwhy.common.linux.loader.threads import find_thread_pointers
from dlwhy.common.lists import Walk, WalkEnd, follow_ring
from dlwhy.common.memory import Memory
from dlwhy.common.model import Field, Layout, Platform, Problem, Source, SourceKind
from dlwhy.tests.fakes import X86_64, FakeTarget

BASE = 0x10000
HEAD = BASE + 0x800


def at(number: int) -> int:
    return BASE + 0x10 * number


def follow(links: Sequence[int], limit: int = 100, taken: int = 0) -> Walk[int]:
    """Follow a list of nodes 16 bytes apart, each with the address of the next one; 13 is no such address."""
    memory = Memory(FakeTarget({BASE: b"".join(struct.pack("<QQ", each, 7) for each in links)}))

    def read(address: int, before: int) -> tuple[int, int]:
        following, _ = memory.words(address, 2)
        if following == 13:
            raise CorruptError(f"{address:#x} is no node behind {before:#x}")
        return address, following

    return Walk(BASE, read, limit=limit, taken=taken, subject="the list", noun="node")


@pytest.mark.parametrize(
    ("links", "seen", "end", "reason"),
    [
        ([at(1), at(2), 0], 3, WalkEnd.WHOLE, None),
        ([at(0)], 1, WalkEnd.LOOP, "the list loops at 0x10000 after 1 node"),
        ([at(1), at(2), at(1)], 3, WalkEnd.LOOP, "the list loops at 0x10010 after 3 nodes"),
        ([at(1), 0x5000], 2, WalkEnd.FAULT, "the list cannot be read at 0x5000 after 2 nodes"),
        ([at(1), at(2), 13], 2, WalkEnd.CONTRADICTION, "0x10020 is no node behind 0x10010"),
        ([13], 0, WalkEnd.CONTRADICTION, "0x10000 is no node behind 0x0"),
    ],
)
def test_how_a_walk_ends(links: Sequence[int], seen: int, end: WalkEnd, reason: Optional[str]) -> None:
    walk = follow(links)
    assert (walk.all(), walk.end, walk.reason) == ([at(number) for number in range(seen)], end, reason)
    assert walk.is_complete == (end is WalkEnd.WHOLE)


def test_a_limit_is_that_of_several_lists() -> None:
    links = [at(1), at(2), at(3), 0]
    assert follow(links, limit=4).is_complete
    assert (follow(links, limit=3).all(), follow(links, limit=3).reason) == (
        [at(0), at(1), at(2)],
        "the list has more than 3 nodes",
    )
    walk = follow(links, limit=5, taken=3)
    assert (len(walk.all()), walk.end) == (2, WalkEnd.LIMIT)
    assert walk.reason == "the list and the lists before it have more than 5 nodes"


def test_no_more_is_read_than_is_asked_for() -> None:
    walk = follow([at(1), at(2), 0x5000])
    assert next(iter(walk)) == at(0)
    assert (walk.items, walk.end) == ([at(0)], None)
    # Several may go along one walk, and none of them reads again what another one has.
    assert [list(walk), list(walk)] == [[at(0), at(1), at(2)]] * 2
    assert walk.end is WalkEnd.FAULT


def ring(*nodes: tuple[int, int], platform: Platform = X86_64, size: int = 8) -> Memory:
    """Write {next, previous} of nodes 16 bytes apart, of the head first."""
    form = "<QQ" if size == 8 else "<II"
    segments = {at(number): struct.pack(form, *links) for number, links in enumerate(nodes, 1)}
    segments[HEAD] = segments.pop(at(1)) if nodes else b""
    return Memory(FakeTarget(segments, platform))


SOUND = ((at(2), at(4)), (at(3), HEAD), (at(4), at(2)), (HEAD, at(3)))


@pytest.mark.parametrize(("backwards", "found"), [(False, [2, 3, 4]), (True, [4, 3, 2])])
@pytest.mark.parametrize("size", [8, 4])
def test_a_ring(size: int, backwards: bool, found: Sequence[int]) -> None:
    walk = follow_ring(
        ring(*SOUND, size=size), HEAD, lambda node: node + 1, limit=9, backwards=backwards, pointer_size=size
    )
    assert (walk.all(), walk.reason) == ([at(number) + 1 for number in found], None)


def test_a_ring_without_nodes() -> None:
    walk = follow_ring(ring((HEAD, HEAD)), HEAD, int, limit=9)
    assert (walk.all(), walk.is_complete) == ([], True)


@pytest.mark.parametrize(
    ("changed", "seen", "reason"),
    [
        ((1, (at(3), at(4))), 0, "the entry at 0x10020 does not point back: what follows is not known"),
        ((2, (at(4), HEAD)), 1, "the entry at 0x10030 does not point back: what follows is not known"),
        ((3, (0x5000, at(3))), 3, "it cannot be read at 0x5000 after 3 entries"),
    ],
)
def test_a_ring_that_is_damaged(changed: tuple[int, tuple[int, int]], seen: int, reason: str) -> None:
    links = list(SOUND)
    index, links[index] = changed
    walk = follow_ring(ring(*links), HEAD, int, limit=9)
    assert (len(walk.all()), walk.reason) == (seen, reason)


def test_a_ring_whose_head_cannot_be_read() -> None:
    walk = follow_ring(ring(), HEAD, int, limit=9)
    assert (walk.all(), walk.end, walk.reason) == ([], WalkEnd.FAULT, f"it cannot be read at {HEAD:#x} after 0 entries")


# -- the threads that glibc lists -----------------------------------------------------------------------------------

LAYOUTS = LayoutSet(
    {
        "pthread": Layout("pthread", 0x100, {"list.next": Field(0, 8), "tid": Field(16, 4)}),
        "rtld_global": Layout("rtld_global", 64, {"_dl_stack_used": Field(0, 8), "_dl_stack_user": Field(16, 8)}),
    },
    Source(SourceKind.TABLE, "a test"),
    (2, 40),
    exact=True,
)
GLOBAL, FIRST, SECOND = 0x20000, 0x30000, 0x40000


def threads(back: int) -> tuple[dict[int, int], list[Problem]]:
    """Find the pointers of two threads, of which the second one points back there."""
    user = GLOBAL + 16
    segments = {
        GLOBAL: struct.pack("<4Q", FIRST, SECOND, user, user),
        FIRST: struct.pack("<2QI", SECOND, GLOBAL, 11),
        SECOND: struct.pack("<2QI", GLOBAL, back, 12),
    }
    problems: list[Problem] = []
    found = find_thread_pointers(Memory(FakeTarget(segments)), LAYOUTS, Graph(), GLOBAL, problems)
    return dict(found), problems


def test_threads_that_glibc_lists() -> None:
    assert threads(FIRST) == ({11: FIRST, 12: SECOND}, [])


def test_threads_that_can_be_missing_are_told() -> None:
    found, (problem,) = threads(0x1234)
    assert found == {11: FIRST}
    assert (problem.where, "threads can be missing" in problem.message) == ("glibc's threads", True)
