"""Is every prediction put into the words of the golden file, in at most 100 columns, and into valid JSON?

DLWHY_UPDATE_GOLDEN=1 pytest tests/unit/test_views_plan.py        writes the golden file anew; read its diff
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from dlwhy.common.commands.dlplan.document import plan_document
from dlwhy.common.commands.dlplan.text import plan_view
from dlwhy.common.linux.model import CodeSymbol, HoldKind, Library
from dlwhy.common.linux.plan_model import Action, Closer, ClosingWay, Plan, Plans, Remedy, Step, ThreadInside
from dlwhy.common.model import LoaderInfo, Outcome, ThreadRef
from dlwhy.common.render.json_parts import dump
from dlwhy.common.render.text import MAX_WIDTH, render
from dlwhy.tests.schema import VALIDATOR
from dlwhy.tests.support.naming import names_of
from dlwhy.tests.synth.answers import HOLDS, LINK_MAP, destructor, library, nodelete, opened, owed, startup, state
from dlwhy.tests.unit.goldens import golden

LIB = library(opened(2))
MANY = tuple(library(name=f"lib{number:02}.so")._replace(link_map=LINK_MAP + 4096 * number) for number in range(1, 21))
OTHER, THIRD = MANY[:2]
SIZE = 0x8E000
MAIN = ThreadRef(1, 4711, "progA")
THREADS = (ThreadRef(7, 4717, "worker"), ThreadRef(9, 4719, None))


def close(total: int, of: Library = LIB) -> Step:
    """Make a step that closes a library."""
    return Step(Action.CLOSE, of.name, of.link_map, 0, total)


def exit_of(*threads: ThreadRef, of: Library = LIB) -> Step:
    """Make a step in which threads exit."""
    return Step(Action.THREAD_EXIT, of.name, of.link_map, 0, 2, threads)


def closing(*closers: Closer, **more: Any) -> Plan:
    """Make a plan of a library that goes, with another one, while destructors may close more."""
    return gone(OTHER, may_unload_more=tuple(each.library for each in closers), closers=closers, **more)


def inside(of: Library, count: int, *, certain: bool = True) -> tuple[ThreadInside, ...]:
    """Make threads that are in a library's code."""
    threads = (ThreadRef(number, 4710 + number, None) for number in range(2, 2 + count))
    return tuple(ThreadInside(of.name, of.link_map, thread, certain) for thread in threads)


COLLECT = Step(Action.COLLECT, LIB.name, LINK_MAP, 0)


def kept(outcome: Outcome, *keeps: Library, steps: tuple[Step, ...] = (), count: int = 1, **more: Any) -> Plan:
    """Make a plan of a library that stays."""
    return Plan(LIB, count, more.pop("close_count", 1), outcome, kept=keeps, remedy=Remedy(steps), **more)


def blocked(outcome: Outcome, blocker: Library, *keeps: Library, count: int = 1) -> Plan:
    """Make a plan of a library that nothing unloads."""
    return Plan(LIB, count, 1, outcome, kept=keeps, remedy=Remedy(blocker=blocker))


def gone(*with_it: Library, **more: Any) -> Plan:
    """Make a plan of a library that goes."""
    size = SIZE * (len(with_it) + 1)
    given = {"order_algorithm": "depth-first", "unload_bytes": size, **more}
    return Plan(LIB, given.pop("count", 1), given.pop("close_count", 1), Outcome.UNLOADS, (LIB, *with_it), **given)


