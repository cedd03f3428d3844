"""Does a reading that takes over what has not changed find the same as a fresh one? And what needs no debugger."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from dlwhy.common.linux.dumps.procfs import ProcTarget
from dlwhy.common.linux.loader.collector import mark
from dlwhy.common.linux.loader.incremental import IncrementalGraphReader
from dlwhy.common.linux.loader.maps import Graph, read_graph
from dlwhy.common.linux.loader.roots import LT_LOADED
from dlwhy.common.linux.model import HoldKind, TlsDestructor
from dlwhy.common.linux.state.process import GlibcProcess
from dlwhy.common.linux.state.verdict import GlibcExamination
from dlwhy.common.linux.trace.call import ClosePrediction
from dlwhy.common.linux.trace.in_flight import changed_maps
from dlwhy.common.linux.trace.predictor import ClosePredictor
from dlwhy.common.memory import Memory
from dlwhy.tests.fakes import DamagedMemory
from dlwhy.tests.hosts.debuggers import Subject, ask_shell
from dlwhy.tests.plan.graphs import RTLD_GLOBAL, RTLD_LAZY, build_driver, build_graph, random_shapes
from dlwhy.tests.plan.rounds import Round, Tally
from dlwhy.tests.plan.sessions import Session, clean_environment, look


def test_what_has_not_changed_is_taken_over(tmp_path: Path) -> None:
    build_driver(tmp_path / "driver", None)
    shapes = random_shapes(random.Random("graph 3"))
    build_graph(tmp_path / "graph", shapes)
    dice = random.Random(5)
    with Session(tmp_path / "driver", tmp_path / "graph", clean_environment()) as session:
        first = look(session.target).examined.process
        follower = IncrementalGraphReader(first.memory, first.layouts, first.private.rtld_global)
        known = first.graph
        handles: list[str] = []
        reused = 0
        for _ in range(60):
            if handles and dice.random() < 0.4:
                session.tell(f"close {handles.pop(dice.randrange(len(handles)))}")
            else:
                flags = RTLD_LAZY | dice.choice((0, RTLD_GLOBAL))
                lines = session.tell(f"open {flags:x} {session.folder / dice.choice(shapes).name}")
                handles += [line.split()[1] for line in lines if line.startswith("handle ")]
            again = follower.read(Memory(session.target))
            fresh = read_graph(Memory(session.target), first.layouts, first.private.rtld_global)
            assert again.problems == fresh.problems == []
            assert without_scopes(again, first) == without_scopes(fresh, first)
            assert [m.name for m in again.by_address.values()] == [m.name for m in fresh.by_address.values()]
            for space, other in zip(again.namespaces, fresh.namespaces):
                assert mark(space, again, first.rules) == mark(other, fresh, first.rules)
            reused += sum(again.by_address[address] is known.by_address.get(address) for address in again.by_address)
            known = again
        assert reused > 0


def without_scopes(graph: Graph, process: GlibcProcess) -> list[tuple[int, bytes]]:
    """Return what was read, without where maps look up symbols, which is no matter and not read again for itself."""
    scope = process.layouts.require("link_map").fields["l_scope"]
    start, end = scope.offset - 5 * scope.size, scope.offset + scope.size
    return [(at, raw[:start] + raw[end:] if at in graph.by_address else raw) for at, raw in graph.pieces]


def told_by(prediction: ClosePrediction) -> tuple[Any, ...]:
    """Return what was predicted."""
    keeps = []
    for library in prediction.kept:
        # Why it is NODELETE can be told for sure until it is made global.
        holds = [h._replace(origin="dlopen-flag-or-dlsym") if h.origin == "dlopen-flag" else h for h in library.holds]
        holds = [h._replace(destructors=tuple(map(without_number, h.destructors))) for h in holds]
        keeps.append(library._replace(holds=tuple(holds)))
    return prediction.outcome, prediction.unloads, prediction.may_unload_more, keeps


def without_number(destructor: TlsDestructor) -> TlsDestructor:
    """Return a destructor without its thread's number: a debugger keeps it, /proc has none and they are counted."""
    thread = destructor.thread
    return destructor._replace(thread=thread and thread._replace(number=0))


