from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dlwhy.common import layouts
from dlwhy.common.errors import LayoutError
from dlwhy.common.linux.layouts.tables import load_table
from dlwhy.common.model import Field
from dlwhy.tests.generate.glibc import merge, read_build, struct_anchors
from dlwhy.tests.unit.system import system_libc

DIRECTORY = Path(layouts.DIRECTORY)
ARCHITECTURES = ("aarch64", "arm", "i386", "loongarch64", "ppc64le", "riscv64", "s390x", "x86_64")
SCHEMA = DIRECTORY.parent / "schema" / "layouts.schema.json"


@pytest.fixture(params=[*ARCHITECTURES, "this system"])
def document(request: pytest.FixtureRequest) -> Any:
    """Give a shipped table, or the one that the generator makes of the glibc that runs this test."""
    if request.param != "this system":
        return json.loads((DIRECTORY / f"glibc-{request.param}.json").read_bytes())
    return merge(read_build(system_libc(), [Path("/")], "debian"))


def version(build: Any) -> tuple[int, int]:
    major, minor = build["version"].split(".")
    return int(major), int(minor)


def each_build(document: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield each build with its structures in place of their numbers."""
    for build in document["builds"]:
        structs = {name: document["structs"][name][number] for name, number in build["structs"].items()}
        yield build, structs


def first_bit(document: Any, entry: list[int]) -> int:
    """Say where a bit-field begins, counted as this byte order's compilers lay them out."""
    byte, _, shift, count = entry
    return 8 * byte + (shift if document["byteorder"] == "little" else 8 - shift - count)


def test_there_is_one_table_for_each_architecture() -> None:
    assert sorted(path.name for path in DIRECTORY.glob("glibc-*.json")) == [
        f"glibc-{arch}.json" for arch in ARCHITECTURES
    ]
    for arch in ARCHITECTURES:
        assert load_table(arch).arch == arch


def test_schema(document: Any) -> None:
    schema = json.loads(SCHEMA.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("builds", 0, "release"), "nightly"),
        (("builds", 0, "structs", "link_map"), -1),
        (("structs", "link_map", 0, "fields", "l_type"), [820, 1, 0]),
        (("structs", "link_map", 0, "fields", "l_type"), [820, 4, 0, 2]),
    ],
)
def test_schema_refuses(path: tuple[Any, ...], value: Any) -> None:
    document = json.loads((DIRECTORY / "glibc-x86_64.json").read_bytes())
    container = document
    for key in path[:-1]:
        container = container[key]
    container[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads(SCHEMA.read_bytes()))


def test_every_variant_is_used_and_exists(document: Any) -> None:
    used = defaultdict(set)
    for build in document["builds"]:
        for name, number in build["structs"].items():
            used[name].add(number)
    assert used == {name: set(range(len(variants))) for name, variants in document["structs"].items()}


def test_every_release_has_provenance(document: Any) -> None:
    assert {build["release"] for build in document["builds"]} == set(document["provenance"])


def test_members_lie_within_the_struct_and_apart(document: Any) -> None:
    for name, variants in document["structs"].items():
        for variant in variants:
            spans = []
            for member, entry in variant["fields"].items():
                assert entry[0] + entry[1] <= variant["size"], (name, member)
                if len(entry) == 4:
                    begin = first_bit(document, entry)
                    assert entry[2] + entry[3] <= 8
                    spans.append((begin, begin + entry[3], member))
                else:
                    spans.append((8 * entry[0], 8 * sum(entry), member))
            for one, other in itertools.combinations(sorted(spans), 2):
                nested = other[2].startswith(f"{one[2]}.") or one[2].startswith(f"{other[2]}.")
                assert nested or one[1] <= other[0], (name, one, other)