SAMPLES: dict[str, Plan] = {
    "unloads it alone": gone(),
    "unloads three": gone(OTHER, THIRD),
    "unloads many": gone(*MANY),
    "unloads by two closes": gone(OTHER, count=2, close_count=2),
    "unloads at least": closing(Closer(OTHER.name, ClosingWay.IMPORT)),
    "unloads at least, two": closing(*(Closer(each.name, ClosingWay.IMPORT) for each in (LIB, OTHER))),
    "unloads at least, by dlsym": closing(Closer(OTHER.name, ClosingWay.LOOKUP)),
    "unloads at least, by a call": closing(Closer(OTHER.name, ClosingWay.CALL, CodeSymbol(1, "f_close", "libwrap.so"))),
    "unloads at least, by many calls": closing(
        *(Closer(each.name, ClosingWay.CALL, CodeSymbol(0x4711, None, None)) for each in MANY)
    ),
    "unloads at least, by pointers": closing(
        Closer(OTHER.name, ClosingWay.POINTER, CodeSymbol(1, "f_close", "libwrap.so"))
    ),
    "unloads at least, not followed": closing(Closer(OTHER.name, ClosingWay.UNKNOWN)),
    "unloads in an uncertain order": gone(OTHER, order_certain=False),
    "unloads in an unknown order": gone(OTHER, order_algorithm=None),
    "unloads and keeps a dependency": gone(OTHER, kept=(library(HOLDS["nodelete-unique-symbol"], name="libC.so"),)),
    "unloads code of three threads": gone(OTHER, threads_inside=inside(OTHER, 3)),
    "unloads code of two libraries' threads": gone(OTHER, threads_inside=(*inside(OTHER, 1), *inside(LIB, 2))),
    "unloads code of a thread, perhaps": gone(threads_inside=inside(LIB, 1, certain=False), threads_unknown=1),
    "unloads code of threads, and perhaps of others": gone(
        threads_inside=(*inside(LIB, 1), *inside(LIB, 2, certain=False)), threads_unknown=2
    ),
    "unloads code of threads in many": gone(*MANY, threads_inside=tuple(each for m in MANY for each in inside(m, 2))),
    "keeps: open more often": kept(Outcome.KEEPS, library(opened(2)), OTHER, steps=(close(2),), count=3),
    "keeps: needed": kept(Outcome.KEEPS, library(HOLDS["dependency"]), steps=(close(2, OTHER),)),
    "keeps: destructors": kept(Outcome.KEEPS, library(HOLDS["tls-destructors"]), steps=(exit_of(THREADS[0]), COLLECT)),
    "keeps: destructors of two threads, and a count": kept(
        Outcome.KEEPS,
        library(opened(1), owed(destructor(7), destructor(9))),
        steps=(exit_of(*THREADS), close(1)),
        count=2,
    ),
    "keeps: destructors of threads that are not known": kept(
        Outcome.KEEPS, library(owed(total=2)), steps=(exit_of()._replace(unseen=2), COLLECT)
    ),
    "keeps: destructors of the main thread, and one that was not seen": kept(
        Outcome.KEEPS, library(owed(destructor(1), total=2)), steps=(exit_of(MAIN)._replace(unseen=1), COLLECT)
    ),
    "keeps: a holder's destructors, one of which was not seen": kept(
        Outcome.KEEPS,
        library(HOLDS["relocation"]),
        steps=(exit_of(THREADS[0], of=OTHER)._replace(unseen=1), COLLECT),
    ),
    "keeps: a holder's destructors": kept(
        Outcome.KEEPS, library(HOLDS["relocation"]), steps=(exit_of(THREADS[0], of=OTHER), COLLECT)
    ),
    "keeps: libc": kept(
        Outcome.KEEPS, library(opened(1, "libc")), steps=(Step(Action.LIBC_CLOSE, LIB.name, LINK_MAP, 0, 1),), count=2
    ),
    "keeps, but others go": kept(
        Outcome.KEEPS,
        library(HOLDS["dependency"]),
        steps=(close(1, OTHER),),
        unloads=(THIRD,),
        order_algorithm="original",
        unload_bytes=SIZE,
    ),
    "blocked by a NODELETE holder": blocked(
        Outcome.KEEPS, OTHER._replace(holds=(nodelete("elf-flag"),)), library(HOLDS["dependency"])
    ),
    "keeps: a destructor of the main thread": kept(
        Outcome.KEEPS, library(HOLDS["tls-destructors-main-thread"]), steps=(exit_of(MAIN, THREADS[0]), COLLECT)
    ),
    "keeps: a holder's destructor of the main thread": kept(
        Outcome.KEEPS, library(HOLDS["relocation"]), steps=(exit_of(MAIN, of=OTHER), COLLECT)
    ),
    "blocked by a destructor of a thread that does not exist": blocked(
        Outcome.KEEPS, library(HOLDS["tls-destructors-lost"]), library(HOLDS["tls-destructors-lost"])
    ),
    "blocked by a holder's destructor that never runs": blocked(
        Outcome.KEEPS, OTHER._replace(holds=(HOLDS["tls-destructors-lost"],)), library(HOLDS["dependency-lost"])
    ),
    "blocked by a start-up library": blocked(
        Outcome.KEEPS, OTHER._replace(holds=(startup("needed"),)), library(HOLDS["dependency"])
    ),
    "early return: the file's flag": blocked(
        Outcome.NO_EFFECT, library(nodelete("elf-flag", early=True)), library(nodelete("elf-flag", early=True))
    ),
    "early return: a unique symbol": blocked(
        Outcome.NO_EFFECT, library(HOLDS["nodelete-unique-symbol"]), library(HOLDS["nodelete-unique-symbol"])
    ),
    "early return until threads exit": kept(
        Outcome.NO_EFFECT, library(HOLDS["tls-destructors"]), steps=(exit_of(THREADS[0]), close(1))
    ),
    "not open": kept(Outcome.NOT_OPEN, library(HOLDS["dependency"]), steps=(close(1, OTHER),), count=0),
    "not open: garbage": kept(Outcome.NOT_OPEN, library(held=False), steps=(COLLECT,), count=0),
    "not open: loaded at start": blocked(
        Outcome.NOT_OPEN, library(startup("needed")), library(startup("needed")), count=0
    ),
    "not known": Plan(LIB, 1, 1, Outcome.UNKNOWN, kept=(library(held=None),)),
    "deferred": Plan(LIB, 1, 1, Outcome.DEFERRED, (LIB,), order_algorithm="depth-first", unload_bytes=SIZE),
    "deferred, in another namespace": kept(Outcome.DEFERRED, library(held=False), steps=(COLLECT,)),
}


