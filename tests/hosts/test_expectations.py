"""Does the runner see what is wrong? Its grammar and its comparison, on documents made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dlwhy.tests.hosts.gdbrun import comparable
from dlwhy.tests.hosts.scenario import FIXTURES, Build, Fixture, check, directives, fixtures, parse_expectation

LIBRARY: dict[str, Any] = {
    "name": "libB.so",
    "path": "/somewhere/libB.so",
    "namespace": 0,
    "held": True,
    "fields": {"l_direct_opencount": 1, "l_nodelete_active": 0},
    "holds": [
        {"kind": "open-count", "evidence": [], "count": 1, "opened_by": "user"},
        {
            "kind": "tls-destructors",
            "evidence": [],
            "count": 1,
            "destructors": [{"thread": {"tid": 7, "name": "worker"}, "function": {"name": "~T()"}}],
        },
        {
            "kind": "relocation",
            "evidence": [],
            "chain": ["libA.so", "libB.so"],
            "root": {"library": "libA.so", "kinds": ["open-count"]},
            "symbols": ["f", "g"],
        },
    ],
}
DOCUMENT = {"libraries": [LIBRARY], "problems": []}


def differences(text: str, document: dict[str, Any] = DOCUMENT) -> list[str]:
    expectation = parse_expectation("here:1", " " + text)
    fixture = Fixture("made_up", (Build("main", Path("main.c")),), expectations=(expectation,))
    return check(fixture, "plain", 1, document)


@pytest.mark.parametrize(
    "text",
    [
        "@1 libB.so: held open-count count=1 opened_by=user + tls-destructors + relocation",
        "@1 libB.so: held open-count + tls-destructors threads=worker functions=~T() + relocation symbols=f",
        '@1 libB.so: held open-count + tls-destructors + relocation chain=x->y|libA.so->libB.so symbols="f|g"',
        "@1 libB.so: held tls-destructors count=1 + *",
        "@1 libB.so: held * l_direct_opencount=1 l_nodelete_active=false",
        "@1 somewhere/libB.so: any open-count opened_by=libc|user + *",
        "@1 libC.so: gone",
        "@1 libB.so[1]: gone",
        "@2 libB.so: gone",
    ],
)
def test_expected(text: str) -> None:
    assert differences(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "@1 libB.so: gone",
        "@1 libB.so: garbage",
        "@1 libB.so: unknown",
        "@1 libB.so: held",
        "@1 libB.so: held open-count + tls-destructors",
        "@1 libB.so: held tls-destructors + open-count + relocation",
        "@1 libB.so: held open-count count=2 + *",
        "@1 libB.so: held tls-destructors threads=worker|main + *",
        "@1 libB.so: held tls-destructors functions=~U() + *",
        "@1 libB.so: held relocation symbols=h + *",
        "@1 libB.so: held relocation symbols= + *",
        "@1 libB.so: held relocation root=nodelete + *",
        "@1 libB.so: held relocation chain=libB.so->libA.so + *",
        "@1 libB.so: held nodelete + *",
        "@1 libB.so: held * l_direct_opencount=0",
        "@1 libC.so: held open-count",
        "@1 libB.so[1]: held *",
        "@1 says: anything",
        "@1 problem: anything",
    ],
)
def test_not_expected(text: str) -> None:
    assert len(differences(text)) == 1


def test_a_problem_that_nobody_expects() -> None:
    document = {**DOCUMENT, "problems": [{"where": "loader", "message": "a thread is inside dlopen"}]}
    assert "nobody expects" in differences("@1 libB.so: held *", document)[0]
    assert differences("@1 problem: inside dlopen", document) == []


def test_an_error_is_shown() -> None:
    assert "it broke" in differences("@1 libB.so: held *", {"error": "it broke"})[0]
    assert differences("@1 says: broke", {"error": "it broke"}) == []


def test_a_failure_names_fixture_stop_library_and_both_sides() -> None:
    (failure,) = differences("@1 libB.so: held nodelete origin=elf-flag")
    for part in ("here:1", "made_up", "stop 1", "libB.so", "nodelete origin=elf-flag", "open-count count=1"):
        assert part in failure


@pytest.mark.parametrize("text", ["libB.so: held", "@1 libB.so", "@1 libB.so: kept", "@1 libB.so: held count=1 x"])
def test_bad_grammar(text: str) -> None:
    with pytest.raises(ValueError, match="expect"):
        parse_expectation("here:1", " " + text)


def test_versions() -> None:
    new = parse_expectation("here:1", ">=2.34 @1 libB.so: gone")
    assert new.applies("plain", 1, (2, 34))
    assert not new.applies("plain", 1, (2, 31))
    old = parse_expectation("here:1", "(one,two)<2.34 @1 libB.so: gone")
    assert old.applies("two", 1, (2, 31))
    assert not old.applies("two", 1, (2, 34))
    assert not old.applies("plain", 1, (2, 31))


def test_every_fixture_expects_something_at_each_of_its_stops() -> None:
    for fixture in fixtures().values():
        for run in fixture.runs:
            assert all(fixture.expected(run.name, stop) for stop in fixture.stops), fixture.name


def test_no_expectation_is_overlooked() -> None:
    """As many expectations are parsed as the sources have the word for."""
    for path in sorted(FIXTURES.rglob("*.c*")):
        written = path.read_text(encoding="utf-8").count("expect @") + path.read_text(encoding="utf-8").count("expect(")
        assert written == sum(word == "expect" for _, word, _ in directives(path)), path


def test_comparable_keeps_all_but_target_layout_and_thread_names() -> None:
    document = {"target": 1, "loader": {"kind": "glibc", "layout": 2}, "thread": {"tid": 7, "name": "x"}, "rest": [3]}
    assert comparable(document) == {"loader": {"kind": "glibc"}, "thread": {"tid": 7}, "rest": [3]}
