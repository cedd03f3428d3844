"""Which layouts does this Windows kernel have?

``python -m dlwhy.tests.generate.nt 10.0.26100.1742 ntkrnlmp.json.xz``

reads a symbol table of volatility3, which its ``pdbconv`` makes of any ntkrnlmp.pdb, and merges it into the table of
its architecture, under the file version of the kernel that is given.  The same tables in any order give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ...common.errors import DlwhyError, LayoutError
from ...common.layouts import DIRECTORY
from .glibc import to_text

PROVENANCE = {
    "isf": {
        "how": "volatility3's symbol tables of Microsoft's public ntkrnlmp.pdb; those up to 22000 from"
        " github.com/JPCERTCC/Windows-Symbol-Tables (BSD-3-Clause)"
    },
    "listing": {
        "how": "C headers generated from vergiliusproject.com's type listings, from github.com/novafacing/vergilius-rs"
        " (Apache-2.0); they name no PDB"
    },
}

#: By structure, the members that dlwhy or its tests read, by their first name; nothing: all of them.
FIELDS: Mapping[str, str] = {
    "_CONTROL_AREA": "",
    "_EPROCESS": (
        "Pcb UniqueProcessId ActiveProcessLinks ImageFileName InheritedFromUniqueProcessId Peb Wow64Process"
        " WoW64Process VadRoot ObjectTable ExitTime CreateTime ExitStatus SectionBaseAddress ThreadListHead"
        " ActiveThreads Session SeAuditProcessCreationInfo"
    ),
    "_EWOW64PROCESS": "",
    "_EX_FAST_REF": "",
    "_FILE_OBJECT": (
        "Type Size DeviceObject Vpb FsContext SectionObjectPointer LockOperation DeletePending ReadAccess WriteAccess"
        " DeleteAccess SharedRead SharedWrite SharedDelete Flags FileName"
    ),
    "_HANDLE_TABLE": "",
    "_HANDLE_TABLE_ENTRY": "",
    "_KAPC_STATE": "Process",
    "_KPROCESS": "DirectoryTableBase UserDirectoryTableBase ThreadListHead",
    "_KTHREAD": "ApcState Process Teb State ThreadListEntry",
    "_LIST_ENTRY": "",
    "_MMADDRESS_NODE": "",
    "_MMSECTION_FLAGS": "",
    "_MMVAD": "",
    "_MMVAD_FLAGS": "",
    "_MMVAD_FLAGS1": "",
    "_MMVAD_SHORT": "",
    "_MM_AVL_TABLE": "",
    "_OBJECT_HEADER": "",
    "_RTL_AVL_TREE": "",
    "_RTL_BALANCED_NODE": "",
    "_SECTION": "u1",
    "_SECTION_OBJECT": "Segment",
    "_SECTION_OBJECT_POINTERS": "",
    "_SEGMENT": "ControlArea TotalNumberOfPtes SizeOfSegment PrototypePte",
    "_SUBSECTION": "",
    "_UNICODE_STRING": "",
}
SYMBOLS = ("KdDebuggerDataBlock", "PsActiveProcessHead", "PsLoadedModuleList")

_ARCHITECTURES = {8: "x86_64", 4: "i386"}
# How PDB readers name what has no name of its own.
_UNNAMED = ("__unnamed", "<unnamed", "<anonymous")


class SymbolTable:
    """A symbol table of volatility3 (ISF)."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.types: Mapping[str, Any] = document["user_types"]
        self.pointer_size: int = document["base_types"]["pointer"]["size"]

    def build(self, version: str) -> dict[str, Any]:
        """Give the build as the tables hold it, its structures in full."""
        pdb = self._document["metadata"]["windows"]["pdb"]
        symbols = self._document["symbols"]
        return {
            "build": version,
            "source": "isf",
            "pdb": {"name": pdb["database"], "guid": pdb["GUID"].upper(), "age": pdb["age"]},
            "symbols": {name: symbols[name]["address"] for name in SYMBOLS if name in symbols},
            "structs": {n: self._struct(n, wanted.split()) for n, wanted in FIELDS.items() if n in self.types},
        }

    def _struct(self, name: str, wanted: Sequence[str]) -> dict[str, Any]:
        members = self._members(name, 0, "")
        fields = {path: field for path, field in members if not wanted or path.partition(".")[0] in wanted}
        return {"size": self.types[name]["size"], "fields": fields}

    def _members(self, name: str, base: int, path: str) -> Iterator[tuple[str, list[int]]]:
        """Iterate over the members of a structure; those of unnamed structures inside it by their path."""
        for member, field in self.types[name]["fields"].items():
            offset = base + field["offset"]
            kind = field["type"]
            inner = kind.get("name", "")
            if kind["kind"] in ("struct", "union") and (inner.startswith(_UNNAMED) or "::" in inner):
                # A union without a name is no part of the path: C does not name it either.
                anonymous = member.startswith(_UNNAMED) or field.get("anonymous", False)
                yield from self._members(inner, offset, path if anonymous else f"{path}{member}.")
            elif kind["kind"] == "bitfield":
                yield path + member, [offset, self._size(kind["type"]), kind["bit_position"], kind["bit_length"]]
            else:
                yield path + member, [offset, self._size(kind)]

    def _size(self, kind: Mapping[str, Any]) -> int:
        if kind["kind"] in ("pointer", "function"):
            return self.pointer_size
        if kind["kind"] == "array":
            count: int = kind["count"]
            return count * self._size(kind["subtype"])
        section = {"base": "base_types", "enum": "enums"}.get(kind["kind"], "user_types")
        known = self._document[section].get(kind["name"])
        if known is None:
            return 0  # declared only
        size: int = known["size"]
        return size


