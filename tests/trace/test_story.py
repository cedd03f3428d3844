"""Does dltrace alone tell the story: who keeps libB, at which close, and who registered the destructor?

Each host is asked for the same; what it says must be the same too.
"""

from __future__ import annotations

import jsonschema
import pytest
from dlwhy.tests.hosts.build import build
from dlwhy.tests.hosts.debuggers import GDB
from dlwhy.tests.hosts.scenario import fixtures
from dlwhy.tests.hosts.typed import DEBUGGERS
from dlwhy.tests.schema import SCHEMA, VALIDATOR
from dlwhy.tests.support.naming import names_of
from dlwhy.tests.trace.attached import Traced, document_in
from dlwhy.tests.trace.debugging import debug

from .attached import comparable


@pytest.fixture(scope="module", params=["rust", "cpp"])
def stories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Traced]:
    """Let every debugger tell the story."""
    folder = build(fixtures()["story"])
    variables = {"LD_LIBRARY_PATH": str(folder / "cpp")} if request.param == "cpp" else {}
    told = {}
    for host in DEBUGGERS:
        commands = ["dltrace start --tls --stop-when kept --log $LOG libB.so libA.so", "continue"]
        commands += [
            "thread backtrace" if host != GDB else "backtrace",
            "continue",
            "dltrace report",
            "dltrace report -v",
        ]
        commands += ["dltrace report --json"]
        if host != GDB:
            commands[1] = commands[3] = "process continue"
        out = tmp_path_factory.mktemp(f"{host}-{request.param}")
        told[host] = debug(host, out, folder / "progA", commands, **variables)
        told[host].report = document_in(told[host].output)
    return told


@pytest.mark.parametrize("host", DEBUGGERS)
def test_stops_at_the_close_that_keeps_libb(host: str, stories: dict[str, Traced]) -> None:
    output = stories[host].output
    assert "dltrace: dlclose(libA.so) by must_close" in output
    assert "keeps libB.so.\n" in output
    assert "  libB.so stays: 1 pending TLS destructor\n" in output
    assert output.count("dltrace: ") == 1, output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_says_who_registered_the_destructor(host: str, stories: dict[str, Traced]) -> None:
    (registered,) = stories[host].events("tls-registration")
    assert registered["library"]["name"] == "libB.so"
    assert registered["destructor"]["function"] == "Tally::~Tally()"
    assert registered["caller"]["library"] == "libB.so"
    assert registered["caller"]["function"] == "libb_add"
    assert registered["destructor_elsewhere"] is False
    assert "Tally::~Tally() (libb.cpp:" in stories[host].output


@pytest.mark.parametrize("host", DEBUGGERS)
def test_closes_are_predicted_and_kept(host: str, stories: dict[str, Traced]) -> None:
    first, second = stories[host].events("close")
    assert (first["predicted_unloads"], names_of(first["unloaded"])) == (["libA.so"], ["libA.so"])
    assert first["predicted_exactly"] is True
    kept = {each["name"]: each["holds"] for each in first["kept"]}
    assert kept["libB.so"][0]["kind"] == "tls-destructors"
    # The thread has exited: now libB goes with any close.
    assert (second["library"]["name"], names_of(second["unloaded"])) == ("libother.so", ["libB.so", "libother.so"])
    report = stories[host].report
    assert report["watching"] is False
    assert (
        report["totals"]["closes_mispredicted"]
        == report["totals"]["closes_unseen"]
        == report["totals"]["end_not_seen"]
        == 0
    )
    assert report["problems"] == []


def test_the_schema_holds(stories: dict[str, Traced]) -> None:
    event = jsonschema.Draft202012Validator({**SCHEMA["$defs"]["event"], "$defs": SCHEMA["$defs"]})
    for told in stories.values():
        VALIDATOR.validate(told.report)
        for each in told.events():
            event.validate(each)
        assert {each["event"] for each in told.events()} >= {"open", "close", "tls-registration"}


def test_every_debugger_says_the_same(stories: dict[str, Traced]) -> None:
    documents = {host: comparable(told.events()) for host, told in stories.items()}
    for host in DEBUGGERS[1:]:
        assert documents[host] == documents[GDB], host
