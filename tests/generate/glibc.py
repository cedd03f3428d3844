"""Which layouts does this glibc package have?

``python -m dlwhy.tests.generate.glibc --distribution "debian bookworm" libc6_*.deb libc6-dbg_*.deb``

reads packages, or folders into which they were unpacked (``/`` is one), and merges every glibc found in them
into the table of its architecture.  The structures come from the debug information of ld.so and libc.so.6,
the anchors from the stripped files, version and package name from the banner in libc.so.6.  The same packages
in any order give the same bytes.

Needs pyelftools, and dpkg-deb for packages.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ...common.errors import DlwhyError, LayoutError
from ...common.layouts import DIRECTORY

RELEASES = ("tag", "branch-tip", "package", "development")

PACKAGE_PROVENANCE = {
    "how": "structs read from the DWARF of ld.so and libc.so.6 in the distribution's debug package;"
    " anchors from the symbol sizes in ld.so's .dynsym and from libthread_db's descriptor in libc.so.6"
    " (before 2.34: libpthread)"
}

# By machine, bits and byte order: one machine number covers several data models.
ARCHITECTURES = {
    ("EM_386", 32, "little"): "i386",
    ("EM_AARCH64", 64, "little"): "aarch64",
    ("EM_ARM", 32, "little"): "arm",
    ("EM_LOONGARCH", 64, "little"): "loongarch64",
    ("EM_PPC64", 64, "little"): "ppc64le",
    ("EM_RISCV", 64, "little"): "riscv64",
    ("EM_S390", 64, "big"): "s390x",
    ("EM_X86_64", 64, "little"): "x86_64",
}

# By structure, the members that dlwhy reads or checks; a version of glibc may lack some.
FIELDS: Mapping[str, str] = {
    "auditstate": "cookie bindflags",
    "dtor_list": "func obj map next",
    "libname_list": "name next dont_free",
    "link_map": (
        "l_addr l_name l_ld l_next l_prev l_real l_ns l_libname l_info l_phdr l_entry l_phnum l_ldnum"
        " l_searchlist l_searchlist.r_list l_searchlist.r_nlist l_loader l_versions l_nversions"
        " l_direct_opencount l_type l_relocated l_init_called l_global l_reserved l_main_map l_visited"
        " l_map_used l_map_done l_phdr_allocated l_soname_added l_faked l_need_tls_init l_auditing"
        " l_audit_any_plt l_removed l_contiguous l_free_initfini l_nodelete_active l_nodelete_pending"
        " l_map_start l_map_end l_text_end l_scope l_local_scope l_origin l_dev l_ino l_file_id.dev"
        " l_file_id.ino l_initfini l_init_called_next l_reldeps l_reldepsmax l_used l_flags_1 l_flags l_idx"
        " l_tls_initimage l_tls_initimage_size l_tls_blocksize l_tls_align l_tls_firstbyte_offset"
        " l_tls_offset l_tls_modid l_tls_dtor_count l_relro_addr l_relro_size l_serial"
    ),
    "link_map_reldeps": "act list",
    "link_namespaces": (
        "_ns_loaded _ns_nloaded _ns_main_searchlist _ns_global_scope_pending_adds libc_map"
        " _ns_unique_sym_table.entries _ns_unique_sym_table.size _ns_unique_sym_table.n_elements"
    ),
    "list_t": "next prev",
    "pthread": (
        "header.dtv header.self header.stack_guard header.pointer_guard list list.next list.prev tid"
        " stackblock stackblock_size"
    ),
    "rtld_global": (
        "_dl_ns _dl_nns _dl_load_lock _dl_load_write_lock _dl_load_tls_lock _dl_load_adds _dl_initfirst"
        " _dl_rtld_map _dl_tls_max_dtv_idx _dl_tls_dtv_slotinfo_list _dl_tls_generation _dl_stack_used"
        " _dl_stack_user _dl_stack_cache _dl_tls_static_used _dl_tls_static_size"
    ),
    "rtld_global_ro": (
        "_dl_debug_mask _dl_initial_searchlist _dl_auxv _dl_tls_static_size _dl_tls_static_align _dl_open"
        " _dl_close _dl_audit _dl_naudit"
    ),
    "unique_sym": "hashval name sym map",
}

# <link.h> has a public struct link_map of five members; this one tells glibc's own.
PRIVATE_LINK_MAP = "l_direct_opencount"

BANNER = re.compile(rb"GNU C Library \(\w+ GLIBC ([^)]+)\) (?:stable|development) release version (\d+\.\d+)")


def find_libcs(tree: Path) -> set[Path]:
    """Give the libc.so.6 of every architecture in an unpacked package or a root folder."""
    # Resolved folders: where /usr is merged, both patterns find the same file.
    found = [*tree.glob("lib/*/libc.so.6"), *tree.glob("usr/lib/*/libc.so.6")]
    return {path.parent.resolve() / path.name for path in found}


def read_build(libc: Path, trees: Sequence[Path], distribution: str) -> dict[str, Any]:
    """Give a table with one build: the glibc of which ``libc`` is the libc.so.6.

    :param trees: where debug files are looked for, each as if it were the root folder.
    :raises LayoutError: a file, a structure or an anchor is missing, or they contradict each other.
    """
    with ExitStack() as stack:
        libc_image = _open(stack, libc)
        banner = BANNER.search(libc.read_bytes())
        if banner is None:
            raise LayoutError(f"no package name in the banner of {libc}, is it not Debian's or Ubuntu's?")
        ld = libc.parent / Path(libc_image.get_section_by_name(".interp").data().rstrip(b"\0").decode()).name
        ld_image = _open(stack, ld)
        ld_build_id, libc_build_id = _build_id(ld_image), _build_id(libc_image)
        structs = read_structs(_debug_image(stack, ld_image, ld_build_id, trees), set(FIELDS) - {"dtor_list"})
        libc_debug = _debug_image(stack, libc_image, libc_build_id, trees)
        structs.update(read_structs(libc_debug, {"dtor_list"}, "cxa_thread_atexit_impl.c"))
        missing = set(FIELDS) - set(structs)
        if missing:
            raise LayoutError(f"no debug information for struct {', '.join(sorted(missing))} of {libc}")
        anchors = {
            "link_map.l_tls_modid": _tls_modid_offset(stack, libc, libc_image),
            **{name: _symbol_size(ld_image, name) for name in ("_rtld_global", "_rtld_global_ro")},
        }
        if anchors != struct_anchors(structs):
            raise LayoutError(f"{libc} has {anchors}, its debug information {struct_anchors(structs)}")
        byteorder = "little" if libc_image.little_endian else "big"
        model = libc_image["e_machine"], libc_image.elfclass, byteorder
        if model not in ARCHITECTURES:
            raise LayoutError(f"{libc} is for an unknown architecture, {model}")
        build = {
            "anchors": anchors,
            "distribution": distribution,
            "ld_build_id": ld_build_id,
            "libc_build_id": libc_build_id,
            "package": banner[1].decode(),
            "release": "package",
            "structs": structs,
            "version": banner[2].decode(),
        }
        return {
            "arch": ARCHITECTURES[model],
            "builds": [build],
            "byteorder": byteorder,
            "pointer_size": libc_image.elfclass // 8,
            "provenance": {"package": PACKAGE_PROVENANCE},
        }


def struct_anchors(structs: Mapping[str, Any]) -> dict[str, int]:
    """Give the anchors that a glibc with these structures has."""
    return {
        "link_map.l_tls_modid": structs["link_map"]["fields"]["l_tls_modid"][0],
        "_rtld_global": structs["rtld_global"]["size"],
        "_rtld_global_ro": structs["rtld_global_ro"]["size"],
    }


def read_structs(debug: Any, wanted: Collection[str], source_file: str = "") -> dict[str, Any]:
    """Read structures, each with those of its members that FIELDS names, from the DWARF of an ELF file.

    :param debug: the open ``ELFFile``.
    :param wanted: names of structures or of types defined as one.
    :param source_file: end of the path of the only compilation unit to look at; any unit if empty.
    """
    structs: dict[str, Any] = {}
    for unit in debug.get_dwarf_info().iter_CUs():
        top = unit.get_top_DIE()
        if not _name(top).endswith(source_file):
            continue
        for die in top.iter_children():
            name = _name(die)
            if name in structs or name not in wanted:
                continue
            struct = _without_qualifiers(die)
            if struct is None or "DW_AT_byte_size" not in struct.attributes:
                continue  # declared only
            fields = dict(_members(struct, debug.little_endian, FIELDS[name].split()))
            if name != "link_map" or PRIVATE_LINK_MAP in fields:
                structs[name] = {"fields": fields, "size": struct.attributes["DW_AT_byte_size"].value}
        if len(structs) == len(wanted):
            break
    return structs


def bit_field(little_endian: bool, first_bit: int, bit_count: int) -> list[int]:
    """Give ``[byte, 1, shift, count]`` of a bit-field.

    :param first_bit: DWARF's DW_AT_data_bit_offset: bits from the start of the structure, where the first
        bit of a byte is its least significant one if little-endian, else its most significant one.
    :raises LayoutError: the bit-field does not lie within one byte.
    """
    byte, bit = divmod(first_bit, 8)
    if bit + bit_count > 8:
        raise LayoutError(f"a bit-field of {bit_count} bits at bit {first_bit} is spread over several bytes")
    return [byte, 1, bit if little_endian else 8 - bit - bit_count, bit_count]


def merge(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables of one architecture; of two entries for the same build the later one counts.

    Structures are compared by content: builds with the same layout share a variant.
    """
    builds: dict[tuple[Any, ...], dict[str, Any]] = {}
    provenance: dict[str, Any] = {}
    for table in tables:
        provenance.update(table["provenance"])
        for build in table["builds"]:
            version = tuple(int(part) for part in build["version"].split("."))
            key = (
                version,
                RELEASES.index(build["release"]),
                build.get("distribution", ""),
                build.get("package", ""),
            )
            structs = {
                name: table["structs"][name][struct] if "structs" in table else struct
                for name, struct in build["structs"].items()
            }
            builds[key] = {**build, "structs": structs}
    ordered = [builds[key] for key in sorted(builds)]
    variants: dict[str, list[Any]] = {}
    for build in ordered:
        for name, struct in build["structs"].items():
            known = variants.setdefault(name, [])
            if struct not in known:
                known.append(struct)
            build["structs"][name] = known.index(struct)
    return {
        "arch": tables[0]["arch"],
        "builds": ordered,
        "byteorder": tables[0]["byteorder"],
        "format": 1,
        "pointer_size": tables[0]["pointer_size"],
        "provenance": provenance,
        "structs": variants,
    }