def foresee(forecast: ClosePredictor, examined: GlibcExamination) -> dict[int, ClosePrediction]:
    """Predict a close of each library by itself."""
    found = {}
    for address, link_map in examined.process.graph.by_address.items():
        if not link_map.is_proxy:
            found[address] = forecast.predict(examined, link_map, None)
    return found


def test_verdicts_that_are_taken_over_are_those_of_a_fresh_look(tmp_path: Path) -> None:
    # Libraries bind lazily, owe TLS destructors, and are opened and closed: what is remembered must not outlive it.
    build_driver(tmp_path / "driver", None)
    kinds: set[HoldKind] = set()
    for seed in range(10):
        folder = tmp_path / f"graph{seed}"
        shapes = random_shapes(random.Random(f"graph {seed}"))
        build_graph(folder, shapes)
        with Session(tmp_path / "driver", folder, clean_environment()) as session:
            one = Round(seed, shapes, session, Tally())
            examined = look(session.target).examined
            process = examined.process
            follower = IncrementalGraphReader(process.memory, process.layouts, process.private.rtld_global)
            forecast = ClosePredictor()
            for _ in range(100):
                one.step()
                before = examined.process.graph
                examined = examined.later(follower.read)
                # As at every event: the next library at the same place can be another one.
                examined.process.forget_build_ids(changed_maps(before, examined.process.graph))
                ours = foresee(forecast, examined)
                for address, fresh in foresee(ClosePredictor(), look(session.target).examined).items():
                    assert told_by(ours[address]) == told_by(fresh)
                    kinds |= {hold.kind for library in fresh.kept for hold in library.holds}
            assert one.tally.wrong == []
    wanted = {HoldKind.DEPENDENCY, HoldKind.OPEN_COUNT, HoldKind.RELOCATION, HoldKind.NODELETE}
    assert wanted | {HoldKind.TLS_DESTRUCTORS} <= kinds


class DamagedProcess(DamagedMemory, ProcTarget):
    """A process as if some of its memory were damaged."""

    def __init__(self, pid: int) -> None:
        DamagedMemory.__init__(self)
        ProcTarget.__init__(self, pid)

    def original(self, address: int, size: int) -> bytes:
        return ProcTarget.read(self, address, size)


def test_damage_between_two_readings_is_found_and_forgotten(tmp_path: Path) -> None:
    build_driver(tmp_path / "driver", None)
    shapes = random_shapes(random.Random("graph 1"))
    build_graph(tmp_path / "graph", shapes)
    dice = random.Random(7)
    with Session(tmp_path / "driver", tmp_path / "graph", clean_environment()) as session:
        for shape in (*reversed(shapes), *shapes):  # many need symbols of others
            session.tell(f"open {RTLD_LAZY | RTLD_GLOBAL:x} {session.folder / shape.name}")
        target = DamagedProcess(session.process.pid)
        first = look(session.target).examined.process
        rtld_global = first.private.rtld_global
        follower = IncrementalGraphReader(Memory(target), first.layouts, rtld_global)
        maps = list(first.graph.by_address.values())
        opened = [link_map for link_map in maps if link_map.l_type == LT_LOADED]
        fields = first.layouts.require("link_map").fields
        reported = 0
        for _ in range(200):
            chosen = dice.choice(maps)
            name = dice.choice(("l_next", "l_prev", "l_type", "l_direct_opencount", "l_initfini", "l_reldeps", "l_ns"))
            values = (0, 1, 1 << 31, dice.choice(maps).address, chosen.address, dice.getrandbits(47))
            value = dice.choice(values) & (1 << 8 * fields[name].size) - 1
            target.overwrite(chosen.address + fields[name].offset, value.to_bytes(fields[name].size, "little"))
            if dice.random() < 0.2:
                target.forget(dice.choice(opened).address & ~0xFFF, 0x1000)
            again = follower.read(Memory(target))
            fresh = read_graph(Memory(target), first.layouts, rtld_global)
            assert again.problems == fresh.problems
            assert again.pieces == fresh.pieces
            reported += bool(again.problems)
            target.heal()
            healed = follower.read(Memory(target))
            assert healed.problems == []
            assert healed.pieces == first.graph.pieces
        assert reported > 50
        target.close()


def test_the_shell_says_that_it_needs_a_debugger() -> None:
    reply = ask_shell(Subject(pid=os.getpid()), ["dltrace", "start"])
    assert reply.error is not None
    assert "a trace needs a debugger that runs the process" in reply.error