def test_link_map_invariants(document: Any) -> None:
    word = document["pointer_size"]
    for build, structs in each_build(document):
        fields = structs["link_map"]["fields"]
        heads = ("l_addr", "l_name", "l_ld", "l_next", "l_prev", "l_real", "l_ns", "l_libname", "l_info")
        assert [fields[name][0] for name in heads] == [word * number for number in range(9)]
        opencount, size = fields["l_direct_opencount"]
        assert size == 4
        assert fields["l_type"] == [opencount + 4, 1, 0 if document["byteorder"] == "little" else 6, 2]
        if version(build) >= (2, 31):
            assert fields["l_nodelete_active"] == [opencount + 7, 1]
            assert fields["l_nodelete_pending"] == [opencount + 8, 1]
        else:
            assert "l_nodelete_active" not in fields
        assert ("l_map_used" in fields) == (version(build) >= (2, 35))
        assert ("l_tls_dtor_count" in fields) == (version(build) >= (2, 18))
        assert ("l_dev" in fields) == (version(build) < (2, 22)) == ("l_file_id.dev" not in fields)
        assert fields["l_searchlist.r_list"] == [fields["l_searchlist"][0], word]
        assert fields["l_searchlist.r_nlist"] == [fields["l_searchlist"][0] + word, 4]
        audit = [fields[n] for n in ("l_need_tls_init", "l_auditing", "l_audit_any_plt", "l_removed")]
        begin = first_bit(document, audit[0])
        assert [first_bit(document, entry) for entry in audit] == list(range(begin, begin + 4))


def test_nothing_that_is_read_lies_beside_the_scopes(document: Any) -> None:
    # A trace takes l_scope_mem[4], l_scope_max and l_scope, which lie together, for bytes that do not matter.
    pointer = document["pointer_size"]
    for build, structs in each_build(document):
        fields = structs["link_map"]["fields"]
        end = fields["l_scope"][0] + pointer
        beside = [n for n, entry in fields.items() if end - 6 * pointer <= entry[0] < end and n != "l_scope"]
        assert beside == [], build["version"]


def test_invariants_of_the_other_structs(document: Any) -> None:
    word = document["pointer_size"]
    pointers = [[number * word, word] for number in range(4)]
    for build, structs in each_build(document):
        fields = {name: struct["fields"] for name, struct in structs.items()}
        assert [fields["unique_sym"][n] for n in ("hashval", "name", "sym", "map")] == [[0, 4], *pointers[1:]]
        assert structs["unique_sym"]["size"] == 4 * word
        assert ("dtor_list" in fields) == (version(build) >= (2, 18))
        if "dtor_list" in fields:
            assert [fields["dtor_list"][name] for name in ("func", "obj", "map", "next")] == pointers
        assert fields["link_map_reldeps"] == {"act": [0, 4], "list": [word, 0]}
        assert fields["libname_list"] == {
            "name": pointers[0],
            "next": pointers[1],
            "dont_free": [2 * word, 4],
        }
        assert fields["auditstate"] == {"cookie": pointers[0], "bindflags": [word, 4]}
        if "pthread" in fields and version(build) >= (2, 31):
            x86_64 = document["arch"] == "x86_64"
            list_offset, tid = (704, 720) if x86_64 else (192, 208) if word == 8 else (96, 104)
            assert fields["pthread"]["list"] == [list_offset, 2 * word]
            assert fields["pthread"]["tid"] == [tid, 4]
            assert fields["list_t"] == {"next": pointers[0], "prev": pointers[1]}
        namespaces = 16 * structs["link_namespaces"]["size"]
        assert fields["rtld_global"]["_dl_ns"] == [0, namespaces]
        assert fields["rtld_global"]["_dl_nns"] == [namespaces, word]
        assert fields["rtld_global"]["_dl_load_lock"][0] == namespaces + word
        assert ("_dl_rtld_map" in fields["rtld_global"]) == (version(build) < (2, 41))
        assert ("_dl_stack_user" in fields["rtld_global"]) == (version(build) >= (2, 33))
        if "_dl_rtld_map" in fields["rtld_global"]:
            # Since glibc 2.31 the auditors' state of ld.so follows in an array of its own.
            assert fields["rtld_global"]["_dl_rtld_map"][1] >= structs["link_map"]["size"]