def merge(arch: str, pointer_size: int, builds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the table of an architecture; of two entries for the same version the later one counts."""
    latest = {tuple(int(part) for part in build["build"].split(".")): dict(build) for build in builds}
    ordered = [latest[version] for version in sorted(latest)]
    variants: dict[str, list[Any]] = {}
    for build in ordered:
        numbers = {}
        for name, struct in build["structs"].items():
            known = variants.setdefault(name, [])
            if struct not in known:
                known.append(struct)
            numbers[name] = known.index(struct)
        build["structs"] = numbers
    return {
        "arch": arch,
        "builds": ordered,
        "byteorder": "little",
        "format": 1,
        "pointer_size": pointer_size,
        "provenance": {key: PROVENANCE[key] for key in sorted({build["source"] for build in ordered})},
        "structs": variants,
    }


def expand(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the builds of a table with their structures in full."""
    return [
        {**build, "structs": {name: document["structs"][name][number] for name, number in build["structs"].items()}}
        for build in document["builds"]
    ]


def main(arguments: Optional[Sequence[str]] = None, directory: Path = Path(DIRECTORY)) -> int:
    """Merge one symbol table into the table of its architecture and give the exit status."""
    parser = argparse.ArgumentParser(prog="generate_nt", description=__doc__)
    parser.add_argument("version", help="file version of the kernel, such as 10.0.22621.382")
    parser.add_argument("table", type=Path, help="volatility3 symbol table: .json or .json.xz")
    options = parser.parse_args(arguments)
    try:
        written = update(directory, options.version, options.table)
    except (DlwhyError, OSError, ValueError, KeyError, lzma.LZMAError) as error:
        sys.stderr.write(f"generate_nt: {options.table}: {error}\n")
        return 1
    sys.stdout.write(f"{written}\n")
    return 0


def update(directory: Path, version: str, table: Path) -> Path:
    """Merge a symbol table into the file of its architecture, which need not exist.

    :raises LayoutError: if it lacks what every kernel has.
    """
    content = lzma.decompress(table.read_bytes()) if table.suffix == ".xz" else table.read_bytes()
    symbols = SymbolTable(json.loads(content))
    build = symbols.build(version)
    if "_EPROCESS" not in build["structs"]:
        raise LayoutError("no symbol table of a Windows kernel: it has no _EPROCESS")
    arch = _ARCHITECTURES[symbols.pointer_size]
    path = directory / f"nt-{arch}.json"
    known = expand(json.loads(path.read_bytes())) if path.exists() else []
    path.write_text(to_text(merge(arch, symbols.pointer_size, [*known, build])) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
