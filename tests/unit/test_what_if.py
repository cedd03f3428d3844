"""Is what would be, with other open counts or later on, judged as if it had been read so, with nothing from before?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from dlwhy.common.linux.loader.incremental import IncrementalGraphReader
from dlwhy.common.linux.loader.maps import LinkMap
from dlwhy.common.linux.model import Library
from dlwhy.common.linux.plan import Planner, find_remedy
from dlwhy.common.linux.plan_model import Remedy
from dlwhy.common.linux.state.verdict import GlibcExamination
from dlwhy.tests.fakes import X86_64, FakeTarget
from dlwhy.tests.support.examined import examination_of
from dlwhy.tests.synth.glibc import Library as Made
from dlwhy.tests.synth.glibc import Process
from dlwhy.tests.synth.glibc_layouts import V239

SEEDS = range(20)
START = (Made("main", type=0), Made("libc.so.6", type=1, tls_size=0x90), Made("ld.so", type=1))


def random_libraries(dice: random.Random) -> list[Made]:
    """Make libraries that need and bind each other, of which some are open, NODELETE, or owe destructors."""
    names = [f"lib{number}.so" for number in range(dice.randint(2, 9))]

    def others(name: str, most: int) -> list[str]:
        return dice.sample([each for each in names if each != name], dice.randint(0, min(most, len(names) - 1)))

    return [
        Made(
            name,
            opencount=dice.choice((0, 0, 1, 1, 2)),
            nodelete=dice.random() < 0.1,
            is_global=True,
            owed=dice.choice((0, 0, 0, 0, 1)),
            needs=others(name, 3),
            bound_to=others(name, 2),
        )
        for name in names
    ]


def target_of(libraries: Sequence[Made], unique: Sequence[tuple[str, str]] = ()) -> FakeTarget:
    made = [replace(each) for each in (*START, *libraries)]
    process = Process(
        X86_64,
        V239,
        made,
        rtld_global_size=4352,
        version=(2, 40),
        exports_descriptors=True,
        mangles=True,
        unique=unique,
    )
    return process.target()


def answers(examined: GlibcExamination) -> dict[str, tuple[Library, Remedy, bool, int]]:
    """Ask all that depends on open counts, and look into every cache on the way."""
    maps = [m for m in examined.process.graph.by_address.values() if m.l_type == 2]
    return {examined.process.name(m): answer(examined, m) for m in maps}


def answer(examined: GlibcExamination, link_map: LinkMap) -> tuple[Library, Remedy, bool, int]:
    judged = without_values(examined.verdict(link_map, identify=True))
    change = find_remedy(examined, link_map)
    if change.blocker is not None:
        change = change._replace(blocker=without_values(change.blocker))
    return judged, change, Planner(examined).is_garbage(link_map), examined.kept.open_count(link_map)


def without_values(library: Library) -> Library:
    """Return a verdict without the values in memory, which are those that were read whatever is asked."""
    return library._replace(holds=tuple(hold._replace(evidence=()) for hold in library.holds), fields={})


@pytest.mark.parametrize("seed", SEEDS)
def test_other_open_counts_are_judged_as_if_they_had_been_read(seed: int) -> None:
    dice = random.Random(seed)
    libraries = random_libraries(dice)
    examined = examination_of(target_of(libraries))
    answers(examined)
    for _ in range(3):
        changed = [replace(each, opencount=dice.choice((0, 0, 1))) for each in libraries]
        counts = dict(zip((each.name for each in changed), (each.opencount for each in changed)))
        maps = examined.process.graph.by_address.values()
        after = examined.after({m.address: counts[m.name.rpartition("/")[2]] for m in maps if m.l_type == 2})
        assert answers(after) == answers(examination_of(target_of(changed)))
        # What would be after yet another close is asked of what would be.
        closed, *_ = (m for m in maps if m.l_type == 2)
        again = [replace(each, opencount=0) if each is changed[0] else each for each in changed]
        assert answers(after.after({closed.address: 0})) == answers(examination_of(target_of(again)))
    assert answers(examined) == answers(examination_of(target_of(libraries)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_process_that_has_gone_on_is_judged_as_if_it_had_been_read_anew(seed: int) -> None:
    dice = random.Random(seed)
    libraries = random_libraries(dice)
    target = target_of(libraries)
    examined = examination_of(target)
    process = examined.process
    follower = IncrementalGraphReader(process.memory, process.layouts, process.private.rtld_global)
    for _ in range(4):
        answers(examined)
        answers(examined.after(dict.fromkeys(examined.process.graph.by_address, 0)))
        for each in dice.sample(libraries, dice.randint(0, 2)):
            each.opencount = dice.choice((0, 1, 2))
            each.nodelete = each.nodelete or dice.random() < 0.2
            each.owed = dice.choice((each.owed, 0, 1))
        owners = [each.name for each in libraries if each.nodelete]
        unique = [("_ZGVx", dice.choice(owners))] if owners and dice.random() < 0.5 else []
        now = target_of(libraries, unique)
        target._segments, target._starts = now._segments, now._starts
        examined = examined.later(follower.read)
        fresh = examination_of(now)
        assert answers(examined) == answers(fresh)
        assert examined.process.problems == fresh.process.problems