def test_anchors_are_those_of_the_structs(document: Any) -> None:
    for build, structs in each_build(document):
        assert build["anchors"] == struct_anchors(structs)


def test_anchor_and_version_determine_the_link_map(document: Any) -> None:
    variants = defaultdict(set)
    for build in document["builds"]:
        key = build["anchors"]["link_map.l_tls_modid"], build["version"]
        variants[key].add(build["structs"]["link_map"])
    assert all(len(numbers) == 1 for numbers in variants.values()), dict(variants)


# By l_tls_modid: builds, then the columns of the table in which the layout classes were first written down:
# opencount, nodelete_active, map_used, map_start, initfini, reldeps, flags_1, idx, tls_dtor_count, sizeof.
X86_64_CLASSES = [
    (1096, "2.17", (784, None, None, 832, 952, 960, 980, 988, None, 1128)),
    (
        1096,
        "2.18 2.19 2.20 2.21 2.22 2.23 2.25 2.26 2.27",
        (784, None, None, 832, 952, 960, 980, 988, 1104, 1136),
    ),
    (1104, "2.28 2.29 2.30", (792, None, None, 840, 960, 968, 988, 996, 1112, 1144)),
    (1112, "2.31 2.31-13+deb11u11 2.32 2.32-tip", (792, 799, None, 848, 968, 976, 996, 1004, 1120, 1152)),
    (1120, "2.33 2.33-tip 2.34 2.34-tip", (792, 799, None, 856, 976, 984, 1004, 1012, 1128, 1160)),
    (1120, "2.35", (792, 799, (797, 1), 856, 976, 984, 1004, 1012, 1128, 1160)),
    (1128, "2.35-tip", (792, 799, (797, 1), 856, 976, 992, 1012, 1020, 1136, 1168)),
    (1144, "2.36 2.37 2.38", (816, 823, (821, 2), 880, 1000, 1008, 1028, 1036, 1152, 1184)),
    (
        1152,
        "2.36-tip 2.36-9+deb12u14 2.37-tip 2.38-tip",
        (816, 823, (821, 2), 880, 1000, 1016, 1036, 1044, 1160, 1192),
    ),
    (
        1168,
        "2.39 2.40 2.41 2.41-12+deb13u4 2.42 2.43-dev 2.43-7",
        (848, 855, (853, 2), 912, 1024, 1032, 1052, 1060, 1176, 1208),
    ),
]


def test_x86_64_classes() -> None:
    table = load_table("x86_64")
    suffixes = {"tag": "", "branch-tip": "-tip", "development": "-dev"}
    found = {}
    for build in table.builds:
        label = build.package or "{}.{}".format(*build.version) + suffixes[build.release]
        layout = table.layout(build, "link_map")
        before, after = (
            tuple(layout.fields[name].offset if name in layout.fields else None for name in names.split())
            for names in (
                "l_direct_opencount l_nodelete_active",
                "l_map_start l_initfini l_reldeps l_flags_1 l_idx l_tls_dtor_count",
            )
        )
        used = layout.fields.get("l_map_used")
        row = (*before, used and (used.offset, used.bit_shift), *after, layout.size)
        found[label] = (build.anchors["link_map.l_tls_modid"], row)
    assert found == {label: (anchor, row) for anchor, labels, row in X86_64_CLASSES for label in labels.split()}


