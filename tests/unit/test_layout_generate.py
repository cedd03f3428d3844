from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dlwhy.common import layouts
from dlwhy.common.errors import LayoutError
from dlwhy.tests.generate.glibc import bit_field, main, merge, read_build, read_structs, to_text, update
from dlwhy.tests.unit.system import ROOT, system_libc
from elftools.elf.elffile import ELFFile

DIRECTORY = Path(layouts.DIRECTORY)


@pytest.fixture
def libc() -> Path:
    return system_libc()


def in_text(table: Any) -> str:
    return to_text(merge(table)) + "\n"


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("glibc-*.json")), ids=lambda path: path.stem)
def test_shipped_tables_are_as_the_generator_writes_them(path: Path) -> None:
    assert in_text(json.loads(path.read_bytes())) == path.read_text()


def test_system_glibc_gives_the_shipped_entry(libc: Path, tmp_path: Path) -> None:
    table = read_build(libc, [ROOT], "debian bookworm")
    (build,) = table["builds"]
    shipped = DIRECTORY / f"glibc-{table['arch']}.json"
    document = json.loads(shipped.read_bytes())
    others = [other for other in document["builds"] if other.get("libc_build_id") != build["libc_build_id"]]
    known = len(others) < len(document["builds"])
    copy = tmp_path / shipped.name
    copy.write_text(in_text({**document, "builds": others}))
    assert update(tmp_path, table) == copy
    merged = copy.read_bytes()
    if known:
        assert merged == shipped.read_bytes()
    else:
        assert len(json.loads(merged)["builds"]) == len(others) + 1
    update(tmp_path, table)
    assert copy.read_bytes() == merged


def test_packages_give_the_same_as_the_installed_files(libc: Path, tmp_path: Path) -> None:
    expected = read_build(libc, [ROOT], "debian bookworm")
    (build,) = expected["builds"]
    debug = [
        Path("usr/lib/debug/.build-id", number[:2], f"{number[2:]}.debug")
        for number in (build["ld_build_id"], build["libc_build_id"])
    ]
    with libc.open("rb") as file:
        interpreter = Path(ELFFile(file).get_section_by_name(".interp").data().rstrip(b"\0").decode()).name
    folder = Path("lib") / libc.parent.name
    contents = {
        "libc6": {folder / libc.name: libc, folder / interpreter: libc.parent / interpreter},
        "libc6-dbg": {path: ROOT / path for path in debug},
    }
    packages = []
    for package, files in contents.items():
        tree = tmp_path / package
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: test\n"
        )
        for target, source in files.items():
            (tree / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tree / target)
        packages.append(str(tmp_path / f"{package}.deb"))
        subprocess.run(["dpkg-deb", "-Znone", "-b", str(tree), packages[-1]], check=True, capture_output=True)
    tables = tmp_path / "tables"
    tables.mkdir()
    assert main(["--distribution", "debian bookworm", *packages], tables) == 0
    assert (tables / f"glibc-{expected['arch']}.json").read_text() == in_text(expected)


def test_merge_does_not_depend_on_order() -> None:
    document = json.loads((DIRECTORY / "glibc-x86_64.json").read_bytes())
    odd = merge({**document, "builds": document["builds"][1::2]})
    even = merge({**document, "builds": document["builds"][::2]})
    assert len(odd["structs"]["link_map"]) < len(document["structs"]["link_map"])
    assert merge(odd, even) == merge(even, odd) == document


def test_merge_replaces_a_build_and_drops_what_only_it_used() -> None:
    document = json.loads((DIRECTORY / "glibc-loongarch64.json").read_bytes())
    (build,) = document["builds"]
    structs = {name: variants[0] for name, variants in document["structs"].items()}
    structs["auditstate"] = {"fields": {"cookie": [0, 8]}, "size": 8}
    table = {key: document[key] for key in ("arch", "byteorder", "pointer_size", "provenance")}
    merged = merge(document, {**table, "builds": [{**build, "structs": structs}]})
    assert merged["builds"] == [build]
    assert merged["structs"]["auditstate"] == [structs["auditstate"]]


def test_one_field_a_line() -> None:
    value = {"fields": {"b": [0, 8], "a": [8, 1, 0, 2]}, "anchors": {"y": 1, "x": 2}, "size": 9}
    lines = [
        "{",
        ' "anchors": {"x": 2, "y": 1},',
        ' "fields": {',
        '  "a": [8, 1, 0, 2],',
        '  "b": [0, 8]',
        " },",
        ' "size": 9',
        "}",
    ]
    assert to_text(value) == "\n".join(lines)


