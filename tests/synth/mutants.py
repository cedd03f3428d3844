"""Which single members of the loader's structures are set to nonsense, and what may an answer then say?

One member at a time gets one of some 20 values.  A verdict that changes without a problem that says why is silent, and
must not be.  Some values are no nonsense: another process has them, and no reader can tell the two apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from dlwhy.common.model import Problem

#: The other values are near the member's own one, and addresses of things that there are.
PLAIN_VALUES = (0, 1, 2, 3, 7, 8, 0x41, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x4141414141414141, (1 << 64) - 8)

#: Whether a library stays, and the kinds of its holds; by the address of its link map or entry.
Verdicts = Mapping[int, tuple[Optional[bool], tuple[str, ...]]]


class Mutant(NamedTuple):
    """A member of a library's or DLL's structure at an address, its size, and the bytes that it gets."""

    owner: int
    member: str
    address: int
    value: int
    content: bytes


def values(own: int, bits: int, others: Sequence[int]) -> Iterator[int]:
    """Yield the values that a member of so many bits gets, none of them its own."""
    wanted = (*PLAIN_VALUES, own + 1, own + 8, own + 0x1000, own ^ 0x20, own ^ 2, *others)
    yield from sorted({value & (1 << bits) - 1 for value in wanted} - {own})


class Outcome(NamedTuple):
    """What became of the verdicts: those of the mutant's owner, those of others, and whether a problem is new."""

    own: bool
    others: tuple[int, ...]
    told: bool

    @property
    def is_silent(self) -> bool:
        """Tell whether a verdict has changed without a word."""
        return (self.own or bool(self.others)) and not self.told

    @property
    def is_nothing(self) -> bool:
        """Tell whether the answer is as before."""
        return not (self.own or self.others or self.told)


class Tally:
    """What the mutants of one process did, by their names."""

    def __init__(self, before: Verdicts, idle: Collection[str]) -> None:
        """Begin with nothing.

        :param idle: the members that no answer depends on.
        """
        self._idle_members = idle
        self._others = len(before) - 1
        self._mutants = self._lost = 0
        self._silent: list[str] = []
        self._idle: list[str] = []

    def lose_all(self) -> None:
        """Count a mutant of which there is no answer."""
        self._mutants += 1
        self._lost += self._others

    def add(self, mutant: Mutant, owner: str, outcome: Outcome, *, is_sound: bool, kin: Collection[int] = ()) -> None:
        """Count a mutant.

        :param is_sound: another process has this very state.
        :param kin: those that share what was changed with the owner.
        """
        name = f"{owner} {mutant.member}={mutant.value:#x}"
        self._mutants += 1
        self._lost += sum(each not in kin for each in outcome.others)
        if outcome.is_silent and not is_sound:
            self._silent.append(name)
        if mutant.member in self._idle_members and not outcome.is_nothing:
            self._idle.append(name)

    def check(self) -> None:
        """Assert that none was silent, and that at most one of a hundred verdicts on others was lost."""
        most = self._mutants * self._others / 100
        print(f"\n{self._mutants} mutants, {self._lost / most:.2f} % of the others' verdicts lost")
        assert self._silent == []
        assert self._idle == []
        assert self._lost <= most


def compare(
    owner: int, before: Verdicts, after: Verdicts, known: Sequence[Problem], problems: Sequence[Problem]
) -> Outcome:
    """Compare the answers about a sound process and about a mutant of it."""
    changed = [address for address, verdict in before.items() if after.get(address) != verdict]
    others = tuple(address for address in changed if address != owner)
    return Outcome(owner in changed, others, not set(problems) <= set(known))