def to_text(value: Any, indent: str = "") -> str:
    """Give JSON with sorted keys; a container is written on one line if it holds no other container."""
    if not isinstance(value, (dict, list)):
        return json.dumps(value)
    members = list(value.values()) if isinstance(value, dict) else value
    if not any(isinstance(member, (dict, list)) for member in members):
        return json.dumps(value, sort_keys=True)
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(key)}: {to_text(value[key], inner)}" for key in sorted(value)]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + to_text(member, inner) for member in value) + f"\n{indent}]"


def update(directory: Path, table: Mapping[str, Any]) -> Path:
    """Merge a table into the file of its architecture, which need not exist."""
    path = directory / f"glibc-{table['arch']}.json"
    tables = [json.loads(path.read_bytes()), table] if path.exists() else [table]
    path.write_text(to_text(merge(*tables)) + "\n", encoding="utf-8")
    return path


def main(arguments: Optional[Sequence[str]] = None, directory: Path = Path(DIRECTORY)) -> int:
    """Read packages or unpacked packages into the tables in ``directory``."""
    parser = argparse.ArgumentParser(description="Add glibc packages to the layout tables.")
    parser.add_argument("--distribution", required=True, help='of the packages, such as "debian bookworm"')
    parser.add_argument("paths", nargs="+", type=Path, help="libc6 and libc6-dbg packages, or folders")
    parsed = parser.parse_args(arguments)
    with ExitStack() as stack:
        try:
            trees = [path if path.is_dir() else _unpack(stack, path) for path in parsed.paths]
            libcs = {libc for tree in trees for libc in find_libcs(tree)}
            if not libcs:
                raise LayoutError("no libc.so.6 found", tried=[str(path) for path in parsed.paths])
            for libc in sorted(libcs):
                path = update(directory, read_build(libc, trees, parsed.distribution))
                sys.stdout.write(f"{libc}: merged into {path.name}\n")
        except DlwhyError as error:
            parser.exit(1, f"{error}\n")
    return 0