# s390x: the first member of glibc 2.36's bit-fields begins at byte 828; x86-64: at byte 820.
@pytest.mark.parametrize(
    ("little_endian", "first_bit", "count", "expected"),
    [
        (True, 8 * 820, 2, [820, 1, 0, 2]),
        (True, 8 * 820 + 6, 2, [820, 1, 6, 2]),
        (False, 8 * 828, 2, [828, 1, 6, 2]),
        (False, 8 * 828 + 6, 2, [828, 1, 0, 2]),
        (False, 8 * 829 + 2, 1, [829, 1, 5, 1]),
    ],
)
def test_bit_field(little_endian: bool, first_bit: int, count: int, expected: list[int]) -> None:
    assert bit_field(little_endian, first_bit, count) == expected


def test_bit_field_over_a_byte_boundary() -> None:
    with pytest.raises(LayoutError, match="several bytes"):
        bit_field(True, 7, 2)


# The struct of <link.h>: it comes first in the program below and is not glibc's own.
PUBLIC = "struct link_map { void *l_addr; char *l_name; void *l_ld; struct link_map *l_next; } *list;"

# The program says where the compiler put the members; the DWARF of every version has to say the same.
WITNESS = r"""
#include <stdio.h>
#include <string.h>

struct scope { void **r_list; unsigned r_nlist; };

struct link_map
{
  void *l_addr;
  struct scope l_searchlist;
  union { struct { int unwanted; short l_phnum; }; long padding; };
  const volatile unsigned l_direct_opencount;
  enum { lt_executable, lt_library, lt_loaded } l_type : 2;
  unsigned l_relocated : 1, : 3, l_reserved : 2, l_main_map : 1;
  _Bool l_nodelete_active;
  struct scope *l_local_scope[2];
};

typedef struct { int act; void *list[]; } link_map_reldeps;

struct link_map map;
link_map_reldeps reldeps;

#define PLAIN(struct_, path) \
  printf (#path " %zu %zu\n", (char *) &struct_.path - (char *) &struct_, sizeof struct_.path)
#define BITS(name, value) \
  memset (&map, 0, sizeof map); map.name = value; \
  for (size_t i = 0; i < sizeof map; i++) \
    if (((unsigned char *) &map)[i]) printf (#name " %zu %d\n", i, ((unsigned char *) &map)[i])

int
main (void)
{
  PLAIN (map, l_addr); PLAIN (map, l_searchlist); PLAIN (map, l_searchlist.r_list);
  PLAIN (map, l_searchlist.r_nlist); PLAIN (map, l_phnum); PLAIN (map, l_direct_opencount);
  PLAIN (map, l_nodelete_active); PLAIN (map, l_local_scope);
  BITS (l_type, 3); BITS (l_relocated, 1); BITS (l_reserved, 3); BITS (l_main_map, 1);
  printf ("sizes %zu %zu\n", sizeof map, sizeof reldeps);
}
"""


@pytest.mark.parametrize("dwarf", ["4", "5"])
def test_dwarf_agrees_with_the_compiled_program(dwarf: str, tmp_path: Path) -> None:
    public, source, program = tmp_path / "public.c", tmp_path / "witness.c", tmp_path / "witness"
    public.write_text(PUBLIC)
    source.write_text(WITNESS)
    # Strict: else gcc uses DWARF 5's attribute for bit-fields in the older versions too.
    flags = [f"-gdwarf-{dwarf}", "-gstrict-dwarf"]
    subprocess.run(["gcc", "-std=gnu11", *flags, "-o", str(program), str(public), str(source)], check=True)
    lines = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split("\n")
    expected: dict[str, list[int]] = {}
    for name, *numbers in (line.split() for line in lines if line):
        first, second = map(int, numbers)
        if name in ("l_type", "l_relocated", "l_reserved", "l_main_map"):
            shift = (second & -second).bit_length() - 1
            expected[name] = [first, 1, shift, bin(second).count("1")]
        else:
            expected[name] = [first, second]
    map_size, reldeps_size = expected.pop("sizes")
    with program.open("rb") as file:
        structs = read_structs(ELFFile(file), {"link_map", "link_map_reldeps"})
    assert structs["link_map"] == {"fields": expected, "size": map_size}
    assert structs["link_map_reldeps"] == {"fields": {"act": [0, 4], "list": [8, 0]}, "size": reldeps_size}


def test_without_its_debug_file(libc: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"usr/lib/debug/\.build-id/.*libc6-dbg") as caught:
        read_build(libc, [tmp_path], "debian bookworm")
    assert caught.value.tried == (str(tmp_path),)


def test_folder_without_glibc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--distribution", "debian bookworm", str(tmp_path)], tmp_path)
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"no libc.so.6 found; tried: {tmp_path}\n"


def test_file_that_is_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "libc6.deb"
    broken.write_bytes(b"!<arch>\n")
    with pytest.raises(SystemExit):
        main(["--distribution", "debian bookworm", str(broken)], tmp_path)
    assert capsys.readouterr().err.startswith(f"{broken} cannot be unpacked: dpkg-deb:")
    assert not list(tmp_path.glob("*.json"))
