"""Which run of which fixture has been made? Each is made once in a test session, and several tests look at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from dlwhy.tests.hosts import glibcs
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.gdbrun import Answers, run_cores, run_environment, run_live
from dlwhy.tests.hosts.scenario import Fixture, Run, check, fixtures

SYSTEM = "system"
Key = tuple[str, str, str, bool]


def named(name: str, run: str) -> tuple[Fixture, Run]:
    """Find a fixture and one of its runs."""
    fixture = fixtures()[name]
    return fixture, next(each for each in fixture.runs if each.name == run)


@dataclass
class Runs:
    """Runs of fixtures in gdb, with what they answered."""

    folder: Path
    made: dict[Key, Answers] = field(default_factory=dict)

    def build(self, name: str, glibc: str = SYSTEM) -> Path:
        """Return the folder of a fixture's programs for that glibc."""
        return build(fixtures()[name], None if glibc == SYSTEM else glibcs.get(glibc).toolchain)

    def live(self, name: str, run: str, *, debug_info: bool = True, glibc: str = SYSTEM) -> Answers:
        """Run a fixture in gdb, with a core file of each stop."""
        key = (name, run, glibc, debug_info)
        if key not in self.made:
            fixture, its_run = named(name, run)
            program = self.build(name, glibc)
            environment = run_environment(its_run, program)
            if glibc != SYSTEM:
                environment = glibcs.get(glibc).environment(environment)
            out = self.folder / "-".join(["live", *map(str, key)])
            self.made[key] = run_live(out, program, fixture, its_run, debug_info=debug_info, environment=environment)
        return self.made[key]

    def cores(self, name: str, run: str, *, debug_info: bool = True, glibc: str = SYSTEM) -> Answers:
        """Ask the same of the core files of such a run; they are deleted afterwards."""
        live = self.live(name, run, debug_info=debug_info, glibc=glibc)
        fixture, its_run = named(name, run)
        out = self.folder / "-".join(["core", name, run, glibc, str(debug_info)])
        cores = live.cores()
        try:
            return run_cores(out, self.build(name, glibc), fixture, its_run, cores, debug_info=debug_info)
        finally:
            for path in cores.values():
                path.unlink()


def failures(
    answers: Answers, name: str, run: str, *, glibc: Optional[tuple[int, int]] = None, thread_names: bool = True
) -> list[str]:
    """Compare the answers of a run with everything that the fixture expects; one entry per difference."""
    fixture = fixtures()[name]
    version = glibc or (99, 0)
    found = []
    missing = [stop for stop in fixture.stops if stop not in answers.stops]
    if missing:
        found.append(f"{name} ({run}): never stopped at {missing}; gdb said:\n{answers.output}")
    for stop in answers.stops:
        document = answers.documents[stop]
        found += check(fixture, run, stop, document, version=version, thread_names=thread_names)
    return found
