"""Are the tables of NT's structures whole, and are they what the kernel's members look like?"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dlwhy.common.errors import LayoutError
from dlwhy.common.layouts import DIRECTORY
from dlwhy.common.windows.kernel.kernel import REQUIRED_TYPES
from dlwhy.common.windows.layouts.nt_tables import for_each_nt_candidate, load_nt_table
from dlwhy.tests.generate.glibc import to_text
from dlwhy.tests.generate.nt import expand, main, merge
from dlwhy.tests.synth.isf import write_isf
from dlwhy.tests.synth.ntdump import Machine
from dlwhy.tests.synth.ntlayout import windows

SCHEMA = json.loads((Path(DIRECTORY).parent / "schema" / "nt-layouts.schema.json").read_bytes())
ARCHITECTURES = ("i386", "x86_64")


@pytest.fixture(params=ARCHITECTURES)
def document(request: pytest.FixtureRequest) -> Any:
    return json.loads((Path(DIRECTORY) / f"nt-{request.param}.json").read_bytes())


def each_struct(document: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for build in document["builds"]:
        for name, number in build["structs"].items():
            yield build["build"], name, document["structs"][name][number]


def test_schema(document: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA)


def test_every_build_has_what_is_required(document: Any) -> None:
    for build in document["builds"]:
        assert set(REQUIRED_TYPES) <= set(build["structs"]), build["build"]


def test_members_lie_inside_their_structures(document: Any) -> None:
    for build, name, struct in each_struct(document):
        for member, field in struct["fields"].items():
            assert field[0] + field[1] <= struct["size"], (build, name, member)
            if len(field) == 4:
                assert field[2] + field[3] <= 8 * field[1], (build, name, member)


def test_every_variant_is_used(document: Any) -> None:
    used = {(name, number) for build in document["builds"] for name, number in build["structs"].items()}
    assert used == {(name, number) for name, many in document["structs"].items() for number in range(len(many))}


def test_builds_come_oldest_first(document: Any) -> None:
    versions = [[int(part) for part in build["build"].split(".")] for build in document["builds"]]
    assert versions == sorted(versions)


@pytest.mark.parametrize(
    ("version", "struct", "member", "offset"),
    [
        # Widely known, so an error of the generator would show.
        ("6.1.7601.17514", "_EPROCESS", "UniqueProcessId", 0x180),
        ("6.1.7601.17514", "_EPROCESS", "VadRoot", 0x448),
        ("10.0.19041.3570", "_EPROCESS", "ActiveProcessLinks", 0x448),
        ("10.0.19041.3570", "_EPROCESS", "VadRoot", 0x7D8),
        ("10.0.22000.318", "_FILE_OBJECT", "FileName", 0x58),
    ],
)
def test_well_known_offsets(version: str, struct: str, member: str, offset: int) -> None:
    table = load_nt_table("x86_64")
    (build,) = (build for build in table.builds if build.version == version)
    assert table.layouts(build)[struct].fields[member].offset == offset


def test_the_guid_decides_before_the_build_number() -> None:
    table = load_nt_table("x86_64")
    by_guid = list(for_each_nt_candidate(table, "339E74133576439CBCDF7E0229DA3773", 19041))
    assert [c.source.detail for c in by_guid] == ["Windows 6.1.7601.24540, by the GUID of its PDB"]
    by_number = list(for_each_nt_candidate(table, "0" * 32, 7601))
    assert [c.source.detail for c in by_number] == [
        "Windows 6.1.7601.17514, by build number 7601",
        "Windows 6.1.7601.24540, by build number 7601",
    ]
    assert list(for_each_nt_candidate(table, None, 26100)) == []
    assert list(for_each_nt_candidate(table, None, None)) == []


def test_other_architectures_are_refused() -> None:
    with pytest.raises(LayoutError, match="no layouts of the Windows kernel for architecture aarch64"):
        load_nt_table("aarch64")


# -- the generator --------------------------------------------------------------------------------------------


def test_the_generator_leaves_the_shipped_tables_as_they_are(document: Any) -> None:
    path = Path(DIRECTORY) / f"nt-{document['arch']}.json"
    again = merge(document["arch"], document["pointer_size"], expand(document))
    assert to_text(again) + "\n" == path.read_text()


@pytest.mark.parametrize("version", ["6.1.7601.24540", "10.0.19041.3570"])
@pytest.mark.parametrize("suffix", [".json", ".json.xz"])
def test_a_symbol_table_of_volatility_gives_the_same_layout(tmp_path: Path, version: str, suffix: str) -> None:
    layout = windows(version)
    isf = write_isf(Machine(layout), tmp_path)
    if suffix == ".json.xz":
        content = isf.read_bytes()
        isf = tmp_path / "table.json.xz"
        isf.write_bytes(lzma.compress(content))
    assert main([version, str(isf)], tmp_path) == 0
    (build,) = expand(json.loads((tmp_path / "nt-x86_64.json").read_bytes()))
    assert build["structs"] == layout.structs
    assert build["pdb"] == {"name": "ntkrnlmp.pdb", "guid": layout.guid, "age": layout.age}


def test_builds_are_merged_in_any_order(tmp_path: Path) -> None:
    versions = ["6.1.7601.24540", "6.3.9600.19913", "10.0.19041.3570"]
    texts: list[str] = []
    for order in (versions, versions[::-1], [*versions, versions[0]]):
        folder = tmp_path / str(len(texts))
        folder.mkdir()
        for version in order:
            assert main([version, str(write_isf(Machine(windows(version)), folder))], folder) == 0
        texts.append((folder / "nt-x86_64.json").read_text())
    assert texts[0] == texts[1] == texts[2]


def test_what_is_no_symbol_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("none.json", "{}"), ("text.json", "x"), ("damaged.xz", "y")):
        (tmp_path / name).write_text(content)
        assert main(["10.0.1.1", str(tmp_path / name)], tmp_path) == 1
        assert name in capsys.readouterr().err
    assert main(["10.0.1.1", str(tmp_path / "absent.json")], tmp_path) == 1
