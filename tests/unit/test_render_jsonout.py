"""Is what `--json` writes what the schema promises, for every kind of hold and for a real process?"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dlwhy.common.commands.dlstate.document import state_document
from dlwhy.common.linux.model import HoldKind
from dlwhy.common.linux.state.examine import explain
from dlwhy.common.model import LoaderInfo, Problem
from dlwhy.common.render.json_parts import dump
from dlwhy.tests.fakes import snapshot
from dlwhy.tests.schema import SCHEMA, VALIDATOR
from dlwhy.tests.synth.answers import HOLDS, library, owed, state


def document(*names: str) -> Any:
    """Write the answer about a library with these holds, and read it again."""
    answer = state(library(*(HOLDS[name] for name in names)), problems=[Problem("libB.so", "is odd")])
    return json.loads(dump(state_document("dlstate", answer)))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_there_is_a_sample_of_every_kind() -> None:
    assert {hold.kind for hold in HOLDS.values()} == set(HoldKind)
    assert set(SCHEMA["$defs"]["hold_kind"]["enum"]) == {kind.value for kind in HoldKind}


@pytest.mark.parametrize("name", HOLDS)
def test_every_hold(name: str) -> None:
    written = document(name)
    VALIDATOR.validate(written)
    hold = written["libraries"][0]["holds"][0]
    assert hold["kind"] == HOLDS[name].kind.value
    assert [each["value"] for each in hold["evidence"]] == [each.value for each in HOLDS[name].evidence]


def test_unknown_is_null_and_no_word() -> None:
    assert '"unknown"' not in dump(document(*HOLDS))


def test_all_holds_at_once_and_none() -> None:
    VALIDATOR.validate(document(*HOLDS))
    VALIDATOR.validate(document())


@pytest.mark.parametrize("held", [True, False, None])
def test_held_is_never_anything_else(held: bool | None) -> None:
    written = json.loads(dump(state_document("dlstate", state(library(held=held)))))
    VALIDATOR.validate(written)
    assert written["libraries"][0]["held"] is held


def test_musl_and_unknown_values() -> None:
    bare = library(HOLDS["never-unloads"])._replace(soname=None, build_id=None, fields={})
    answer = state(bare)._replace(loader=LoaderInfo("musl", None))
    written = json.loads(dump(state_document("dlstate", answer)))
    VALIDATOR.validate(written)
    assert written["loader"] == {"kind": "musl", "version": None, "layout": None}
    assert written["libraries"][0]["soname"] is None


def test_a_function_that_is_not_known_is_null() -> None:
    hidden = HOLDS["tls-destructors"].destructors[0]
    hidden = hidden._replace(function=hidden.function._replace(address=0, name=None, library=None))
    written = json.loads(dump(state_document("dlstate", state(library(owed(hidden))))))
    VALIDATOR.validate(written)
    function = written["libraries"][0]["holds"][0]["destructors"][0]["function"]
    assert function == {"address": None, "name": None, "library": None}


def test_bytes_that_are_no_text_survive() -> None:
    odd = library(name="lib\udcff\x1b[31m.so")
    written = json.loads(dump(state_document("dlstate", state(odd))))
    VALIDATOR.validate(written)
    assert written["libraries"][0]["name"] == "lib\\xff\x1b[31m.so"
    assert "\x1b" not in dump(state_document("dlstate", state(odd)))


def test_a_real_process(rich_core: Path) -> None:
    answer = explain(snapshot(rich_core))
    written = json.loads(dump(state_document("dlstate", answer)))
    VALIDATOR.validate(written)
    kinds = {hold["kind"] for each in written["libraries"] for hold in each["holds"]}
    assert kinds >= {"main-program", "startup", "nodelete", "open-count", "tls-destructors", "dependency", "relocation"}


def library_of(written: Any) -> Any:
    return written["libraries"][0]


def hold_of(written: Any) -> Any:
    return library_of(written)["holds"][0]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("open-count", lambda d: d.update(schema="dlwhy/2")),
        ("open-count", lambda d: d.pop("problems")),
        ("open-count", lambda d: d.pop("libraries")),
        ("open-count", lambda d: d["problems"][0].pop("where")),
        ("open-count", lambda d: d["loader"]["layout"].update(source="guess")),
        ("open-count", lambda d: d["target"].pop("pid")),
        ("open-count", lambda d: library_of(d).update(base=4096)),
        ("open-count", lambda d: library_of(d).update(base="0x00")),
        ("open-count", lambda d: library_of(d).update(held="yes")),
        ("open-count", lambda d: library_of(d).update(range=["0x0"])),
        ("open-count", lambda d: library_of(d)["fields"].update(l_type="2")),
        ("open-count", lambda d: library_of(d).pop("holds_omitted")),
        ("open-count", lambda d: hold_of(d).update(kind="because")),
        ("open-count", lambda d: hold_of(d).update(count=0)),
        ("open-count", lambda d: hold_of(d).pop("opened_by")),
        ("open-count", lambda d: hold_of(d)["evidence"][0].update(value="1")),
        ("startup-needed", lambda d: hold_of(d).update(origin="user")),
        ("nodelete-elf-flag", lambda d: hold_of(d).update(origin="needed")),
        ("nodelete-elf-flag", lambda d: hold_of(d).update(symbols=["a"])),
        ("nodelete-unique-symbol", lambda d: hold_of(d).update(symbols=[])),
        ("nodelete-unique-symbol", lambda d: hold_of(d).pop("dlclose_returns_early")),
        ("tls-destructors", lambda d: hold_of(d).pop("destructors")),
        ("tls-destructors", lambda d: hold_of(d)["destructors"][0]["thread"].pop("tid")),
        ("tls-destructors", lambda d: hold_of(d)["destructors"][0]["function"].update(address=12)),
        ("dependency", lambda d: hold_of(d).update(chain=["libB.so"])),
        ("dependency", lambda d: hold_of(d).pop("root")),
        ("dependency", lambda d: hold_of(d)["root"].update(kinds=[])),
        ("relocation", lambda d: hold_of(d).pop("symbols")),
    ],
)
def test_the_schema_refuses(name: str, damage: Callable[[Any], object]) -> None:
    written = document(name)
    damaged = copy.deepcopy(written)
    damage(damaged)
    assert damaged != written
    assert not VALIDATOR.is_valid(damaged)


def test_the_schema_lets_keys_be_added() -> None:
    written = document(*HOLDS)
    written["more"] = 1
    library_of(written)["more"] = 1
    hold_of(written)["more"] = 1
    VALIDATOR.validate(written)
