"""Do the stand-ins do what the real ones of typing, enum and functools do?"""

from __future__ import annotations

import copy
import enum
import functools
import os
import pickle
import subprocess
import sys
import typing
from types import SimpleNamespace
from typing import Any

import pytest
from dlwhy.common import lean

REAL = SimpleNamespace(
    NamedTuple=typing.NamedTuple,
    Enum=enum.Enum,
    Flag=enum.Flag,
    cache=functools.cache,
    cached_property=functools.cached_property,
)
DEFINITIONS = '''
from __future__ import annotations

class Point(NamedTuple):
    """A point."""

    x: int
    y: int
    name: str = "p"

    @property
    def total(self) -> int:
        return self.x + self.y

    @classmethod
    def origin(cls) -> Point:
        return cls(0, 0)

class Named(Point):
    """A point with more methods."""

    def __len__(self) -> int:
        return 7

class Empty(NamedTuple):
    """Nothing."""

class Colour(Enum):
    """A colour."""

    RED = "red"
    GREEN = "green"
    NONE = None

    @property
    def is_red(self) -> bool:
        return self is Colour.RED

class Ability(Flag):
    """What it can."""

    NONE = 0
    WALK = 1
    SWIM = 2
'''


def define(source: Any) -> SimpleNamespace:
    """Define the same classes with the real ones or with ours."""
    names = {"__name__": "definitions", **{name: getattr(source, name) for name in vars(REAL)}}
    exec(DEFINITIONS, names)
    return SimpleNamespace(**{name: names[name] for name in ("Point", "Named", "Empty", "Colour", "Ability")})


OURS, THEIRS = define(lean), define(REAL)


def outcome(expression: str, names: SimpleNamespace) -> object:
    """Evaluate an expression; what comes of it, or the kind of error."""
    try:
        return eval(expression, vars(names))
    except (TypeError, ValueError, AttributeError) as error:
        return type(error)


@pytest.mark.parametrize(
    "expression",
    [
        "repr(Point(1, 2))",
        "tuple(Point(1, y=2, name='q'))",
        "Point(1)",
        "Point(1, 2, 'a', 4)",
        "Point(1, 2, x=3)",
        "Point(1, 2, z=3)",
        "Point(x=1, z=3)",
        "Point()",
        "Point(1, 2, 'a', 4, 5, 6)",
        "tuple(Point(1, 2))",
        "Point(1, 2) == Point(x=1, y=2) == (1, 2, 'p')",
        "hash(Point(1, 2)) == hash((1, 2, 'p'))",
        "sorted([Point(2, 1), Point(1, 2)])[0].x",
        "Point(1, 2)._replace(y=5).total",
        "Point(1, 2)._asdict()",
        "Point._fields, Point._field_defaults",
        "[x for x in Point(1, 2)]",
        "Point(1, 2)[1:], len(Point(1, 2)), Point.__doc__",
        "setattr(Point(1, 2), 'x', 3)",
        "setattr(Point(1, 2), 'other', 3)",
        "tuple(Empty()), repr(Empty())",
        "Empty(x=1)",
        "repr(Named(1, y=2)), Named(1, 2).total, len(Named(1, 2)), Named(1, 2) == Point(1, 2), Named._fields",
        "Empty(1)",
        "[(c.name, c.value) for c in Colour]",
        "len(Colour), repr(Colour.RED), str(Colour.GREEN), Colour.__doc__",
        "Colour('red') is Colour.RED, Colour(None) is Colour.NONE",
        "Colour('blue')",
        "Colour.RED == 'red', Colour.RED == Colour.RED, Colour.RED != Colour.GREEN",
        "Colour.RED.is_red, Colour.GREEN.is_red",
        "len({Colour.RED: 1, Colour.GREEN: 2, Colour('red'): 3})",
        "isinstance(Colour.RED, Colour), isinstance(Ability.WALK | Ability.SWIM, Ability)",
        "Colour.BLUE",
        "Ability.WALK in (Ability.WALK | Ability.SWIM), Ability.WALK in Ability.NONE",
        "(Ability.WALK | Ability.SWIM).value, bool(Ability.NONE), bool(Ability.WALK)",
        "(Ability.WALK | Ability.SWIM) & Ability.SWIM is Ability.SWIM",
        "Ability.WALK | Ability.SWIM == Ability.SWIM | Ability.WALK",
    ],
)
def test_same_as_the_real_ones(expression: str) -> None:
    expected = outcome(expression, THEIRS)
    assert outcome(expression, OURS) == expected


@pytest.mark.parametrize("value", [OURS.Point(1, 2), OURS.Colour.RED, OURS.Ability.WALK | OURS.Ability.SWIM])
def test_copies(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "definitions", OURS)
    for clone in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert clone == value
        assert type(clone) is type(value)
        assert isinstance(value, tuple) or clone is value


@pytest.mark.parametrize("source", [lean, REAL], ids=["ours", "theirs"])
def test_what_is_remembered(source: Any) -> None:
    calls = []

    def count(_: object) -> int:
        """Count."""
        calls.append("value")
        return len(calls)

    def plus(first: int, second: int) -> int:
        calls.append("add")
        return first + second

    class Counter:
        value = source.cached_property(count)

    add = source.cache(plus)
    counter = Counter()
    assert (counter.value, counter.value, Counter().value, Counter.value.__doc__) == (1, 1, 2, "Count.")
    counter.__dict__.pop("value")
    assert counter.value == 3
    assert (add(1, 2), add(1, 2), add(2, 1)) == (3, 3, 3)
    assert calls.count("add") == 2
    add.cache_clear()
    assert (add(1, 2), calls.count("add")) == (3, 3)


def test_they_import_nothing() -> None:
    code = f"import sys; before = set(sys.modules); sys.path.insert(0, {os.path.dirname(str(lean.__file__))!r})"
    code += "; import lean; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert eval(done.stdout) == ["__future__", "_operator", "lean", "operator"]
