"""What does one seed do: random opens and closes, each close predicted, and compared with what it then does?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from dlwhy.common.linux.plan_model import Action, Plan
from dlwhy.common.model import Outcome
from dlwhy.tests.plan.graphs import (
    COLLECT,
    RTLD_DEEPBIND,
    RTLD_GLOBAL,
    RTLD_LAZY,
    RTLD_NODELETE,
    RTLD_NOLOAD,
    RTLD_NOW,
    Shape,
    name_of,
    reachable,
)
from dlwhy.tests.plan.sessions import Session, View, look, mapped_at

PHASES = 4
STEPS = 35
THREADS = 3


@dataclass
class Tally:
    """What was checked, and what was found to be wrong."""

    closes: int = 0
    unloading: int = 0
    exact: int = 0
    flagged: int = 0
    flagged_exact: int = 0
    nested: int = 0
    orders: int = 0
    forks: int = 0
    changes: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        share = 100 * self.exact / max(1, self.closes)
        return (
            f"{self.closes} closes ({self.unloading} of them unload), {self.exact} exact ({share:.2f} %), "
            f"{self.flagged} flagged at_least (needlessly {self.flagged_exact}), {self.nested} with nested closes; "
            f"{self.orders} orders of two or more finalisers; {self.forks} closes in forked children; "
            f"{self.changes} least changes carried out; {self.outcomes}; {len(self.wrong)} wrong"
        )


class Round:
    """One seed: a driver, what is done with it, and what is compared."""

    def __init__(self, seed: int, shapes: Sequence[Shape], session: Session, tally: Tally) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.shapes = shapes
        self.session = session
        self.tally = tally
        self.threads: set[int] = set()
        self.spaces = 0
        self.done: list[str] = []
        self.closes_itself = any(shape.closes for shape in shapes)
        self.opened: dict[int, int] = {}

    def tell(self, command: str) -> list[str]:
        """Give a command, and remember it for the report of what is wrong."""
        self.done.append(command)
        return self.session.tell(command)

    def wrong(self, text: str) -> None:
        """Note a difference."""
        self.tally.wrong.append(f"seed {self.seed}: {text}\n  after {'; '.join(self.done)}")

    def open(self, command: str) -> None:
        """Open something, and remember its handle."""
        for line in self.tell(command):
            if line.startswith("handle "):
                handle = int(line.split()[1], 16)
                self.opened[handle] = self.opened.get(handle, 0) + 1

    def handles(self, view: View) -> list[int]:
        """List what may be closed: a handle that a destructor will close is not to be closed behind its back."""
        return [h for h in view.handles() if not self.closes_itself or self.opened.get(h, 0) > 0]

    def look(self) -> View:
        """Read the state."""
        return look(self.session.target)

    # -- what is done ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do and compare everything."""
        for _ in range(PHASES):
            for _ in range(STEPS):
                self.step()
            self.compare_forks()
            self.carry_out_changes()

    def step(self) -> None:
        """Do something at random."""
        deed = self.dice.choices(
            ("open", "close", "call", "find", "main", "owe", "exit", "space", "missing"),
            (46, 45, 10, 6, 0.4, 5, 5, 1, 1),
        )[0]
        if deed == "open":
            mode = self.dice.choice((RTLD_LAZY, RTLD_LAZY, RTLD_NOW))
            mode |= self.dice.choices((0, RTLD_GLOBAL, RTLD_DEEPBIND, RTLD_NODELETE, RTLD_NOLOAD), (60, 30, 6, 1, 3))[0]
            shape = self.dice.choice(self.shapes)
            self.open(f"open {mode:x} {self.session.folder / shape.name}")
        elif deed == "missing":
            self.tell(f"open 1 {self.session.folder}/libmissing.so")
        elif deed == "space":
            # Until glibc 2.33 a constructor's dlopen that fails in such a namespace ends the process.
            safe = [shape for shape in self.shapes if not any(each.can_fail for each in reachable(self.shapes, shape))]
            if self.spaces < 2 and safe:
                self.spaces += 1
                self.open(f"space {self.session.folder / self.dice.choice(safe).name}")
        elif deed == "exit":
            if self.threads:
                self.tell(f"exit {self.threads.pop()}")
        elif deed == "close":
            view = self.look()
            handles = self.handles(view)
            if self.dice.random() < 0.85:  # a close of a NODELETE library does nothing
                handles = [h for h in handles if not view.examined.process.graph.by_address[h].nodelete]
            if handles:
                self.close(view, self.dice.choice(handles))
        else:
            self.bind(deed)

    def bind(self, deed: str) -> None:
        """Let a library bind to another, or owe a destructor; only what resolves, since the rest ends the process."""
        view = self.look()
        own = {shape.name: shape for shape in self.shapes}
        maps = [m for m in view.examined.process.graph.by_address.values() if m.name.rpartition("/")[2] in own]
        loaded = [m for m in maps if m.l_ns == 0]
        exported = {m.name.rpartition("/")[2] for m in loaded if m.field("l_global")}
        if deed == "main":
            if exported:
                self.tell(f"main f_{own[self.dice.choice(sorted(exported))].number}")
            return
        if not loaded:
            return
        link_map = self.dice.choice(loaded)
        shape = own[link_map.name.rpartition("/")[2]]

        def function(name: str) -> int:
            image = view.examined.process.image(link_map)
            assert image is not None
            symbol = image.find_symbol(name)
            assert symbol is not None
            return symbol[0]

        if deed == "owe":
            number = self.dice.randrange(THREADS + 1)
            if number:
                self.threads.add(number)
            self.tell(f"owe {function('lib_owe'):x} {number}")
        elif deed == "find":
            if exported:
                self.tell(f"find {function('lib_find'):x} f_{own[self.dice.choice(sorted(exported))].number}")
        else:
            usable = [index for index, other in enumerate(shape.lazy) if name_of(other) in exported]
            if usable:
                self.tell(f"call {function('lib_call'):x} {self.dice.choice(usable)}")

    # -- what is compared --------------------------------------------------------------------------------------

    def close(self, view: View, handle: int) -> Plan:
        """Predict a close, let it happen, and compare."""
        plan = view.plan(handle)
        lines = self.tell(f"close {handle:x}")
        self.opened[handle] = self.opened.get(handle, 0) - 1
        self.tally.outcomes[plan.outcome.value] = self.tally.outcomes.get(plan.outcome.value, 0) + 1
        self.compare(view, plan, lines, self.session.pid)
        return plan

    def compare(self, view: View, plan: Plan, lines: Sequence[str], pid: int) -> None:
        """Compare a prediction with what is mapped afterwards, and with what the destructors printed."""
        tally = self.tally
        tally.closes += 1
        mapped = mapped_at(pid)
        went = {each.link_map for each in view.libraries() if each.name and not self.is_there(each.start, mapped)}
        predicted = {each.link_map for each in plan.unloads}
        tally.unloading += bool(went)
        if "returned 0" not in lines:
            self.wrong(f"dlclose failed: {lines}")
        names = {each.link_map: each.name for each in view.libraries()}
        if predicted - went:
            self.wrong(f"predicted to go, but stays: {[names[address] for address in predicted - went]} of {plan}")
        nested = [int(line.split()[1], 16) for line in lines if line.startswith("nested ")]
        tally.nested += bool(nested)
        tally.flagged += bool(plan.may_unload_more)
        if went == predicted:
            tally.exact += 1
            tally.flagged_exact += bool(plan.may_unload_more)
        elif not plan.may_unload_more:
            self.wrong(f"goes, and was not predicted: {[names[address] for address in went - predicted]} of {plan}")
        elif view.with_nested(plan.library.link_map, nested) != went:
            self.wrong(f"marking again does not explain {[names[address] for address in went - predicted]} of {plan}")
        if not nested:
            self.compare_order(view, plan, lines)
        elif plan.is_unloaded != (plan.outcome is Outcome.UNLOADS):
            self.wrong(f"outcome and unloads disagree in {plan}")

    @staticmethod
    def is_there(start: Optional[int], mapped: set[tuple[int, str]]) -> bool:
        """Tell whether something is mapped at an address."""
        return any(address == start for address, _ in mapped)

    def compare_order(self, view: View, plan: Plan, lines: Sequence[str]) -> None:
        """Compare the order of the finalisers."""
        own = {shape.name for shape in self.shapes}
        initialised = view.examined.process.graph.by_address
        expected = [
            each.name for each in plan.unloads if each.name in own and initialised[each.link_map].field("l_init_called")
        ]
        printed = [line.split()[1] for line in lines if line.startswith("fini ")]
        self.tally.orders += len(printed) > 1
        if printed != expected:
            self.wrong(f"finalised {printed}, predicted {expected} ({plan.order_algorithm})")

    def compare_forks(self) -> None:
        """Close each open handle in a child of its own, and open it again there."""
        own = {shape.name for shape in self.shapes}
        view = self.look()
        for handle in self.handles(view):
            plan = view.plan(handle)
            command = f"fork {handle:x} {plan.library.path}"
            self.session.send(command + "\n")
            lines = self.session.read_until("child ")
            self.compare(view, plan, lines, int(lines[-1].split()[1]))
            self.tally.forks += 1
            self.session.send("x")
            answer = self.session.read_until(".")
            states = [int(line.split()[1]) for line in answer if line.startswith("state ")]
            # A library of another namespace is opened again in the base namespace.
            # It may not open again: a symbol that it must find can have been in a library that is closed since.
            if states and plan.library.name in own and plan.library.namespace == 0:
                fresh = states == [1]
                if fresh != plan.is_unloaded and not plan.may_unload_more:
                    self.wrong(f"opened again, {plan.library.name} has state {states}, predicted {plan.outcome}")

    def carry_out_changes(self) -> None:
        """Do for some libraries what is said to make them go: they go at the last step, and not before."""
        for _ in range(0 if self.closes_itself else 4):
            view = self.look()
            plans = [view.plan(handle) for handle in view.handles()]
            plans = [plan for plan in plans if plan.outcome is Outcome.KEEPS and plan.remedy and self.can_do(plan)]
            if not plans:
                return
            self.carry_out(self.dice.choice(plans))

    def can_do(self, plan: Plan) -> bool:
        """Tell whether all steps can be done here: the main thread cannot exit."""
        assert plan.remedy is not None
        threads = {thread.tid for step in plan.remedy.steps for thread in step.threads}
        return plan.remedy.blocker is None and self.session.pid not in threads

    def carry_out(self, plan: Plan) -> None:
        """Do the planned close, then the steps of the least change."""
        assert plan.remedy is not None
        start = plan.library.start
        self.tell(f"close {plan.library.link_map:x}")
        deeds: list[str] = []
        for step in plan.remedy.steps:
            if step.action is Action.THREAD_EXIT:
                deeds += [f"exit {number}" for number in sorted(self.threads)]
                self.threads.clear()
            elif step.action is Action.CLOSE:
                deeds += [f"close {step.link_map:x}"] * step.total
            elif step.action is Action.COLLECT:
                deeds.append("collect")
            else:
                self.wrong(f"an unexpected step in {plan}")
        for number, deed in enumerate(deeds):
            if not self.is_there(start, mapped_at(self.session.pid)):
                self.wrong(f"{plan.library.name} is gone before step {number} of {deeds}")
            if deed == "collect":
                self.collect()
            else:
                self.tell(deed)
        if self.is_there(start, mapped_at(self.session.pid)):
            self.wrong(f"{plan.library.name} stays after {deeds}")
        self.tally.changes += 1

    def collect(self) -> None:
        """Open and close a library that nothing else needs, so that the collector runs."""
        lines = self.tell(f"open 1 {self.session.folder / COLLECT}")
        self.tell(f"close {lines[0].split()[1]}")