def answer(*plans: Plan, asked: bool = True) -> Plans:
    """Make an answer."""
    made = state()
    return Plans(made.target, made.loader, plans, "libB.so" if asked else None)


def texts() -> dict[str, str]:
    """Write every sample."""
    found = {}
    for name, plan in SAMPLES.items():
        found[name] = render(plan_view(answer(plan), verbose=False))
        found[f"{name} -v"] = render(plan_view(answer(plan), verbose=True))
    every = answer(*SAMPLES.values(), asked=False)
    found["all"] = render(plan_view(every._replace(garbage=(OTHER, THIRD)), verbose=False))
    found["all: none frees anything"] = render(
        plan_view(answer(SAMPLES["keeps: needed"], asked=False)._replace(garbage=(OTHER,)), verbose=False)
    )
    unknown = SAMPLES["not known"]
    found["all: not known"] = render(plan_view(answer(unknown, asked=False), verbose=False))
    found["all: none is known"] = render(plan_view(answer(unknown, unknown, asked=False), verbose=False))
    some = answer(unknown, SAMPLES["keeps: needed"], asked=False)
    found["all: one is not known"] = render(plan_view(some, verbose=False))
    found["all: none is open"] = render(plan_view(answer(asked=False), verbose=False))
    never = library(HOLDS["never-unloads"])
    musl = Plan(never, None, 1, Outcome.KEEPS, kept=(never,), remedy=Remedy(blocker=never))
    info = LoaderInfo("musl", None)
    found["musl"] = render(plan_view(answer(musl)._replace(loader=info), verbose=False))
    found["musl, all"] = render(plan_view(answer(asked=False)._replace(loader=info), verbose=False))
    return found


def test_golden() -> None:
    written = "\n".join(f"==== {name}\n{text}" for name, text in texts().items())
    assert written == golden("views_plan", written)


def test_no_line_is_too_long() -> None:
    long = [
        line
        for name, text in texts().items()
        if not name.endswith("-v")
        for line in text.splitlines()
        if len(line) > MAX_WIDTH
    ]
    assert long == []


@pytest.mark.parametrize("name", SAMPLES)
def test_json_follows_the_schema(name: str) -> None:
    document = json.loads(dump(plan_document("dlplan", answer(SAMPLES[name]))))
    VALIDATOR.validate(document)
    assert document["outcome"] == SAMPLES[name].outcome.value
    if SAMPLES[name].outcome is Outcome.UNKNOWN:
        unknown = ("unloads", "may_unload_more", "imports_unread", "unload_bytes", "statics_after_reopen")
        assert [document[key] for key in (*unknown, "closers", "threads_inside", "threads_unknown")] == [None] * 8
    else:
        assert names_of(document["unloads"]) == [each.name for each in SAMPLES[name].unloads]
        assert document["statics_after_reopen"] == ("fresh" if "libB.so" in names_of(document["unloads"]) else "same")


def test_json_of_all_follows_the_schema() -> None:
    document = json.loads(dump(plan_document("dlplan", answer(*SAMPLES.values(), asked=False))))
    VALIDATOR.validate(document)
    assert len(document["plans"]) == len(SAMPLES)
    VALIDATOR.validate(json.loads(dump(plan_document("dlplan", answer(asked=False)))))


def test_a_document_with_a_hole_does_not_follow_the_schema() -> None:
    document = plan_document("dlplan", answer(SAMPLES["keeps: needed"]))
    for key in ("library", "outcome", "unloads", "kept", "remedy", "garbage", "statics_after_reopen"):
        damaged = {name: value for name, value in document.items() if name != key}
        assert not VALIDATOR.is_valid(damaged), key
    assert not VALIDATOR.is_valid({**document, "outcome": "perhaps"})
    assert not VALIDATOR.is_valid({**document, "command": "dlstate"})


def test_the_samples_have_every_outcome_and_every_action() -> None:
    assert {plan.outcome for plan in SAMPLES.values()} == set(Outcome)
    actions = {step.action for plan in SAMPLES.values() if plan.remedy for step in plan.remedy.steps}
    assert actions == set(Action)
    assert HoldKind.NODELETE in {h.kind for p in SAMPLES.values() for each in p.kept for h in each.holds}
