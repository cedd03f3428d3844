"""Has each member of a link map the value that lies where the layout says, whichever members are bit-fields?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

import pytest
from dlwhy.common.errors import LayoutError
from dlwhy.common.layouts import DIRECTORY
from dlwhy.common.linux.layouts.resolve import LayoutSet
from dlwhy.common.linux.layouts.tables import load_table
from dlwhy.common.linux.loader.maps import LinkMap, MapReader
from dlwhy.common.linux.state.evidence import read_evidence
from dlwhy.common.memory import Memory
from dlwhy.common.model import Field, Layout, Platform, Source, SourceKind
from dlwhy.tests.fakes import X86_64, FakeTarget

ARCHITECTURES = sorted(path.stem.partition("-")[2] for path in Path(DIRECTORY).glob("glibc-*.json"))
HOT = [name for name in LinkMap.__annotations__ if name.startswith("l_")]
ADDRESS = 0x10000


def value_at(raw: bytes, field: Optional[Field], byteorder: str) -> Optional[int]:
    """Take a member out of the bytes, by nothing but its layout."""
    if field is None:
        return None
    whole = int.from_bytes(raw[field.offset : field.offset + field.size], "little" if byteorder == "little" else "big")
    return whole >> field.bit_shift & (1 << (field.bit_count or 8 * field.size)) - 1


def read(layout: Layout, raw: bytes, platform: Platform) -> LinkMap:
    target = FakeTarget({ADDRESS: raw}, platform)
    return MapReader(Memory(target), layout).read(ADDRESS)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_members_of_every_layout(arch: str) -> None:
    table = load_table(arch)
    platform = Platform(arch, table.pointer_size, table.byteorder)
    dice = random.Random(arch)
    absent = set()
    for build in table.builds:
        layout = table.layout(build, "link_map")
        raw = dice.randbytes(layout.size)
        link_map = read(layout, raw, platform)
        values: Mapping[str, Optional[int]] = {
            name: value_at(raw, layout.fields.get(name), platform.byteorder) for name in HOT
        }
        assert {name: getattr(link_map, name) for name in HOT} == values
        absent |= {name for name in HOT if name not in layout.fields}
    assert absent <= {"l_auditing", "l_nodelete_active", "l_nodelete_pending", "l_tls_dtor_count"}


def test_evidence_is_of_the_members_that_a_version_has() -> None:
    table = load_table("x86_64")
    builds = [table.layout(build, "link_map") for build in table.builds]
    layout = next(each for each in builds if "l_nodelete_active" not in each.fields)
    raw = random.Random(1).randbytes(layout.size)
    layouts = LayoutSet({"link_map": layout}, Source(SourceKind.TABLE, "a build"), (2, 17), exact=True)
    (evidence,) = read_evidence(layouts, read(layout, raw, X86_64), "l_nodelete_active", "l_flags_1")
    field = layout.fields["l_flags_1"]
    assert (evidence.member, evidence.address) == ("l_flags_1", ADDRESS + field.offset)
    assert evidence.value == value_at(raw, field, "little")


def test_a_structure_without_bit_fields() -> None:
    # No glibc has it so; a debugger may have been given debug information of something else.
    fields = {name: Field(8 * index, 8) for index, name in enumerate(HOT)}
    raw = random.Random(1).randbytes(8 * len(HOT))
    link_map = read(Layout("link_map", len(raw), fields), raw, X86_64)
    assert {name: getattr(link_map, name) for name in HOT} == {
        name: value_at(raw, field, "little") for name, field in fields.items()
    }


def test_a_member_that_every_glibc_has_is_missing() -> None:
    fields = {name: Field(8 * index, 8) for index, name in enumerate(HOT) if name not in ("l_ns", "l_type")}
    with pytest.raises(LayoutError, match=r"lacks l_ns, l_type"):
        read(Layout("link_map", 8 * len(HOT), fields), bytes(8 * len(HOT)), X86_64)
