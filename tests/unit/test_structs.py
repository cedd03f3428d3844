"""Has each member of a structure the value that lies where the layout says?"""

from __future__ import annotations

import pytest
from dlwhy.common.errors import FaultError, LayoutError
from dlwhy.common.memory import Memory
from dlwhy.common.model import Field, Layout, Platform, Source, SourceKind
from dlwhy.common.structs import Structure, StructView
from dlwhy.tests.fakes import X86_64, FakeTarget

ADDRESS = 0x10000
SOURCE = Source(SourceKind.TABLE, "a test")
LAYOUT = Layout(
    "thing",
    24,
    {
        "whole": Field(0, 8),
        # Within it, as the other half of a union, and what its bits mean.
        "high": Field(4, 4),
        "low": Field(0, 4),
        "flag": Field(8, 1, 3, 1),
        "kind": Field(8, 1, 4, 2),
        "state": Field(12, 4),
        "depth": Field(8, 1, 6, 2),
        "name": Field(16, 16),
    },
)
RAW = bytes.fromhex("0102030405060708 98000000 feffffff 1111111111111111")
VALUES = {
    "whole": 0x0807060504030201,
    "high": 0x08070605,
    "low": 0x04030201,
    "flag": 1,
    "kind": 1,
    "depth": -2,
    "state": -2,
}


def structure(**limits: object) -> Structure:
    return Structure(LAYOUT, "<", signed={"state", "depth"}, **limits)  # type: ignore[arg-type]


def test_members_also_those_within_one_another() -> None:
    decoder = structure()
    values = decoder.decode(RAW)
    assert {name: decoder.get(values, name) for name in VALUES} == VALUES
    assert decoder.get_all(values, [*VALUES, "none"]) == {**VALUES, "none": None}
    assert decoder.read(Memory(FakeTarget({ADDRESS: RAW})), ADDRESS) == VALUES


def test_only_some_members_take_only_their_bytes() -> None:
    decoder = structure(only=["low", "flag"])
    memory = Memory(FakeTarget({ADDRESS: RAW[:9]}))
    assert (decoder.size, decoder.read(memory, ADDRESS)) == (9, {"low": VALUES["low"], "flag": 1})
    with pytest.raises(FaultError):
        structure().read(memory, ADDRESS)


def test_the_other_byte_order() -> None:
    decoder = Structure(LAYOUT, ">", ["whole", "state", "kind"], ["state"])
    memory = Memory(FakeTarget({ADDRESS: RAW}, Platform("ppc64", 8, "big")))
    assert decoder.read(memory, ADDRESS) == {"whole": 0x0102030405060708, "state": -0x1000001, "kind": 1}


def test_members_that_are_no_integers_or_not_there() -> None:
    assert structure().require(["whole", "kind"]).is_plain_integer("whole")
    assert not any(structure().is_plain_integer(name) for name in ("kind", "state", "none", "name"))
    with pytest.raises(LayoutError, match="the layout of thing lacks name, none"):
        structure().require(["whole", "name", "none"])


def test_a_structure_that_is_partly_there_is_read_member_by_member() -> None:
    for raw, expected in ((RAW, VALUES), (RAW[:10], {**VALUES, "state": None}), (b"", dict.fromkeys(VALUES))):
        view = StructView(Memory(FakeTarget({ADDRESS: raw}, X86_64)), ADDRESS, structure(), SOURCE)
        assert {name: view.get(name) for name in VALUES} == expected
        assert view.get("none") is None


def test_evidence_is_where_the_member_lies() -> None:
    view = StructView(Memory(FakeTarget({ADDRESS: RAW})), ADDRESS, structure(), SOURCE)
    (evidence,) = view.evidence("state")
    assert evidence == (ADDRESS + 12, f"((thing*){ADDRESS:#x})->state", -2, 12, SOURCE, "state")
    assert view.evidence("none") == ()
