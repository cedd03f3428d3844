"""Does a reading that takes over what has not changed find the same as a fresh one? And what needs no debugger."""

from __future__ import annotations

import os
import random
from pathlib import Path

from dlwhy.common.loaders import glibc
from dlwhy.common.loaders.glibc_follow import GraphFollower
from dlwhy.common.memory import Memory
from dlwhy.tests.hosts.debuggers import Subject, ask_shell
from dlwhy.tests.plan.graphs import RTLD_GLOBAL, RTLD_LAZY, build_driver, build_graph, random_shapes
from dlwhy.tests.plan.sessions import Session, look
from dlwhy.tests.plan.test_random_graphs import clean_environment


def test_what_has_not_changed_is_taken_over(tmp_path: Path) -> None:
    build_driver(tmp_path / "driver", None)
    shapes = random_shapes(random.Random("graph 3"))
    build_graph(tmp_path / "graph", shapes)
    dice = random.Random(5)
    with Session(tmp_path / "driver", tmp_path / "graph", clean_environment()) as session:
        first = look(session.target).examined
        follower = GraphFollower(first.memory, first.layouts, first.private.rtld_global)
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
            fresh = glibc.read_graph(Memory(session.target), first.layouts, first.private.rtld_global)
            assert again.problems == fresh.problems == []
            assert again.pieces == fresh.pieces
            assert [m.name for m in again.by_address.values()] == [m.name for m in fresh.by_address.values()]
            for space, other in zip(again.namespaces, fresh.namespaces):
                assert glibc.mark(space, again, first.rules) == glibc.mark(other, fresh, first.rules)
            reused += sum(again.by_address[address] is known.by_address.get(address) for address in again.by_address)
            known = again
        assert reused > 0


def test_the_shell_says_that_it_needs_a_debugger() -> None:
    reply = ask_shell(Subject(pid=os.getpid()), ["dltrace", "start"])
    assert reply.error is not None
    assert "a trace needs a debugger that runs the process" in reply.error