def _unpack(stack: ExitStack, package: Path) -> Path:
    tree = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    unpacked = subprocess.run(
        ["dpkg-deb", "-x", str(package), str(tree)], stderr=subprocess.PIPE, text=True, check=False
    )
    if unpacked.returncode != 0:
        raise LayoutError(f"{package} cannot be unpacked: {unpacked.stderr.strip()}")
    return tree


def _open(stack: ExitStack, path: Path) -> Any:
    try:
        return ELFFile(stack.enter_context(path.open("rb")))
    except OSError as error:
        raise LayoutError(f"{path} cannot be read: {error.strerror}") from error


def _build_id(image: Any) -> str:
    note: str = next(image.get_section_by_name(".note.gnu.build-id").iter_notes())["n_desc"]
    return note


def _debug_image(stack: ExitStack, image: Any, build_id: str, trees: Sequence[Path]) -> Any:
    # A file that was not stripped is its own debug file: ld.so of armhf in Debian's 2.43-7.
    if image.get_section_by_name(".debug_info") is not None:
        return image
    relative = Path("usr/lib/debug/.build-id", build_id[:2], f"{build_id[2:]}.debug")
    for tree in trees:
        if (tree / relative).exists():
            return _open(stack, tree / relative)
    raise LayoutError(f"no {relative}, give the matching libc6-dbg too", tried=[str(tree) for tree in trees])