@pytest.mark.parametrize(
    ("arch", "package", "row"),
    [
        ("aarch64", "2.31-13+deb11u11", (1152, 840, 847, 896, 1016, 1024, 1044, 1052, 1160, 1192)),
        ("aarch64", "2.36-9+deb12u14", (1192, 864, 871, 920, 1040, 1056, 1076, 1084, 1200, 1232)),
        ("arm", "2.36-9+deb12u14", (604, 416, 423, 452, 520, 528, 544, 552, 608, 632)),
        ("arm", "2.43-7", (600, 416, 423, 452, 520, 524, 540, 548, 604, 624)),
        ("i386", "2.36-9+deb12u14", (616, 416, 423, 460, 528, 536, 552, 560, 620, 640)),
        ("loongarch64", "2.43-7", (1120, 816, 823, 872, 984, 992, 1012, 1020, 1128, 1160)),
        ("ppc64le", "2.36-9+deb12u14", (1152, 848, 855, 904, 1024, 1040, 1060, 1068, 1160, 1192)),
        ("riscv64", "2.41-12+deb13u4", (1112, 816, 823, 872, 984, 992, 1012, 1020, 1120, 1152)),
        ("s390x", "2.36-9+deb12u14", (1144, 824, 831, 880, 1000, 1016, 1036, 1044, 1152, 1184)),
        ("s390x", "2.41-12+deb13u4", (1128, 824, 831, 880, 992, 1000, 1020, 1028, 1136, 1168)),
    ],
)
def test_classes_of_other_architectures(arch: str, package: str, row: tuple[int, ...]) -> None:
    table = load_table(arch)
    (build,) = (build for build in table.builds if build.package == package)
    layout = table.layout(build, "link_map")
    names = (
        "l_tls_modid l_direct_opencount l_nodelete_active l_map_start l_initfini l_reldeps l_flags_1 l_idx"
        " l_tls_dtor_count"
    )
    assert (*(layout.fields[name].offset for name in names.split()), layout.size) == row


def test_x86_64_namespace_strides() -> None:
    table = load_table("x86_64")
    strides = {build.version: table.layout(build, "link_namespaces").size for build in table.builds}
    expected = {(2, minor): 144 for minor in range(17, 32) if minor != 24}
    expected.update({(2, minor): 152 for minor in range(32, 35)})
    expected.update({(2, minor): 160 for minor in range(35, 42)})
    expected.update({(2, 42): 112, (2, 43): 112})
    assert strides == expected


def test_debian_patches_rtld_global_alone() -> None:
    table = load_table("x86_64")
    tag, debian = (build for build in table.builds if build.version == (2, 31))
    assert tag.variant["link_map"] == debian.variant["link_map"]
    assert (tag.anchors["_rtld_global"], tag.anchors["_rtld_global_ro"]) == (3992, 536)
    assert (debian.anchors["_rtld_global"], debian.anchors["_rtld_global_ro"]) == (4000, 544)
    assert [table.layout(build, "rtld_global_ro").fields["_dl_close"] for build in (tag, debian)] == [
        Field(496, 8),
        Field(504, 8),
    ]


def test_bit_fields_count_from_the_least_significant_bit() -> None:
    for arch, field in (("x86_64", Field(820, 1, 0, 2)), ("s390x", Field(828, 1, 6, 2))):
        table = load_table(arch)
        (build,) = (build for build in table.builds if build.package == "2.36-9+deb12u14")
        assert table.layout(build, "link_map").fields["l_type"] == field


def test_names() -> None:
    names = [build.name for build in load_table("x86_64").builds]
    assert len(set(names)) == len(names)
    assert "glibc 2.35 (tag)" in names
    assert "glibc 2.36 (branch tip)" in names
    assert "glibc 2.36 (Debian bookworm 2.36-9+deb12u14)" in names


def test_build_ids_are_unique() -> None:
    builds = [build for arch in ARCHITECTURES for build in load_table(arch).builds if build.package]
    assert len({build.ld_build_id for build in builds}) == len({build.libc_build_id for build in builds})
    assert len({build.ld_build_id for build in builds}) == len(builds)


def test_unknown_architecture() -> None:
    with pytest.raises(LayoutError, match="architecture vax") as caught:
        load_table("vax")
    assert caught.value.tried == ARCHITECTURES


def test_struct_that_a_build_lacks() -> None:
    table = load_table("x86_64")
    oldest = table.builds[0]
    assert oldest.version == (2, 17)
    with pytest.raises(LayoutError, match=r"dtor_list for glibc 2\.17 \(tag\) on x86_64") as caught:
        table.layout(oldest, "dtor_list")
    assert "link_map" in caught.value.tried