def _symbol(image: Any, name: str) -> Any:
    for section in image.iter_sections():
        if isinstance(section, SymbolTableSection):
            for symbol in section.get_symbol_by_name(name) or ():
                if symbol["st_shndx"] != "SHN_UNDEF":
                    return symbol
    return None


def _symbol_size(image: Any, name: str) -> int:
    symbol = _symbol(image, name)
    if symbol is None:
        raise LayoutError(f"no symbol {name} in {image.stream.name}")
    size: int = symbol["st_size"]
    return size


def _tls_modid_offset(stack: ExitStack, libc: Path, libc_image: Any) -> int:
    # Since glibc 2.34 (libpthread merged into libc) in libc.so.6; before, in libpthread's .symtab.
    images = [libc_image, *(_open(stack, path) for path in libc.parent.glob("libpthread-*.so"))]
    for image in images:
        symbol = _symbol(image, "_thread_db_link_map_l_tls_modid")
        if symbol is not None:
            (offset,) = image.address_offsets(symbol["st_value"], symbol["st_size"])
            image.stream.seek(offset)
            # Three 32-bit numbers: size in bits, number of elements, offset in bytes.
            data = image.stream.read(symbol["st_size"])
            return int.from_bytes(data[8:12], "little" if image.little_endian else "big")
    raise LayoutError(f"no _thread_db_link_map_l_tls_modid beside {libc}")


def _name(die: DIE) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return "" if attribute is None else attribute.value.decode()


def _type(die: DIE) -> Optional[DIE]:
    return die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None


def _without_qualifiers(die: Optional[DIE]) -> Optional[DIE]:
    while die is not None and die.tag in (
        "DW_TAG_typedef",
        "DW_TAG_const_type",
        "DW_TAG_volatile_type",
        "DW_TAG_atomic_type",
    ):
        die = _type(die)
    return die


def _size(die: DIE) -> int:
    if "DW_AT_byte_size" in die.attributes:
        size: int = die.attributes["DW_AT_byte_size"].value
        return size
    element = _without_qualifiers(_type(die))
    if element is None:
        raise LayoutError(f"no size for type {_name(die) or die.tag}")
    size = _size(element)
    for bound in die.iter_children():
        # A flexible array has neither attribute, or an upper bound of -1 in old DWARF.
        if "DW_AT_upper_bound" in bound.attributes:
            size *= bound.attributes["DW_AT_upper_bound"].value + 1
        elif "DW_AT_count" in bound.attributes:
            size *= bound.attributes["DW_AT_count"].value
        else:
            size = 0
    return size


def _members(
    struct: DIE, little_endian: bool, wanted: Collection[str], base: int = 0, prefix: str = ""
) -> Iterator[tuple[str, list[int]]]:
    for member in struct.iter_children():
        if member.tag != "DW_TAG_member":
            continue
        member_type = _without_qualifiers(_type(member))
        if member_type is None:
            raise LayoutError(f"no type for member {_name(member)} of struct {_name(struct)}")
        attributes = member.attributes
        name = _name(member) and prefix + _name(member)
        location = attributes.get("DW_AT_data_member_location")
        offset = base if location is None else base + location.value
        if "DW_AT_bit_size" in attributes:
            if name in wanted:
                bits = attributes["DW_AT_bit_size"].value
                if "DW_AT_data_bit_offset" in attributes:
                    first = attributes["DW_AT_data_bit_offset"].value
                else:
                    # Before DWARF 5: from the most significant bit of the storage unit, whatever the order.
                    first = attributes["DW_AT_bit_offset"].value
                    if little_endian:
                        first = 8 * _size(member_type) - first - bits
                yield name, bit_field(little_endian, 8 * offset + first, bits)
            continue
        if name in wanted:
            yield name, [offset, _size(member_type)]
        if member_type.tag in ("DW_TAG_structure_type", "DW_TAG_union_type"):
            inner = f"{name}." if name else prefix
            if any(path.startswith(inner) for path in wanted):
                yield from _members(member_type, little_endian, wanted, offset, inner)


if __name__ == "__main__":
    sys.exit(main())
